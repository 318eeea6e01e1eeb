"""Adversarial images of a file, shown to every target: the public challenges of Madry et al. 2017."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from torch import Tensor, nn

from epsball.attacks import NamedAttack
from epsball.build import bound, naming_field, require
from epsball.data.examples import Examples, read_examples
from epsball.data.images import Batched, Data, in_batches
from epsball.measurements.measurement import Cell, Measurement, Row, Rows, Scope, Setup, Workload, error_rates
from epsball.models.predictions import Mistakes, gathered, mistakes, rate
from epsball.output.console import console_matrix
from epsball.output.matrix import matrix_sections
from epsball.output.pages import Section
from epsball.runtime.device import seconds_at
from epsball.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

SOURCE = "file"  # in the rows' source column: the images were crafted on no model of the run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreExamples(Measurement):
    """Each target's error on the adversarial images of a file (MadryLab/mnist_challenge and cifar10_challenge,
    run_attack.py): `error(A | file, attack)` for attack.npy."""

    file: str | None
    """the .npy; None is refused when the measurement is checked"""
    eps: float
    """radius of the L-infinity ball that they should lie in, in [0, 1]"""
    pixel_max: Literal[1, 255] | None
    """what a white pixel is in the file; None: the challenges' own, 1 for grey images, 255 for colour"""
    examples: Examples | None = bound(None)
    """what the file holds"""

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps should be in [0, 1], is {self.eps}")

    @property
    def attack(self) -> str:
        """Return the file's name as rows and expressions have it: `_` for what no name may have."""
        name = re.sub(r"\W", "_", Path(self.file or "").stem)
        return name if name.isidentifier() else f"_{name}"

    @property
    def makes(self) -> tuple[str, ...]:
        return (self.attack,)

    @property
    def other_sources(self) -> tuple[str, ...]:
        return (SOURCE,)

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        require(bool(self.file), "file should name a .npy of adversarial images, as in measurement.file=attack.npy")
        clean = self.attack == "clean"
        require(not clean, f"file: {self.file} is called like the rows without an attack: call it something else")
        named = SOURCE in (*sources, *targets)
        require(not named, f"file: rows of a file have the source {SOURCE}: call the model {SOURCE} something else")

    def read(self, data: Data) -> Self:
        pixel_max = self.pixel_max or (1 if data.shape[0] == 1 else 255)
        with naming_field("file"):
            return replace(self, examples=read_examples(str(self.file), pixel_max, self.eps, data))

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        return [Cell(SOURCE, target, self.attack, self.eps) for target in scope.targets]

    def made_of(self, attack: str, eps: float, attacks: Sequence[NamedAttack]) -> list[object]:
        return [self.examples and self.examples.digest]

    def workload(self, setup: Setup) -> Workload:
        own, _ = self.joined(setup)
        return Workload(frozenset(name for name in setup.targets if own.find(self.what, SOURCE, name) is None))

    def measure(self, setup: Setup) -> Rows:
        own, examples = self.joined(setup)
        if examples.in_file > len(examples.x):
            log.info("%s has %d images: the first %d are scored", self.file, examples.in_file, len(examples.x))
        return {"results": [row for target in setup.targets for row in self.target_rows(own, examples, target)]}

    @property
    def what(self) -> object:
        """What is measured, for the rows' identity: eps, which rows carry, and the content as their source."""
        return {"examples within": self.eps}

    def joined(self, setup: Setup) -> tuple[Setup, Examples]:
        """Return the setup with the file's content as a source, and that content."""
        assert self.examples is not None, "prepare_experiment calls `read`"
        return replace(setup, keys={**setup.keys, SOURCE: self.examples.digest}), self.examples

    def target_rows(self, setup: Setup, examples: Examples, target: str) -> list[Row]:
        """Return the row of one target, measured now or kept by an earlier run."""

        def measure() -> list[Row]:
            title = f"{self.file} on {target}"
            found = score(setup.models[target], examples.x, setup.batched(), title)
            log.info("%s: error %.1f%%", title, 100 * rate(found.top1))
            clean = {"clean_error_top1": rate(setup.clean_mistakes(target).top1)}
            return [{**error_rates(found), **clean, "max_perturbation": examples.largest, "seconds": found.seconds}]

        found = setup.find_or_measure(self.what, SOURCE, target, measure)
        return [setup.row(numbers, SOURCE, target, self.attack, self.eps) for numbers in found]

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        return matrix_sections(frames["results"], folder)

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return console_matrix(frames["results"])


def score(model: nn.Module, x_adv: Tensor, test: Batched, title: str) -> Mistakes:
    """Find the model's mistakes on one adversarial image for each test image."""
    began = seconds_at(test.device)
    parts: list[Mistakes] = []
    with Progress(title, len(test), "images") as progress:
        for x, y in in_batches(test.size, x_adv, test.images.y):
            test.stop.check()
            parts.append(mistakes(model, x.to(test.device), y))
            progress.step(len(x))
    return gathered(parts, seconds_at(test.device) - began)
