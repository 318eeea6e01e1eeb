"""What an experiment measures: settings first, a lab of trained models at call time; rows out, then pages for people.

A task measures each seed by itself: `measure(lab)` gives named lists of rows, of which "results" becomes results.csv.
`present` draws what all seeds' rows show. Nothing in here knows how models come about or where files are kept.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Generator, Tensor, nn

from epsball import evaluate, worst_case
from epsball.attacks import ATTACKS, Attack
from epsball.build import ConfigError, require
from epsball.data import Split
from epsball.evaluate import Mistakes
from epsball.progress import Stop

if TYPE_CHECKING:
    import pandas as pd

    from epsball.report import Section

Row = dict[str, Any]
Rows = dict[str, list[Row]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Craft:
    """One attack at one eps, under the name that its rows carry."""

    name: str
    attack: Attack

    @property
    def identity(self) -> dict[str, Any]:
        """What its examples depend on: its settings, and the kind of attack as ATTACKS names it. Not its own name."""
        kind = next(kind for kind, attack in ATTACKS.items() if attack is type(self.attack))
        return {"name": kind, **asdict(self.attack)}  # type: ignore[call-overload]


class Lab(Protocol):
    """What a task works with: trained models in eval mode, test images on the same device, attacks, and the memory of
    earlier runs."""

    models: Mapping[str, nn.Module]
    sources: list[str]
    targets: list[str]
    crafts: list[Craft]
    test: Split
    batch_size: int
    stop: Stop

    def clean(self, model: str) -> Mistakes:
        """The model's mistakes on the clean test images, found once."""

    def asked(self, craft: Craft, source: str, target: str) -> bool:
        """Whether a table or a claim of the config is about this cell."""

    def generator(self, craft: Craft, source: str) -> Generator:
        """Random numbers that depend on attack and source alone."""

    def graphs(self) -> AbstractContextManager[None]:
        """Where attack loops may be recorded on CUDA."""

    def find(self, what: object, source: str, target: str) -> Row | None:
        """A row of numbers that an earlier run kept, None when there is none or all are wanted anew."""

    def keep(self, what: object, source: str, target: str, row: Row) -> Row:
        """`row`, kept for later runs."""

    def named(self, row: Row, source: str, target: str, attack: str, eps: float) -> Row:
        """A row of results: its key before its numbers."""


class Task(Protocol):
    @property
    def makes(self) -> tuple[str, ...]:
        """What stands in its rows' attack column beside the names of the attacks."""

    def check(self, sources: list[str], targets: list[str], attacks: list[str]) -> None:
        """ConfigError when the task cannot be done on these models and attacks."""

    def measure(self, lab: Lab) -> Rows:
        """The rows of one seed, by the name of the file they go to; "results" among them."""

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> "list[Section]":
        """Draw and write what the rows of all seeds show; the sections of the report."""

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        """The rows for a terminal."""


class Matrix:
    """What tasks share whose rows are errors of targets: any models and attacks will do, and the rows are shown as a
    matrix."""

    def check(self, sources: list[str], targets: list[str], attacks: list[str]) -> None:
        return None

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> "list[Section]":
        from epsball import figures, tables
        from epsball.report import Section

        rows, heat, curves = frames["results"], folder / "transfer_matrix.png", folder / "error_by_eps.png"
        matrix = tables.transfer_matrix(rows)
        tables.write_csv(matrix.reset_index(), folder / "transfer_matrix.csv")
        figures.transfer_heatmap(rows, heat)
        rule = "95 % intervals; bold: the lowest error of a line, and those whose interval overlaps its interval."
        sections = [
            Section("Error, per cent", "Source = target is white-box.", matrix),
            Section("Error with its interval, per cent", rule, tables.best_in_bold(rows)),
            Section("Transfer matrix", image=heat),
        ]
        return [*sections, Section("Error by eps", image=curves)] if figures.error_by_eps(rows, curves) else sections

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        from epsball import tables

        return tables.console(frames["results"])


@dataclass(frozen=True)
class TransferMatrix(Matrix):
    """Every source's examples shown to every target: error and transfer rates (Tramèr et al. 2017, Table 1).

    cells: all of them, or only those that the config's tables and claims ask about. gradient_norms: whether each
    target's clean row also has mean and standard deviation of the L2 norm of its input
    gradient, and the share of images whose gradient is zero (Tramèr et al. 2017, Table 7).
    """

    cells: Literal["all", "asked"]
    gradient_norms: bool

    @property
    def makes(self) -> tuple[str, ...]:
        return ("clean",)

    def measure(self, lab: Lab) -> Rows:
        """Clean rows first, then attack by attack and source by source."""
        rows = [self.clean_row(lab, target) for target in lab.targets]
        for craft in lab.crafts:
            for source in lab.sources:
                wanted = [t for t in lab.targets if self.cells == "all" or lab.asked(craft, source, t)]
                rows += crafted(lab, craft, source, wanted)
        return {"results": rows}

    def clean_row(self, lab: Lab, target: str) -> Row:
        row = clean_row(lab, target)
        if not self.gradient_norms or not getattr(lab.models[target], "differentiable", True):
            return row
        norms = lab.find("gradients", target, target)
        if norms is None:
            found = evaluate.gradient_norms(lab.models[target], lab.test, lab.batch_size, lab.stop)
            norms = lab.keep("gradients", target, target, evaluate.gradient_row(found))
        return row | norms


@dataclass(frozen=True)
class WorstCase(Matrix):
    """Each source's error under the worst of all attacks of an eps on itself, per image; an image that is fooled is
    shown to no further attack (Madry et al. 2017, section 5; Carlini's reviews: per-example minimum, not averages)."""

    @property
    def makes(self) -> tuple[str, ...]:
        return ("clean", "worst_case")

    def measure(self, lab: Lab) -> Rows:
        """Each source's clean row, and its worst case at each eps."""
        rows = []
        for source in lab.sources:
            rows.append(clean_row(lab, source))
            for eps in sorted({craft.attack.eps for craft in lab.crafts}):
                crafts = {craft.name: craft for craft in lab.crafts if craft.attack.eps == eps}
                identity = {"worst": [craft.identity for craft in crafts.values()]}
                row = lab.find(identity, source, source)
                if row is None:
                    generators = {name: lab.generator(craft, source) for name, craft in crafts.items()}
                    attacks = {name: craft.attack for name, craft in crafts.items()}
                    title = f"worst of {len(attacks)} at eps {eps:g} on {source}"
                    with lab.graphs():
                        fooled, seconds = worst_case.find_fooled(
                            lab.models[source], attacks, lab.test, lab.batch_size, generators, lab.stop, title
                        )
                    found = worst_case.worst_case_row(lab.clean(source), fooled, seconds)
                    row = lab.keep(identity, source, source, found)
                rows.append(lab.named(row, source, source, "worst_case", eps))
        return {"results": rows}


@dataclass(frozen=True)
class GradientPictures:
    """Originals, signed gradients and perturbed images (Tramèr et al. 2017, Figure 1).

    images: how many of each class, the first of the test set. Each attack's examples are drawn for each source.
    """

    images: int

    def __post_init__(self) -> None:
        require(self.images >= 1, f"images should be at least 1, is {self.images}")

    @property
    def makes(self) -> tuple[str, ...]:
        return ("clean",)

    def check(self, sources: list[str], targets: list[str], attacks: list[str]) -> None:
        require_config(bool(attacks), "task.name gradient_pictures needs an attack: suite=fgsm")

    def measure(self, lab: Lab) -> Rows:
        x, y, index = first_of_each_class(lab.test, self.images)
        found = []
        for craft in lab.crafts:
            for source in lab.sources:
                drawn = evaluate.pictures(lab.models[source], craft.attack, x, y, lab.generator(craft, source))
                key = {"model": source, "attack": craft.name, "eps": craft.attack.eps}
                places = zip(index.tolist(), y.tolist(), drawn, strict=True)
                found += [{**key, "image": i, "label": label, **picture} for i, label, picture in places]
        return {"results": [clean_row(lab, source) for source in lab.sources], "pictures": found}

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> "list[Section]":
        from epsball import figures
        from epsball.report import Section

        pictures = frames["pictures"]
        sections = []
        for (attack, eps), shown in one_seed(pictures).groupby(["attack", "eps"], sort=False):
            image = folder / f"gradients_{attack}_{eps:g}.png"
            figures.gradient_pictures(shown, image)
            sections.append(Section(f"Original, signed gradient, {attack} at eps {eps:g}", image=image))
        return sections

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return f"{len(frames['pictures'])} pictures\n"


@dataclass(frozen=True)
class LossSurface:
    """The loss of `model` on x + e1 sign(g1) + e2 sign(g2), g1 its own gradient and g2 that of `other` (Tramèr et al.
    2017, Figures 2 and 3), around images that it gets right and whose example by the one attack on `other` fools it.

    extent: the largest e1 and e2. zoom: the same near the image. grid: values of each. points: how many images are
    drawn. averaged: over how many the mean is taken, on which claims rest. clip: whether x* is clipped to [0, 1]; the
    formula of Figure 2 does not say so, section 2.2 clips all attacks.
    """

    model: str
    other: str
    extent: float
    zoom: float
    grid: int
    points: int
    averaged: int
    clip: bool

    def __post_init__(self) -> None:
        require(0 < self.zoom < self.extent <= 1, f"zoom should be in (0, extent), is {self.zoom} of {self.extent}")
        require(self.grid >= 2, f"grid should be at least 2, is {self.grid}")
        require(1 <= self.points <= self.averaged, f"points should be in [1, averaged], is {self.points}")

    @property
    def makes(self) -> tuple[str, ...]:
        return ("clean", "surface", "surface_zoom")

    def check(self, sources: list[str], targets: list[str], attacks: list[str]) -> None:
        for field, name in (("model", self.model), ("other", self.other)):
            require_config(name in sources, f"task.{field} names {name!r}: the sources are {', '.join(sources)}")
        require_config(len(attacks) == 1, f"task.name loss_surface needs one attack, has {len(attacks)}: suite=fgsm")

    def measure(self, lab: Lab) -> Rows:
        model, other, craft = lab.models[self.model], lab.models[self.other], lab.crafts[0]
        index = evaluate.transferring(
            other,
            model,
            craft.attack,
            lab.test,
            lab.batch_size,
            lab.generator(craft, self.other),
            lab.stop,
            self.averaged,
        )
        if len(index) == 0:
            log.warning(
                "no example of %s crafted on %s fools %s: there is no surface", craft.name, self.other, self.model
            )
        x, y = lab.test.take(index)
        results = [clean_row(lab, name) for name in dict.fromkeys((self.model, self.other))]
        surface: list[Row] = []
        for window, size in (("whole", self.extent), ("zoom", self.zoom)):
            steps = torch.linspace(0, size, self.grid)
            losses = evaluate.surface(model, (model, other), x, y, steps, self.clip, lab.batch_size, lab.stop)
            name = {"whole": "surface", "zoom": "surface_zoom"}[window]
            results += [self.mean_row(lab, name, losses, steps, i, j) for i, j in grid(self.grid)]
            surface += self.drawn(window, losses, steps, index.tolist(), y.tolist())
        return {"results": results, "surface": surface}

    def mean_row(self, lab: Lab, name: str, losses: Tensor, steps: Tensor, i: int, j: int) -> Row:
        """The mean loss over all chosen images at one place of the grid."""
        at, e1, e2 = losses[:, i, j], round(float(steps[i]), 6), round(float(steps[j]), 6)
        mean, sd = float(at.mean()), float(at.std()) if len(at) > 1 else nan
        row = {"n": len(at), "e1": e1, "e2": e2, "loss_mean": mean, "loss_sd": sd}
        return lab.named(row, self.other, self.model, name, max(e1, e2))

    def drawn(self, window: str, losses: Tensor, steps: Tensor, index: list[int], labels: list[int]) -> list[Row]:
        """The grid of each image that is drawn, and of the mean."""
        named = {f"image {i} (a {label})": losses[k] for k, (i, label) in enumerate(zip(index, labels, strict=True))}
        chosen = dict(list(named.items())[: self.points])
        if len(index):
            chosen[f"mean of {len(index)}"] = losses.mean(0)
        return [
            {
                "point": point,
                "window": window,
                "e1": float(steps[i]),
                "e2": float(steps[j]),
                "loss": float(values[i, j]),
            }
            for point, values in chosen.items()
            for i, j in grid(self.grid)
        ]

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> "list[Section]":
        from epsball import figures, tables
        from epsball.report import Section

        surface = frames["surface"]
        if surface.empty:
            return [Section("Loss surface", f"No example crafted on {self.other} fools {self.model}.")]
        tables.write_csv(surface, folder / "surface.csv")
        image = folder / "loss_surface.png"
        figures.loss_surfaces(one_seed(surface), image, self.model, self.other)
        text = f"Loss of {self.model} on x + e1 sign(gradient of {self.model}) + e2 sign(gradient of {self.other})."
        return [Section("Loss surface", text, image=image)]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return f"{frames['surface']['point'].nunique() if len(frames['surface']) else 0} loss surfaces\n"


TASKS: Mapping[str, Callable[..., Task]] = {
    "transfer_matrix": TransferMatrix,
    "worst_case": WorstCase,
    "gradient_pictures": GradientPictures,
    "loss_surface": LossSurface,
}


def clean_row(lab: Lab, target: str) -> Row:
    """The row of a model on clean images."""
    row = lab.find("clean", target, target) or lab.keep("clean", target, target, evaluate.clean_row(lab.clean(target)))
    return lab.named(row, target, target, "clean", 0.0)


def crafted(lab: Lab, craft: Craft, source: str, targets: list[str]) -> Iterator[Row]:
    """The rows of one attack on one source: crafted once, and only for the targets whose row is not finished."""
    eps = craft.attack.eps
    rows = {target: lab.find(craft.identity, source, target) for target in targets}
    missing = {target: lab.models[target] for target in targets if rows[target] is None}
    if missing:
        title, generator = f"{craft.name} eps {eps:g} on {source}", lab.generator(craft, source)
        with lab.graphs():
            own, mistakes, largest = evaluate.transfer(
                lab.models[source], craft.attack, missing, lab.test, lab.batch_size, generator, lab.stop, title
            )
        for target, found in mistakes.items():
            row = evaluate.transfer_row(lab.clean(source), own, lab.clean(target), found)
            rows[target] = lab.keep(craft.identity, source, target, row | {"max_perturbation": largest})
        errors = ", ".join(f"{target} {100 * evaluate.rate(m.top1):.1f}%" for target, m in mistakes.items())
        log.info("%s: error of %s", title, errors)
    for target in targets:
        yield lab.named(rows[target] or {}, source, target, craft.name, eps)


def require_config(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def first_of_each_class(test: Split, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `number` test images of each class, class by class: images, labels, places."""
    places = [(test.y == label).nonzero().flatten()[:number] for label in torch.unique(test.y)]
    index = torch.cat(places)
    return *test.take(index), index


def grid(size: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(size) for j in range(size))


def one_seed(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of the first seed: single images are drawn once."""
    return frame[frame["seed"] == frame["seed"].iloc[0]] if len(frame) else frame
