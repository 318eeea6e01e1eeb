"""L2 norms of the input gradient, the gradient of each image's own loss (Tramèr et al. 2017, appendix D, Table 7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from epsball.attacks.losses import input_gradient
from epsball.data.images import Split
from epsball.measurements.measurement import Cell, Row, Rows, Scope, Setup
from epsball.output.pages import Section
from epsball.runtime.progress import Stop

if TYPE_CHECKING:
    import pandas as pd

NUMBERS = {"gradient_l2_mean": "mean", "gradient_l2_sd": "sd", "gradient_zero_share": "share of zeros"}


@dataclass(frozen=True)
class GradientNorms:
    """Mean and standard deviation over the test images of the norm, and the share of images without a gradient, of each
    target that has gradients."""

    @property
    def makes(self) -> tuple[str, ...]:
        return ("clean",)

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[str]) -> None:
        return None

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return scope.targets

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        return ()

    def measure(self, setup: Setup) -> Rows:
        targets = [name for name in setup.targets if getattr(setup.models[name], "differentiable", True)]
        return {"results": [norms_row(setup, target) for target in targets]}

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        if (means := mean_norms(frames["results"])).empty:
            return []
        return [
            Section("L2 norm of the input gradient", "Over the test images.", means.round(4).astype(str).reset_index())
        ]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        rows = mean_norms(frames["results"])
        return "".join(
            f"{name}: gradient norm {row['mean']:.4f}, sd {row['sd']:.4f}, {row['share of zeros']:.2%} zero\n"
            for name, row in rows.iterrows()
        )


def norms_row(setup: Setup, model: str) -> Row:
    """Return the row of one model, measured now or kept by an earlier run."""
    numbers = setup.find("gradients", model, model)
    if numbers is None:
        norms = gradient_norms(setup.models[model], setup.test, setup.batch_size, setup.stop)
        numbers = setup.keep("gradients", model, model, gradient_statistics(norms))
    return setup.row({"n": len(setup.test), **numbers}, model, model, "clean", 0.0)


def gradient_norms(model: nn.Module, test: Split, batch_size: int, stop: Stop) -> Tensor:
    """Return (N,) L2 norms of the loss's gradient for each test image (Tramèr et al. 2017, appendix D)."""
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(input_gradient(model, x, y).flatten(1).norm(dim=1))
    return torch.cat(parts)


def gradient_statistics(norms: Tensor) -> Row:
    """Return mean, standard deviation and share of zeros of the gradients' norms."""
    norms = norms.cpu().double()  # in this order: not every device has float64
    mean, sd = float(norms.mean()), float(norms.std())
    return {"gradient_l2_mean": mean, "gradient_l2_sd": sd, "gradient_zero_share": float((norms == 0).double().mean())}


def mean_norms(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the numbers of each model, means over the seeds."""
    own = rows[rows["measurement"] != "clean"].reindex(columns=["target", *NUMBERS])  # absent where no model has any
    return own.groupby("target", sort=False).mean().rename(columns=NUMBERS)
