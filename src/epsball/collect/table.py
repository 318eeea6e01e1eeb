"""Put many runs into one table: mean ± sd over seeds, holes named."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsball.build import ConfigError
from epsball.collect.equals import Job, Names, names_of_jobs, under_all_names
from epsball.collect.jobs import current, join, name_jobs, newest
from epsball.collect.runs import Cell, Run, find_runs
from epsball.output.tables import EQUAL, HOLE, latex, markdown
from epsball.results.rows import KEY, MATRIX_LINE, eps_label, error_rows, over_seeds
from epsball.runtime.files import make_folder, write_whole
from epsball.runtime.progress import unfailing_output

if TYPE_CHECKING:
    import pandas as pd


@unfailing_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, write, print; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("directories", nargs="+", type=Path, help="run directories, or folders of them")
    parser.add_argument("--out", type=Path, help="where the files go (default: the first directory)")
    parser.add_argument("--format", choices=("markdown", "latex", "csv"), default="markdown")
    options = parser.parse_args(arguments)
    if missing := [path for path in options.directories if not path.exists()]:
        print(f"error: {missing[0]} is not there: name run directories, or folders of them", file=sys.stderr)
        return 2
    runs = find_runs(options.directories)
    if not any(run.rows is not None for run in runs):
        where = ", ".join(map(str, options.directories))
        print(f"nothing to tabulate under {where}" + (f": {closing_line(missing_runs(runs), runs)}" if runs else ""))
        return 1
    name_jobs(runs)
    counted, replaced = newest(runs)
    rows = join(counted)
    named = under_all_names(rows, counted)
    table, equal = aggregate(named, current(runs)), names_of_jobs(counted)
    out = options.out or next(directory for directory in options.directories if directory.is_dir())
    try:
        make_folder(out, f"--out {out}" if options.out else "--out is not given")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    remarks = closing(runs, replaced, holes(named, table, runs))
    show(table, rows, equal, options.format, out, remarks)
    return 0


def aggregate(rows: "pd.DataFrame", runs: list[Run]) -> "pd.DataFrame":
    """Return a line per expected (experiment, job, cell): seeds (0: missing), seeds_expected, mean and sd of rates."""
    import pandas as pd

    one = ["experiment", "job", "seed", *KEY]
    dtypes = rows[["experiment", "job", *KEY]].dtypes  # of a frame without any line, too
    rows = error_rows(rows).drop_duplicates(one, keep="last")  # of a cell's errors the last: of most steps and starts
    means = over_seeds(rows, ["experiment", "job", *KEY])
    lines = [
        (experiment, job, *cell, len(seeds_of(experiment, job, rows, runs)))
        for experiment, job in dict.fromkeys((run.experiment, run.job) for run in runs if run.record)
        for cell in expected_cells(experiment, job, rows, runs)
    ]
    expected = pd.DataFrame(lines, columns=["experiment", "job", *KEY, "seeds_expected"]).astype(dtypes)
    table = expected.merge(means, how="left", on=["experiment", "job", *KEY])
    return table.assign(seeds=table["seeds"].fillna(0).astype(int))


def expected_cells(experiment: str, job: str, rows: "pd.DataFrame", runs: list[Run]) -> list[Cell]:
    """Return the cells that this job should have, clean first: those that the records of its runs name, and those that
    it has."""
    promised = [cell for run in runs if (run.experiment, run.job) == (experiment, job) for cell in run.cells]
    chosen = rows[(rows["experiment"] == experiment) & (rows["job"] == job)]
    cells = dict.fromkeys([*promised, *chosen[list(KEY)].itertuples(index=False, name=None)])
    return sorted(cells, key=lambda cell: cell[KEY.index("attack")] != "clean")


def seeds_of(experiment: str, job: str, rows: "pd.DataFrame", runs: Iterable[Run]) -> list[int]:
    """Return every seed that this job had, or was meant to have: those of its sweeps; outside of any, those of all runs
    of the experiment that are of none either."""
    group = [run for run in runs if run.experiment == experiment]
    own = [run for run in group if run.job == job]
    sweeps = {run.sweep for run in own if run.sweep} or {""}
    meant = {seed for run in group if run.sweep in sweeps for seed in run.seeds} | {s for run in own for s in run.seeds}
    return sorted(meant | set(rows[(rows["experiment"] == experiment) & (rows["job"] == job)]["seed"]))


def wide(table: "pd.DataFrame", equal: Mapping[Job, Names]) -> "pd.DataFrame":
    """Lay out `aggregate`'s lines: a column per target, "12.3 ± 0.4" in per cent, `missing`, seeds if not all, and of a
    name that stands for an equal model "= MODEL"."""
    import pandas as pd

    front = [name for name in ("experiment", "dataset", "job") if table[name].nunique() > 1]
    if table.duplicated(["experiment", "job", *(name for name in KEY if name != "measurement")]).any():
        front.append("measurement")  # two measurements of one cell
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in table.to_dict(orient="records"):
        source = "-" if row["attack"] == "clean" else row["source"]
        key = (*(row[name] for name in front), source, row["attack"], row["eps"])
        line = lines.setdefault(key, dict(zip([*front, *MATRIX_LINE], key, strict=True)))
        line |= {name: f"{EQUAL}{listed}" for name, listed in equal.get((row["experiment"], row["job"]), {}).items()}
        line[row["target"]] = cell_text(row)
    targets = dict.fromkeys(table["target"])
    named = [name for names in equal.values() for name, listed in names.items() if listed in targets]
    columns = [*front, *MATRIX_LINE, *dict.fromkeys([*targets, *named])]
    return pd.DataFrame(list(lines.values()), columns=columns)


def cell_text(row: dict[Any, Any]) -> str:
    """Write one cell of `wide`."""
    if row["seeds"] == 0:
        return HOLE
    spread = f" ± {row['error_top1_sd'] * 100:.1f}" if row["seeds"] > 1 else ""
    short = f" ({row['seeds']} of {row['seeds_expected']} seeds)" if row["seeds"] < row["seeds_expected"] else ""
    return f"{row['error_top1'] * 100:.1f}{spread}{short}"


def holes(rows: "pd.DataFrame", table: "pd.DataFrame", runs: list[Run]) -> list[str]:
    """Return a line for each job and seed that lacks cells, naming them."""
    have = set(rows[["experiment", "job", "seed", *KEY]].itertuples(index=False, name=None))
    measured = {cell[:3] for cell in have}
    lines = []
    for experiment, job in dict.fromkeys((run.experiment, run.job) for run in runs if run.record):
        mine = table[(table["experiment"] == experiment) & (table["job"] == job)]
        cells = list(mine[list(KEY)].itertuples(index=False, name=None))
        for seed in seeds_of(experiment, job, rows, runs):
            lacking = [cell for cell in cells if (experiment, job, seed, *cell) not in have]
            where = " ".join(part for part in (experiment, job, f"seed={seed}") if part)
            if not cells and (experiment, job, seed) in measured:
                continue  # a run without errors, as of training curves alone
            if len(lacking) == len(cells):
                lines.append(f"{where}: everything" + (f" ({len(cells)} cells)" if cells else ""))
            elif lacking:
                lines.append(f"{where}: " + ", ".join(map(cell_name, lacking)))
    return lines


def cell_name(cell: Cell) -> str:
    """Write a cell as `A -> B fgsm eps 0.3`, or `A clean`."""
    _, _, source, target, attack, eps = cell
    return f"{target} clean" if attack == "clean" else f"{source} -> {target} {attack} eps {eps_label(eps)}"


def missing_runs(runs: list[Run]) -> list[Run]:
    """Return runs that did not end well or have no rows, unless a newer run of the same job and seed did."""
    good = {run.identity: run.written for run in sorted(runs, key=lambda run: run.written) if not run.problem}
    return [run for run in runs if run.problem and good.get(run.identity, -1.0) <= run.written]


def closing_line(missing: list[Run], runs: list[Run]) -> str:
    """Write `3 of 8 runs missing: <dir>: failed: <exit_reason>; ...`."""
    return f"{len(missing)} of {len(runs)} runs missing: " + "; ".join(f"{run.name}: {run.problem}" for run in missing)


def closing(runs: list[Run], replaced: list[str], gaps: list[str]) -> str:
    """Say everything that a reader of the table has to know about what is not in it."""
    missing = missing_runs(runs)
    notes = [note for run in runs for note in run.notes if note not in run.problem]
    lines = [closing_line(missing, runs)] if missing else []
    lines += [f"{len(gaps)} holes (missing cells):", *(f"  {gap}" for gap in gaps)] if gaps else []
    return "\n".join([*lines, *notes, *replaced])


def over_seeds_of(table: "pd.DataFrame") -> str:
    """Say of how many seeds the cells are: those that a job had, or was meant to have."""
    counts = sorted(set(table["seeds_expected"]))
    return f"mean ± sd over {' or '.join(map(str, counts))} seeds" if counts[-1:] > [1] else "one seed"


def show(
    table: "pd.DataFrame", rows: "pd.DataFrame", equal: Mapping[Job, Names], style: str, out: Path, remarks: str
) -> None:
    """Write collected.csv and the table, print the table and the remarks."""
    write_whole(out / "collected.csv", rows.to_csv(index=False, lineterminator="\n"))
    same = f"; {EQUAL}MODEL: the same model, listed once" if equal else ""
    heading = f"Error in per cent, {over_seeds_of(table)}; source - is clean{same}."
    if style == "csv":
        named = table.assign(error_top1=table["error_top1"].astype(object).where(table["seeds"] > 0, HOLE))
        text, ending = named.to_csv(index=False, lineterminator="\n"), "csv"
    elif style == "latex":
        comments = "".join(f"% {line}\n" for line in remarks.splitlines())
        text, ending = f"% {heading}\n{latex(wide(table, equal))}{comments}", "tex"
    else:
        notes = f"\n```\n{remarks}\n```\n" if remarks else ""
        text, ending = f"{heading}\n\n{markdown(wide(table, equal))}{notes}", "md"
    write_whole(out / f"collected_table.{ending}", text)
    print(text, end="")
    if style == "csv" and remarks:
        print(remarks, file=sys.stderr)
