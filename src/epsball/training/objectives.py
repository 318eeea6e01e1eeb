"""Losses that a training step minimises: `objective(model, x, y, step) -> loss`, x in [0, 1], y class labels.

Standard training, adversarial training in all the papers' forms (one class: what differs is which examples a batch
holds and how they are weighed), and diversity training. Fields that a config never sets (`sources`, `cached`) are
filled in by `prepare`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from epsball.attacks.attack import BrokenContract
from epsball.attacks.losses import cross_entropy
from epsball.attacks.module import trial
from epsball.build import ConfigError, bound, require
from epsball.models import heads
from epsball.models.layers import Shape
from epsball.runtime.named_files import cause, check_arguments, found_in, imported, sha256_of
from epsball.training.adversarial import Adversarial, Batches, Origin, no_sources
from epsball.training.diversity import Diversity


class Objective(Protocol):
    """Settings first, model at call time. `origin`: where the batch comes from, where known.

    One without terms, sources and examples to craft inherits all but its call and `check`.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        """Return the loss, a scalar with gradients; where it has `terms`, (1 + terms,): the loss, then they.

        A model may have several logits, an ensemble its members': `heads(model, x)` gives all, with their weights. It
        is in train mode, and is left so. Attacks are called by `craft` (attacks/attack.py).
        """

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss that training.csv shows beside it, in columns of their own."""
        return ()

    @property
    def takes_originals(self) -> bool:
        """Whether it crafts on the images before augmentation."""
        return False

    @property
    def depends_on_epochs(self) -> bool:
        """Whether the number of epochs changes how a step is computed.

        Then a longer training does not begin with the very steps of a shorter one.
        """
        return False

    def route(self, step: int) -> Hashable:
        """Name what the control flow of a step depends on: steps of one route are one computation on other data."""
        return None

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
        return self


@dataclass(frozen=True)
class Standard(Objective):
    """Cross-entropy on the clean batch; for an ensemble, the mean of its members'."""

    label_smoothing: float
    """share of each label that is spread over all classes"""

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        return cross_entropy(heads(model, x), y, self.label_smoothing).mean()

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        no_sources(number_of_sources)


@dataclass(frozen=True)
class ModuleObjective(Objective):
    """What `call(model, x, y, **arguments)` of a Python file gives: the loss of a batch x, (N, C, H, W) in [0, 1], with
    labels y (N,), a scalar with gradients.

    `model` maps images to logits (N, classes); it is in train mode, and is left so. What the call draws with torch is
    the training's.
    """

    file: str | None
    """the Python file"""
    call: str | None
    """the function in it, or what can be called like one"""
    arguments: dict[str, Any]
    """of the call, by name"""
    sha256: str = bound("")
    """of the file"""

    def __post_init__(self) -> None:
        called = found_in(self.file, self.call, "trainer.objective.file=my/loss.py", "gives the loss")
        check_arguments(called, f"{self.call} of {self.file}", self.arguments, "model", "x", "y")
        object.__setattr__(self, "sha256", sha256_of(str(self.file)))

    def __hash__(self) -> int:
        return hash((self.sha256, self.call))  # arguments may be lists

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        """Raises RuntimeError, one line, where the user's code fails or gives something else."""
        called, name = getattr(imported(str(self.file), self.sha256), str(self.call)), f"{self.call} of {self.file}"
        try:
            loss = called(model, x, y, **self.arguments)
        except (Exception, SystemExit) as error:
            raise RuntimeError(f"{name} fails{cause(error, str(self.file))}") from error
        if not isinstance(loss, Tensor) or loss.shape != () or not loss.requires_grad:
            given = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            given += " without gradients" if isinstance(loss, Tensor) and not loss.requires_grad else ""
            raise BrokenContract(f"{name} should give a scalar loss with gradients, gives {given}")
        if not model.training:
            raise BrokenContract(f"{name} should leave the model in train mode")
        return loss

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        no_sources(number_of_sources)


def try_objective(objective: Objective, shape: Shape, classes: int, where: str) -> None:
    """Let a loss of the user's own be that of a few images (C, H, W) and a small linear network, before anything is
    trained. ConfigError, which says `where` it stands, where it fails or gives no loss."""
    if isinstance(objective, ModuleObjective):
        try:
            try_once(objective, shape, classes)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from error


@cache
def try_once(objective: ModuleObjective, shape: Shape, classes: int) -> None:
    network, x, y = trial(shape, classes)
    with torch.random.fork_rng(devices=[]):
        objective(network.train(), x, y, 0).backward()  # type: ignore[no-untyped-call]


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "diversity": Diversity,
    "module": ModuleObjective,
}
