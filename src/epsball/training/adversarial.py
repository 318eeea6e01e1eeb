"""Adversarial training of Goodfellow, Kurakin, Madry and Tramèr: which examples a batch holds, and how they weigh."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epsball.attacks import ATTACKS
from epsball.attacks.attack import Attack, craft
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.losses import cross_entropy
from epsball.attacks.noise import truncated_normal
from epsball.build import bound, require
from epsball.models import heads, is_differentiable
from epsball.runtime.device import derived_seed
from epsball.runtime.distributed import processes

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


class Origin(NamedTuple):
    """Where the images of a batch come from."""

    places: Tensor
    """(N,) int64, in the training set"""
    images: Tensor
    """as they stand there, before augmentation: (N, C, H, W) in [0, 1]"""


@dataclass(frozen=True)
class BatchPart:
    """The clean or the adversarial part of a batch."""

    x: Tensor
    """images"""
    y: Tensor
    """labels"""
    weight: float
    """of each one's loss"""


@dataclass(frozen=True)
class EpsRise:
    """An eps that rises in equal stairs to its full value; the attack's steps and start rise with it.

    In stairs, so that on CUDA the steps of a stair are one captured graph.
    """

    steps: int
    """of training, until eps is whole"""
    stairs: int

    def __post_init__(self) -> None:
        require(self.stairs >= 1, f"stairs should be at least 1, is {self.stairs}")
        require(self.steps >= self.stairs, f"steps should be at least stairs, {self.stairs}, is {self.steps}")

    def share(self, step: int) -> float:
        """Return the share of eps at an adversarial step, the first being 0: in (0, 1]."""
        return min(1.0, math.ceil((step + 1) * self.stairs / self.steps) / self.stairs)


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training.

    Goodfellow et al. 2015 append adversarial examples to the clean batch (weight 1: each half counts half); Kurakin et
    al. 2017 (section 3) replace `count` = k of the m images inside one batch-norm batch and weigh them by `weight` =
    lambda; Madry et al. 2017 train on adversarial examples only; Tramèr et al. 2017 (section 5) craft them on one of
    the frozen `sources` or, with include_self, on the trained model.
    """

    attack: Annotated[Attack, ATTACKS]
    """crafts the adversarial examples"""
    crafted_on: Literal["augmented", "original"]
    """images that they are crafted on: the step's own, or the same ones as they stand in the training set (Kariyappa's
    D_noise and D_adv, section 4.1)"""
    crafted_once: bool
    """whether the sources' examples of the original images are made before training, each with one eps, as a data set
    of its own (Kariyappa's D_adv, section 4.2), and not again with every batch"""
    placement: Literal["append", "replace", "only"]
    """adversarial examples beside the clean images, in place of the first `count` of them, or alone"""
    count: int | None
    """images that are replaced (Kurakin's k); set with placement replace alone. An epoch's short last batch of at most
    so many has no clean ones"""
    weight: float
    """of an adversarial example's loss, a clean image's being 1 (Kurakin's lambda)"""
    passes: Literal["one", "two"]
    """one forward pass over the whole batch, or one each for clean and adversarial images"""
    eps_distribution: Literal["fixed", "truncated_normal"]
    """eps itself, or |N(0, eps/2)| truncated to [0, eps] drawn per example (Kurakin, section 3)"""
    eps_rise: Annotated[EpsRise, EpsRise] | None
    """small perturbations first; None: eps from the start, with which the loss of MNIST's 0.3 never leaves ln 10 at a
    learning rate of 1e-3"""
    delay: float
    """epochs of clean training first"""
    crafting_mode: Literal["train", "eval"]
    """mode of all models while crafting; a frozen source's batch norm stays in eval mode"""
    crafting_auxiliary: bool
    """whether the loss of an auxiliary head counts in crafting too, as it does in training: of a network that gives it
    in train mode, and only while its attribute `auxiliary` is True"""
    crafting_statistics: Literal["kept", "updated"]
    """what crafting in train mode does to the running statistics of the trained model's batch norm: nothing, so that
    they are of the batches it trains on (Kurakin's one mixed batch a step), or an update in each pass (Madry's code)"""
    include_self: bool
    """whether the trained model is one of the sources"""
    source_choice: Literal["random", "rotate"]
    """how each batch's source is chosen"""
    label_smoothing: float
    """share of each label that is spread over all classes"""
    sources: tuple[nn.Module, ...] = bound(())
    """frozen, trained models"""
    cached: tuple[Tensor, ...] = bound(())
    """each source's examples of the whole training set, where they are crafted once"""
    seed: int = bound(0)
    """of the random choices between sources"""
    per_epoch: int = bound(1)
    """steps of an epoch"""
    replicas: int = bound(1)
    """processes that share a batch, and the replaced images of it"""

    def __post_init__(self) -> None:
        require((self.count is not None) == (self.placement == "replace"), "count should be set with placement replace")
        require(self.count is None or self.count >= 1, f"count should be at least 1, is {self.count}")
        require(self.weight > 0, f"weight should be positive, is {self.weight}")
        alone = (
            f"weight should be 1 with placement only, which leaves no clean images to weigh against, is {self.weight}"
        )
        require(self.placement != "only" or self.weight == 1, alone)
        require(self.delay >= 0, f"delay should be at least 0, is {self.delay}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")
        require(
            not self.crafted_once or self.crafted_on == "original",
            "crafted_on should be original where crafted_once is true: augmented images are new in every epoch",
        )
        require(not (self.crafted_once and self.eps_rise), "eps_rise should be null where crafted_once is true")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        parts = self.parts(model, x, y, step, origin)
        groups = [parts] if self.passes == "one" else [[part] for part in parts]
        losses = [cross_entropy(heads(model, g_x), g_y, self.label_smoothing) for g_x, g_y, _ in map(joined, groups)]
        return weighted_mean(torch.cat(losses), joined(parts)[2])

    def parts(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None) -> list[BatchPart]:
        """Return what the step trains on: the clean part, the adversarial part, or both in this order."""
        if self.source(step) is None:
            return [BatchPart(x, y, 1.0)]
        k = len(x) if self.count is None else min(self.count // self.replicas, len(x))
        images = x if origin is None or self.crafted_on == "augmented" else origin.images
        x_adv = self.craft(model, images[:k], y[:k], step, None if origin is None else origin.places[:k])
        adversarial = BatchPart(x_adv, y[:k], self.weight)
        if self.placement == "append":
            return [BatchPart(x, y, 1.0), adversarial]
        return [adversarial] if k == len(x) else [BatchPart(x[k:], y[k:], 1.0), adversarial]

    @property
    def depends_on_epochs(self) -> bool:
        return self.repeats and not self.crafted_once  # `prepare` crafts once or again each time

    @property
    def repeats(self) -> bool:
        """Whether a frozen source gives the same examples of the same images every time."""
        return self.attack.deterministic and not self.shrinks and self.crafting_mode == "eval"

    @property
    def shrinks(self) -> bool:
        """Whether examples have shares of eps, each its own."""
        return self.eps_distribution != "fixed" or self.eps_rise is not None

    @property
    def terms(self) -> tuple[str, ...]:
        return ()

    @property
    def takes_originals(self) -> bool:
        return self.crafted_on == "original"

    def route(self, step: int) -> Hashable:
        source = self.source(step)
        return source if source is None or self.eps_rise is None else (source, self.share(step))

    def share(self, step: int) -> float:
        """Return the share of eps that the step's examples have."""
        return 1.0 if self.eps_rise is None else self.eps_rise.share(step - self.clean_steps)

    @property
    def clean_steps(self) -> int:
        """How many steps of clean training come first."""
        return round(self.delay * self.per_epoch)

    def source(self, step: int) -> int | None:
        """Return the number of the step's source, the trained model's own last; None for a clean step."""
        if step < self.clean_steps:
            return None
        number = len(self.sources) + self.include_self
        return (step if self.source_choice == "rotate" else derived_seed(self.seed, "source", step)) % number

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None) -> Tensor:
        """Return adversarial examples from this step's source."""
        candidates, i = (*self.sources, model), self.source(step) or 0
        if i < len(self.cached) and index is not None:
            return self.cached[i][index]
        shrink = self.draw_shrink(y)
        if self.eps_rise is not None:
            shrink = (x.new_ones(y.shape) if shrink is None else shrink) * self.share(step)
        with self.crafting(candidates[i], frozen=i < len(self.sources)):
            return craft(self.attack, candidates[i], x, y, shrink=shrink)

    def crafting(self, model: nn.Module, frozen: bool) -> AbstractContextManager[None]:
        """Set a model, one of the `frozen` sources or the trained one, to the mode that examples are crafted in."""
        training, updated = self.crafting_mode == "train", self.crafting_statistics == "updated"
        return mode(model, training, frozen, updated, auxiliary=self.crafting_auxiliary)

    def draw_shrink(self, y: Tensor) -> Tensor | None:
        """Return (N,) each example's share of eps, None where all have the whole of it."""
        return truncated_normal(y.shape, y.device).abs() if self.eps_distribution == "truncated_normal" else None

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        require(self.include_self or number_of_sources > 0, "include_self should be true when there are no sources")
        require(
            number_of_sources > 0 or not self.crafted_once, "crafted_once should be false when there are no sources"
        )
        if self.include_self:
            check_gradient(self.attack, model, "attack")

    def prepare(
        self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0, per_epoch: int = 1
    ) -> Self:
        """Bind the sources; craft their examples now if they are crafted once, or never change and are used more than
        once on average.

        Tramèr et al., section 5.2: gradients for pre-trained models can be precomputed.
        """
        ready = replace(self, sources=tuple(sources), seed=seed, per_epoch=per_epoch, replicas=processes())
        uses = epochs / (len(sources) + self.include_self) if sources else 0.0
        if train is None or not (self.crafted_once or (self.repeats and uses > 1)):
            return ready
        return replace(ready, cached=tuple(self.craft_all(source, train()) for source in sources))

    def craft_all(self, source: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        """Return a source's examples of all training images, in order."""
        with self.crafting(source, frozen=True):
            return torch.cat([craft(self.attack, source, x, y, shrink=self.draw_shrink(y)) for x, y in batches])


def joined(parts: Sequence[BatchPart]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the parts as one batch: images, labels, weights."""
    weight = torch.cat([p.x.new_full((len(p.x),), p.weight) for p in parts])
    return torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), weight


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """Return (sum of clean + lambda * sum of adversarial) / (number of clean + lambda * number of adversarial).

    That is Kurakin's loss (section 3); with lambda 1 and as many of each, Goodfellow's half and half.
    """
    return (losses * weight).sum() / weight.sum()


def check_gradient(attack: Attack, model: nn.Module, field: str) -> None:
    """ValueError, which begins with the field, where an attack follows a gradient that the model does not have."""
    needs = isinstance(attack, GradientAttack) and not is_differentiable(model)
    require(not needs, f"{field} should be one that follows no gradient: the network has none, differentiable is False")


def no_sources(number: int) -> None:
    require(number == 0, "name is one that crafts nothing on source models: sources should be empty")


@contextmanager
def mode(model: nn.Module, training: bool, frozen: bool, updated: bool, auxiliary: bool) -> Iterator[None]:
    """Set train or eval mode inside the block; afterwards every module has its own mode again.

    The batch norm of a `frozen` model stays in eval mode. That of any other model normalises by the batch in train
    mode, and its running statistics change only if they are to be `updated`. Auxiliary heads count only if `auxiliary`.
    """
    with ExitStack() as restore:
        for module in model.modules():
            norm = isinstance(module, _BatchNorm)
            wanted = {"training": training and not (frozen and norm)}
            if norm and training and not updated:
                wanted["track_running_stats"] = False  # in train mode alone it then reads and writes none
            if getattr(module, "auxiliary", None) is True and not auxiliary:  # a user's may be a layer
                wanted["auxiliary"] = False
            for name, value in wanted.items():
                restore.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
        yield
