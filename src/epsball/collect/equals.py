"""Names that stand for one model: listed once in a run, so that what they lack is no hole."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING

from epsball.collect.runs import Run

if TYPE_CHECKING:
    import pandas as pd

Job = tuple[str, str]  # experiment and job
Names = Mapping[str, str]  # of equal models: a name, and the one that it is listed under


def names_of_jobs(runs: list[Run]) -> dict[Job, Names]:
    """Return of each job the names that stand for the same other model in all of its seeds."""
    found: dict[Job, list[Names]] = {}
    for run in runs:
        found.setdefault((run.experiment, run.job), []).extend(run.aliases(seed) for seed in run.seeds)
    common = {job: set.intersection(*(set(names.items()) for names in each)) for job, each in found.items() if each}
    return {job: dict(sorted(names)) for job, names in common.items() if names}


def under_all_names(rows: "pd.DataFrame", runs: list[Run]) -> "pd.DataFrame":
    """Return rows, and again under each further name that their model has in this seed, but not in all of the job: so a
    mean over seeds is of the same models, whichever of them are equal in some."""
    import pandas as pd

    of_jobs, parts = names_of_jobs(runs), [rows]
    for run in runs:
        for seed in run.seeds:
            names = dict(run.aliases(seed).items() - of_jobs.get((run.experiment, run.job), {}).items())
            if names:
                parts += renamed(rows[(rows["run"] == run.name) & (rows["seed"] == seed)], names)
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else rows


def renamed(rows: "pd.DataFrame", names: Names) -> Iterator["pd.DataFrame"]:
    """Yield the rows of models that have further names, for each choice of a name of source and of target."""
    every: dict[str, list[str]] = {}
    for name, listed in names.items():
        every.setdefault(listed, [listed]).append(name)
    for source, target in rows[["source", "target"]].drop_duplicates().itertuples(index=False, name=None):
        own = rows[(rows["source"] == source) & (rows["target"] == target)]
        for s, t in product(every.get(source, [source]), every.get(target, [target])):
            if (s, t) != (source, target):
                yield own[(own["attack"] != "clean") | (s == t)].assign(source=s, target=t)
