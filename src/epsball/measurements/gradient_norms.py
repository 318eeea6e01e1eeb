"""L2 norms of the input gradient, the gradient of each image's own loss (Tramèr et al. 2017, appendix D, Table 7)."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from epsball.attacks.losses import input_gradient
from epsball.data.images import Batched
from epsball.measurements.measurement import Row, Setup
from epsball.measurements.targets import OfEachTarget
from epsball.results.distributions import Bins, distribution_rows

SMALL = 1e-12  # of a length in float32: below it the squares of its components are rounded, far below it away


@dataclass(frozen=True)
class GradientNorms(OfEachTarget):
    """Mean and standard deviation over the test images of the norm, and the share of images without a gradient, of each
    target that has gradients."""

    metrics: ClassVar[Collection[str]] = (
        *("gradient_l2_mean", "gradient_l2_sd", "gradient_l2_share"),
        "gradient_zero_share",
    )

    heading: ClassVar[str] = "L2 norm of the input gradient"
    text: ClassVar[str] = "Over the test images."
    columns: ClassVar[Mapping[str, str]] = {
        "gradient_l2_mean": "mean",
        "gradient_l2_sd": "sd",
        "gradient_zero_share": "share of zeros",
    }

    bins: Annotated[Bins, Bins] | None = None
    """of a histogram of the norms beside them; None for none"""

    def what(self, setup: Setup, model: str) -> object:
        bins, loss = None if self.bins is None else asdict(self.bins), setup.loss_identity(model)
        return {"gradients": bins, **loss} if bins or loss else "gradients"

    def numbers(self, setup: Setup, model: str) -> list[Row]:
        norms = gradient_norms(setup.models[model], setup.batched())
        return gradient_rows(norms, self.bins)

    def line(self, row: Mapping[Any, float]) -> str:
        return f"gradient norm {row['mean']:.4g}, sd {row['sd']:.4g}, {row['share of zeros']:.2%} zero"


def gradient_norms(model: nn.Module, test: Batched) -> Tensor:
    """Return (N,) L2 norms of the loss's gradient for each test image (Tramèr et al. 2017, appendix D)."""
    return torch.cat([lengths(input_gradient(model, x, y).flatten(1)) for x, y in test])


def lengths(gradients: Tensor) -> Tensor:
    """Return (N,) L2 norms of (N, D) gradients. Those of a confident model are small, 1e-23, and float32 has no number
    for their squares: they are divided by their largest component first, so that only one of zeros has length 0."""
    whole, largest = gradients.norm(dim=1), gradients.abs().amax(1).clamp(min=torch.finfo(gradients.dtype).tiny)
    return torch.where(whole < SMALL, (gradients / largest[:, None]).norm(dim=1) * largest, whole)


def gradient_rows(norms: Tensor, bins: Bins | None) -> list[Row]:
    """Return mean, standard deviation, share of zeros and histogram of the gradients' norms."""
    found = norms.numpy(force=True)
    whole, *histogram = distribution_rows("gradient_l2", found, bins)
    return [{**whole, "gradient_zero_share": float((found == 0).mean())}, *histogram]
