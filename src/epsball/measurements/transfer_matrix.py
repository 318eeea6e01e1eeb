"""The transfer matrix: craft on a source once, show the examples to every target."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor, nn

from epsball.attacks import NamedAttack
from epsball.attacks.attack import Attack, craft
from epsball.build import did_you_mean, listed, require
from epsball.data.examples import challenge_bytes
from epsball.data.images import Batched, Data
from epsball.data.streamed import StreamedSplit
from epsball.measurements.measurement import (
    Cell,
    Measurement,
    Row,
    Rows,
    Scope,
    Setup,
    Workload,
    error_rates,
    grid_columns,
)
from epsball.measurements.targets import check_images
from epsball.measurements.violations import Reach
from epsball.models.predictions import Mistakes, gathered, mistakes, of_all, rate
from epsball.output.console import console_matrix
from epsball.output.matrix import matrix_sections
from epsball.output.pages import Section
from epsball.paper.expressions import Quantity
from epsball.results.metrics import ERROR_METRICS
from epsball.runtime.device import derived_seed, seconds_at
from epsball.runtime.distributed import gather, in_order, rank
from epsball.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TransferMatrix(Measurement):
    """Every source's examples shown to every target: error and transfer rates (Tramèr et al. 2017, Table 1)."""

    metrics: ClassVar[Collection[str]] = ("transfer_rate_top1", "transfer_rate_top5")

    cells: Literal["all", "asked"]
    """all of them, or only those that the config's tables, claims and figures ask about"""
    export: bool = False
    """whether the examples of what is measured are written, in the format of Madry's challenges"""
    images: int | dict[str, int] | None = None
    """of how many test images, from the first, every attack has examples, or some by name; null, and others: all"""

    def __post_init__(self) -> None:
        for attack, number in self.images_by_name.items():
            require(number >= 1, f"images.{attack} should be at least 1, is {number}")
        check_images(self.images_of_others)

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        names = {named.name for named in attacks}
        for attack in self.images_by_name:
            known = f"{did_you_mean(attack, names)}: they are {listed(names)}"
            require(attack in names, f"images.{attack} is none of the attacks{known}")

    def read(self, data: Data) -> Self:
        fits = not (self.export and isinstance(data.test, StreamedSplit))
        require(fits, "export should be false: a streamed data set's examples are not kept in memory to be written")
        return self

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        """Return the cells attack by attack and source by source."""
        pairs = [(named, source) for named in scope.attacks for source in scope.sources]
        every = [
            Cell(source, target, named.name, named.attack.eps) for named, source in pairs for target in scope.targets
        ]
        measured = {*ERROR_METRICS, *self.metrics}
        asked = [quantity.without("measurement") for quantity in scope.asked if quantity.metric in measured]
        return [cell for cell in every if not self.asked_alone or is_asked(asked, scope, cell)]

    @property
    def asked_alone(self) -> bool:
        return self.cells == "asked"

    def images_of(self, attack: str) -> int | None:
        return self.images_by_name.get(attack, self.images_of_others)

    @property
    def images_by_name(self) -> dict[str, int]:
        return self.images if isinstance(self.images, dict) else {}

    @property
    def images_of_others(self) -> int | None:
        return None if isinstance(self.images, dict) else self.images

    def workload(self, setup: Setup) -> Workload:
        models, craftings, finished = set[str](), set[str](), set[str]()
        for task in self.tasks(setup):
            missing = task.missing(setup)
            if missing or task.to_export(setup):
                models |= {task.source, *missing}
                craftings |= {task.examples_key(setup)[1]}
            there = [target for target in task.targets if target not in missing]
            finished |= {setup.identity(task.identity(setup), task.source, target) for target in there}
        return Workload(frozenset(models), frozenset(craftings), frozenset(finished))

    def measure(self, setup: Setup) -> Rows:
        return {"results": [row for task in self.tasks(setup) for row in transfer_rows(setup, task)]}

    def tasks(self, setup: Setup) -> Iterator["Task"]:
        """Yield each attack with a source and the targets that its examples are shown to."""
        targets: dict[tuple[str, str, float], list[str]] = {}
        for source, target, attack, eps in self.error_cells(setup):
            targets.setdefault((source, attack, eps), []).append(target)
        for named in setup.attacks:
            for source in setup.sources:
                if own := targets.get((source, named.name, named.attack.eps)):
                    test = setup.batched(setup.test.first(self.images_of(named.name)))
                    yield Task(named, source, own, test, self.export)

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        return matrix_sections(frames["results"], folder)

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return console_matrix(frames["results"])


def is_asked(asked: Sequence[Quantity], scope: Scope, cell: Cell) -> bool:
    """Whether one of the quantities that are asked about is about this cell."""
    row = {"dataset": scope.dataset, **cell._asdict(), **grid_columns(scope, cell.source, cell.target)}
    return any(quantity.is_about(row) for quantity in asked)


@dataclass(frozen=True)
class Task:
    """Examples of one attack on one source, and whom they are shown to."""

    named: NamedAttack
    source: str
    targets: Sequence[str]
    test: Batched
    """the images they are crafted of"""
    export: bool
    """whether they are written"""

    def identity(self, setup: Setup) -> dict[str, Any]:
        """Return all that the examples depend on but for source, test set and seed."""
        part = {} if len(self.test) == len(setup.test) else {"images": len(self.test)}
        return self.named.identity | part

    def missing(self, setup: Setup) -> list[str]:
        """Return the targets whose row is not finished."""
        return [target for target in self.targets if setup.find(self.identity(setup), self.source, target) is None]

    def examples_key(self, setup: Setup) -> tuple[str, str]:
        """Return label and identity of the file of the examples."""
        label = f"{self.source}-{self.named.name}-eps{self.named.attack.eps:g}"
        return label, setup.identity({"examples": self.identity(setup)}, self.source, self.source)

    def to_export(self, setup: Setup) -> bool:
        """Whether the examples are to be written and are not there."""
        return self.export and not setup.store.has_examples(*self.examples_key(setup))


def transfer_rows(setup: Setup, task: Task) -> Iterator[Row]:
    """Yield the rows of one attack on one source: crafted once, and only for the targets whose row is not finished; or
    for none, where the examples are to be exported and their file is not there."""
    identity, named = task.identity(setup), task.named
    rows = {target: setup.find(identity, task.source, target) for target in task.targets}
    missing = [target for target, found in rows.items() if found is None]
    if (missing or task.to_export(setup)) and not setup.skips:
        rows |= craft_rows(setup, task, missing)
    for target, found in rows.items():
        yield from (setup.row(row, task.source, target, named.name, named.attack.eps) for row in found or ())


def craft_rows(setup: Setup, task: Task, missing: Sequence[str]) -> dict[str, list[Row] | None]:
    """Craft examples of one attack on one source; the rows of the targets that miss theirs, kept. Examples that are to
    be exported are written before the rows are."""
    named, source = task.named, task.source
    title, generator = f"{named.name} eps {named.attack.eps:g} on {source}", setup.generator(named, source)
    models = {target: setup.models[target] for target in missing}
    with setup.graphs():
        own, wrong, largest, examples = transfer(
            setup.models[source], named.attack, models, task.test, generator, title, keep=task.export
        )
    if examples is not None:
        content = challenge_bytes(examples)
        log.info("wrote %s", setup.store.keep_examples(*task.examples_key(setup), content))
    named_once = dict.fromkeys([source, *missing])  # in one order: the processes of a job exchange what they find
    clean = {name: setup.clean_mistakes(name).first(len(task.test)) for name in named_once}
    rows: dict[str, list[Row] | None] = {}
    for target, found in wrong.items():
        numbers = transfer_rates(clean[source], own, clean[target], found)
        rows[target] = setup.keep(task.identity(setup), source, target, [numbers | {"max_perturbation": largest}])
    if wrong:
        errors = ", ".join(f"{target} {100 * rate(found.top1):.1f}%" for target, found in wrong.items())
        log.info("%s: error of %s", title, errors)
    return rows


def transfer(
    source: nn.Module,
    attack: Attack,
    targets: Mapping[str, nn.Module],
    test: Batched,
    generator: Generator,
    title: str,
    keep: bool = False,
) -> tuple[Mistakes, dict[str, Mistakes], float, Tensor | None]:
    """Return the mistakes of the source and of every target on examples crafted once on the source, the largest
    perturbation, and where they are to `keep` the examples, on the CPU. The processes of a job share the images out.

    All lie on one device; models are in eval mode. Raises Violation when an example is outside the pixel range or
    further than eps from its image.
    """
    began = seconds_at(test.device)
    models = {**targets, "": source} if all(t is not source for t in targets.values()) else dict(targets)
    parts: dict[str, list[Mistakes]] = {name: [] for name in models}
    crafted: list[Tensor] = []
    share, generator = test.share(), own_generator(generator)
    reach = Reach(title, attack.eps)
    with Progress(title, len(share), "images") as progress:
        for x, y in share:
            x_adv = craft(attack, source, x, y, generator)
            reach.add(x_adv, x)
            if keep:
                crafted.append(x_adv.cpu())
            for name, model in models.items():
                parts[name].append(mistakes(model, x_adv, y))
            progress.step(len(x))
    largest = max(gather(reach.checked()))
    examples = in_order(torch.cat(crafted), len(test)) if keep else None
    seconds = seconds_at(test.device) - began
    found = {name: of_all(gathered(part, seconds), len(test)) for name, part in parts.items()}
    own = next(found[name] for name, model in models.items() if model is source)
    return own, {name: found[name] for name in targets}, largest, examples


def own_generator(generator: Generator) -> Generator:
    """Return random numbers of this process's own: the given ones in the first, which a single process has."""
    if not rank():
        return generator
    return Generator(generator.device).manual_seed(derived_seed(generator.initial_seed(), rank()))


def transfer_rates(source_clean: Mistakes, source_adv: Mistakes, target_clean: Mistakes, target_adv: Mistakes) -> Row:
    """Return the rates of a target on a source's adversarial examples, as fractions.

    transfer_rate (Kurakin et al. 2017, section 4.4): among the examples that the source gets right clean and wrong
    adversarially, the share that fools the target too; transfer_n and transfer_n_top5 are how many those are.
    """
    counted1 = ~source_clean.top1 & source_adv.top1
    counted5 = None
    if source_clean.top5 is not None and source_adv.top5 is not None:
        counted5 = ~source_clean.top5 & source_adv.top5
    return {
        **error_rates(target_adv),
        "transfer_rate_top1": rate(target_adv.top1, counted1),
        "transfer_rate_top5": rate(target_adv.top5, counted5),
        "transfer_n": int(counted1.sum()),
        "transfer_n_top5": nan if counted5 is None else int(counted5.sum()),
        "clean_error_top1": rate(target_clean.top1),
        "seconds": target_adv.seconds,
    }
