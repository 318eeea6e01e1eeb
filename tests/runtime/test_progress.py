"""What a waiting user sees where there is no terminal, and how a run and its workers are stopped."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from epsball.runtime.processes import beginning
from epsball.runtime.progress import Interrupted, Progress, Stop, unfailing_output


def test_a_line_every_half_minute_says_how_long_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Steps that an earlier process made took none of this one's time."""
    seconds = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    with caplog.at_level(logging.INFO), Progress("A", 100, "steps", start=40, clock=lambda: next(seconds)) as progress:
        progress.step(5)
        progress.step(5)
        progress.say("loss 0.5")
        progress.step(5)
        progress.step(5)
    assert caplog.messages == ["A: 50 of 100 steps, 31 s, 155 s left", "A: 60 of 100 steps, 62 s, 124 s left, loss 0.5"]


def test_after_a_pause_what_is_left_is_by_the_last_lines(caplog: pytest.LogCaptureFixture) -> None:
    seconds = iter([0.0, 31.0, *(4000.0 + 31 * line for line in range(12))])
    with caplog.at_level(logging.INFO), Progress("A", 100, "steps", clock=lambda: next(seconds)) as progress:
        for _ in range(13):
            progress.step()
    assert caplog.messages[1] == "A: 2 of 100 steps, 4000 s, 196000 s left"
    assert caplog.messages[-1] == f"A: 13 of 100 steps, 4341 s, {31 * 87} s left"


def test_a_stop_is_obeyed_at_once_where_nothing_is_to_be_saved() -> None:
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    try:
        stop.listen()
        with pytest.raises(Interrupted, match="signal 15"), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it goes on")
        later = Stop()
        later.listen()
        assert signal.getsignal(signal.SIGTERM) == later.on_signal and later.signum is None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        later.listen()  # a launcher's handler stays
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def work(ready: Connection, saved: Path | None) -> None:
    """Be a worker process: one with a job, where it has a file to save, else an idle one."""
    stop = Stop()
    stop.obey_parent()
    if saved is not None:
        with stop.job(), Progress("work", 1, "steps"):
            ready.send(os.getpid())
            try:
                while True:
                    stop.check()
                    time.sleep(0.01)
            except Interrupted:
                time.sleep(0.3)  # in which it is asked again
                saved.write_text("whole")
    ready.send(os.getpid())
    threading.Event().wait()


def begin_work(saved: Path | None) -> tuple[Any, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=work, args=(there, saved))
    worker.start()
    there.close()  # so that a worker that ends too early is told as the end of its pipe
    here.recv()
    return worker, here


@pytest.mark.parametrize("idle", [True, False])
def test_a_worker_ends_with_sigterm_once_it_has_nothing_to_save(tmp_path: Path, idle: bool) -> None:
    """A terminal, or a scheduler, asks the workers, too, and then their parent does: that is one request. An executor
    that has lost one worker asks the others once, and waits for their end."""
    saved = tmp_path / "saved"
    worker, _ = begin_work(None if idle else saved)
    os.kill(worker.pid, signal.SIGINT)
    for _ in range(1 if idle else 3):
        worker.terminate()
        time.sleep(0.05)
    worker.join(300)
    ended = worker.exitcode
    worker.kill()
    assert ended == 128 + signal.SIGTERM
    assert saved.exists() != idle


BEGIN = """
import sys, time
from pathlib import Path
from test_progress import begin_work

if __name__ == "__main__":
    worker, _ = begin_work(Path(sys.argv[1]) if sys.argv[1:] else None)
"""
STAY = """
    print(worker.pid, flush=True)
    time.sleep(600)
"""
STOP = """
    worker.terminate()
    worker.join()
"""


def start(script: Path, text: str, saved: Path | None = None) -> subprocess.Popen[str]:
    """Begin a process that has a worker of its own."""
    script.write_text(text)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, str(script), *([] if saved is None else [str(saved)])]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env={**os.environ, "PYTHONPATH": path}, **pipes)


def test_a_worker_that_was_stopped_leaves_nothing_to_complain_of(tmp_path: Path) -> None:
    assert start(tmp_path / "run.py", BEGIN + STOP, tmp_path / "saved").communicate(timeout=300) == ("", "")
    assert (tmp_path / "saved").exists()


@pytest.mark.skipif(beginning(os.getpid()) is None, reason="whether a process of another's runs is asked of /proc")
@pytest.mark.parametrize("idle", [True, False])
def test_a_worker_ends_once_it_has_nothing_to_save_when_its_parent_was_killed(tmp_path: Path, idle: bool) -> None:
    saved = tmp_path / "saved"
    with start(tmp_path / "run.py", BEGIN + STAY, None if idle else saved) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 300
    while beginning(worker) is not None and time.monotonic() < until:
        time.sleep(0.05)
    ended = beginning(worker) is None
    if not ended:
        os.kill(worker, signal.SIGKILL)
    assert ended and saved.exists() != idle


def test_a_stop_asked_for_before_is_obeyed_before_anything_begins() -> None:
    stop = Stop()
    stop.on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted), stop.at_once():
        pytest.fail("it begins")


def test_a_stop_that_comes_while_earlier_ones_are_looked_for_is_obeyed() -> None:
    class Late(Stop):
        def check(self) -> None:
            super().check()
            self.on_signal(signal.SIGTERM, None)

    with pytest.raises(Interrupted), Late().at_once():
        pytest.fail("it begins")


def test_a_stop_that_a_library_swallows_is_obeyed_nevertheless() -> None:
    """As an extension's does whose import of another fails: it goes on without, or fails later for the lack of it."""
    stop = Stop()
    with pytest.raises(Interrupted, match="signal 15"), stop.at_once(), suppress(Interrupted):
        stop.on_signal(signal.SIGTERM, None)
    stop = Stop()
    with pytest.raises(Interrupted, match="signal 2"), stop.at_once():
        with suppress(Interrupted):
            stop.on_signal(signal.SIGINT, None)
        raise AttributeError("module 'numpy' has no attribute 'iinfo'")
    stop = Stop()
    with pytest.raises(ValueError, match="its own"), stop.at_once():
        raise ValueError("its own")


def test_imports_end_before_a_stop_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    stop, ended = Stop(), False
    with pytest.raises(Interrupted, match="signal 15"), stop.at_once():
        with stop.after_imports():
            stop.on_signal(signal.SIGTERM, None)
            ended = True
        pytest.fail("it goes on")
    assert ended
    with pytest.raises(Interrupted, match="signal 15"):  # a second one waits for nothing
        stop.on_signal(signal.SIGTERM, None)


SAY = """
import sys
from epsball.runtime.progress import unfailing_output

with unfailing_output():
    for stream in (sys.stdout, sys.stderr):
        print("one", file=stream, flush=True)
        print("two", file=stream)
    assert not sys.stdout.isatty()
sys.exit(7)
"""


def ended(stream: int) -> int:
    """Return the exit code of a process that says something on a stream."""
    return subprocess.run([sys.executable, "-c", SAY], stdout=stream, stderr=stream, timeout=60).returncode


def test_what_cannot_be_written_for_the_user_fails_nothing() -> None:
    """Neither while it runs nor where Python flushes at the end, which would be exit code 120."""
    read, write = os.pipe()
    os.close(read)
    try:
        assert ended(write) == 7
    finally:
        os.close(write)
    if Path("/dev/full").exists():
        with Path("/dev/full").open("w") as full:
            assert ended(full.fileno()) == 7


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_what_is_said_to_a_stream_that_was_never_there_fails_nothing(closed: str) -> None:
    """As some schedulers start a command."""
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", SAY]
    assert subprocess.run(command, timeout=60).returncode == 7


def test_a_character_that_the_encoding_lacks_fails_nothing() -> None:
    said = "from epsball.runtime.progress import unfailing_output\nwith unfailing_output():\n    print('1 \u00b1 2')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", said], stdout=subprocess.PIPE, env=environment, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, [b"1", b"?", b"2"])


def test_what_can_be_written_is(capsys: pytest.CaptureFixture[str]) -> None:
    with unfailing_output():
        print("a result")
        print("a line of the log", file=sys.stderr)
    assert capsys.readouterr() == ("a result\n", "a line of the log\n")
