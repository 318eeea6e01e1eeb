"""L2 norms of the input gradient, the gradient of each image's own loss (Tramèr et al. 2017, appendix D, Table 7)."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor, nn

from epsball.attacks.losses import input_gradient
from epsball.data.images import Images
from epsball.measurements.measurement import Row, Setup
from epsball.measurements.targets import OfEachTarget, mean_numbers
from epsball.output.pages import Section
from epsball.results.distributions import Bins, distribution_rows
from epsball.runtime.progress import Stop

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {"gradient_l2_mean": "mean", "gradient_l2_sd": "sd", "gradient_zero_share": "share of zeros"}


@dataclass(frozen=True)
class GradientNorms(OfEachTarget):
    """Mean and standard deviation over the test images of the norm, and the share of images without a gradient, of each
    target that has gradients."""

    metrics: ClassVar[Collection[str]] = (
        *("gradient_l2_mean", "gradient_l2_sd", "gradient_l2_share"),
        "gradient_zero_share",
    )

    bins: Annotated[Bins, Bins] | None = None
    """of a histogram of the norms beside them; None for none"""

    def what(self, setup: Setup) -> object:
        return "gradients" if self.bins is None else {"gradients": asdict(self.bins)}

    def numbers(self, setup: Setup, model: str) -> list[Row]:
        norms = gradient_norms(setup.models[model], setup.test, setup.batch_size, setup.stop)
        return gradient_rows(norms, self.bins)

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        if (means := mean_numbers(frames["results"], NUMBERS)).empty:
            return []
        return [
            Section("L2 norm of the input gradient", "Over the test images.", means.round(4).astype(str).reset_index())
        ]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        rows = mean_numbers(frames["results"], NUMBERS)
        return "".join(
            f"{name}: gradient norm {row['mean']:.4f}, sd {row['sd']:.4f}, {row['share of zeros']:.2%} zero\n"
            for name, row in rows.iterrows()
        )


def gradient_norms(model: nn.Module, test: Images, batch_size: int, stop: Stop) -> Tensor:
    """Return (N,) L2 norms of the loss's gradient for each test image (Tramèr et al. 2017, appendix D)."""
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(input_gradient(model, x, y).flatten(1).norm(dim=1))
    return torch.cat(parts)


def gradient_rows(norms: Tensor, bins: Bins | None) -> list[Row]:
    """Return mean, standard deviation, share of zeros and histogram of the gradients' norms."""
    found = norms.numpy(force=True)
    whole, *histogram = distribution_rows("gradient_l2", found, bins)
    return [{**whole, "gradient_zero_share": float((found == 0).mean())}, *histogram]
