"""Say before a run what it has to do, and what is there already."""

import logging
from collections.abc import Mapping, Sequence

from epsball.experiment.record import Part
from epsball.experiment.setup import set_up, unfinished_models, workload
from epsball.measurements.measurement import Workload
from epsball.training.fit import steps_of
from epsball.training.forecast import TrainingForecast
from epsball.training.operations import operations_of_steps
from epsball.training.spec import ModelSpec
from epsball.training.trained import TrainedModels

log = logging.getLogger(__name__)


def tell_workload(parts: Sequence[Part], models: TrainedModels) -> TrainingForecast:
    """Say how many models are to be trained, how many attacks to be crafted, and what is there of both. Return
    the forecast that says how long the trainings take when their first steps were timed."""
    needed: dict[str, ModelSpec] = {}
    work = Workload()
    for experiment in (each for part in parts for each in part):
        own = workload(experiment, set_up(experiment, models))
        needed |= {spec.key: spec for spec in unfinished_models(experiment, own).values()}
        work = work.joined(own)
    untrained = {spec.key: spec for _, spec in models.untrained(needed, models.store.is_trained)}
    begun = [spec for spec in untrained.values() if models.store.is_begun(spec.key)]
    going_on = f" ({len(begun)} from a checkpoint)" if begun else ""
    ready = len(needed.keys() - untrained.keys())
    given = sum(spec.as_it_is for spec in untrained.values())
    as_they_are = f", {given} as they are" if given else ""
    if needed:
        log.info("models: %d to train%s%s, %d trained already", len(untrained) - given, going_on, as_they_are, ready)
    else:  # trained or not
        log.info("models: none needed")
    if work.craftings or work.finished:
        log.info("attacks: %d to craft, of a source at an eps; %d rows reused", len(work.craftings), len(work.finished))
    return TrainingForecast(steps_left(untrained, models), operations_of_steps(untrained))


def steps_left(untrained: Mapping[str, ModelSpec], models: TrainedModels) -> dict[str, int]:
    """Return the steps of each training, less those of a shorter one that it continues."""
    steps = {
        key: 0 if spec.trainer is None else steps_of(spec.trainer, len(spec.data.train))
        for key, spec in untrained.items()
    }
    left = dict(steps)
    for key, spec in untrained.items():
        if (longer := models.continuation(spec)) and longer.key in left:
            left[longer.key] -= steps[key]
    return left
