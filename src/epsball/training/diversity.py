"""Diversity training of an ensemble: the gradient alignment loss (Kariyappa and Qureshi 2019)."""

import itertools
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.attacks.losses import at_least_fp32, cross_entropy, log_odds
from epsball.build import require
from epsball.models import Ensemble, heads, is_differentiable
from epsball.training.adversarial import Adversarial, Batches, BatchPart, Origin, joined, no_sources, weighted_mean
from epsball.training.double_backward import DoubleBackward

GradientsOf = Literal["cross_entropy", "log_odds"]
SMALLEST = 1e-30  # of a gradient's largest component; with 1e-38 the slope of its cosine overflows


@dataclass(frozen=True)
class Diversity:
    """Diversity training of an ensemble: mean cross-entropy of the members + weight * GAL (Kariyappa, equation 9).

    One forward pass per member serves cross-entropy and input gradient alike. Returns (2,): the loss, and GAL alone,
    which is shown and has no gradient.
    """

    weight: float
    """of the gradient alignment loss"""
    data: Annotated[Adversarial, Adversarial] | None
    """noisy or adversarial images that join the batch (adversarial: the paper's Ens+Div), null for clean ones alone"""
    label_smoothing: float
    """share of each label that is spread over all classes"""
    gradients_of: GradientsOf = "cross_entropy"
    """what of a member has the input gradients that GAL aligns: its cross-entropy, as the paper writes, or its log-odds
    against the label (without auxiliary heads), whose gradients have the same direction and do not vanish where a
    member is sure. With batch norm an image has a gradient of the batch's other images, too: these the cross-entropy
    weighs by how unsure the member is of each, the log-odds all alike"""

    def __post_init__(self) -> None:
        require(self.weight >= 0, f"weight should be at least 0, is {self.weight}")
        require(0 <= self.label_smoothing < 1, f"label_smoothing should be in [0, 1), is {self.label_smoothing}")
        alike = self.gradients_of == "cross_entropy" or self.label_smoothing == 0  # in direction
        require(alike, f"label_smoothing should be 0 where gradients_of is log_odds, is {self.label_smoothing}")
        if self.data:
            smoothing, passes = self.data.label_smoothing, self.data.passes
            require(
                smoothing == 0, f"data.label_smoothing should be 0, since label_smoothing acts on all, is {smoothing}"
            )
            require(passes == "one", f"data.passes should be one, since one pass of a member serves all, is {passes}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, step: int, origin: Origin | None = None) -> Tensor:
        parts = self.data.parts(model, x, y, step, origin) if self.data else [BatchPart(x, y, 1.0)]
        x, y, weight = joined(parts)
        losses, gradients = losses_and_gradients(
            model, x, y, self.gradients_of, self.label_smoothing, create_graph=True
        )
        gal = weighted_mean(gradient_alignment_loss(gradients), weight)
        return torch.stack([weighted_mean(losses.mean(0), weight) + self.weight * gal, gal.detach()])

    @property
    def terms(self) -> tuple[str, ...]:
        return ("gal",)

    @property
    def takes_originals(self) -> bool:
        return self.data is not None and self.data.takes_originals

    def check(self, model: nn.Module, number_of_sources: int) -> None:
        require(
            len(members(model)) >= 2,
            "name is diversity, which needs an ensemble of at least two members: arch=ensemble",
        )
        require(
            is_differentiable(model), "name is diversity, which needs gradients: a member has differentiable = False"
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

    def prepare(
        self, sources: Sequence[nn.Module], train: Batches | None, epochs: float, seed: int = 0, per_epoch: int = 1
    ) -> Self:
        return replace(self, data=self.data.prepare(sources, train, epochs, seed, per_epoch)) if self.data else self


def losses_and_gradients(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    gradients_of: GradientsOf,
    label_smoothing: float = 0.0,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return (members, N) cross-entropies of an ensemble's members, and the (members, N, pixels) gradients of their
    cross-entropy or log-odds with respect to the images, from one pass of each; with `create_graph` differentiable
    once more."""
    networks = members(model)
    inputs = [x.detach().requires_grad_() for _ in networks]
    with DoubleBackward() if create_graph else nullcontext():
        outputs = [heads(m, x_m) for m, x_m in zip(networks, inputs, strict=True)]
        losses = torch.stack([cross_entropy(output, y, label_smoothing) for output in outputs])
        aligned = losses
        if gradients_of == "log_odds":
            predicted = [  # of a member that is an ensemble itself no head is its prediction
                m(x_m) if isinstance(m, Ensemble) else output[0][0]
                for m, x_m, output in zip(networks, inputs, outputs, strict=True)
            ]
            aligned = torch.stack([log_odds(at_least_fp32(logits), y) for logits in predicted])
    gradients = torch.autograd.grad(aligned.sum(), inputs, create_graph=create_graph)
    return losses, torch.stack([g.flatten(1) for g in gradients])


def cosines(gradients: Tensor) -> Tensor:
    """Return (pairs, N) cosine similarities of the gradients (members, N, pixels), equation 6.

    The cosine does not depend on a gradient's length: each is brought to unit size first, since the gradients of
    confident predictions underflow when squared. One of zero (below SMALLEST) has cosine 0 with every other, and no
    derivative.
    """
    size = gradients.detach().abs().amax(2, keepdim=True)
    gone = size < SMALLEST
    unit = torch.where(gone, torch.zeros_like(gradients), gradients / size.masked_fill(gone, 1.0))
    directions = F.normalize(unit, dim=2).masked_fill(gone, 0.0)
    pairs = itertools.combinations(range(len(gradients)), 2)
    return torch.stack([(directions[a] * directions[b]).sum(1) for a, b in pairs])


def coherence(gradients: Tensor) -> Tensor:
    """Return (N,) the largest cosine similarity of any two members' gradients (Kariyappa, equation 7)."""
    return cosines(gradients).amax(0)


def gradient_alignment_loss(gradients: Tensor) -> Tensor:
    """Return (N,) GAL, the smooth maximum of the pairwise cosines (Kariyappa, equation 8)."""
    return cosines(gradients).logsumexp(0)


def members(model: nn.Module) -> list[nn.Module]:
    """Return an ensemble's members; a single model is an ensemble of one."""
    own = getattr(model, "members", None)
    return list(own) if isinstance(own, nn.ModuleList) else [model]
