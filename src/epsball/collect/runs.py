"""Read run directories as they are found: their record, their rows, what is wrong with them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsball.build import one_line
from epsball.results.metrics import ERROR
from epsball.results.rows import TEXTS
from epsball.runtime.processes import state_of
from epsball.runtime.records import read_record

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("dataset", "seed", "measurement", "source", "target", "attack", "eps", "n")
EPS_DIGITS = 12  # of cells: some versions of pandas read the last bit of a number otherwise than JSON does
Cell = tuple[Any, ...]  # as results.rows.KEY


@dataclass
class Run:
    """One run directory."""

    name: str
    record: dict[str, Any]
    """its run.json"""
    rows: "pd.DataFrame | None"
    """None if it has none"""
    problem: str
    """what is wrong with it; empty if nothing is"""
    written: float
    """when its newest file was, in seconds"""
    job: str = ""
    """the settings in which it differs from other runs of its experiment"""
    sweep: str = ""
    """the sweep whose job it is; empty for a run of its own"""
    notes: list[str] = field(default_factory=list)

    @property
    def experiment(self) -> str:
        return str(self.record.get("experiment") or "?")

    @property
    def identity(self) -> tuple[str, str, object]:
        """Return what a re-run shares with the run it replaces."""
        return self.experiment, self.job, tuple(self.seeds)

    @property
    def config_hash(self) -> object:
        """Return what names everything in its config that can change a result; None where its record does not say."""
        return self.record.get("config_hash")

    @property
    def seeds(self) -> list[int]:
        """Seeds that it was meant to have."""
        return list(self.record.get("seeds", []))

    @property
    def cells(self) -> list[Cell]:
        """Cells that it was meant to have of each seed."""
        return [(*cell, round(eps, EPS_DIGITS)) for *cell, eps in self.record.get("cells", [])]

    def aliases(self, seed: int) -> dict[str, str]:
        """Return the names that stand for equal models in one seed: by each, the one that the model is listed under."""
        said: list[dict[str, str]] = self.record.get("aliases", [])
        return dict(zip(self.seeds, said, strict=False)).get(seed, {})


def find_runs(directories: Sequence[Path]) -> list[Run]:
    """Return every directory below the given ones that holds a run.json or a results.csv, in the order of its path.

    A run of several parts has no rows of its own: its parts, each in a folder below, say everything.
    """
    roots = [directory.resolve() for directory in directories]
    found = {path.parent for root in roots for name in ("run.json", "results.csv") for path in root.rglob(name)}
    base = os.path.commonpath(roots)
    runs = [read_run(path, os.path.relpath(path, base) if str(path) != base else path.name) for path in sorted(found)]
    return [run for run in runs if run.rows is not None or "parts" not in run.record]


def read_run(path: Path, name: str) -> Run:
    """Read the run in directory `path`; whatever cannot be read becomes its `problem` or a note."""
    notes: list[str] = []
    record, problem = read_record(path / "run.json")
    rows = None
    if not problem:
        rows = read_rows(path / "results.csv", f"{name}/results.csv", notes)
        problem = run_problem(record, rows is not None, notes)
    newest_file = max((path / file).stat().st_mtime for file in ("run.json", "results.csv") if (path / file).exists())
    sweep = next((str(folder) for folder in path.parents if (folder / "multirun.yaml").exists()), "")
    return Run(name, record, rows, problem, newest_file, sweep=sweep, notes=notes)


def run_problem(record: dict[str, Any], has_rows: bool, notes: list[str]) -> str:
    """Say why this run counts as missing: it did not end well, or it has no rows."""
    status = status_of(record)
    if status != "done":
        reason = record.get("exit_reason")
        return status + (f": {reason}" if reason else "") + (" (the rows it has are counted)" if has_rows else "")
    return "" if has_rows else "; ".join(notes) or "no results.csv"


def status_of(record: dict[str, Any]) -> str:
    """Return a run's status. A process that was killed could not say so: whether one that is `running` still does is
    asked of the system, on the host where it is."""
    status, process, since = str(record.get("status", "no status")), record.get("process"), record.get("started")
    if status != "running" or not isinstance(process, dict):
        return status
    match state_of(process):
        case "gone":
            return "interrupted (process gone)"
        case "runs":
            return f"running since {since}"
        case "elsewhere":
            return f"running on {process.get('host')} since {since}"
    return f"running since {since}, if process {process.get('id')} is still the same"


def read_rows(path: Path, shown: str, notes: list[str]) -> "pd.DataFrame | None":
    """Return the whole rows of a results.csv; a damaged file is noted and gives what is whole in it, or None."""
    import io

    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        header = whole[: whole.find("\n")].split(",")
        texts = dict.fromkeys(TEXTS, str)
        empty = {name: [""] if name in TEXTS else ["", "nan"] for name in header}  # a model may be called nan
        rows = pd.read_csv(io.StringIO(whole), keep_default_na=False, na_values=empty, dtype=texts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{shown} cannot be read ({one_line(error)})")
        return None
    absent = [column for column in (*NEEDED, ERROR.name) if column not in rows]
    if absent:
        notes.append(f"{shown} lacks the columns {', '.join(absent)}")
        return None
    good = whole_rows(rows)
    if len(good) < len(rows) or len(whole) < len(text):
        notes.append(f"{shown} is truncated: {len(good)} whole rows are counted")
    elif rows.empty:
        notes.append(f"{shown} has no rows")
    return None if good.empty else good


def whole_rows(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows that lack nothing. Not every measurement has errors."""
    import pandas as pd

    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in ("seed", "eps", "n", ERROR.name)}
    numbers["eps"] = numbers["eps"].round(EPS_DIGITS)
    damaged = rows[ERROR.name].notna() & numbers[ERROR.name].isna()
    return rows.assign(**numbers)[~damaged].dropna(subset=list(NEEDED)).astype({"seed": int})
