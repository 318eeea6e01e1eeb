"""What float32 takes from the gradient that attacks follow."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from epsball.attacks.losses import at_least_fp32, cross_entropy, log_cross_entropy, margin, weighted
from epsball.measurements.measurement import Row, Setup
from epsball.measurements.targets import OfEachImage, over_batches
from epsball.models import heads
from epsball.results.distributions import Bins, distribution_rows


class Roundings(NamedTuple):
    """Of N images, all on the device."""

    margin: Tensor
    """(N,) the label's logit minus the largest other one, of an ensemble the mean of its members'"""
    certain: Tensor
    """(N,) bool, whether the label's probability rounds to 1, of an ensemble each member's"""
    signs: Tensor
    """(N,) in [0, 1], the share of the gradient's components whose sign rounding changes"""


@dataclass(frozen=True)
class Rounding(OfEachImage):
    """How sure each target that has gradients is of the test images' labels, and what that does to the gradient of the
    cross-entropy: the share of its components whose sign is another than that of the gradient of the cross-entropy's
    logarithm, which has the same direction and does not round. From a margin of 17 on the label's probability rounds to
    1 in float32, and its gradient lacks the part of the label's own logit (Carlini and Wagner 2016 on defensive
    distillation)."""

    metrics: ClassVar[Collection[str]] = (
        *("margin_mean", "margin_sd", "margin_share"),
        *("certain", "rounded_signs", "certain_rounded_signs"),
    )

    heading: ClassVar[str] = "What rounding takes from the gradient"
    text: ClassVar[str] = (
        "The margin by which the label's logit leads, the share of images of which its probability rounds to 1, "
        "and the share of the gradient's signs that rounding changes: of all images and of those."
    )
    columns: ClassVar[Mapping[str, str]] = {
        "margin_mean": "mean margin",
        "certain": "certain",
        "rounded_signs": "signs rounded",
        "certain_rounded_signs": "of the certain",
    }

    def what(self, setup: Setup, model: str) -> object:
        return {"rounding": len(self.chosen(setup)), "bins": None if self.bins is None else asdict(self.bins)}

    def numbers(self, setup: Setup, model: str) -> list[Row]:
        found = over_batches(partial(roundings, setup.models[model]), self.chosen(setup), f"rounding of {model}")
        return rounding_rows(found, self.bins)

    def line(self, row: Mapping[Any, float]) -> str:
        certain = f"mean margin {row['mean margin']:.2f}, {row['certain']:.2%} of the images certain"
        return f"{certain}; rounding changes {row['signs rounded']:.2%} of the gradient's signs"


def roundings(model: nn.Module, x: Tensor, y: Tensor) -> Roundings:
    """Return what rounding does to the gradient of each of the images, (N, C, H, W) in [0, 1], with labels (N,), from
    one pass."""
    x = x.detach().requires_grad_()
    outputs = heads(model, x)
    (itself,) = torch.autograd.grad(cross_entropy(outputs, y, label_smoothing=0.0).sum(), x, retain_graph=True)
    (logarithm,) = torch.autograd.grad(log_cross_entropy(outputs, y).sum(), x)
    detached = [(logits.detach(), weight) for logits, weight in outputs]
    sure = [at_least_fp32(z).softmax(1).gather(1, y[:, None]).squeeze(1) == 1 for z, _ in detached]
    return Roundings(
        margin=weighted(detached, lambda z: margin(z, y)),
        certain=torch.stack(sure).all(0),
        signs=(itself.sign() != logarithm.sign()).flatten(1).float().mean(1),
    )


def rounding_rows(found: Roundings, bins: Bins | None) -> list[Row]:
    """Return the numbers of all images, and a histogram of their margins. Without a certain image there is no number of
    these."""
    certain, signs = found.certain.numpy(force=True), found.signs.numpy(force=True)
    whole, *histogram = distribution_rows("margin", found.margin.numpy(force=True), bins)
    whole |= {"certain": float(certain.mean()), "rounded_signs": float(signs.mean())}
    if certain.any():
        whole |= {"certain_n": int(certain.sum()), "certain_rounded_signs": float(signs[certain].mean())}
    return [whole, *histogram]
