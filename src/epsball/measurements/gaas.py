"""Gradient aligned adversarial subspaces (Tramèr et al. 2017, The Space of Transferable Adversarial Examples): of k
orthogonal directions along an image's gradient, how many fool a model (Kariyappa and Qureshi 2019, section 4.4)."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.attacks.losses import GradientsOf, input_gradient
from epsball.build import naming_field, require
from epsball.data.images import Batched, Data
from epsball.measurements.hadamard import factors, regular_hadamard
from epsball.measurements.measurement import Further, Measurement, Row, Rows, Setup, Workload
from epsball.measurements.targets import check_images, differentiable
from epsball.models.predictions import mistakes, rate
from epsball.output.pages import Section
from epsball.results.rows import eps_label
from epsball.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

NUMBERS = {"n": "images", "gaas_all": "all adversarial, %", "gaas_share": "adversarial, %"}


class Subspace(NamedTuple):
    """Directions that are tried together; each has its own row."""

    eps: float
    directions: int


@dataclass(frozen=True)
class Gaas(Measurement):
    """Of each target's correctly classified test images, the share of which all k directions are adversarial, each on
    its own, at full length and clipped to [0, 1], and the mean share of those that are. White-box: its own gradient."""

    metrics: ClassVar[Collection[str]] = ("gaas_all", "gaas_share")

    images: int | None
    """how many of the test set, from its first; null: all"""
    eps: list[float]
    """lengths of the directions in the L-infinity norm, in [0, 1]"""
    directions: list[int]
    """numbers k of directions: orders of regular Hadamard matrices"""
    gradients_of: GradientsOf
    """what the directions follow: the cross-entropy, or its logarithm, whose gradient has the same direction and does
    not round to 0 in float32 where the model is sure: without a gradient no direction leads anywhere"""

    def __post_init__(self) -> None:
        check_images(self.images)
        for field, values in (("eps", self.eps), ("directions", self.directions)):
            distinct = len(set(values)) == len(values) > 0
            require(distinct, f"{field} should be one value or more, each once, is {values}")
        require(all(0 <= eps <= 1 for eps in self.eps), f"eps should be in [0, 1], is {self.eps}")
        with naming_field("directions"):
            for order in self.directions:
                factors(order)

    @property
    def makes(self) -> tuple[str, ...]:
        return ("gaas",)

    def read(self, data: Data) -> Self:
        pixels, most = prod(data.shape), max(self.directions)
        require(most <= pixels, f"directions should be at most {pixels}, the pixels of an image, is {most}")
        return self

    def further(self, metric: str, white_box: bool) -> Sequence[Further]:
        return [{"eps": self.eps, "directions": self.directions}]

    def workload(self, setup: Setup) -> Workload:
        return Workload(frozenset(name for name in differentiable(setup) if None in self.find(setup, name).values()))

    def measure(self, setup: Setup) -> Rows:
        return {"results": [row for target in differentiable(setup) for row in self.target_rows(setup, target)]}

    @property
    def subspaces(self) -> list[Subspace]:
        return [Subspace(eps, directions) for eps in self.eps for directions in self.directions]

    def what(self, setup: Setup, subspace: Subspace) -> object:
        """Return what is measured, for the rows' identity."""
        images = len(setup.test.first(self.images))
        return {"gaas": subspace._asdict(), "images": images, "gradients_of": self.gradients_of}

    def find(self, setup: Setup, target: str) -> dict[Subspace, list[Row] | None]:
        """Return the finished rows of a target, None where there are none."""
        return {subspace: setup.find(self.what(setup, subspace), target, target) for subspace in self.subspaces}

    def target_rows(self, setup: Setup, target: str) -> list[Row]:
        """Return the rows of one target; those that are unfinished are measured in one pass over the images."""
        rows = self.find(setup, target)
        missing = [subspace for subspace, found in rows.items() if found is None]
        if missing and not setup.skips:
            for subspace, fooling in self.count(setup, target, missing).items():
                numbers = gaas_row(fooling, subspace.directions)
                rows[subspace] = setup.keep(self.what(setup, subspace), target, target, [numbers])
        return [
            setup.row(numbers, target, target, "gaas", subspace.eps)
            for subspace, found in rows.items()
            for numbers in found or ()
        ]

    def count(self, setup: Setup, target: str, subspaces: Sequence[Subspace]) -> dict[Subspace, Tensor]:
        """Count the adversarial directions of the images that a target classifies correctly."""
        right = (~setup.clean_mistakes(target).top1[: self.images]).nonzero().squeeze(1)
        test, title = setup.batched(setup.test.only(right)), f"gaas on {target}"
        found = count_adversarial(setup.models[target], self.gradients_of, test, subspaces, title)
        for (eps, directions), fooling in found.items():
            share = 100 * rate(fooling == directions)
            said = f"all {directions} directions fool it on {share:.1f}% of {len(test)} images"
            log.info("%s, eps %g: %s", title, eps, said)
        return found

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        if (means := mean_rows(frames["results"])).empty:
            return []
        text = "Each of k orthogonal directions along the gradient alone; images that the target classifies correctly."
        images = means["images"].round(1).map("{:g}".format)  # of several seeds' models a mean
        labelled = means.assign(eps=means["eps"].map(eps_label), images=images)
        shown = labelled.round(1).astype(dict.fromkeys(NUMBERS.values(), str))
        return [Section("Gradient aligned adversarial subspace", text, shown)]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        lines = []
        means = mean_rows(frames["results"])
        for key, own in means.groupby(means["target"] + ", eps " + means["eps"].map(eps_label), sort=False):
            shares = zip(own["directions"], own[NUMBERS["gaas_all"]], own[NUMBERS["gaas_share"]], strict=True)
            said = ", ".join(f"{k}: {every:.1f}% ({share:.1f}%)" for k, every, share in shares)
            lines.append(f"{key}: all k directions (their share) adversarial, {said}\n")
        return "".join(lines)


def count_adversarial(
    model: nn.Module, gradients_of: GradientsOf, test: Batched, subspaces: Sequence[Subspace], title: str
) -> dict[Subspace, Tensor]:
    """Return for each subspace (N,) numbers of directions of which each alone fools the model, on the host.

    The gradient of an image is taken once. As many directions are tried at once as make about a batch of images.
    """
    matrices = {k: regular_hadamard(k).to(test.device) for k in {subspace.directions for subspace in subspaces}}
    counts: dict[Subspace, list[Tensor]] = {subspace: [] for subspace in subspaces}
    with Progress(title, len(test) * sum(subspace.directions for subspace in subspaces), "examples") as progress:
        for x, y in test:
            sign = input_gradient(model, x, y, of=gradients_of).sign()
            for subspace, found in counts.items():
                fooled = []
                for rows in torch.split(matrices[subspace.directions], max(1, test.size // len(x))):
                    test.stop.check()
                    x_adv = (x + subspace.eps * aligned(rows, sign)).clamp(0, 1).flatten(0, 1)
                    fooled.append(mistakes(model, x_adv, y.repeat(len(rows))).top1.view(len(rows), -1))
                    progress.step(len(x_adv))
                found.append(torch.cat(fooled).sum(0))
    nothing = test.images.y[:0]  # where there is no image
    return {subspace: torch.cat([nothing, *found]).cpu() for subspace, found in counts.items()}


def aligned(rows: Tensor, sign: Tensor) -> Tensor:
    """Return (m, N, C, H, W) directions: m rows of a regular Hadamard matrix of order k, repeated over the pixels,
    times the (N, C, H, W) signs of gradients; 0 at pixels beyond the last whole k.

    Those of one image are orthogonal where no sign is 0. Where the size of a gradient does not vary among k pixels,
    each direction's inner product with it is |gradient|_1 / sqrt(k).
    """
    pixels, order = sign[0].numel(), rows.shape[1]
    repeated = F.pad(rows.repeat(1, pixels // order), (0, pixels % order))
    return repeated.view(-1, 1, *sign.shape[1:]) * sign


def gaas_row(fooling: Tensor, directions: int) -> Row:
    """Return the rates of (N,) numbers of adversarial directions; NaN where there is no image."""
    n = len(fooling)
    share = int(fooling.sum()) / (n * directions) if n else float("nan")
    return {"directions": directions, "n": n, "gaas_all": rate(fooling == directions), "gaas_share": share}


def mean_rows(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the numbers of each target, eps and k, means over the seeds, rates in per cent."""
    keys = ["target", "eps", "directions"]
    own = rows[rows["measurement"] != "clean"].reindex(columns=[*keys, *NUMBERS])  # absent where no model has any
    own = own[own["gaas_all"].notna()].astype(dict.fromkeys(NUMBERS, float))
    means = own.groupby(keys, sort=False).mean()
    means[["gaas_all", "gaas_share"]] *= 100
    found: pd.DataFrame = means.rename(columns=NUMBERS).reset_index().astype({"directions": int})
    return found
