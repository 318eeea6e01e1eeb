"""Show a waiting user how far a run is, a bar on a terminal, lines elsewhere, and let them stop it."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock, Thread
from types import TracebackType
from typing import Any, Self, TextIO, cast

from tqdm import tqdm

from epsball.runtime.distributed import is_first

SECONDS_BETWEEN_LINES = 30.0
LINES_COUNTED = 10  # whose time says how long is left: after a pause the lines before it say too much
log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Request of the user or the scheduler to stop; whatever was computed is saved. `signum` is the signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


class Unfailing:
    """A stream of text. Once it cannot be written, because its reader has gone or its disk is full, it is `nowhere`;
    characters that its encoding lacks are written as `?`."""

    def __init__(self, stream: TextIO, nowhere: TextIO) -> None:
        self.stream = stream
        self.nowhere = nowhere

    def write(self, text: str) -> int:
        """Write `text`, and return its length."""
        try:
            return self.stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, "replace").decode(error.encoding))
        except OSError:
            self.drop()
            return len(text)

    def flush(self) -> None:
        """Write what the stream has kept back."""
        try:
            self.stream.flush()
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Let the stream's file be the null device: what the stream has kept back would fail once more at the end."""
        os.dup2(self.nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Let no write to stdout or stderr fail inside the block: a run goes on, and its results are written, though its
    output is piped to `head`, the disk of its log is full, or it was started with both closed."""
    streams = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout, sys.stderr = (cast(TextIO, Unfailing(stream or nowhere, nowhere)) for stream in streams)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = streams


class JobFailed(RuntimeError):
    """Failure of a job in a process of its own, which has logged it."""


class Stop:
    """A stop flag that signal handlers set and every long loop polls between two pieces of work.

    A launcher hands each job to a worker process, with a copy of the command's flag. A worker may get one signal twice,
    from the command and from the terminal: so a second signal stops at once in the command's own process alone.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.nothing_to_save = False
        self.waits = False
        """whether this process computes nothing, and waits for the workers of a launcher"""
        self.process = os.getpid()

    @property
    def is_copy(self) -> bool:
        """Whether this process is a launcher's worker."""
        return os.getpid() != self.process

    def listen(self) -> None:
        """Let SIGINT and SIGTERM set the flag; a second one stops at once. A launcher's own handlers stay. What has
        stopped an earlier job of this worker stops this one, too."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(signum)
            earlier = getattr(handler, "__self__", None)
            if isinstance(earlier, Stop) or handler in (signal.default_int_handler, signal.SIG_DFL):
                signal.signal(signum, self.on_signal)
            if isinstance(earlier, Stop) and self.is_copy:
                self.signum = self.signum or earlier.signum

    def obey_parent(self) -> None:
        """Let a worker process end with its first SIGTERM, or with its parent, however that ends: at once between two
        jobs, else when its `job` has saved. Ctrl-C, which a terminal sends to workers too, is left to the parent, which
        then ends them."""
        self.nothing_to_save = True
        tqdm.set_lock(RLock())  # Python warns of tqdm's own as leaked where a process ends without clean-up
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda signum, _frame: self.end_worker(signum))
        Thread(target=self.end_with_parent, daemon=True).start()

    def end_with_parent(self) -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            self.end_worker(signal.SIGTERM)

    def end_worker(self, signum: int) -> None:
        self.signum = signum
        if self.nothing_to_save:
            os._exit(128 + signum)  # an exception would be sent to the parent as a job's result

    @contextmanager
    def job(self) -> Iterator[None]:
        """Let a stop that is asked for inside the block, a job of a worker, end the process after it."""
        self.nothing_to_save = False
        try:
            yield
        finally:
            self.nothing_to_save = True
            if self.signum is not None:
                self.end_worker(self.signum)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a stop that is asked for inside the block end it there: it computes nothing that is to be saved. Where a
        library takes the stop for a failure of its own, the block ends with it or, at the latest, where it ends."""
        self.nothing_to_save = True  # before the check: what comes after it raises, what came before it is seen
        try:
            self.check()
            yield
        except Exception:
            self.check()
            raise
        finally:
            self.nothing_to_save = False
        self.check()

    @contextmanager
    def after_imports(self) -> Iterator[None]:
        """Inside `at_once`, let a stop that is asked for in this block, which imports, end it where it ends: the import
        of a library that was stopped half-way may be tried again, or done without, by the one that imports it."""
        self.nothing_to_save = False
        try:
            yield
        finally:
            self.nothing_to_save = True
        self.check()

    def on_signal(self, signum: int, _frame: object) -> None:
        first, self.signum = self.signum is None, signum
        if self.nothing_to_save or not (first or self.is_copy):
            raise Interrupted(signum)
        for worker in multiprocessing.active_children() if self.waits else ():
            with suppress(OSError):  # it may have ended by now
                if worker.pid:  # 0 would be all processes of the group
                    os.kill(worker.pid, signum)
        if is_first() and not self.is_copy:
            print("stopping after saving; once more to stop at once", file=sys.stderr)

    def check(self) -> None:
        """Raise Interrupted when a stop was asked for."""
        if self.signum is not None:
            raise Interrupted(self.signum)


class Progress:
    """Counts the steps of one long job, or its images: a tqdm bar on a terminal, else a line in the log every half
    minute; both say how long is left."""

    def __init__(
        self, title: str, total: int, unit: str, start: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.unit, self.clock = title, total, unit, clock
        self.done = start
        self.note = ""
        self.began = self.logged = clock()
        self.lately = deque([(self.began, start)], maxlen=LINES_COUNTED)
        self.bar = tqdm(
            total=total,
            initial=start,
            desc=title,
            unit=f" {unit}",
            disable=None if is_first() else True,
            leave=False,
            dynamic_ncols=True,
        )

    def step(self, count: int = 1) -> None:
        """Count `count` units more, one at least."""
        self.done += count
        self.bar.update(count)
        now = self.clock()
        if self.bar.disable and now - self.logged >= SECONDS_BETWEEN_LINES:
            self.logged = now
            since, before = self.lately[0]
            left = (now - since) * (self.total - self.done) / (self.done - before)
            self.lately.append((now, self.done))
            spent = f"{now - self.began:.0f} s, {left:.0f} s left"
            log.info("%s: %d of %d %s, %s%s", self.title, self.done, self.total, self.unit, spent, self.note)

    def say(self, note: str) -> None:
        """Show a note beside the count, such as the last epoch's loss."""
        self.note = f", {note}"
        self.bar.set_postfix_str(note, refresh=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.bar.close()
