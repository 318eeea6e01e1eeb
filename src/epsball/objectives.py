"""What a training step minimises: `objective(model, x, y, step) -> scalar loss`, x in [0, 1], y class labels.

Standard training, adversarial training in all the papers' forms (one class: what differs is which examples a batch
holds and how they are weighed), and diversity training. Fields that a config never sets (`sources`, `cached`) are
filled in by `prepare`.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epsball.attacks import ATTACKS, Attack, cross_entropy, truncated_normal
from epsball.build import bound, require
from epsball.device import derived_seed
from epsball.models import heads

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


class Objective(Protocol):
    """Settings first, model at call time. `index` (N,) are the batch's places in the training set, where known."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None = None) -> Tensor: ...

    @property
    def depends_on_epochs(self) -> bool:
        """Whether the number of epochs changes how a step is computed, so that a longer training does not begin with
        the very steps of a shorter one."""

    def route(self, step: int) -> Hashable:
        """What the control flow of a step depends on: steps of one route are the same computation on other data."""

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        """ValueError when this objective cannot train `model`, before any training."""

    def prepare(self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0) -> Self:
        """The objective with its frozen, trained source models. `train`: the training set in order, in batches, when
        every epoch sees the same images (no augmentation), else None. `seed`: of its choices between sources."""


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the clean batch; for an ensemble, the mean of its members'."""

    label_smoothing: float

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None = None) -> Tensor:
        return cross_entropy(heads(model, x), y, self.label_smoothing).mean()

    @property
    def depends_on_epochs(self) -> bool:
        return False

    def route(self, step: int) -> Hashable:
        return None

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        no_sources(number_of_sources)

    def prepare(self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0) -> Self:
        return self


@dataclass(frozen=True)
class Examples:
    """A part of a batch: images, labels, and the weight of each one's loss."""

    x: Tensor
    y: Tensor
    weight: float


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training.

    Goodfellow et al. 2015 append adversarial examples to the clean batch (weight 1: each half counts half); Kurakin et
    al. 2017 (section 3) replace `count` = k of the m images inside one batch-norm batch and weigh them by `weight` =
    lambda; Madry et al. 2017 train on adversarial examples only; Tramèr et al. 2017 (section 5) craft them on one of
    the frozen `sources` or, with include_self, on the trained model, chosen per batch at random or in rotation.

    passes: one forward pass over the whole batch, or one each for clean and adversarial images. eps_distribution:
    fixed, or |N(0, eps/2)| truncated to [0, eps] drawn per example (Kurakin, section 3). delay: steps of clean
    training first. crafting_mode: mode of all models while crafting; a frozen source's batch norm stays in eval mode.
    """

    attack: Annotated[Attack, ATTACKS]
    placement: Literal["append", "replace", "only"]
    count: int | None
    weight: float
    passes: Literal["one", "two"]
    eps_distribution: Literal["fixed", "truncated_normal"]
    delay: int
    crafting_mode: Literal["train", "eval"]
    include_self: bool
    source_choice: Literal["random", "rotate"]
    label_smoothing: float
    sources: tuple[nn.Module, ...] = bound(())
    cached: tuple[Tensor, ...] = bound(())
    seed: int = bound(0)

    def __post_init__(self) -> None:
        require((self.count is not None) == (self.placement == "replace"), "count should be set with placement replace")
        require(self.count is None or self.count >= 1, f"count should be at least 1, is {self.count}")
        require(self.weight > 0, f"weight should be positive, is {self.weight}")
        require(self.delay >= 0, f"delay should be at least 0, is {self.delay}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None = None) -> Tensor:
        parts = self.examples(model, x, y, step, index)
        groups = [parts] if self.passes == "one" else [[part] for part in parts]
        losses = [cross_entropy(heads(model, g_x), g_y, self.label_smoothing) for g_x, g_y, _ in map(joined, groups)]
        return weighted_mean(torch.cat(losses), joined(parts)[2])

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None) -> list[Examples]:
        """What the step trains on: the clean part, the adversarial part, or both in this order."""
        if self.route(step) is None:
            return [Examples(x, y, 1.0)]
        k = len(x) if self.count is None else min(self.count, len(x))
        x_adv = self.craft(model, x[:k], y[:k], step, None if index is None else index[:k])
        adversarial = Examples(x_adv, y[:k], self.weight)
        if self.placement == "append":
            return [Examples(x, y, 1.0), adversarial]
        return [adversarial] if k == len(x) else [Examples(x[k:], y[k:], 1.0), adversarial]

    @property
    def depends_on_epochs(self) -> bool:
        return self.repeats  # `prepare` crafts once or again each time

    @property
    def repeats(self) -> bool:
        """Whether a frozen source gives the same examples of the same images every time."""
        return self.attack.deterministic and self.eps_distribution == "fixed" and self.crafting_mode == "eval"

    def route(self, step: int) -> int | None:
        """The number of the step's source, the trained model's own last; None for a clean step."""
        if step < self.delay:
            return None
        number = len(self.sources) + self.include_self
        return (step if self.source_choice == "rotate" else derived_seed(self.seed, "source", step)) % number

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None) -> Tensor:
        """Adversarial examples from this step's source."""
        candidates, i = (*self.sources, model), self.route(step) or 0
        if i < len(self.cached) and index is not None:
            return self.cached[i][index]
        shrink = truncated_normal(y.shape, x.device).abs() if self.eps_distribution == "truncated_normal" else None
        with mode(candidates[i], training=self.crafting_mode == "train", frozen=i < len(self.sources)):
            return self.attack(candidates[i], x, y, shrink=shrink)

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        require(self.include_self or number_of_sources > 0, "include_self should be true when there are no sources")

    def prepare(self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0) -> Self:
        """Bind the sources. When their examples are the same in every epoch and will be used more than once on average,
        craft them now, once (Tramèr et al., section 5.2: gradients for pre-trained models can be precomputed)."""
        ready = replace(self, sources=tuple(sources), seed=seed)
        uses = epochs / (len(sources) + self.include_self) if sources else 0.0
        if train is None or not self.repeats or uses <= 1:
            return ready
        return replace(ready, cached=tuple(self.craft_all(source, train()) for source in sources))

    def craft_all(self, source: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        with mode(source, training=False, frozen=True):
            return torch.cat([self.attack(source, x, y) for x, y in batches])


@dataclass(frozen=True)
class Diversity:
    """Diversity training of an ensemble: mean cross-entropy of the members + weight * GAL (Kariyappa, equation 9).

    data: how noisy or adversarial images join the batch, null for clean images alone; with an adversarial `data` this
    is the paper's Ens+Div. One forward pass per member serves cross-entropy and input gradient alike.
    """

    weight: float
    data: Annotated[Adversarial, Adversarial] | None
    label_smoothing: float

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight should be at least 0, is {self.weight}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, index: Tensor | None = None) -> Tensor:
        parts = self.data.examples(model, x, y, step, index) if self.data else [Examples(x, y, 1.0)]
        x, y, weight = joined(parts)
        losses, gradients = self.losses_and_gradients(model, x, y)
        gal = gradient_alignment_loss(gradients)
        return weighted_mean(losses.mean(0), weight) + self.weight * weighted_mean(gal, weight)

    def losses_and_gradients(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(members, N) losses and (members, N, pixels) gradients of the summed loss, differentiable once more."""
        inputs = [x.detach().requires_grad_() for _ in members(model)]
        outputs = [heads(m, x_m) for m, x_m in zip(members(model), inputs, strict=True)]
        losses = torch.stack([cross_entropy(output, y, self.label_smoothing) for output in outputs])
        gradients = torch.autograd.grad(losses.sum(), inputs, create_graph=True)
        return losses, torch.stack([g.flatten(1) for g in gradients])

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        require(
            len(members(model)) >= 2,
            "name is diversity, which needs an ensemble of at least two members: arch=ensemble",
        )
        if self.data:
            self.data.check(model, number_of_sources)
        else:
            no_sources(number_of_sources)

    @property
    def depends_on_epochs(self) -> bool:
        return self.data is not None and self.data.depends_on_epochs

    def route(self, step: int) -> Hashable:
        return self.data.route(step) if self.data else None

    def prepare(self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0) -> Self:
        return replace(self, data=self.data.prepare(sources, train, epochs, seed)) if self.data else self


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "diversity": Diversity,
}


def cosines(gradients: Tensor) -> Tensor:
    """(pairs, N) cosine similarities of the gradients (members, N, pixels), equation 6.

    The cosine does not depend on a gradient's length: each is brought to unit size first, since the gradients of
    confident predictions underflow when squared. A gradient of zero has cosine 0 with every other, and no derivative.
    """
    size = gradients.detach().abs().amax(2, keepdim=True)
    gone = size == 0
    unit = torch.where(gone, torch.zeros_like(gradients), gradients / size.masked_fill(gone, 1.0))
    directions = F.normalize(unit, dim=2).masked_fill(gone, 0.0)
    pairs = itertools.combinations(range(len(gradients)), 2)
    return torch.stack([(directions[a] * directions[b]).sum(1) for a, b in pairs])


def coherence(gradients: Tensor) -> Tensor:
    """(N,) largest cosine similarity of any two members' gradients (Kariyappa, equation 7)."""
    return cosines(gradients).amax(0)


def gradient_alignment_loss(gradients: Tensor) -> Tensor:
    """(N,) GAL, the smooth maximum of the pairwise cosines (Kariyappa, equation 8)."""
    return cosines(gradients).logsumexp(0)


def members(model: nn.Module) -> list[nn.Module]:
    """An ensemble's members; a single model is an ensemble of one."""
    own = getattr(model, "members", None)
    return list(own) if isinstance(own, nn.ModuleList) else [model]


def joined(parts: Sequence[Examples]) -> tuple[Tensor, Tensor, Tensor]:
    """The parts as one batch: images, labels, weights."""
    weight = torch.cat([p.x.new_full((len(p.x),), p.weight) for p in parts])
    return torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), weight


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """(sum of clean + lambda * sum of adversarial) / (number of clean + lambda * number of adversarial): Kurakin's
    loss (section 3); with lambda 1 and as many of each, Goodfellow's half and half."""
    return (losses * weight).sum() / weight.sum()


def no_sources(number: int) -> None:
    require(number == 0, "name is one that crafts nothing on source models: sources should be empty")


@contextmanager
def mode(model: nn.Module, training: bool, frozen: bool) -> Iterator[None]:
    """Train or eval mode inside the block, every module's own mode given back after it. A frozen model's batch norm
    never enters train mode, which would change its running statistics."""
    with ExitStack() as restore:
        for module in model.modules():
            wanted = training and not (frozen and isinstance(module, _BatchNorm))
            if module.training != wanted:
                restore.callback(setattr, module, "training", module.training)
                module.training = wanted
        yield
