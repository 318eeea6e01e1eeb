"""A run, in the order in which things happen: train, set up, measure, report; part by part and seed by seed."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from epsball.data.streamed import stopped_if_lost
from epsball.experiment.forecast import tell_workload
from epsball.experiment.prepare import Experiment
from epsball.experiment.record import Part, Record
from epsball.experiment.report import join_parts, joined_rows, present_part
from epsball.experiment.setup import set_up, unfinished_models, workload
from epsball.experiment.statements import Statements
from epsball.measurements.measurement import Row, Rows, Setup, clean_rows
from epsball.paper.objective import Objective
from epsball.results.rows import as_dicts
from epsball.runtime.device import Execution, executing
from epsball.runtime.distributed import is_first
from epsball.runtime.progress import Stop
from epsball.runtime.shared_store import open_store
from epsball.training.parallel import train_in_parallel
from epsball.training.trained import TrainedModels

if TYPE_CHECKING:
    import pandas as pd

NOTHING_STATED = Statements()

log = logging.getLogger(__name__)


class Finished(NamedTuple):
    """What a run gives back."""

    files: list[Path]
    """most readable first"""
    objective: float | None
    """the value of the config's objective, if it has one; of several processes the first has it"""
    unanswered: str = ""
    """why an objective that the config has is without a value: what was measured is there all the same"""


def run_experiments(
    name: str,
    parts: Sequence[Part],
    directory: Path,
    overrides: list[str],
    stop: Stop,
    joint: Statements = NOTHING_STATED,
) -> Finished:
    """Run all parts. `run.json` says how it ended.

    Several parts get a folder each, with the files of a run, and a report of all of them above, with what is stated of
    their rows together (`joint`). Of several processes the first writes.
    """
    settings, store = parts[0][0].settings, open_store(Path(parts[0][0].settings.outputs), stop.check)
    models = TrainedModels(store, stop, [experiment.specs for part in parts for experiment in part])
    record = Record(name, parts, directory, overrides, models)
    if record.changed:
        log.info("the paper's numbers are of other settings than the run's: %s", record.changed)
    with record.recording():
        if is_first():
            store.remove_abandoned()
        if settings.missing != "skip":
            models.forecast = tell_workload(parts, models)
        if settings.workers > 1:
            train_in_parallel(untrained_models(record, models), models, settings.workers, settings.threads)
        if len(parts) == 1:
            rows = measure_part(parts[0], record, models)
            if not is_first():
                return Finished([], None)
            result = present_part(parts[0], rows, record)
            found = tell_objective(parts[0][0].statements.objective, result.results, record)
            return Finished([*result.files, directory / "run.json"], *found)
        results, part_records = {}, record.of_parts()
        for part, part_record in zip(parts, part_records, strict=True):
            log.info("%s", part_record.name)
            with part_record.recording():
                rows = measure_part(part, part_record, models)
                if is_first():
                    results[part_record.name] = present_part(part, rows, part_record)
        if not is_first():
            return Finished([], None)
        record.join_left_out(part_records)
        joined = joined_rows(results.values())
        files = join_parts(results, joined, record, joint)
        return Finished([*files, directory / "run.json"], *tell_objective(joint.objective, joined, record))


def untrained_models(record: Record, models: TrainedModels) -> dict[str, tuple[str, Execution]]:
    """Return name and execution of the models that the run needs and the store lacks, sources for their training
    included, by fingerprint."""
    found: dict[str, tuple[str, Execution]] = {}
    has = cache(models.store.has)  # several experiments may need one model
    for experiment in (each for part in record.parts for each in part):
        needed = unfinished_models(experiment, workload(experiment, set_up(experiment, models)))
        for name, spec in models.untrained(record.titled(experiment, needed), has):
            found.setdefault(spec.key, (name, experiment.execution))
    return found


def measure_part(part: Part, record: Record, models: TrainedModels) -> Rows:
    """Train, set up and measure one part, an experiment per seed; return the rows of all by file."""
    rows: Rows = {}
    for experiment in part:
        with executing(experiment.execution), stopped_if_lost(models.stop.check):
            setup = set_up(experiment, models)
            needed = unfinished_models(experiment, workload(experiment, setup))
            networks = models.train(record.titled(experiment, needed), experiment.execution)
            setup = replace(setup, models=dict(zip(needed, networks.values(), strict=True)))
            for file, found in measure(experiment, setup).items():
                rows.setdefault(file, []).extend(found)
            if setup.skips:
                record.tell_left_out(experiment, rows["results"])
        models.release(experiment.specs)
    return rows


def measure(experiment: Experiment, setup: Setup) -> Rows:
    """Return the rows of one seed by file: of clean images, then of each measurement."""
    rows: Rows = {"results": of_label("clean", setup, clean_rows(setup, experiment.expected.clean))}
    for label, measurement in experiment.measurements.items():
        for file, found in measurement.measure(setup).items():
            rows.setdefault(file, []).extend(of_label(label, setup, found))
    return rows


def of_label(label: str, setup: Setup, rows: Iterable[Row]) -> list[Row]:
    """Return rows with the name of their measurement and their seed."""
    return [{"seed": setup.seed, "measurement": label, **row} for row in rows]


def tell_objective(objective: Objective | None, rows: "pd.DataFrame", record: Record) -> tuple[float | None, str]:
    """Return the value of a run's objective, printed, and put into run.json; or why it has none."""
    if objective is None:
        return None, ""
    record.objective = {"expression": objective.expression, "value": None}
    try:
        value = objective.value(as_dicts(rows))
    except (RuntimeError, ValueError) as error:
        return None, str(error)
    record.objective["value"] = value
    print(f"objective: {objective.expression} = {value:.6g}")
    return value, ""
