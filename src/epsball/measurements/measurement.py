"""The contract of measurements, what they work with, and the rows of clean images."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Generator, nn

from epsball.attacks import NamedAttack
from epsball.data.images import Split
from epsball.models.predictions import Mistakes, find_mistakes, rate
from epsball.output.pages import Section
from epsball.paper.expressions import Quantity
from epsball.runtime.device import derived_seed
from epsball.runtime.graphs import graphs
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store, fingerprint

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Rows = dict[str, list[Row]]


class Cell(NamedTuple):
    """Where a row with an error stands; eps in [0, 1]."""

    source: str
    target: str
    attack: str
    eps: float


@dataclass(frozen=True)
class Setup:
    """All that a measurement works with: one seed's trained models, attacks and test images, and finished rows."""

    dataset: str
    """its name, as rows carry it"""
    models: Mapping[str, nn.Module]
    """by name, in eval mode and frozen, on the device of `test`"""
    keys: Mapping[str, str]
    """the models' fingerprints"""
    sources: Sequence[str]
    """models that examples are crafted on"""
    targets: Sequence[str]
    """models that examples are shown to"""
    attacks: Sequence[NamedAttack]
    asked: Sequence[Quantity]
    """what the config's tables and claims ask about"""
    test: Split
    test_checksum: str
    batch_size: int
    """images per step"""
    tf32: bool
    """whether convolutions and matrix products may be rounded so"""
    cuda_graphs: bool
    seed: int
    store: Store
    """where finished rows are kept"""
    reuse: bool
    """whether they are taken from there"""
    stop: Stop
    clean: dict[str, Mistakes]
    """mistakes on these test images, clean, by the fingerprint of a model; filled as they are asked for"""

    def clean_mistakes(self, model: str) -> Mistakes:
        """Return a model's mistakes on the clean test images, found once."""
        key = self.keys[model]
        if key not in self.clean:
            self.clean[key] = find_mistakes(self.models[model], self.test, self.batch_size, self.stop)
        return self.clean[key]

    def generator(self, attack: NamedAttack, source: str) -> Generator:
        """Return random numbers that depend on seed, source and the attack's settings alone."""
        seed = derived_seed(self.seed, self.keys[source], fingerprint(attack.identity))
        return torch.Generator(self.test.device).manual_seed(seed)

    def graphs(self) -> AbstractContextManager[None]:
        """Capture attack loops inside the block, on CUDA."""
        return graphs(self.test.device, self.cuda_graphs)

    def find(self, what: object, source: str, target: str) -> Row | None:
        """Return the numbers that an earlier run kept, None when there are none or all are wanted anew."""
        return self.store.row(self.row_key(what, source, target)) if self.reuse else None

    def keep(self, what: object, source: str, target: str, numbers: Row) -> Row:
        """Keep a row's numbers for later runs, and return them."""
        self.store.keep_row(self.row_key(what, source, target), numbers)
        return numbers

    def row_key(self, what: object, source: str, target: str) -> str:
        """Return the fingerprint of everything that a row's numbers depend on."""
        return fingerprint(
            {
                "attack": what,
                "source": self.keys[source],
                "target": self.keys[target],
                "test": self.test_checksum,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "device": self.test.device.type,
                "tf32": self.tf32,
            }
        )

    def row(self, numbers: Row, source: str, target: str, attack: str, eps: float) -> Row:
        """Return a row of results without its measurement: its key before its numbers."""
        key = {"dataset": self.dataset, "seed": self.seed, "source": source, "target": target}
        return {**key, "attack": attack, "eps": eps, **numbers}


class Scope(Protocol):
    """All that a measurement is about, before anything is trained: a checked experiment, or a Setup."""

    @property
    def sources(self) -> Sequence[str]: ...

    @property
    def targets(self) -> Sequence[str]: ...

    @property
    def attacks(self) -> Sequence[NamedAttack]: ...

    @property
    def asked(self) -> Sequence[Quantity]: ...


class Measurement(Protocol):
    """Settings first, a Setup at call time; rows out, then pages for people."""

    @property
    def makes(self) -> tuple[str, ...]:
        """Names in its rows' attack column beside those of the attacks."""

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[str]) -> None:
        """Raise ValueError, beginning with the field, when it cannot be done on these models and attacks."""

    def clean_models(self, scope: Scope) -> Sequence[str]:
        """Name the models whose clean rows stand before its own."""

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        """Return the cells of which its rows will have an error, clean ones left out."""

    def measure(self, setup: Setup) -> Rows:
        """Return the rows of one seed by the file they go to: "results" becomes results.csv."""

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        """Draw and write into `folder` what its rows of all seeds show, from the rows alone; the report's sections."""

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        """Return its rows for a terminal."""


def clean_row(setup: Setup, model: str) -> Row:
    """Return the row of a model on clean images."""
    numbers = setup.find("clean", model, model)
    if numbers is None:
        numbers = setup.keep("clean", model, model, clean_rates(setup.clean_mistakes(model)))
    return setup.row(numbers, model, model, "clean", 0.0)


def clean_rates(clean: Mistakes) -> Row:
    """Return the rates of a model on clean images, as fractions."""
    return {
        "n": len(clean.top1),
        "error_top1": rate(clean.top1),
        "error_top5": rate(clean.top5),
        "clean_error_top1": rate(clean.top1),
        "max_perturbation": 0.0,
        "seconds": clean.seconds,
    }


def one_seed(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows of the first seed: single images are drawn once."""
    return frame[frame["seed"] == frame["seed"].iloc[0]] if len(frame) else frame
