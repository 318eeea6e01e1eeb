"""Measurements that ask each target by itself, on clean images."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from epsball.measurements.measurement import Measurement, Row, Rows, Scope, Setup

if TYPE_CHECKING:
    import pandas as pd


class OfEachTarget(Measurement):
    """What is measured of each target that has gradients, in rows of its own below those of the clean images."""

    @abstractmethod
    def what(self, setup: Setup) -> object:
        """Return what is measured, for the rows' identity."""

    @abstractmethod
    def numbers(self, setup: Setup, model: str) -> list[Row]:
        """Measure one model; return the numbers of its rows."""

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


def differentiable(setup: Setup) -> list[str]:
    """Name the targets that have gradients."""
    return [name for name in setup.targets if name in setup.differentiable]


def mean_numbers(rows: "pd.DataFrame", columns: Mapping[str, str]) -> "pd.DataFrame":
    """Return numbers of each target, means over the seeds, with their columns as people call them. Targets without the
    first of them are left out."""
    own = rows[rows["measurement"] != "clean"].reindex(columns=["target", *columns])  # absent where no model has any
    own = own[own[next(iter(columns))].notna()]
    return own.groupby("target", sort=False).mean().rename(columns=columns)
