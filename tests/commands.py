"""run.py's command lines in tests: a small one, how it ended, what it left."""

import json
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
