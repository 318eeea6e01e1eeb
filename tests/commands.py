"""run.py's command lines in tests: a small one, how it ended, what it left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ROOT, TINY

RUN = ROOT / "run.py"


def tiny_line(*overrides: str) -> list[str]:
    """The command line of a small experiment, but for `overrides`."""
    given = {override.partition("=")[0] for override in overrides}
    return [*(default for default in TINY if default.partition("=")[0] not in given), *overrides]


@dataclass
class Ended:
    code: int
    out: str
    err: str


def run_jsons(outputs: Path) -> dict[Path, dict[str, Any]]:
    return {path.parent: json.loads(path.read_text()) for path in sorted(outputs.rglob("run.json"))}


def start(folder: Path, *overrides: str, own_group: bool = False) -> "subprocess.Popen[str]":
    """A run in the foreground: a shell's background jobs, perhaps this very test, ignore SIGINT and hand that on. In
    its own group it and what it starts can be sent a signal as a terminal does."""
    line = [sys.executable, str(RUN), *tiny_line(*overrides)]

    def foreground() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if own_group:
            os.setpgrp()

    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=folder, stdout=pipe, stderr=pipe, text=True, preexec_fn=foreground)


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    for _ in range(30000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise AssertionError("waited five minutes")
