"""Many runs -> one table: mean ± sd over seeds, what is missing named.

    python scripts/collect.py outputs/digits [more directories] [--out DIR] [--format markdown|latex|csv]

Reads every run directory (run.json, results.csv) below the given ones. Writes `collected.csv` (the rows of all runs,
fractions) and `collected_table.md|tex|csv` into --out (default: the first directory), and prints the table (per cent).
Runs of one experiment are told apart by the overrides in which they differ (column `job`); a re-run of the same thing
replaces the older one. Exit code 0 if a table was written, 1 if there was nothing to tabulate.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("dataset", "seed", "source", "target", "attack", "eps", "n", "error_top1")
CELL = ("dataset", "source", "target", "attack", "eps")
# Overrides that decide which cells a run measures; jobs that agree on them should have the same cells.
SHAPING = (
    "dataset",
    "suite",
    "attack",
    "attacks",
    "eps",
    "model",
    "models",
    "sources",
    "targets",
    "paper",
    "grid",
    "scale",
)


@dataclass
class Run:
    """One run directory: its run.json, its rows (None if it has none) and what is wrong with it ("" if nothing)."""

    name: str
    record: dict[str, Any]
    rows: "pd.DataFrame | None"
    problem: str
    written: float
    job: str = ""
    shape: tuple[tuple[str, str], ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def experiment(self) -> str:
        return str(self.record.get("experiment") or "?")

    @property
    def identity(self) -> tuple[str, str, object]:
        """What a re-run shares with the run it replaces."""
        return self.experiment, self.job, self.record.get("seed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, write, print; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directories", nargs="+", type=Path, help="run directories, or folders of them")
    parser.add_argument("--out", type=Path, help="where the files go (default: the first directory)")
    parser.add_argument("--format", choices=("markdown", "latex", "csv"), default="markdown")
    options = parser.parse_args(arguments)
    runs = find_runs(options.directories)
    if not any(run.rows is not None for run in runs):
        where = ", ".join(map(str, options.directories))
        print(f"nothing to tabulate under {where}" + (f": {closing_line(missing_runs(runs), runs)}" if runs else ""))
        return 1
    name_jobs(runs)
    counted, replaced = newest(runs)
    rows = join(counted)
    table = aggregate(rows, runs)
    out = options.out or next(directory for directory in options.directories if directory.is_dir())
    out.mkdir(parents=True, exist_ok=True)
    show(table, rows, options.format, out, closing(runs, replaced, holes(rows, table, runs)))
    return 0


# ---- reading


def find_runs(directories: Sequence[Path]) -> list[Run]:
    """Every directory below the given ones that holds a run.json or a results.csv, in the order of its path.

    A run of several parts has no rows of its own: its parts, each in a folder below, say everything.
    """
    roots = [directory.resolve() for directory in directories]
    found = {path.parent for root in roots for name in ("run.json", "results.csv") for path in root.rglob(name)}
    base = os.path.commonpath(roots)
    runs = [read_run(path, os.path.relpath(path, base) if str(path) != base else path.name) for path in sorted(found)]
    return [run for run in runs if run.rows is not None or "parts" not in run.record]


def read_run(path: Path, name: str) -> Run:
    """The run in directory `path`; whatever cannot be read becomes its `problem` or a note."""
    notes: list[str] = []
    record, problem = read_record(path / "run.json")
    rows = None
    if not problem:
        rows = read_rows(path / "results.csv", f"{name}/results.csv", notes)
        problem = run_problem(record, rows is not None, notes)
    newest_file = max((path / file).stat().st_mtime for file in ("run.json", "results.csv") if (path / file).exists())
    return Run(name, record, rows, problem, newest_file, notes=notes)


def read_record(path: Path) -> tuple[dict[str, Any], str]:
    """The contents of run.json, and why they cannot be used ("" if they can)."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, "no run.json"
    except (OSError, ValueError) as error:
        return {}, f"run.json cannot be read ({error})"
    return (record, "") if isinstance(record, dict) else ({}, "run.json is not an object")


def run_problem(record: dict[str, Any], has_rows: bool, notes: list[str]) -> str:
    """Why this run counts as missing: it did not end well, or it has no rows."""
    status = str(record.get("status", "no status"))
    if status != "done":
        reason = record.get("exit_reason")
        return status + (f": {reason}" if reason else "") + (" (the rows it has are counted)" if has_rows else "")
    return "" if has_rows else "; ".join(notes) or "no results.csv"


def read_rows(path: Path, shown: str, notes: list[str]) -> "pd.DataFrame | None":
    """The whole rows of a results.csv; a damaged file is noted and gives what is whole in it, or None."""
    import io

    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        rows = pd.read_csv(io.StringIO(whole), keep_default_na=False, na_values=["", "nan"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{shown} cannot be read ({' '.join(str(error).split())})")
        return None
    absent = [column for column in NEEDED if column not in rows]
    if absent:
        notes.append(f"{shown} lacks the columns {', '.join(absent)}")
        return None
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in ("seed", "eps", "n", "error_top1")}
    good = rows.assign(**numbers).dropna(subset=list(NEEDED)).astype({"seed": int})
    if len(good) < len(rows) or len(whole) < len(text):
        notes.append(f"{shown} is truncated: {len(good)} whole rows are counted")
    elif rows.empty:
        notes.append(f"{shown} has no rows")
    return None if good.empty else good


# ---- which runs belong together


def name_jobs(runs: list[Run]) -> None:
    """Give each run its `job`: the overrides, without the seed, in which the runs of its experiment differ.

    `shape` is the part of them that decides which cells the run measures.
    """
    for experiment in {run.experiment for run in runs}:
        group = [run for run in runs if run.experiment == experiment and run.record]
        settings = [overrides(run.record) for run in group]
        keys = dict.fromkeys(key for setting in settings for key in setting)
        differing = [key for key in keys if len({setting.get(key) for setting in settings}) > 1]
        for run, setting in zip(group, settings, strict=True):
            chosen = [(key, setting.get(key, "(default)")) for key in differing]
            run.job = " ".join(f"{key}={value}" for key, value in chosen)
            run.shape = tuple(pair for pair in chosen if pair[0].split(".")[0].split("@")[0] in SHAPING)


def overrides(record: dict[str, Any]) -> dict[str, str]:
    """The run's command-line overrides as key -> value, without the seed and hydra's own."""
    pairs = [str(item).lstrip("+").partition("=") for item in record.get("overrides") or []]
    return {key: value for key, _, value in pairs if key != "seed" and not key.startswith("hydra.")}


def newest(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs whose rows count, oldest first, and a line for each run that another config of its job replaced.

    Where one job and seed was run with two configs, a finished run beats an unfinished one, then the newer wins.
    """
    counted: list[Run] = []
    replaced = []
    ordered = sorted((run for run in runs if run.rows is not None), key=lambda run: (run.written, run.name))
    last = {run.identity: run for run in sorted(ordered, key=lambda run: not run.problem)}
    for run in ordered:
        winner = last[run.identity]
        if run.record.get("config_hash") == winner.record.get("config_hash"):
            counted.append(run)
        else:
            replaced.append(f"{run.name}: not counted, {winner.name} replaces it and has another config_hash")
    return counted, replaced


def join(runs: list[Run]) -> "pd.DataFrame":
    """All rows with run, experiment and job in front; of the same measurement only the newest."""
    import pandas as pd

    parts = [placed(run) for run in runs]
    columns = dict.fromkeys(column for part in parts for column in part.columns)
    rows = pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True).reindex(
        columns=list(columns)
    )
    rows = rows.drop_duplicates(["experiment", "job", "seed", *CELL], keep="last")
    return rows.sort_values("run", kind="stable", ignore_index=True)


def placed(run: Run) -> "pd.DataFrame":
    """The run's rows with the columns run, experiment and job in front."""
    assert run.rows is not None
    names = {"run": run.name, "experiment": run.experiment, "job": run.job}
    others = [column for column in run.rows.columns if column not in names]
    return run.rows[others].assign(**names)[[*names, *others]]


# ---- the table


def aggregate(rows: "pd.DataFrame", runs: list[Run]) -> "pd.DataFrame":
    """One line per expected (experiment, job, cell): seeds (0 if missing), seeds_expected, mean and sd of the rates."""
    import pandas as pd

    from epsball import statistics

    means = statistics.over_seeds(rows, ["experiment", "job", *CELL])
    lines = [
        (experiment, job, *cell, len(seeds_of(experiment, rows, runs)))
        for experiment, job in dict.fromkeys((run.experiment, run.job) for run in runs if run.record)
        for cell in expected_cells(experiment, job, rows, runs)
    ]
    expected = pd.DataFrame(lines, columns=["experiment", "job", *CELL, "seeds_expected"])
    table = expected.merge(means, how="left", on=["experiment", "job", *CELL])
    return table.assign(seeds=table["seeds"].fillna(0).astype(int))


def expected_cells(experiment: str, job: str, rows: "pd.DataFrame", runs: list[Run]) -> list[tuple[Any, ...]]:
    """The cells that this job should have: all that jobs with the same dataset, suite, ... measured; clean first."""
    group = [run for run in runs if run.experiment == experiment]
    shapes = {run.shape for run in group if run.job == job}
    alike = {run.job for run in group if run.shape in shapes}
    chosen = rows[(rows["experiment"] == experiment) & rows["job"].isin(alike)]
    cells = dict.fromkeys(chosen[list(CELL)].itertuples(index=False, name=None))
    return sorted(cells, key=lambda cell: cell[3] != "clean")


def seeds_of(experiment: str, rows: "pd.DataFrame", runs: Iterable[Run]) -> list[int]:
    """Every seed that any run of this experiment had, or was meant to have."""
    meant = {run.record.get("seed") for run in runs if run.experiment == experiment and run.rows is None}
    return sorted(
        {seed for seed in meant if isinstance(seed, int)} | set(rows[rows["experiment"] == experiment]["seed"])
    )


def wide(table: "pd.DataFrame") -> "pd.DataFrame":
    """`aggregate`'s lines for people: one column per target, "12.3 ± 0.4" in per cent, `missing`, seeds if not all."""
    import pandas as pd

    front = [name for name in ("experiment", "dataset", "job") if table[name].nunique() > 1]
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in table.to_dict(orient="records"):
        source = "-" if row["attack"] == "clean" else row["source"]
        key = (*(row[name] for name in front), source, row["attack"], row["eps"])
        line = lines.setdefault(key, dict(zip([*front, "source", "attack", "eps"], key, strict=True)))
        line[row["target"]] = cell_text(row)
    columns = [*front, "source", "attack", "eps", *dict.fromkeys(table["target"])]
    return pd.DataFrame(list(lines.values()), columns=columns)


def cell_text(row: dict[Any, Any]) -> str:
    """One cell of `wide`."""
    if row["seeds"] == 0:
        return "missing"
    spread = f" ± {row['error_top1_sd'] * 100:.1f}" if row["seeds"] > 1 else ""
    short = f" ({row['seeds']} of {row['seeds_expected']} seeds)" if row["seeds"] < row["seeds_expected"] else ""
    return f"{row['error_top1'] * 100:.1f}{spread}{short}"


# ---- what is missing


def holes(rows: "pd.DataFrame", table: "pd.DataFrame", runs: list[Run]) -> list[str]:
    """A line for each (job, seed) that lacks cells which its likes have, naming the cells."""
    have = set(rows[["experiment", "job", "seed", *CELL]].itertuples(index=False, name=None))
    lines = []
    for experiment, job in dict.fromkeys((run.experiment, run.job) for run in runs if run.record):
        mine = table[(table["experiment"] == experiment) & (table["job"] == job)]
        cells = list(mine[list(CELL)].itertuples(index=False, name=None))
        for seed in seeds_of(experiment, rows, runs):
            lacking = [cell for cell in cells if (experiment, job, seed, *cell) not in have]
            where = " ".join(part for part in (experiment, job, f"seed={seed}") if part)
            if not cells or (lacking and len(lacking) == len(cells)):
                lines.append(f"{where}: everything" + (f" ({len(cells)} cells)" if cells else ""))
            elif lacking:
                lines.append(f"{where}: " + ", ".join(map(cell_name, lacking)))
    return lines


def cell_name(cell: tuple[Any, ...]) -> str:
    """`A -> B fgsm eps 0.3`, or `A clean`."""
    from epsball import statistics

    _, source, target, attack, eps = cell
    return f"{target} clean" if attack == "clean" else f"{source} -> {target} {attack} eps {statistics.eps_label(eps)}"


def missing_runs(runs: list[Run]) -> list[Run]:
    """Runs that did not end well or have no rows, unless a newer run of the same job and seed did."""
    good = {run.identity: run.written for run in sorted(runs, key=lambda run: run.written) if not run.problem}
    return [run for run in runs if run.problem and good.get(run.identity, -1.0) <= run.written]


def closing_line(missing: list[Run], runs: list[Run]) -> str:
    """`3 of 8 runs missing: <dir>: failed: <exit_reason>; ...`."""
    return f"{len(missing)} of {len(runs)} runs missing: " + "; ".join(f"{run.name}: {run.problem}" for run in missing)


def closing(runs: list[Run], replaced: list[str], gaps: list[str]) -> str:
    """Everything a reader of the table has to know about what is not in it."""
    missing = missing_runs(runs)
    notes = [note for run in runs for note in run.notes if note not in run.problem]
    lines = [closing_line(missing, runs)] if missing else []
    lines += [f"{len(gaps)} holes (missing cells):", *(f"  {gap}" for gap in gaps)] if gaps else []
    return "\n".join([*lines, *notes, *replaced])


def show(table: "pd.DataFrame", rows: "pd.DataFrame", style: str, out: Path, remarks: str) -> None:
    """Write collected.csv and the table, print the table and the remarks."""
    from epsball import tables
    from epsball.files import write_whole

    write_whole(out / "collected.csv", rows.to_csv(index=False, lineterminator="\n"))
    if style == "csv":
        named = table.assign(error_top1=table["error_top1"].astype(object).where(table["seeds"] > 0, "missing"))
        text, ending = named.to_csv(index=False, lineterminator="\n"), "csv"
    elif style == "latex":
        text, ending = tables.latex(wide(table)) + "".join(f"% {line}\n" for line in remarks.splitlines()), "tex"
    else:
        heading = "Error in per cent, mean ± sd over seeds; source - is clean.\n\n"
        text, ending = heading + tables.markdown(wide(table)) + (f"\n```\n{remarks}\n```\n" if remarks else ""), "md"
    write_whole(out / f"collected_table.{ending}", text)
    print(text, end="")
    if style == "csv" and remarks:
        print(remarks, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
