"""The learning curve of each target as rows: training loss, gradient alignment loss, clean error, error under attack
and learning rate after each epoch."""

import csv
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from epsball.measurements.measurement import Further, Measurement, Row, Rows, Scope, Setup, Workload
from epsball.output.pages import Section
from epsball.results.metrics import METRICS
from epsball.training.fit import SCORED_IMAGES, mismatched_columns

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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingCurves(Measurement):
    """What each target's training.csv says: `training_loss(A, epoch=3)` in tables, claims and figures. The loss is the
    mean over the epoch's steps of what the trainer minimises; the clean error is of the first 1,000 test images, that
    under attack of the training images that the trainer watches. A model that was trained with other test images, or
    another watch, has no such column."""

    metrics: ClassVar[Collection[str]] = tuple(name for name in COLUMNS.values() if name in METRICS)

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return ()

    def further(self, metric: str, white_box: bool) -> Sequence[Further]:
        return [{"epoch": None, "step": None}]

    def workload(self, setup: Setup) -> Workload:
        return Workload(frozenset(name for name in setup.targets if find_rows(setup, name) is None))

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
    """Return the rows of one model, kept by an earlier run or read now."""
    found = find_rows(setup, model)
    if found is None:
        found = [] if setup.skips else read_rows(setup, model)
    return [setup.row(numbers, model, model, "clean", 0.0) for numbers in found]


def find_rows(setup: Setup, model: str) -> list[Row] | None:
    """Return the finished rows of one model. Rows that earlier versions kept, without the watch in their identity,
    count if they have an error under attack."""
    watch = setup.curves[model]["watch"]
    found = setup.find(measured(watch), model, model)
    if found is None and watch is not None:
        older = setup.find(measured(None), model, model) or []
        found = older if any("training_adversarial_error" in row for row in older) else None
    return found


def measured(watch: object, missing: Sequence[str] = ()) -> object:
    """Return what is measured, for the rows' identity: the curve of a training with this watch. Rows in which columns
    are `missing` that were asked for have another identity."""
    if watch is None and not missing:
        return "training"
    return {"training": {"watch": watch, "missing": missing}}


def read_rows(setup: Setup, model: str) -> list[Row]:
    """Read and keep the rows of one model, without the columns that were measured by another watch or on other test
    images."""
    setup.stop.check()
    key, asked = setup.keys[model], setup.curves[model]
    text, record = setup.store.curve(key) or ("", {})
    mismatched = mismatched_columns(record.get("curve", asked), asked)  # older models have no record of it
    lines = csv.DictReader(io.StringIO(text))
    scored = min(SCORED_IMAGES, len(setup.test))
    rows = [epoch_row({name: line[name] for name in line if name not in mismatched}, scored) for line in lines]
    wanted = ["training_clean_error", *(["training_adversarial_error"] if asked["watch"] is not None else [])]
    missing = [name for name in wanted if any(name not in row for row in rows)]
    if missing:
        folder = setup.store.path(key)
        what, why = " and ".join(missing), "it was trained with other test images or another watch"
        log.warning("%s lacks %s of some or all epochs: %s; delete %s to train it again", model, what, why, folder)
    return setup.keep(measured(asked["watch"], missing), model, model, rows)


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
