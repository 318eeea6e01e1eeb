"""Losses that a training step minimises: `objective(model, x, y, step) -> loss`, x in [0, 1], y class labels.

Standard training, adversarial training in all the papers' forms (one class: what differs is which examples a batch
holds and how they are weighed), and diversity training. Fields that a config never sets (`sources`, `cached`) are
filled in by `prepare`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor, nn

from epsball.attacks.losses import cross_entropy
from epsball.build import require
from epsball.models import heads
from epsball.training.adversarial import Adversarial, Batches, Origin, no_sources
from epsball.training.diversity import Diversity


class Objective(Protocol):
    """Settings first, model at call time. `origin`: where the batch comes from, where known."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        """Return the loss, a scalar with gradients; where it has `terms`, (1 + terms,): the loss, then they.

        A model may have several logits, an ensemble its members': `heads(model, x)` gives all, with their weights. It
        is in train mode, and is left so. Attacks are called by `craft` (attacks/attack.py).
        """

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss that training.csv shows beside it, in columns of their own."""

    @property
    def takes_originals(self) -> bool:
        """Whether it crafts on the images before augmentation."""

    @property
    def depends_on_epochs(self) -> bool:
        """Whether the number of epochs changes how a step is computed.

        Then a longer training does not begin with the very steps of a shorter one.
        """

    def route(self, step: int) -> Hashable:
        """Name what the control flow of a step depends on: steps of one route are one computation on other data."""

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        """Raise ValueError when this objective cannot train `model`, before any training."""

    def prepare(
        self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0, per_epoch: int = 1
    ) -> Self:
        """Return the objective with its frozen, trained source models.

        `train`: the images that it crafts on, in order, in batches, when they are the same in every epoch (no
        augmentation, or `takes_originals`), else None. `seed`: of its choices between sources. `per_epoch`: steps of
        an epoch.
        """


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the clean batch; for an ensemble, the mean of its members'."""

    label_smoothing: float
    """share of each label that is spread over all classes"""

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        return cross_entropy(heads(model, x), y, self.label_smoothing).mean()

    @property
    def terms(self) -> tuple[str, ...]:
        return ()

    @property
    def takes_originals(self) -> bool:
        return False

    @property
    def depends_on_epochs(self) -> bool:
        return False

    def route(self, step: int) -> Hashable:
        return None

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        no_sources(number_of_sources)

    def prepare(
        self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0, per_epoch: int = 1
    ) -> Self:
        return self


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "diversity": Diversity,
}
