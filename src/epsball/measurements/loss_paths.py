"""Losses along an attack from several starts, errors after so many steps, and maxima (Madry et al. 2017, 3.1 and 5)."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

import numpy as np

from epsball.attacks import NamedAttack
from epsball.attacks.gradient import GradientAttack
from epsball.build import did_you_mean, listed, require
from epsball.measurements.iterates import Followed, Plan, follow
from epsball.measurements.maxima import ball_distance, outer_outliers
from epsball.measurements.measurement import Cell, Further, Measurement, Row, Rows, Scope, Setup, Workload, error_rates
from epsball.models.predictions import rate
from epsball.output.pages import Section
from epsball.results.distributions import Bins, distribution_rows, mean_and_sd
from epsball.results.metrics import ERROR_METRICS, METRICS

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

KEYS = ["source", "target", "attack", "eps", "restarts", "worst_for"]
SPREAD = {
    "final_loss": "final loss",
    "restart_loss_sd": "its sd over starts",
    "loss_outlier_share": "extreme outliers, %",
    "maxima_distance": "L2 distance of maxima",
    "starts_distance": "of their starts",
    "ball_distance": "of points of the ball",
    "maxima_angle": "angle, degrees",
    "negative_gradient_share": "against the gradient, %",
    "gradient_cosine": "cosine with it",
}
"""metrics of a source's maxima, and what the report calls them"""


class Part(NamedTuple):
    """Rows that are kept together, and whose images they are about."""

    target: str
    what: dict[str, Any]
    """what is measured, for their identity"""
    columns: dict[str, Any] | None
    """what tells an error from the others of its cell; None: the part is the source's maxima"""


@dataclass(frozen=True)
class LossPaths(Measurement):
    """An attack from several starts on the first test images: errors after some numbers of steps, from one start and
    from the worst of all, the last iterate of each counting (MadryLab/mnist_challenge#6); how much the final losses of
    an image vary; where its maxima lie; and, for figures, single images' losses, step by step."""

    metrics: ClassVar[Collection[str]] = (*SPREAD, "loss_share", "path_loss", "path_loss_mean")

    attack: str
    """name of an attack; it is measured at all its eps"""
    sources: list[str] | None
    """models that are attacked; null: all sources"""
    images: int
    """how many of the test set, from its first"""
    restarts: int
    """starts of each image, in the place of the attack's own"""
    steps: list[int]
    """numbers of steps after which errors are counted, rising"""
    drawn: int
    """how many of the images, from the first, have rows of their own"""
    paths: bool
    """whether these have a row for each restart and step, and whether the mean path is there"""
    bins: Annotated[Bins, Bins] | None = None
    """of a histogram of the final losses of each drawn image; None for none"""

    def __post_init__(self) -> None:
        require(self.images >= 1, f"images should be at least 1, is {self.images}")
        require(self.restarts >= 2, f"restarts should be at least 2, is {self.restarts}: one start has no spread")
        rising = all(a < b for a, b in zip([0, *self.steps], self.steps, strict=False))
        require(bool(self.steps) and rising, f"steps should be numbers from 1 on, rising, is {self.steps}")
        require(0 <= self.drawn <= self.images, f"drawn should be in [0, images], is {self.drawn} of {self.images}")

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        names = list(dict.fromkeys(named.name for named in attacks))
        known = f"{self.attack!r}{did_you_mean(self.attack, names)}: the attacks are {listed(names)}"
        require(self.attack in names, f"attack names {known}")
        for named in attacks:
            if named.name == self.attack:
                check_attack(named, self.steps)
        for name in self.sources or ():
            require(name in sources, f"sources names {name!r}{did_you_mean(name, sources)}: they are {listed(sources)}")

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        """Return the cells eps by eps and source by source; each has several rows with an error."""
        return [
            Cell(source, target, named.name, named.attack.eps)
            for named, source in self.tasks(scope)
            for target in scope.targets
        ]

    def images_of(self, attack: str) -> int | None:
        return self.images

    def tasks(self, scope: Scope) -> list[tuple[NamedAttack, str]]:
        """Return the attack at each eps, with the number of restarts that is asked for, on each of its sources."""
        chosen = [source for source in scope.sources if self.sources is None or source in self.sources]
        found = []
        for named in scope.attacks:
            if named.name == self.attack and isinstance(named.attack, GradientAttack):
                found.append(NamedAttack(named.name, replace(named.attack, restarts=self.restarts)))
        return [(named, source) for named in found for source in chosen]

    def further(self, metric: str, white_box: bool) -> Sequence[Further]:
        """Return what tells its errors apart; of a source itself also the images drawn, and places on their paths."""
        errors: list[Further] = [
            {column: [value] for column, value in one.items()}
            for steps in self.steps
            for one in self.readings(steps, white_box)
        ]
        images: Further = {"image": range(self.drawn), "restarts": [self.restarts]}
        of_source: dict[str, Further] = {
            **dict.fromkeys(("loss_mean", "loss_sd", "loss_share"), images),
            "path_loss": {"image": range(self.drawn), "restart": range(self.restarts), "step": None},
            "path_loss_mean": {"step": None},
            **{name: {"restarts": [self.restarts]} for name in SPREAD},
        }
        own = [of_source[metric]] if white_box and metric in of_source else []
        return [*errors, *own] if metric in ERROR_METRICS else own

    def workload(self, setup: Setup) -> Workload:
        models, craftings, finished = set[str](), set[str](), set[str]()
        for named, source in self.tasks(setup):
            parts = self.parts(setup, named, source)
            missing = [part for part in parts if setup.find(part.what, source, part.target) is None]
            if missing:
                models |= {source, *(part.target for part in missing)}
                craftings |= {setup.identity(parts[-1].what, source, parts[-1].target)}
            there = [part for part in parts if part not in missing]
            finished |= {setup.identity(part.what, source, part.target) for part in there}
        return Workload(frozenset(models), frozenset(craftings), frozenset(finished))

    def measure(self, setup: Setup) -> Rows:
        return {"results": [row for task in self.tasks(setup) for row in self.task_rows(setup, *task)]}

    def parts(self, setup: Setup, named: NamedAttack, source: str) -> list[Part]:
        """Return all that is measured of the attack on a source: errors target by target, then its maxima. The last
        error of a cell is that of most steps and starts."""
        about = {"loss_paths": named.identity, "images": min(self.images, len(setup.test))}
        parts = []
        for target in setup.targets:
            for steps in self.steps:
                columns = self.readings(steps, white_box=target == source)
                parts += [Part(target, {**about, **one}, one) for one in columns]
        bins = None if self.bins is None else asdict(self.bins)
        maxima = {**about, "drawn": self.drawn, "paths": self.paths, "bins": bins, **setup.loss_identity(source)}
        return [*parts, Part(source, maxima, None)]

    def readings(self, steps: int, white_box: bool) -> list[dict[str, Any]]:
        """Return the columns of the errors after some steps: from one start, and from the worst of all for the source
        and for the target, if these are two."""
        one, worst = {"steps": steps, "restarts": 1}, {"steps": steps, "restarts": self.restarts}
        return [one, worst] if white_box else [one, {**worst, "worst_for": "source"}, {**worst, "worst_for": "target"}]

    def task_rows(self, setup: Setup, named: NamedAttack, source: str) -> list[Row]:
        """Return the rows of one attack on one source, crafted once for all targets that have unfinished ones."""
        parts = self.parts(setup, named, source)
        rows = [setup.find(part.what, source, part.target) for part in parts]
        missing = [part for part, found in zip(parts, rows, strict=True) if found is None]
        if missing and not setup.skips:
            followed = self.follow(setup, named, source, list(dict.fromkeys(part.target for part in missing)))
            for place, part in enumerate(parts):
                if rows[place] is None:
                    numbers = self.numbers(setup, followed, named, part)
                    rows[place] = setup.keep(part.what, source, part.target, numbers)
        pairs = [(part, row) for part, found in zip(parts, rows, strict=True) for row in found or ()]
        return [setup.row(row, source, part.target, named.name, named.attack.eps) for part, row in pairs]

    def follow(self, setup: Setup, named: NamedAttack, source: str, targets: Sequence[str]) -> Followed:
        """Attack the first images on a source, and show the iterates to it and to the targets."""
        assert isinstance(named.attack, GradientAttack)
        title = f"{named.name} eps {named.attack.eps:g} from {self.restarts} starts on {source}"
        plan = Plan(named.attack, self.steps, self.paths, title)
        models = {name: setup.models[name] for name in dict.fromkeys((source, *targets))}
        with setup.graphs():
            test = setup.batched(setup.test.first(self.images))
            found = follow(plan, models, source, test, setup.generator(named, source))
        log.info("%s: error of %s", title, f"{100 * rate(found.last.shown[source].top1.any(1)):.1f}%")
        return found

    def numbers(self, setup: Setup, followed: Followed, named: NamedAttack, part: Part) -> list[Row]:
        """Return the numbers of a part's rows."""
        if part.columns is None:
            return self.maxima_rows(followed, named.attack.eps, math.prod(setup.test.shape))
        wrong, largest = followed.reading(part.target, **part.columns)
        clean = setup.clean_mistakes(part.target).top1[: len(wrong.top1)]
        more = {"clean_error_top1": rate(clean), "max_perturbation": largest, "seconds": followed.seconds}
        return [{**part.columns, **error_rates(wrong), **more}]

    def maxima_rows(self, followed: Followed, eps: float, pixels: int) -> list[Row]:
        """Return a row of all images' maxima, then those of single images and of paths."""
        losses = followed.losses.numpy().astype("float64")
        n = {"n": len(losses)}
        outliers, deviation = outer_outliers(losses), losses.std(axis=1, ddof=1)
        found: Row = {**n, "restarts": self.restarts, **averaged("final_loss", losses.mean(axis=1))}
        found |= {**averaged("restart_loss_sd", deviation), "loss_outlier_share": float(outliers.mean())}
        for name in ("maxima_distance", "starts_distance", "maxima_angle", "gradient_cosine"):
            found |= averaged(name, followed.geometry[name].numpy())
        found["ball_distance"] = ball_distance(eps, pixels)
        found["negative_gradient_share"] = float(followed.geometry["negative_gradient_share"].numpy().mean())
        rows = [{**found, "seconds": followed.seconds}]
        for image in range(min(self.drawn, len(losses))):
            own = distribution_rows("loss", losses[image], self.bins)
            rows += [{"image": image, "restarts": self.restarts, **row} for row in own]
        return [*rows, *self.path_rows(followed)]

    def path_rows(self, followed: Followed) -> list[Row]:
        """Return the loss of every iterate of the drawn images, then the mean over all images and restarts."""
        if followed.paths is None:
            return []
        rows = [
            {"n": 1, "image": image, "restart": restart, "step": step, "path_loss": loss}
            for image, starts in enumerate(followed.paths[: self.drawn].tolist())
            for restart, path in enumerate(starts)
            for step, loss in enumerate(path)
        ]
        means = followed.paths.numpy().mean(axis=1, dtype="float64")  # (N, steps + 1)
        return [
            *rows,
            *({"n": len(at), "step": step, **mean_and_sd("path_loss", at)} for step, at in enumerate(means.T)),
        ]

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        rows, sections = frames["results"], []
        if len(errors := mean_errors(rows)):
            text = f"Of {self.attack}, per cent, on the first test images; of several starts the worst, per image."
            sections.append(Section("Error by steps and starts", text, errors))
        if len(maxima := mean_maxima(rows)):
            text = "After the last step: means over images, and over pairs of an image's starts."
            sections.append(Section("Maxima of several starts", text, maxima))
        return sections

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        maxima = mean_maxima(frames["results"]).to_dict(orient="records")
        names = ("final_loss", "restart_loss_sd", "maxima_distance")
        said = [", ".join(f"{SPREAD[name]} {row[SPREAD[name]]}" for name in names) for row in maxima]
        return "".join(
            f"{row['source']}, {self.attack} eps {row['eps']}: {text}\n" for row, text in zip(maxima, said, strict=True)
        )


def check_attack(named: NamedAttack, steps: Sequence[int]) -> None:
    """ValueError unless its iterates from several starts can be followed for so many steps."""
    attack = named.attack
    fits = isinstance(attack, GradientAttack) and attack.start != "none" and attack.keep == "last"
    require(fits, f"attack names {named.name!r}: it should be a gradient attack with a random start and keep: last")
    assert isinstance(attack, GradientAttack)
    most = attack.number_of_steps
    require(steps[-1] <= most, f"steps should be at most {most}, as {named.name} has, is {list(steps)}")


def averaged(metric: str, values: Any) -> Row:
    """Return a metric, the mean of (N,) values of images, with its standard deviation; NaN ones are left out, and the
    others counted where there are any."""
    known = values[~np.isnan(values)]
    found = mean_and_sd("", known)
    fewer = {str(METRICS[metric].fewer): len(known)} if len(known) < len(values) else {}
    return {metric: found["_mean"], str(METRICS[metric].spread): found["_sd"], **fewer}


def mean_errors(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the errors in per cent, means over the seeds: a line per source, target and starts, a column per number of
    steps."""
    own = rows[rows["measurement"] != "clean"].reindex(columns=[*KEYS, "steps", "error_top1"])
    own = own[own["error_top1"].notna()]
    if own.empty:
        return own
    own = own.assign(
        steps=own["steps"].astype(int).astype(str) + " steps",
        restarts=own["restarts"].astype(int),
        worst_for=own["worst_for"].astype(object).where(own["worst_for"].notna(), ""),
    )
    means = (100 * own.groupby([*KEYS, "steps"], sort=False)["error_top1"].mean()).unstack("steps")
    return means.round(1).astype(str).reset_index().rename(columns={"worst_for": "worst for", "restarts": "starts"})


def mean_maxima(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return what the rows say of each source's maxima, means over the seeds, as text."""
    own = rows[rows["measurement"] != "clean"].reindex(columns=["source", "eps", *SPREAD])
    own = own[own["final_loss"].notna()]
    means = own.groupby(["source", "eps"], sort=False).mean()
    percent = [name for name in SPREAD if METRICS[name].is_rate]
    means[percent] *= 100
    text: pd.DataFrame = means.map("{:.3g}".format).rename(columns=SPREAD)
    return text.reset_index()
