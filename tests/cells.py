"""Rows of results for tests, with and without the images mistaken, and Wilson's interval worked out another way."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epsball.paper.expressions import parse_expression
from epsball.paper.values import SeedRows, by_seed, estimate, estimate_in_seed
from epsball.results import intervals
from epsball.results.intervals import Estimate, Interval
from epsball.results.paired import packed_bits

Row = dict[str, Any]
Bits = NDArray[np.bool_]
Z = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
T1, T2, T3, T399 = 12.706204736, 4.302652730, 3.182446305, 1.965927296  # of Student's t with 1, 2, 3, 399 degrees


def clean(model: str, error: float, n: int = 100, seed: int = 0, **more: Any) -> Row:
    key = {"dataset": "digits", "seed": seed, "source": model, "target": model, "attack": "clean", "eps": 0.0}
    return {**key, "n": n, "error_top1": error, **more}


def fgsm(target: str, source: str, error: float, n: int = 100, seed: int = 0, **more: Any) -> Row:
    return {**clean(target, error, n, seed), "source": source, "attack": "fgsm", "eps": 0.3, **more}


def seen(row: Row, wrong: Sequence[bool] | Bits) -> Row:
    """A row whose error is that of these images, which it keeps."""
    found = np.asarray(wrong, dtype=bool)
    return {**row, "n": len(found), "error_top1": float(found.mean()), "mistakes_top1": packed_bits(found)}


def of_table(both: int, first: int, second: int, neither: int) -> tuple[Bits, Bits]:
    """Mistakes of two on the same images, so many of each kind."""
    kinds = np.repeat([0, 1, 2, 3], [both, first, second, neither])
    return kinds <= 1, (kinds == 0) | (kinds == 2)


def wilson(k: float, n: float) -> tuple[float, float]:
    """Both roots p of (k/n - p)^2 = z^2 p (1 - p) / n."""
    a, b, c = 1 + Z * Z / n, -2 * k / n - Z * Z / n, (k / n) ** 2
    root = sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def measured(text: str, rows: Sequence[Row], interval: Interval | None = intervals.wilson) -> Estimate:
    """What an expression is over the seeds of the rows."""
    return estimate(parse_expression(text), by_seed(rows), interval)


def summed(text: str, rows: Sequence[Row], interval: Interval | None = intervals.wilson) -> Estimate:
    """What an expression is in the one seed of the rows."""
    return estimate_in_seed(parse_expression(text), SeedRows(rows), interval)


def ends(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high
