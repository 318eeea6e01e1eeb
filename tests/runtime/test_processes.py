"""A process that runs, one that was killed, one whose number another has now, one of another host."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from epsball.runtime import processes
from epsball.runtime.processes import beginning, state_of, this_process

SAYS = (
    "import json; from epsball.runtime.processes import this_process; print(json.dumps(this_process()), flush=True); "
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Another process that waits, and what it says of itself."""
    with subprocess.Popen([sys.executable, "-c", SAYS + "input()"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout
        yield process, json.loads(process.stdout.readline())
        process.kill()


def test_a_process_runs_until_it_is_killed(other: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    process, said = other
    assert said["id"] == process.pid
    assert state_of(said) == ("runs" if sys.platform == "linux" else "unknown")
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(
        os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
    )  # ended, and nobody has waited for it: its number is there
    if sys.platform == "linux":
        assert state_of(said) == "gone"
    process.wait()
    assert state_of(said) == "gone"


@LINUX
def test_another_process_with_its_number_is_not_it(other: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    _, said = other
    boot, ticks = said["began"].split()
    assert int(ticks) >= int(str(beginning(os.getpid())).split()[1])  # it began after this one
    assert state_of({**said, "began": f"{boot} {int(ticks) - 1}"}) == "gone"
    assert state_of({**said, "began": f"another-boot {ticks}"}) == "gone"
    assert state_of({**said, "id": os.getpid()}) == "gone"


def test_another_host_is_not_asked() -> None:
    assert state_of({**this_process(), "host": "another"}) == "elsewhere"


def test_where_the_system_does_not_say_when_one_began_it_may_be_another(
    monkeypatch: pytest.MonkeyPatch, other: tuple[subprocess.Popen[str], dict[str, Any]]
) -> None:
    process, said = other
    monkeypatch.setattr(processes, "beginning", lambda number: None)
    assert this_process()["began"] is None
    assert state_of({**said, "began": None}) == "unknown"
    process.kill()
    process.wait()
    assert state_of({**said, "began": None}) == "gone"


@pytest.mark.parametrize("record", [{}, {"id": "x"}])
def test_a_record_that_lacks_a_number_says_nothing(record: dict[str, Any]) -> None:
    assert state_of({**record, "host": this_process()["host"]}) == "unknown"
