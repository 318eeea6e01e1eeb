"""Measured values with their 95 % intervals: of one row, of a cell over seeds, of the whole matrix.

With one seed an interval is that of the sampled test images; with several, the spread of the seeds' mean (Student's t)
is added to it in quadrature: the seeds share their test images, so adding up their images would count each more than
once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, isnan, nan, sqrt
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from epsball import statistics

Row = Mapping[str, Any]
TRIALS = {"transfer_rate_top1": "transfer_n", "transfer_rate_top5": "transfer_n_top5"}  # other rates are of n images


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % interval, and the standard deviation over seeds (NaN for one seed). NaN: not
    measured."""

    value: float
    low: float
    high: float
    sd: float = nan
    seeds: int = 1

    def times(self, factor: float) -> "Estimate":
        ends = sorted((self.low * factor, self.high * factor)) if not isnan(self.low) else [nan, nan]
        return Estimate(self.value * factor, ends[0], ends[1], self.sd * abs(factor), self.seeds)


def of_rows(rows: Sequence[Row], metric: str, interval: statistics.Interval | None = statistics.wilson) -> Estimate:
    """The mean of `metric` over rows of one cell, one of each seed; NaN when none has it. `interval`: of a seed's rate;
    None where the test images are no sample of anything."""
    return mean([of_row(row, metric, interval) for row in rows])


def of_row(row: Row, metric: str, interval: statistics.Interval | None) -> Estimate:
    """One row's value: a rate with its interval, a mean with the normal one of its standard deviation. The ends are NaN
    where the interval is not known: a standard deviation's, a rate's of an unknown number of trials."""
    value = statistics.number(row.get(metric))
    if interval is None:
        return Estimate(value, value, value)
    if is_rate(metric):
        return Estimate(value, *statistics.rate_interval(value, trials(row, metric), interval))
    if isnan(value) or metric.endswith("_sd"):
        return Estimate(value, nan, nan)
    sd, n = (statistics.number(row.get(name)) for name in (metric.removesuffix("_mean") + "_sd", "n"))
    half = statistics.z(0.95) * sd / sqrt(n)
    return Estimate(value, value - half, value + half)


def is_rate(metric: str) -> bool:
    """Whether a metric is a share, which people read in per cent."""
    return not metric.endswith(("_mean", "_sd"))


def trials(row: Row, metric: str) -> float:
    """Of how many images a rate is the share."""
    return statistics.number(row.get(TRIALS.get(metric, "n")))


def mean(single: Sequence[Estimate]) -> Estimate:
    """The mean of several seeds' estimates of one thing, of those that have it; NaN when none has."""
    known = [estimate for estimate in single if not isnan(estimate.value)]
    if len(known) <= 1:
        return known[0] if known else Estimate(nan, nan, nan, seeds=0)
    values = [estimate.value for estimate in known]
    centre, sd = fmean(values), stdev(values)
    spread = student_t(len(known) - 1) * sd / sqrt(len(known))
    below = fmean(estimate.value - estimate.low for estimate in known)
    above = fmean(estimate.high - estimate.value for estimate in known)
    return Estimate(centre, centre - hypot(below, spread), centre + hypot(above, spread), sd, len(known))


def student_t(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def errors(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per cell of the matrix: error_top1 with error_top1_low and error_top1_high, fractions, over all seeds."""
    lines = []
    for key, cell in rows.groupby(list(statistics.KEY), sort=False):
        found = of_rows(statistics.records(cell), "error_top1")
        bounds = {"error_top1": found.value, "error_top1_low": found.low, "error_top1_high": found.high}
        lines.append(dict(zip(statistics.KEY, key, strict=True)) | bounds)
    return pd.DataFrame(lines, columns=[*statistics.KEY, "error_top1", "error_top1_low", "error_top1_high"])
