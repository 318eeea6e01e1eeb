"""What float32 takes from the gradient that attacks follow."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from epsball.attacks.losses import at_least_fp32, cross_entropy, log_cross_entropy, margin
from epsball.build import require
from epsball.data.images import Images
from epsball.measurements.measurement import Row, Setup
from epsball.measurements.targets import OfEachTarget, mean_numbers
from epsball.models import heads
from epsball.output.pages import Section
from epsball.results.distributions import Bins, distribution_rows
from epsball.runtime.progress import Progress, Stop

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {
    "margin_mean": "mean margin",
    "certain": "certain",
    "rounded_signs": "signs rounded",
    "certain_rounded_signs": "of the certain",
}


class Roundings(NamedTuple):
    """Of N images, all on the device."""

    margin: Tensor
    """(N,) the label's logit minus the largest other one"""
    certain: Tensor
    """(N,) bool, whether the label's probability rounds to 1"""
    signs: Tensor
    """(N,) the share of the gradient's components whose sign rounding changes"""


@dataclass(frozen=True)
class Rounding(OfEachTarget):
    """How sure each target that has gradients is of the test images' labels, and what that does to the gradient of the
    cross-entropy: the share of its components whose sign is another than that of the gradient of the cross-entropy's
    logarithm, which has the same direction and does not round. From a margin of 17 on the label's probability rounds to
    1 in float32, and its gradient lacks the part of the label's own logit (Carlini and Wagner 2016 on defensive
    distillation)."""

    metrics: ClassVar[Collection[str]] = (
        *("margin_mean", "margin_sd", "margin_share"),
        *("certain", "rounded_signs", "certain_rounded_signs"),
    )

    images: int | None
    """how many of the test set, from its first; null: all"""
    bins: Annotated[Bins, Bins] | None = None
    """of a histogram of the margins beside them; None for none"""

    def __post_init__(self) -> None:
        require(self.images is None or self.images >= 1, f"images should be at least 1 or null, is {self.images}")

    def what(self, setup: Setup) -> object:
        return {"rounding": len(self.chosen(setup)), "bins": None if self.bins is None else asdict(self.bins)}

    def chosen(self, setup: Setup) -> Images:
        return setup.test.first(self.images)

    def numbers(self, setup: Setup, model: str) -> list[Row]:
        title = f"rounding of {model}"
        found = roundings(setup.models[model], self.chosen(setup), setup.batch_size, setup.stop, title)
        return rounding_rows(found, self.bins)

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        if (means := mean_numbers(frames["results"], NUMBERS)).empty:
            return []
        text = (
            "The margin by which the label's logit leads, the share of images of which its probability rounds to 1, "
            "and the share of the gradient's signs that rounding changes: of all images and of those."
        )
        return [Section("What rounding takes from the gradient", text, means.round(4).astype(str).reset_index())]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return "".join(
            f"{name}: mean margin {row['mean margin']:.2f}, {row['certain']:.2%} of the images certain; "
            f"rounding changes {row['signs rounded']:.2%} of the gradient's signs\n"
            for name, row in mean_numbers(frames["results"], NUMBERS).iterrows()
        )


def roundings(model: nn.Module, test: Images, batch_size: int, stop: Stop, title: str) -> Roundings:
    """Return what rounding does to the gradient of each test image. Nothing waits for the device."""
    parts = []
    with Progress(title, len(test)) as progress:
        for x, y in test.batches(batch_size):
            stop.check()
            with torch.no_grad():
                logits = at_least_fp32(model(x))
            certain = logits.softmax(1).gather(1, y[:, None]).squeeze(1) == 1
            parts.append(Roundings(margin(logits, y), certain, changed_signs(model, x, y)))
            progress.step(len(x))
    return Roundings(*(torch.cat(values) for values in zip(*parts, strict=True)))


def changed_signs(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return (N,) the share of components in which the gradient of the cross-entropy and that of its logarithm differ
    in sign."""
    x = x.detach().requires_grad_()
    outputs = heads(model, x)
    (itself,) = torch.autograd.grad(cross_entropy(outputs, y, label_smoothing=0.0).sum(), x, retain_graph=True)
    (logarithm,) = torch.autograd.grad(log_cross_entropy(outputs, y).sum(), x)
    return (itself.sign() != logarithm.sign()).flatten(1).float().mean(1)


def rounding_rows(found: Roundings, bins: Bins | None) -> list[Row]:
    """Return the numbers of all images, and a histogram of their margins. Without a certain image there is no number of
    these."""
    certain, signs = found.certain.numpy(force=True), found.signs.numpy(force=True)
    whole, *histogram = distribution_rows("margin", found.margin.numpy(force=True), bins)
    whole |= {"certain": float(certain.mean()), "rounded_signs": float(signs.mean())}
    if certain.any():
        whole |= {"certain_n": int(certain.sum()), "certain_rounded_signs": float(signs[certain].mean())}
    return [whole, *histogram]
