"""Measured values with their 95 % intervals: of a rate, of one row, of a cell over seeds.

With one seed an interval is that of the sampled test images; with several, the spread of the seeds' mean (Student's t)
is added to it in quadrature: the seeds share their test images, so adding up their images would count each more than
once.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import hypot, inf, isfinite, isnan, nan, sqrt
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from epsball.results.metrics import ERROR, Better, Metric
from epsball.results.paired import Mistaken, paired_table, phi
from epsball.results.rows import KEY, Row, as_dicts, as_float, error_rows

if TYPE_CHECKING:
    import pandas as pd

OVER_SEEDS = "Over seeds that of their mean, Student's t with each seed's own: an end may lie beyond 0 or 100 %."
"""what a report says of its intervals where they are of several seeds"""
Z = NormalDist().inv_cdf(0.975)  # of a 95 % interval
Interval = Callable[[float, float], tuple[float, float]]  # (low, high) of k of n


def wilson(k: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval for a rate of which `k` of `n` trials were seen, as (low, high) fractions.

    It stays inside [0, 1] and is not empty at k = 0 or k = n, unlike `normal_interval`. ValueError unless
    0 <= k <= n, n > 0. Source: E. B. Wilson, J. Amer. Statist. Assoc. 22 (1927).
    """
    check_counts(k, n)
    scale = 1 + Z * Z / n
    centre = (k / n + Z * Z / (2 * n)) / scale
    half = Z * sqrt(k * (n - k) / n + Z * Z / 4) / (n * scale)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def normal_interval(k: float, n: float) -> tuple[float, float]:
    """Return the normal (Wald) interval of the papers, p ± z sqrt(p(1-p)/n), as (low, high) fractions, not clamped.

    ValueError unless 0 <= k <= n, n > 0. Source: Tramèr et al. 2018, caption of Table 4 (their ± at 95 %).
    """
    check_counts(k, n)
    p = k / n
    half = Z * sqrt(p * (1 - p) / n)
    return p - half, p + half


def check_counts(k: float, n: float) -> None:
    """ValueError unless `k` of `n` is possible."""
    if not n > 0:
        raise ValueError(f"n should be positive, is {n}")
    if not 0 <= k <= n:
        raise ValueError(f"k should lie in [0, {n}], is {k}")


def rate_interval(rate: float, n: float, interval: Interval = wilson, shares: bool = False) -> tuple[float, float]:
    """Return the interval around a measured `rate` of `n` examples; (nan, nan) where either is missing or n is 0.

    `shares`: whether it is the mean of the examples' own shares, which need not count a whole number of them."""
    if isnan(rate) or isnan(n) or n == 0:
        return nan, nan
    return interval(rate * n if shares else round(rate * n), n)


def with_intervals(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Add error_top1_low and error_top1_high: Wilson's 95 % interval from error_top1 and n; NaN in rows without."""
    absent = [nan] * len(rows)
    rates, counts = (rows.get(name, absent) for name in (ERROR.name, ERROR.trials))
    pairs = [rate_interval(float(rate), float(n)) for rate, n in zip(rates, counts, strict=True)]
    low, high = [low for low, _ in pairs], [high for _, high in pairs]
    return rows.assign(error_top1_low=low, error_top1_high=high).astype(
        {"error_top1_low": "float64", "error_top1_high": "float64"}
    )


def ties_for_best(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], better: Better) -> list[bool]:
    """Mark the entry at the `better` end and those whose interval overlaps its interval; NaN never is.

    Source: Tramèr et al. 2018, Table 4 ("statistically tied for best", 95 % intervals).
    """
    known = [i for i, value in enumerate(values) if not isnan(value)]
    if not known:
        return [False] * len(values)
    best = min(known, key=lambda i: values[i] if better == "low" else -values[i])
    tied = {i for i in known if lows[i] <= highs[best] and highs[i] >= lows[best]} | {best}
    return [i in tied for i in range(len(values))]


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval. NaN: not measured, or not known."""

    value: float
    low: float
    high: float
    sd: float = nan
    """over seeds; NaN for one seed"""
    seeds: int = 1

    def times(self, factor: float) -> "Estimate":
        """Return the estimate of `factor` times the value."""
        ends = sorted((self.low * factor, self.high * factor)) if not isnan(self.low) else [nan, nan]
        return Estimate(self.value * factor, ends[0], ends[1], self.sd * abs(factor), self.seeds)

    def reaches(self, value: float) -> bool:
        """Whether `value` lies in the interval or, of several seeds, where that of one more would in 95 cases of 100:
        seeds whose mean varies by t * sd / sqrt(k) vary by t * sd * sqrt(1 + 1 / k) themselves."""
        seed = student_t(self.seeds - 1) * self.sd if self.seeds > 1 else 0.0
        below, above = hypot(self.value - self.low, seed), hypot(self.high - self.value, seed)
        return self.value - below <= value <= self.value + above


UNBOUNDED = Estimate(nan, -inf, inf)
"""measured, but no number: a ratio over 0"""


def is_unbounded(estimate: Estimate) -> bool:
    return isnan(estimate.value) and estimate.low == -inf


@dataclass(frozen=True)
class Term:
    """A multiple of an estimated value, and the images that it counts where it is a rate of which they are known."""

    weight: float
    value: Estimate
    wrong: Mistaken | None = None
    """what the value is the share of"""


def estimate_sum(constant: float, terms: Sequence[Term]) -> Estimate:
    """Return a constant and a sum of terms, with its interval: the distances to the terms' ends add in quadrature, two
    rates of the same images with their correlation.

    Of two rates this is Newcombe's hybrid score interval of a difference: unpaired, R. G. Newcombe, Statistics in
    Medicine 17 (1998) 873-890, method 10; paired, ibid. 2635-2650, method 10. Of several, G. Y. Zou and A. Donner,
    Statistics in Medicine 27 (2008) 1693-1702.
    """
    if any(is_unbounded(term.value) for term in terms):
        return UNBOUNDED
    value = constant + sum(term.weight * term.value.value for term in terms)
    below, above = (distance(terms, upward) for upward in (False, True))
    return Estimate(value, value - below, value + above)


def distance(terms: Sequence[Term], upward: bool) -> float:
    """Return how far a sum's interval reaches, up or down."""
    signed = []  # by its weight: what moves the sum this way
    for term in terms:
        own, up = term.value, upward == (term.weight > 0)
        signed.append(term.weight * (own.high - own.value if up else own.value - own.low) if term.weight else 0.0)
    squares = sum(one**2 for one in signed)
    for i, j in itertools.combinations(range(len(terms)), 2):
        together = correlation(terms[i], terms[j])
        squares += 2 * together * signed[i] * signed[j] if together else 0.0  # one of them may reach without end
    return sqrt(max(squares, 0.0)) if not isnan(squares) else nan


def correlation(one: Term, other: Term) -> float:
    """Return that of two rates of the same images; 0 where it is not known."""
    if one.wrong is None or other.wrong is None or not one.wrong.has_images_of(other.wrong):
        return 0.0
    narrowing = -1 if (one.weight > 0) == (other.weight > 0) else 1
    return phi(paired_table(one.wrong.bits, other.wrong.bits), narrowing)


def estimate_cell(rows: Sequence[Row], metric: Metric) -> Estimate:
    """Return the mean of `metric` over rows of one cell, one of each seed; NaN when none has it."""
    return mean_estimate([estimate_row(row, metric, wilson) for row in rows])


def estimate_row(row: Row, metric: Metric, interval: Interval | None) -> Estimate:
    """Return one row's value: a rate with its `interval`, None where the test images are no sample of anything; a mean
    with Student's t of its standard deviation.

    The ends are NaN where the interval is not known: a standard deviation's, that of a mean of one image, that of a
    rate of an unknown number of trials.
    """
    value, n = metric.value_in(row), metric.trials_in(row)
    if interval is None:
        return Estimate(value, value, value)
    if metric.is_rate:
        return Estimate(value, *rate_interval(value, n, interval, metric.shares))
    if isnan(value) or metric.spread is None or not n > 1:
        return Estimate(value, nan, nan)
    half = student_t(n - 1) * as_float(row.get(metric.spread)) / sqrt(n)
    return Estimate(value, value - half, value + half)


def mean_estimate(single: Sequence[Estimate]) -> Estimate:
    """Return the mean of several seeds' estimates of one thing, of those that have it; NaN when none has. Where it is
    no number in one of them, a ratio over 0, or is infinite, nothing bounds the mean."""
    known = [estimate for estimate in single if not isnan(estimate.value)]
    if known and len(known) < len(single) and any(map(is_unbounded, single)):
        return replace(mean_estimate(known), low=-inf, high=inf)
    if len(known) <= 1:
        return known[0] if known else Estimate(nan, nan, nan, seeds=0)
    values = [estimate.value for estimate in known]
    if not all(map(isfinite, values)):
        return Estimate(sum(values) / len(values), -inf, inf, nan, len(known))
    centre, sd = fmean(values), stdev(values)
    spread = student_t(len(known) - 1) * sd / sqrt(len(known))
    with_ends = [estimate for estimate in known if not isnan(estimate.low)]  # where there is none, seeds alone vary
    below = fmean(estimate.value - estimate.low for estimate in with_ends) if with_ends else 0.0
    above = fmean(estimate.high - estimate.value for estimate in with_ends) if with_ends else 0.0
    return Estimate(centre, centre - hypot(below, spread), centre + hypot(above, spread), sd, len(known))


@cache
def student_t(degrees: float) -> float:
    """Return the two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit  # scipy.stats takes two seconds to import

    return float(stdtrit(degrees, 0.975))


def error_estimates(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return a row per cell of the matrix: error_top1 with error_top1_low and error_top1_high, fractions, over all
    seeds."""
    import pandas as pd

    lines = []
    for key, cell in error_rows(rows).groupby(list(KEY), sort=False):
        found = estimate_cell(as_dicts(cell), ERROR)
        bounds = {"error_top1": found.value, "error_top1_low": found.low, "error_top1_high": found.high}
        lines.append(dict(zip(KEY, key, strict=True)) | bounds)
    return pd.DataFrame(lines, columns=[*KEY, "error_top1", "error_top1_low", "error_top1_high"])
