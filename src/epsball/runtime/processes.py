"""Tell a process that runs from one that is gone, by its host, its number and the moment it began."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

GONE = ("Z", "X")  # states of a process that has ended and was not waited for


def this_process() -> dict[str, Any]:
    """Return what `state_of` asks about this process."""
    return {"host": platform.node(), "id": os.getpid(), "began": beginning(os.getpid())}


def state_of(process: Mapping[str, Any]) -> Literal["runs", "gone", "elsewhere", "unknown"]:
    """Say what has become of a process: one of another host is not looked for, and where the system does not say when a
    process began (it is not Linux), one of that number may be another by now."""
    host, number, began = (process.get(key) for key in ("host", "id", "began"))
    if host != platform.node():
        return "elsewhere"
    if not isinstance(number, int) or os.name != "posix":  # elsewhere os.kill ends a process
        return "unknown"
    if began is not None and beginning(os.getpid()) is not None:
        return "runs" if beginning(number) == began else "gone"
    try:
        os.kill(number, 0)  # asks only
    except ProcessLookupError:
        return "gone"
    except OSError:
        return "unknown"
    return "unknown"


def running_process(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the process of a run whose run.json says that it runs; None where it says anything else."""
    process = record.get("process")
    return process if record.get("status") == "running" and isinstance(process, dict) else None


def beginning(number: int) -> str | None:
    """Return when a process began: the system's boot and its ticks since then; None if there is none, or the system
    does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in GONE else f"{boot} {fields[18]}"  # field 22 of proc(5), state is field 3
