"""Measurements that ask each target by itself, on clean images."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import torch
from torch import Tensor

from epsball.build import require
from epsball.data.images import Batched
from epsball.measurements.measurement import Measurement, Row, Rows, Setup, Workload
from epsball.output.pages import Section
from epsball.results.distributions import Bins
from epsball.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

PerImage = TypeVar("PerImage", bound=tuple[Tensor, ...])  # a named tuple of (N, ...) tensors


class OfEachTarget(Measurement):
    """What is measured of each target that has gradients, in rows of its own below those of the clean images."""

    heading: ClassVar[str]
    """of its section of the report"""
    text: ClassVar[str]
    """what stands there above the numbers"""
    columns: ClassVar[Mapping[str, str]]
    """the numbers shown, as people call them; a target without the first has none"""

    @abstractmethod
    def what(self, setup: Setup, model: str) -> object:
        """Return what is measured of a model, for the rows' identity."""

    @abstractmethod
    def numbers(self, setup: Setup, model: str) -> list[Row]:
        """Measure one model; return the numbers of its rows."""

    @abstractmethod
    def line(self, row: Mapping[Any, float]) -> str:
        """Return one target's numbers, by their `columns`, for a terminal."""

    def workload(self, setup: Setup) -> Workload:
        names = differentiable(setup)
        return Workload(frozenset(name for name in names if setup.find(self.what(setup, name), name, name) is None))

    def measure(self, setup: Setup) -> Rows:
        return {"results": [row for target in differentiable(setup) for row in self.target_rows(setup, target)]}

    def target_rows(self, setup: Setup, model: str) -> list[Row]:
        """Return the rows of one model, measured now or kept by an earlier run."""
        found = setup.find_or_measure(self.what(setup, model), model, model, lambda: self.numbers(setup, model))
        return [setup.row(numbers, model, model, "clean", 0.0) for numbers in found]

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        if (means := self.means(frames["results"])).empty:
            return []
        return [Section(self.heading, self.text, means.map("{:.5g}".format).replace("nan", "-").reset_index())]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        means = self.means(frames["results"]).to_dict("index")
        return "".join(f"{name}: {self.line(row)}\n" for name, row in means.items())

    def means(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """Return the `columns` of each target, means over the seeds."""
        own = rows[rows["measurement"] != "clean"].reindex(columns=["target", *self.columns])  # absent: in no row
        own = own[own[next(iter(self.columns))].notna()]
        return own.groupby("target", sort=False).mean().rename(columns=dict(self.columns))


@dataclass(frozen=True)
class OfEachImage(OfEachTarget):
    """What is measured of each of the first test images, as means and a histogram."""

    images: int | None
    """how many of the test set, from its first; null: all"""
    bins: Annotated[Bins, Bins] | None = None
    """of a histogram of it; None for none"""

    def __post_init__(self) -> None:
        check_images(self.images)

    def chosen(self, setup: Setup) -> Batched:
        return setup.batched(setup.test.first(self.images))


def check_images(images: int | None) -> None:
    """ValueError unless `images` is a number of test images, or None for all."""
    require(images is None or images >= 1, f"images should be at least 1 or null, is {images}")


def over_batches(measure: Callable[[Tensor, Tensor], PerImage], test: Batched, title: str) -> PerImage:
    """Return what `measure` finds of images and labels, joined over the batches. Nothing waits for the device."""
    parts = []
    with Progress(title, len(test), "images") as progress:
        for x, y in test:
            parts.append(measure(x, y))
            progress.step(len(x))
    return type(parts[0])(*(torch.cat(values) for values in zip(*parts, strict=True)))


def differentiable(setup: Setup) -> list[str]:
    """Name the targets that have gradients."""
    return [name for name in setup.targets if name in setup.differentiable]
