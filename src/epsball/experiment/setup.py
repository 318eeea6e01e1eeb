"""What the measurements of one seed work with, and which trained models they still need."""

import logging
from collections.abc import Sequence
from pathlib import Path

from epsball.experiment.prepare import Experiment
from epsball.measurements.measurement import Setup, Workload
from epsball.runtime.device import executing
from epsball.runtime.progress import Stop
from epsball.runtime.shared_store import open_store
from epsball.training.spec import ModelSpec
from epsball.training.trained import TrainedModels

log = logging.getLogger("epsball")


def set_up(experiment: Experiment, models: TrainedModels) -> Setup:
    """Put together what the measurements of one seed work with, but for its trained models."""
    settings, execution, specs = experiment.settings, experiment.execution, experiment.specs
    return Setup(
        dataset=experiment.data.name,
        models={},
        keys={name: spec.key for name, spec in specs.items()},
        curves={name: spec.curve for name, spec in specs.items()},
        grid_values=experiment.grid_values,
        sources=experiment.sources,
        targets=experiment.targets,
        differentiable=[name for name, spec in specs.items() if spec.differentiable],
        ensembles=[name for name, spec in specs.items() if spec.members > 1],
        attacks=experiment.attacks,
        asked=experiment.asked,
        test=models.data(experiment.data, execution.device).test,
        test_checksum=experiment.data.test_checksum,
        batch_size=execution.batch_size,
        tf32=execution.precision != "fp32",
        cuda_graphs=execution.cuda_graphs,
        seed=settings.seed,
        store=models.store,
        reuse=settings.reuse,
        given=experiment.given,
        skips=settings.missing == "skip",
        stop=models.stop,
        clean=models.known_mistakes(experiment.data, execution),
    )


def workload(experiment: Experiment, setup: Setup) -> Workload:
    """Return what is to be done for the rows of one seed which are neither given nor in the store."""
    work = Workload(frozenset(name for name in experiment.expected.clean if setup.find("clean", name, name) is None))
    for measurement in experiment.measurements.values():
        work = work.joined(measurement.workload(setup))
    return work._replace(models=frozenset()) if setup.skips else work


def unfinished_models(experiment: Experiment, work: Workload) -> dict[str, ModelSpec]:
    """Return the models of an experiment that are needed for its work, in their order."""
    return {name: spec for name, spec in experiment.specs.items() if name in work.models}


def check_given(parts: Sequence[Sequence[Experiment]], stop: Stop) -> None:
    """Tell of a file of rows of which none is of this run, and of one that an earlier one contradicts. ConfigError
    where a given row has the label of one that is to be measured, and another identity."""
    experiments = [experiment for part in parts for experiment in part]
    if not experiments[0].settings.rows:
        return
    store = open_store(Path(experiments[0].settings.outputs), stop.check)
    models = TrainedModels(store, stop, [])
    for experiment in experiments:
        with executing(experiment.execution):
            workload(experiment, set_up(experiment, models))  # asks for all its rows
    for experiment in experiments:
        seed = experiment.settings.seed
        experiment.given.check_labels((*cell, seed) for cell in experiment.cells)
    for path in experiments[0].given.unused_files():
        log.info("rows: none in %s is of this run", path)
    for path, first, count in experiments[0].given.differing_files():
        cells = "cell" if count == 1 else "cells"
        log.info(
            "rows: for %d %s of this run %s has other numbers than %s, which comes first", count, cells, path, first
        )
