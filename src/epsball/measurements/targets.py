"""Measurements that ask each target by itself, on clean images."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from epsball.measurements.measurement import Measurement, Row, Rows, Scope, Setup
from epsball.output.pages import Section

if TYPE_CHECKING:
    import pandas as pd


class OfEachTarget(Measurement):
    """What is measured of each target that has gradients, in rows of its own below those of the clean images."""

    heading: ClassVar[str]
    """of its section of the report"""
    text: ClassVar[str]
    """what stands there above the numbers"""
    columns: ClassVar[Mapping[str, str]]
    """the numbers shown, as people call them; a target without the first has none"""

    @abstractmethod
    def what(self, setup: Setup) -> object:
        """Return what is measured, for the rows' identity."""

    @abstractmethod
    def numbers(self, setup: Setup, model: str) -> list[Row]:
        """Measure one model; return the numbers of its rows."""

    @abstractmethod
    def line(self, row: Mapping[Any, float]) -> str:
        """Return one target's numbers, by their `columns`, for a terminal."""

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return scope.targets

    def unfinished(self, setup: Setup) -> Collection[str]:
        return [name for name in differentiable(setup) if setup.find(self.what(setup), name, name) is None]

    def measure(self, setup: Setup) -> Rows:
        return {"results": [row for target in differentiable(setup) for row in self.target_rows(setup, target)]}

    def target_rows(self, setup: Setup, model: str) -> list[Row]:
        """Return the rows of one model, measured now or kept by an earlier run."""
        found = setup.find_or_measure(self.what(setup), model, model, lambda: self.numbers(setup, model))
        return [setup.row(numbers, model, model, "clean", 0.0) for numbers in found]

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        if (means := self.means(frames["results"])).empty:
            return []
        return [Section(self.heading, self.text, means.round(4).astype(str).replace("nan", "-").reset_index())]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        means = self.means(frames["results"]).to_dict("index")
        return "".join(f"{name}: {self.line(row)}\n" for name, row in means.items())

    def means(self, rows: "pd.DataFrame") -> "pd.DataFrame":
        """Return the `columns` of each target, means over the seeds."""
        own = rows[rows["measurement"] != "clean"].reindex(columns=["target", *self.columns])  # absent: in no row
        own = own[own[next(iter(self.columns))].notna()]
        return own.groupby("target", sort=False).mean().rename(columns=dict(self.columns))


def differentiable(setup: Setup) -> list[str]:
    """Name the targets that have gradients."""
    return [name for name in setup.targets if name in setup.differentiable]
