"""Coherence of the input gradients of an ensemble's members (Kariyappa and Qureshi 2019, sections 3.2 and 4.3)."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from epsball.build import listed, require
from epsball.measurements.measurement import Row, Setup
from epsball.measurements.targets import OfEachImage, over_batches
from epsball.results.distributions import Bins, distribution_rows, mean_and_sd
from epsball.training.diversity import coherence, gradient_alignment_loss, losses_and_gradients


class Alignment(NamedTuple):
    """How the gradients of an ensemble's members lie to each other, of N images."""

    coherence: Tensor
    """(N,) the largest cosine of any two members' gradients (equation 7)"""
    gal: Tensor
    """(N,) the gradient alignment loss, its smooth maximum (equation 8)"""
    zero_components: Tensor
    """(N,) the share of a gradient's components that are zero (section 3.4), mean over the members"""


@dataclass(frozen=True)
class Coherence(OfEachImage):
    """Mean and standard deviation over the test images of the coherence of each target that has gradients, of their
    gradient alignment loss and of the share of components that are zero. A gradient is that of a member's log-odds
    against the label, which has the direction of the cross-entropy's however sure the member is; a gradient of zero has
    cosine 0 with every other."""

    metrics: ClassVar[Collection[str]] = (
        *("coherence_mean", "coherence_sd", "coherence_share"),
        *("gal_mean", "gradient_zero_components_mean"),
    )

    heading: ClassVar[str] = "Coherence of the members' gradients"
    text: ClassVar[str] = (
        "The largest cosine of any two members' input gradients, over the test images; GAL is its smooth maximum."
    )
    columns: ClassVar[Mapping[str, str]] = {
        "coherence_mean": "mean",
        "coherence_sd": "sd",
        "gal_mean": "GAL",
        "gradient_zero_components_mean": "zero components",
    }

    def check_members(self, members: Mapping[str, int]) -> None:
        single = [name for name, number in members.items() if number < 2]
        needs = f"name is coherence, which needs targets of at least two members, unlike {listed(single)}"
        require(not single, f"{needs}: leave these out of targets, or give them arch=ensemble")

    def what(self, setup: Setup, model: str) -> object:
        bins = None if self.bins is None else asdict(self.bins)
        return {"coherence": len(self.chosen(setup)), "gradients_of": "log_odds", "bins": bins}

    def numbers(self, setup: Setup, model: str) -> list[Row]:
        found = over_batches(partial(alignment, setup.models[model]), self.chosen(setup), f"coherence of {model}")
        return alignment_rows(found, self.bins)

    def line(self, row: Mapping[Any, float]) -> str:
        found = f"coherence {row['mean']:.4f}, sd {row['sd']:.4f}, GAL {row['GAL']:.4f}"
        return f"{found}, {row['zero components']:.2%} of components zero"


def alignment(model: nn.Module, x: Tensor, y: Tensor) -> Alignment:
    """Return how the gradients of the model's members lie to each other, of images (N, C, H, W) with labels (N,)."""
    _, gradients = losses_and_gradients(model, x, y, "log_odds")
    zero_components = (gradients == 0).float().mean((0, 2))
    return Alignment(coherence(gradients), gradient_alignment_loss(gradients), zero_components)


def alignment_rows(found: Alignment, bins: Bins | None) -> list[Row]:
    """Return means and standard deviations over the images, and a histogram of the coherence."""
    whole, *histogram = distribution_rows("coherence", found.coherence.numpy(force=True), bins)
    whole |= mean_and_sd("gal", found.gal.numpy(force=True))
    whole |= mean_and_sd("gradient_zero_components", found.zero_components.numpy(force=True))
    return [whole, *histogram]
