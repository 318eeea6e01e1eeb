"""A quantity that every image has, as rows: its mean and standard deviation, and a histogram."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from epsball.build import require

Values: TypeAlias = Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Bins:
    """Bins of a histogram. What lies beyond the ends is counted in the outermost bins."""

    low: float
    high: float
    number: int
    log: bool
    """whether they are equally wide on a log scale"""

    def __post_init__(self) -> None:
        require(self.low < self.high, f"low should be below high, {self.high}, is {self.low}")
        require(self.number >= 1, f"number should be at least 1, is {self.number}")
        require(not self.log or self.low > 0, f"low should be above 0 on a log scale, is {self.low}")

    @property
    def edges(self) -> list[float]:
        """Return the number + 1 ends of the bins, rising."""
        space = np.geomspace if self.log else np.linspace
        return [float(f"{edge:.9g}") for edge in space(self.low, self.high, self.number + 1)]


def mean_and_sd(quantity: str, values: Values) -> dict[str, Any]:
    """Return `<quantity>_mean` and `<quantity>_sd` of (N,) values, in float64; NaN for a mean of none and for the
    deviation of one."""
    found = np.asarray(values, dtype=np.float64)
    mean, sd = float(found.mean()) if len(found) else nan, float(found.std(ddof=1)) if len(found) > 1 else nan
    return {f"{quantity}_mean": mean, f"{quantity}_sd": sd}


def distribution_rows(quantity: str, values: Values, bins: Bins | None) -> list[dict[str, Any]]:
    """Return a row with n, mean and standard deviation of (N,) values, N > 0, then a row per bin with
    `<quantity>_share`, the fraction of the values in it, between `bin_low` and `bin_high`."""
    n = len(values)
    rows = [{"n": n, **mean_and_sd(quantity, values)}]
    if bins is None:
        return rows
    edges = bins.edges
    counts, _ = np.histogram(np.clip(np.asarray(values, dtype=np.float64), edges[0], edges[-1]), edges)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        rows.append({"n": n, "bin_low": low, "bin_high": high, f"{quantity}_share": int(count) / n})
    return rows
