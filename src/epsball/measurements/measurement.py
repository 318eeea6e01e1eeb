"""The contract of measurements, what they work with, and the rows of clean images."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Generator, nn

from epsball.attacks import NamedAttack
from epsball.data.images import Batched, Data, Images
from epsball.models.predictions import Mistakes, find_mistakes, rate
from epsball.output.pages import Section
from epsball.paper.expressions import Quantity
from epsball.results.distributions import mean_and_sd
from epsball.results.given import GivenRows, lacks_mistakes, with_mistakes
from epsball.results.metrics import TOP1, TOP5
from epsball.results.paired import packed_bits
from epsball.runtime.device import derived_seed
from epsball.runtime.graphs import graphs
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store, fingerprint

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Rows = dict[str, list[Row]]
Further = Mapping[str, Collection[float | str] | None]
"""values of further columns (results/rows.py), None where they are known only when measured"""


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
    """by name, in eval mode and frozen, on the device of `test`; those alone that unfinished rows need"""
    keys: Mapping[str, str]
    """fingerprints of all models"""
    curves: Mapping[str, Mapping[str, Any]]
    """what the training.csv of each model should be of: the watch, None for nothing, and the test images' checksum"""
    grid_values: Mapping[str, Mapping[str, float | str]]
    """what stands in further columns of the rows of a grid's models"""
    sources: Sequence[str]
    """models that examples are crafted on"""
    targets: Sequence[str]
    """models that examples are shown to"""
    differentiable: Collection[str]
    """models that gradients lead through"""
    ensembles: Collection[str]
    """models of several members"""
    attacks: Sequence[NamedAttack]
    asked: Sequence[Quantity]
    """what the config's tables, claims and figures ask about"""
    test: Images
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
    given: GivenRows
    """finished rows that the user gave; they come before those of the store"""
    skips: bool
    """whether unfinished rows are left out, and nothing is measured"""
    stop: Stop
    clean: dict[str, Mistakes]
    """mistakes on these test images, clean, by the fingerprint of a model; filled as they are asked for"""

    def batched(self, images: Images | None = None) -> Batched:
        """Return test images as measurements go through them; None: all."""
        return Batched(self.test if images is None else images, self.batch_size, self.stop)

    def clean_mistakes(self, model: str) -> Mistakes:
        """Return a model's mistakes on the clean test images, found once."""
        key = self.keys[model]
        if key not in self.clean:
            self.clean[key] = find_mistakes(self.models[model], self.batched())
        return self.clean[key]

    def generator(self, attack: NamedAttack, source: str) -> Generator:
        """Return random numbers that depend on seed, source and the attack's settings alone."""
        seed = derived_seed(self.seed, self.keys[source], fingerprint(attack.identity))
        return torch.Generator(self.test.device).manual_seed(seed)

    def graphs(self) -> AbstractContextManager[None]:
        """Capture attack loops inside the block, on CUDA."""
        return graphs(self.test.device, self.cuda_graphs)

    def identity(self, what: object, source: str, target: str) -> str:
        """Return the fingerprint of everything that says which numbers these are: models, images, attack, seed.

        Device and batch size are left out: they change last bits and the draws of a random start, not what is measured.
        So a row counts for any machine.
        """
        return fingerprint(
            {
                "measured": what,
                "source": self.keys[source],
                "target": self.keys[target],
                "test": self.test_checksum,
                "seed": self.seed,
                "tf32": self.tf32,
            }
        )

    def loss_identity(self, *models: str) -> dict[str, str]:
        """Return what rows about input gradients of these models add to their identity: of an ensemble, which loss is
        meant. Earlier rows are about the loss of its common prediction, and do not count."""
        return {"loss": "mean of members"} if any(model in self.ensembles for model in models) else {}

    def find(self, what: object, source: str, target: str) -> list[Row] | None:
        """Return the numbers of the rows that were given, or kept by an earlier run; None when there are none."""
        identity = self.identity(what, source, target)
        found = self.given.find(identity)
        if self.reuse and found is None:
            found = self.store.rows(identity)
        elif self.reuse and found and lacks_mistakes(found):
            found = with_mistakes(found, self.store.rows(identity) or [])
        return found and [{**row, "identity": identity} for row in found]

    def keep(self, what: object, source: str, target: str, rows: list[Row]) -> list[Row]:
        """Keep the numbers of rows, measured together, for later runs; return them as `find` does."""
        identity = self.identity(what, source, target)
        self.store.keep_rows(identity, rows)
        return [{**row, "identity": identity} for row in rows]

    def find_or_measure(self, what: object, source: str, target: str, measure: Callable[[], list[Row]]) -> list[Row]:
        """Return finished rows, or measure and keep them; with `skips` nothing is measured."""
        found = self.find(what, source, target)
        if found is None and not self.skips:
            found = self.keep(what, source, target, measure())
        return found or []

    def row(self, numbers: Row, source: str, target: str, attack: str, eps: float) -> Row:
        """Return a row of results without its measurement: its key before its numbers."""
        key = {"dataset": self.dataset, "seed": self.seed, "source": source, "target": target}
        key |= {"attack": attack, "eps": eps}
        grid = grid_columns(self, source, target)
        models = {"source_model": self.keys[source], "target_model": self.keys[target]}
        return {**key, **{name: value for name, value in numbers.items() if name not in key}, **grid, **models}


class Workload(NamedTuple):
    """What is to be done for the rows that `setup.find` does not have, and which of those under attack it has."""

    models: frozenset[str] = frozenset()
    """names of those that are needed"""
    craftings: frozenset[str] = frozenset()
    """an attack on a source at an eps each, by an identity that several measurements may share"""
    finished: frozenset[str] = frozenset()
    """the same of rows that are there"""

    def joined(self, other: "Workload") -> "Workload":
        return Workload(*(own | others for own, others in zip(self, other, strict=True)))


class Scope(Protocol):
    """All that a measurement is about, before anything is trained: a checked experiment, or a Setup."""

    @property
    def dataset(self) -> str: ...

    @property
    def sources(self) -> Sequence[str]: ...

    @property
    def targets(self) -> Sequence[str]: ...

    @property
    def attacks(self) -> Sequence[NamedAttack]: ...

    @property
    def asked(self) -> Sequence[Quantity]: ...

    @property
    def grid_values(self) -> Mapping[str, Mapping[str, float | str]]: ...


def grid_columns(scope: Scope, source: str, target: str) -> Mapping[str, float | str]:
    """Return what a row has of a grid: of the target, or of the source where the target is of none."""
    return scope.grid_values.get(target) or scope.grid_values.get(source) or {}


class Measurement(Protocol):
    """Settings first, a Setup at call time; rows out, then pages for people. Methods with a body here are defaults."""

    metrics: ClassVar[Collection[str]] = ()
    """names of metrics (results/metrics.py) that its rows may have, in addition to those of every row with an error"""

    @property
    def makes(self) -> tuple[str, ...]:
        """Names in its rows' attack column that are of no attack of the config, other than clean."""
        return ()

    @property
    def asked_alone(self) -> bool:
        """Whether it has those cells alone that the config's tables, claims and figures ask about."""
        return False

    @property
    def other_sources(self) -> tuple[str, ...]:
        """Names in its rows' source column that are of no model."""
        return ()

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        """Raise ValueError, beginning with the field, when it cannot be done on these models and attacks."""
        return

    def check_members(self, members: Mapping[str, int]) -> None:
        """Raise ValueError, beginning with the field, when it cannot be done on ensembles of so many members: of each
        target that has gradients; a single model has 1."""
        return

    def read(self, data: Data) -> Self:
        """Return the measurement with the files that it names, read once and checked against the experiment's images.
        Raise ValueError, beginning with the field, when they do not fit."""
        return self

    def clean_models(self, scope: Scope) -> Sequence[str]:
        """Name the models whose clean rows stand before its own."""
        return scope.targets

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        """Return the cells of which its rows will have an error, clean ones left out."""
        return ()

    def images_of(self, attack: str) -> int | None:
        """Return how many of the test images, from the first, the errors of an attack are of; None for all."""
        return None

    def made_of(self, attack: str, eps: float, attacks: Sequence[NamedAttack]) -> list[object]:
        """Return the identities of what made the examples that errors under `attack` at `eps` are of."""
        return [named.identity for named in attacks if (named.name, named.attack.eps) == (attack, eps)]

    def further(self, metric: str, white_box: bool) -> Sequence[Further]:
        """Return in which further columns (results/rows.py) rows of one cell and metric differ, all but those of a
        histogram's bins: one for each set of columns that rows have; there is a row for each combination of values.
        White-box: source and target are one model."""
        return [{}]

    @abstractmethod
    def workload(self, setup: Setup) -> Workload:
        """Return what is to be done for the rows that `setup.find` does not have."""

    @abstractmethod
    def measure(self, setup: Setup) -> Rows:
        """Return the rows of one seed by the file they go to: "results" becomes results.csv. With `setup.skips` those
        alone that are finished. A row (`Setup.row`) has plain numbers, and `n`, of how many images they are."""

    @abstractmethod
    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        """Draw and write into `folder` what its rows of all seeds show, from the rows alone; the report's sections.

        Beside its own rows the "results" have clean ones, whose `measurement` is clean. With `missing=skip` there may
        be no row of its own, nor its columns.
        """

    @abstractmethod
    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        """Return its rows for a terminal, as `present` is given them."""


def clean_rows(setup: Setup, models: Sequence[str]) -> list[Row]:
    """Return the rows of models on clean images."""
    rows = []
    for model in models:
        found = setup.find_or_measure("clean", model, model, lambda: [clean_rates(setup.clean_mistakes(model))])  # noqa: B023
        rows += [setup.row(numbers, model, model, "clean", 0.0) for numbers in found]
    return rows


def clean_rates(clean: Mistakes) -> Row:
    """Return the rates of a model on clean images, as fractions."""
    rates = {"clean_error_top1": rate(clean.top1), "max_perturbation": 0.0, "seconds": clean.seconds}
    return {**error_rates(clean), **rates}


def error_rates(wrong: Mistakes) -> Row:
    """Return what every row with an error has: errors as fractions, losses, and which images were mistaken."""
    errors = {"n": len(wrong.top1), "error_top1": rate(wrong.top1), "error_top5": rate(wrong.top5)}
    kept = {TOP1: packed_bits(wrong.top1.numpy(force=True))}
    if wrong.top5 is not None:
        kept[TOP5] = packed_bits(wrong.top5.numpy(force=True))
    return {**errors, **mean_and_sd("loss", wrong.losses.numpy(force=True)), **kept}


def one_seed(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows of the first seed: single images are drawn once."""
    return frame[frame["seed"] == frame["seed"].iloc[0]] if len(frame) else frame
