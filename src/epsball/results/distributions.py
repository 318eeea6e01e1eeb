"""A quantity that every image has, as rows: its mean and standard deviation, and a histogram."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np

from epsball.build import require


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


def distribution_rows(quantity: str, values: Sequence[float], bins: Bins | None) -> list[dict[str, Any]]:
    """Return a row with `<quantity>_mean` and `<quantity>_sd` of (N,) values, then a row per bin with
    `<quantity>_share`, the fraction of the values in it, between `bin_low` and `bin_high`."""
    found = np.asarray(values, dtype=np.float64)
    n, sd = len(found), float(found.std(ddof=1)) if len(found) > 1 else nan
    rows: list[dict[str, Any]] = [{"n": n, f"{quantity}_mean": float(found.mean()), f"{quantity}_sd": sd}]
    if bins is None:
        return rows
    edges = bins.edges
    counts, _ = np.histogram(found.clip(edges[0], edges[-1]), edges)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        rows.append({"n": n, "bin_low": low, "bin_high": high, f"{quantity}_share": int(count) / n})
    return rows
