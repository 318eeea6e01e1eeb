"""How long all trainings of a run will take, from the steps that were timed."""

import logging
import time
from collections.abc import Callable, Mapping

SECONDS_TIMED = 10.0  # for which a model's steps are timed before the time that is left is estimated
log = logging.getLogger(__name__)


class TrainingForecast:
    """Times the steps of a run's trainings, and says what is left of all: a model that has not begun counts as if its
    operations took as long as those so far. Nothing is said of one model alone, whose progress says it."""

    def __init__(
        self,
        steps: Mapping[str, int],
        operations: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`steps` of each model that is to be trained, by fingerprint, and `operations` of a step of each."""
        self.operations, self.clock = operations, clock
        self.left = {model: number * operations[model] for model, number in steps.items()}  # operations of each
        self.timed, self.seconds = 0.0, 0.0  # operations of models that are done, and what they took
        self.model, self.told = "", False
        self.running: dict[str, float] = {}  # when models that worker processes train began
        self.first, self.began = 0, 0.0  # the step of the model in training from which on it is timed, and when

    def follow(self, model: str, done: int, total: int) -> None:
        """Take notice of a step of a model in training. The first one it makes here is not timed: it takes longer."""
        now = self.clock()
        if model != self.model:
            self.model, self.first, self.began = model, done, now
        each = self.operations.get(model, 1)
        self.left[model] = (total - done) * each
        counted, seconds = (done - self.first) * each, now - self.began
        ended = done >= total
        if counted and (ended or (not self.told and seconds >= SECONDS_TIMED)):
            self.tell(self.timed + counted, self.seconds + seconds, seconds / counted)
        if ended:
            self.timed, self.seconds, self.model = self.timed + counted, self.seconds + seconds, ""

    def tell(self, operations: float, seconds: float, current: float) -> None:
        """Say what is left at `seconds` for so many `operations`, of the model in training `current` for each."""
        others = {model: left for model, left in self.left.items() if left and model != self.model}
        own = self.left[self.model]
        if others:
            self.told = True
            rest = own * current + sum(others.values()) * seconds / operations
            say(rest, len(others) + bool(own))

    def begin_elsewhere(self, model: str) -> None:
        """Take notice that a worker process begins to train a model."""
        self.running[model] = self.clock()

    def end_elsewhere(self, model: str, workers: int) -> None:
        """Take notice that one of `workers` processes has trained a model, and say what is left of the others, as long
        as some have not begun. A model without steps (a forest), or not known to be missing (a damaged one), says
        nothing of how long others take; one that went on from a checkpoint counts whole."""
        now, operations = self.clock(), self.left.pop(model, 0)
        seconds = now - self.running.pop(model)
        if not operations:
            return
        self.timed, self.seconds = self.timed + operations, self.seconds + seconds
        others = {key: left * self.seconds / self.timed for key, left in self.left.items() if left}
        if others.keys() - self.running:
            rest = [max(own - (now - self.running.get(key, now)), 0) for key, own in others.items()]
            say(max(sum(rest) / min(workers, len(others)), *rest), len(others))


def say(seconds: float, count: int) -> None:
    """Log that `count` models are left, for about so many seconds."""
    models = "1 model" if count == 1 else f"{count} models"
    log.info("training: about %s left for %s, at the speed so far", rough(seconds), models)


def rough(seconds: float) -> str:
    """Write a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
