"""run.log: a copy of a run's log lines, with times, of all its processes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


class RunLog(logging.FileHandler):
    """A file of log lines, to which several processes may write. Those that cannot be written, on a full disk, the
    terminal has alone."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        """Let the run go on: its results say for themselves whether there is room."""


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Copy all log lines inside the block into `path`."""
    handler = RunLog(path)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()


def log_files() -> list[str]:
    """Return the files that log lines are copied into, for processes that are to write there, too."""
    return [handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, RunLog)]


def log_into(files: Sequence[str]) -> None:
    """Copy this process's log lines into these files from now on, those that can be written."""
    for file in files:
        with suppress(OSError):
            logging.getLogger().addHandler(RunLog(file))
