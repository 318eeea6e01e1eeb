"""Every metric of a row, once. Whoever asks what a number is (parser, intervals, tables, figures) asks here."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
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
    fewer: str | None = None
    """of a mean: the column that says over how many trials it was taken, in rows where some trials have no value"""
    short: str | None = None
    """what tables and claims may call it"""
    label: str | None = None
    """what the axis of a figure calls it, where its name does not say what it is"""
    complement: str | None = None
    """the column that it is one minus; it has none of its own"""
    mistakes: str | None = None
    """the column that says of each image whether it counts, packed (results/paired.py)"""
    binned: bool = False
    """whether each row has it of one bin of a histogram, `bin_low` to `bin_high`"""
    shares: bool = False
    """of a rate: whether it is the mean of each trial's own share, and need not count a whole number of trials; the
    interval of as many trials that are counted or not is wider, at least as safe"""

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the columns that rows with it have: its own, and those of its trials and spread."""
        return tuple(name for name in (self.name, self.trials, self.spread, self.fewer) if name)

    @property
    def words(self) -> str:
        """What people call it: its label, else its name in words."""
        return self.label or (self.short or self.name).replace("_", " ")

    def value_in(self, row: Mapping[str, Any]) -> float:
        """Return its value in a row, NaN where the row has none."""
        value = row.get(self.complement or self.name)
        number = nan if value is None else float(str(value))
        return 1 - number if self.complement else number

    def trials_in(self, row: Mapping[str, Any]) -> float:
        """Return of how many trials it is in a row; NaN where the row does not say."""
        counts = (float(str(row[name])) for name in (self.fewer, self.trials) if name and row.get(name) is not None)
        return next((count for count in counts if not isnan(count)), nan)

    @property
    def is_rate(self) -> bool:
        return self.unit == "percent"


def distribution(quantity: str, better: Better | None = None, short: str | None = None) -> tuple[Metric, ...]:
    """Return the metrics of a quantity that every image has (results/distributions.py)."""
    share = Metric(f"{quantity}_share", "percent", None, "n", binned=True)
    return mean(quantity, better, short), Metric(f"{quantity}_sd", "value", None, "n"), share


def mean(quantity: str, better: Better | None = None, short: str | None = None) -> Metric:
    """Return the metric of the mean of a quantity, `<quantity>_mean` with `<quantity>_sd` beside it."""
    return Metric(f"{quantity}_mean", "value", better, "n", spread=f"{quantity}_sd", short=short)


def averaged(name: str) -> Metric:
    """Return the metric of a mean over images of a quantity that is no rate and that some images may lack, with columns
    for its standard deviation and the number of images that have it."""
    return Metric(name, "value", None, "n", spread=f"{name}_sd", fewer=f"{name}_n")


TOP1, TOP5 = "mistakes_top1", "mistakes_top5"

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("error_top1", "percent", "low", "n", short="error", mistakes=TOP1),
        Metric("error_top5", "percent", "low", "n", label="top-5 error", mistakes=TOP5),
        Metric("accuracy_top1", "percent", "high", "n", short="accuracy", complement="error_top1", mistakes=TOP1),
        Metric("accuracy_top5", "percent", "high", "n", label="top-5 accuracy", complement="error_top5", mistakes=TOP5),
        Metric("transfer_rate_top1", "percent", "low", "transfer_n", short="transfer_rate"),
        Metric("transfer_rate_top5", "percent", "low", "transfer_n_top5", label="top-5 transfer rate"),
        Metric("clean_error_top1", "percent", "low", "n"),
        *distribution("gradient_l2"),
        Metric("gradient_zero_share", "percent", None, "n"),
        *distribution("loss"),
        Metric("training_loss", "value", None, "n"),
        Metric("training_gal", "value", None, "n", label="GAL in training"),
        Metric("training_clean_error", "percent", "low", "n"),
        Metric("training_adversarial_error", "percent", "low", "training_adversarial_n"),
        Metric("learning_rate", "value", None, "n"),
        averaged("final_loss"),
        averaged("restart_loss_sd"),
        Metric("loss_outlier_share", "percent", None, "n", shares=True),
        averaged("maxima_distance"),
        averaged("starts_distance"),
        Metric("ball_distance", "value", None, "n"),
        averaged("maxima_angle"),
        Metric("negative_gradient_share", "percent", None, "n", shares=True),
        averaged("gradient_cosine"),
        Metric("path_loss", "value", None, "n"),
        mean("path_loss"),
        *distribution("coherence", "low", short="coherence"),
        mean("gal", "low", short="gal"),
        mean("gradient_zero_components", short="zero_components"),
        *distribution("margin"),
        Metric("certain", "percent", None, "n", label="images whose label's probability rounds to 1"),
        Metric("rounded_signs", "percent", None, "n", label="signs of the gradient that round", shares=True),
        Metric("certain_rounded_signs", "percent", None, "certain_n", shares=True),
        Metric("gaas_all", "percent", "low", "n", label="images fooled along all directions"),
        Metric("gaas_share", "percent", "low", "n", label="directions that fool, mean over images", shares=True),
    )
}
ERROR_METRICS = (
    *(name for name, metric in METRICS.items() if metric.mistakes),
    *("clean_error_top1", "loss_mean", "loss_sd"),
)  # those of any row with an error, whichever measurement's
ERROR = METRICS["error_top1"]  # what the transfer matrix and its figures show


def find_metric(name: str, text: str) -> Metric:
    """Return the metric that is called `name`, in full or for short, in `text`. ValueError names the known ones."""
    short = {metric.short: metric for metric in METRICS.values() if metric.short}
    known = {**short, **METRICS}
    if name not in known:
        raise ValueError(f"{name} in {text!r} is no metric{did_you_mean(name, known)}: they are {listed(known)}")
    return known[name]
