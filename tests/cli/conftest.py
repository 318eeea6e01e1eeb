"""run.py's main in the process of the tests."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import RUN, Ended

from epsball.cli.main import main as run_main


@pytest.fixture
def main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Ended]]:
    """`main(*arguments)`: run.py's main in this process, with outputs under tmp_path; what it leaves is put back."""
    root, handlers = logging.getLogger(), {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    level, loggers = root.level, list(root.handlers)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")

    def call(*arguments: str) -> Ended:
        outputs = [] if any("outputs=" in word for word in arguments) else [f"outputs={tmp_path / 'outputs'}"]
        monkeypatch.setattr(sys, "argv", [str(RUN), *arguments, *outputs])
        capsys.readouterr()
        code = run_main()
        return Ended(code, *capsys.readouterr())

    yield call
    root.handlers[:] = loggers
    root.setLevel(level)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
