"""Find the runs that belong together: jobs of an experiment, the newest of each."""

import json
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

from epsball.collect.runs import Run
from epsball.results.rows import KEY

if TYPE_CHECKING:
    import pandas as pd

Settings = dict[str, Any]


def name_jobs(runs: list[Run]) -> None:
    """Give each run its `job`: the settings in which the runs of its experiment differ. One whose config was refused
    says only how it was called."""
    for experiment in {run.experiment for run in runs}:
        group = [run for run in runs if run.experiment == experiment and run.record]
        said = [with_groups(run.record.get("settings") or overrides(run.record)) for run in group]
        settings = with_typed_seeds(group, said)
        keys = telling_keys(settings)
        for run, setting in zip(group, settings, strict=True):
            run.job = " ".join(f"{key}={as_text(setting.get(key, '(default)'))}" for key in keys)


def with_groups(settings: Settings) -> Settings:
    """Return settings with a value for each group of fields that has no name, by which it differs from null."""
    groups = [key[:end] for key in settings for end, letter in enumerate(key) if letter == "."]
    return dict.fromkeys(groups, "(given)") | settings


def with_typed_seeds(runs: list[Run], settings: list[Settings]) -> list[Settings]:
    """Return the runs' settings with the models' seeds that any of them was called with; the others' follow the run's
    own seed, and do not tell jobs apart."""
    typed = [{key: value for key, value in overrides(run.record).items() if key.endswith(".seed")} for run in runs]
    untyped = {key: "(default)" for one in typed for key in one}
    return [setting | untyped | one for setting, one in zip(settings, typed, strict=True)]


def telling_keys(settings: list[Settings]) -> list[str]:
    """Return the keys that tell jobs apart: of those with different values the groups, then each field that tells apart
    what these do not. A field that some lack, which another option of its group has, does not by itself."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    values = {key: [as_text(setting[key]) if key in setting else None for setting in settings] for key in keys}
    differing = [key for key in keys if len({value for value in values[key] if value is not None}) > 1]
    chosen: list[str] = []
    for key in sorted(differing, key=lambda key: key.count(".")):
        apart = len(set(zip(*(values[name] for name in chosen), strict=True))) if chosen else 1
        if "." not in key or len(set(zip(*(values[name] for name in (*chosen, key)), strict=True))) > apart:
            chosen.append(key)
    return chosen


def as_text(value: object) -> str:
    """Write a setting's value as an override would have it."""
    return value if isinstance(value, str) else json.dumps(value)


def overrides(record: dict[str, Any]) -> Settings:
    """Return the run's command-line overrides as key -> value, without the seed and Hydra's own."""
    pairs = [word.lstrip("+").partition("=") for word in record.get("overrides", [])]
    return {key: value for key, _, value in pairs if key != "seed" and not key.startswith("hydra.")}


def newest(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs whose rows count, the last of which count most, and a line for each run that another config
    of its job replaced, wholly or in some of its seeds.

    Where one job and seed was run twice, a finished run beats an unfinished one, then the newer wins.
    """
    counted: list[Run] = []
    replaced = []
    last = last_of_jobs(runs)
    for run in ordered(runs):
        winner = last[run.identity]
        if run.config_hash == winner.config_hash:
            counted.append(run)
        else:
            replaced.append(f"{run.name}: not counted, {winner.name} replaces it and has another config_hash")
    return counted, [*replaced, *pooled(counted)]


def pooled(counted: list[Run]) -> Iterator[str]:
    """Yield a line for each two runs of a job, of other lists of seeds, that share seeds and measured other things in
    them: a mean of it may then be of both."""
    for run, later in combinations(counted, 2):
        shared = sorted({*run.seeds} & {*later.seeds})
        if run.identity[:2] == later.identity[:2] and run.seeds != later.seeds and shared and differ(run, later):
            others = ", ".join(str(seed) for seed in run.seeds if seed not in shared)
            mixed = f", and its others ({others}) stand in one mean with them" if others else ""
            of = f"{'seeds' if len(shared) > 1 else 'seed'} {', '.join(map(str, shared))}"
            yield f"{run.name}: of its {of} {later.name}'s count, which are of another config{mixed}"


def differ(run: Run, other: Run) -> bool:
    """Whether any row of a cell and seed that both have is of other models, images or settings; the config_hash of
    several seeds is of their list, too."""
    assert run.rows is not None and other.rows is not None
    frames, cell = (run.rows, other.rows), ["seed", *KEY]
    if run.config_hash == other.config_hash or not all("identity" in rows for rows in frames):
        return run.config_hash != other.config_hash
    here, there = ({key: set(own["identity"]) for key, own in rows.groupby(cell)} for rows in frames)
    return any(here[key] != there[key] for key in here.keys() & there.keys())


def current(runs: list[Run]) -> list[Run]:
    """Return the runs whose promises count: all but those, with rows or without, that a later finished run of another
    config replaced."""
    last = last_of_jobs(runs)

    def is_replaced(run: Run) -> bool:
        winner = last.get(run.identity, run)
        return not winner.problem and winner.written > run.written and winner.config_hash != run.config_hash

    return [run for run in runs if not is_replaced(run)]


def last_of_jobs(runs: list[Run]) -> dict[tuple[str, str, object], Run]:
    """Return the run that counts most of each job and its seeds."""
    return {run.identity: run for run in ordered(runs)}


def ordered(runs: list[Run]) -> list[Run]:
    """Return the runs that have rows, those that count more later."""
    with_rows = (run for run in runs if run.rows is not None)
    return sorted(with_rows, key=lambda run: (not run.problem, run.written, run.name))


def join(runs: list[Run]) -> "pd.DataFrame":
    """Return all rows with run, experiment and job in front; of a cell that several runs have, those of the last."""
    import pandas as pd

    parts = [placed(run) for run in runs]
    columns = dict.fromkeys(column for part in parts for column in part.columns)
    rows = pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True).reindex(
        columns=list(columns)
    )
    cell = ["experiment", "job", "seed", *KEY]
    runs_of_cells = rows[[*cell, "run"]].drop_duplicates()
    last = runs_of_cells.drop_duplicates(cell, keep="last")  # all rows of it: a measurement may have several in a cell
    return rows.merge(last, on=[*cell, "run"]).sort_values("run", kind="stable", ignore_index=True)


def placed(run: Run) -> "pd.DataFrame":
    """Return the run's rows with the columns run, experiment and job in front."""
    assert run.rows is not None
    names = {"run": run.name, "experiment": run.experiment, "job": run.job}
    others = [column for column in run.rows.columns if column not in names]
    return run.rows[others].assign(**names)[[*names, *others]]
