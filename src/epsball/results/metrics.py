"""Every metric of a row, once. Whoever asks what a number is (parser, intervals, tables, figures) asks here."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any, Literal

from epsball.build import did_you_mean, listed

Unit = Literal["percent", "value"]  # percent: a rate, a fraction in [0, 1] in the rows and per cent for people
Better = Literal["low", "high"]


@dataclass(frozen=True)
class Metric:
    """A number that a row may have."""

    name: str
    """its column"""
    unit: Unit
    better: Better | None
    """the end that is best for the target's robustness; None where neither is"""
    trials: str
    """the column that says of how many trials it is the share or the mean"""
    spread: str | None = None
    """of a mean: the column with the standard deviation over its trials"""
    short: str | None = None
    """what tables and claims may call it"""
    complement: str | None = None
    """the column that it is one minus; it has none of its own"""

    def value_in(self, row: Mapping[str, Any]) -> float:
        """Return its value in a row, NaN where the row has none."""
        value = row.get(self.complement or self.name)
        number = nan if value is None else float(str(value))
        return 1 - number if self.complement else number

    @property
    def is_rate(self) -> bool:
        return self.unit == "percent"


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("error_top1", "percent", "low", "n", short="error"),
        Metric("error_top5", "percent", "low", "n"),
        Metric("accuracy_top1", "percent", "high", "n", short="accuracy", complement="error_top1"),
        Metric("accuracy_top5", "percent", "high", "n", complement="error_top5"),
        Metric("transfer_rate_top1", "percent", "low", "transfer_n", short="transfer_rate"),
        Metric("transfer_rate_top5", "percent", "low", "transfer_n_top5"),
        Metric("clean_error_top1", "percent", "low", "n"),
        Metric("gradient_l2_mean", "value", None, "n", spread="gradient_l2_sd"),
        Metric("gradient_l2_sd", "value", None, "n"),
        Metric("gradient_zero_share", "percent", None, "n"),
        Metric("loss_mean", "value", None, "n", spread="loss_sd"),
        Metric("loss_sd", "value", None, "n"),
    )
}
ERROR = METRICS["error_top1"]  # what the transfer matrix and its figures show


def find_metric(name: str, text: str = "") -> Metric:
    """Return the metric that is called `name`, in full or for short, in `text`. ValueError names the known ones."""
    short = {metric.short: metric for metric in METRICS.values() if metric.short}
    known = {**short, **METRICS}
    if name not in known:
        place = f" in {text!r}" if text else ""
        raise ValueError(f"{name}{place} is no metric{did_you_mean(name, known)}: they are {listed(known)}")
    return known[name]
