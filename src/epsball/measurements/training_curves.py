"""The learning curve of each target as rows: training loss, gradient alignment loss, clean error, error under attack
and learning rate after each epoch."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from epsball.measurements.measurement import Further, Measurement, Row, Rows, Scope, Setup
from epsball.output.pages import Section
from epsball.results.metrics import METRICS
from epsball.training.fit import SCORED_IMAGES

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "loss": "training_loss",
    "gal": "training_gal",
    "clean_error": "training_clean_error",
    "adversarial_error": "training_adversarial_error",
    "adversarial_n": "training_adversarial_n",
    "lr": "learning_rate",
}
"""of training.csv, and what they are called in the rows; the gradient alignment loss is there where the trainer adds
it, the error under attack where it watches one"""


@dataclass(frozen=True)
class TrainingCurves(Measurement):
    """What each target's training.csv says: `training_loss(A, epoch=3)` in tables, claims and figures. The loss is the
    mean over the epoch's steps of what the trainer minimises; the clean error is of the first 1,000 test images, that
    under attack of the training images that the trainer watches."""

    metrics: ClassVar[Collection[str]] = tuple(name for name in COLUMNS.values() if name in METRICS)

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return ()

    def further(self, metric: str, white_box: bool) -> Sequence[Further]:
        return [{"epoch": None, "step": None}]

    def unfinished(self, setup: Setup) -> Collection[str]:
        return [name for name in setup.targets if setup.find("training", name, name) is None]

    def measure(self, setup: Setup) -> Rows:
        return {"results": [row for name in setup.targets for row in curve_rows(setup, name)]}

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        import pandas as pd

        last = last_epochs(frames["results"])
        if last.empty:
            return []
        shown = pd.DataFrame({name: last[name].map(partial(curve_text, str(name))) for name in last})
        return [Section("Training", "After the last epoch; rates in per cent.", shown.reset_index())]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        last = last_epochs(frames["results"])
        return "".join(f"{name}: training loss {row['training_loss']:.4f}\n" for name, row in last.iterrows())


def curve_text(name: str, value: float) -> str:
    """Write a number of a curve for people: a rate in per cent, an epoch or a number of images without decimals."""
    if isnan(value):
        return "-"
    if name in METRICS and METRICS[name].is_rate:
        return f"{value * 100:.1f}"
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"


def curve_rows(setup: Setup, model: str) -> list[Row]:
    """Return the rows of one model, read now or kept by an earlier run."""

    def read() -> list[Row]:
        setup.stop.check()
        text = setup.store.curve(setup.keys[model]) or ""
        scored = min(SCORED_IMAGES, len(setup.test))
        return [epoch_row(line, scored) for line in csv.DictReader(io.StringIO(text))]

    found = setup.find_or_measure("training", model, model, read)
    return [setup.row(numbers, model, model, "clean", 0.0) for numbers in found]


def epoch_row(line: Mapping[str, str], scored: int) -> Row:
    """Return a line of training.csv as the numbers of a row. A training that went on from an older state, or watched
    an attack from some epoch on, has empty places. `scored`: number of images of the clean error, where the file has no
    `clean_n` yet."""
    numbers = {name: float(line[column]) for column, name in COLUMNS.items() if line.get(column)}
    n = round(float(line.get("clean_n") or scored))
    return {"n": n, "epoch": float(line["epoch"]), "step": int(line["step"]), **numbers}


def last_epochs(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the numbers of each model after its last epoch, means over the seeds."""
    names = ["epoch", *(name for name in COLUMNS.values() if name in rows)]
    own = rows.reindex(columns=["target", "seed", *dict.fromkeys([*names, "training_loss"])]).dropna(
        subset=["training_loss"]
    )
    last = own.sort_values("epoch", kind="stable").groupby(["target", "seed"], sort=False).last()
    return last.groupby("target", sort=False).mean()
