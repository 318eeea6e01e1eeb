"""Error under the worst of several attacks, per image (Madry et al. 2017, section 5)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from epsball.attacks import NamedAttack
from epsball.attacks.attack import Attack, craft
from epsball.attacks.gradient import AttackState, GradientAttack
from epsball.build import require
from epsball.data.images import Batched
from epsball.measurements.measurement import Cell, Measurement, Row, Rows, Scope, Setup, Workload
from epsball.measurements.violations import Reach
from epsball.models.predictions import Mistakes, mistakes, rate
from epsball.output.console import console_matrix
from epsball.output.matrix import matrix_sections
from epsball.output.pages import Section
from epsball.paper.expressions import is_equal
from epsball.results.metrics import TOP1
from epsball.results.paired import packed_bits
from epsball.runtime.device import seconds_at
from epsball.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

Attacked = tuple[Tensor, Tensor, AttackState]
"""(N,) places in the test set, the images there, and how far the attack on them has come"""


@dataclass(frozen=True)
class WorstCase(Measurement):
    """Each source's error under the worst of all attacks of an eps on itself, per image; gradient attacks go no further
    on an image that is fooled (Madry et al. 2017, section 5; Carlini's reviews: per-example minimum, not averages)."""

    @property
    def makes(self) -> tuple[str, ...]:
        return ("worst_case",)

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        require(bool(attacks), "name is worst_case, which needs an attack: attack=pgd, or a suite")

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return scope.sources

    def error_cells(self, scope: Scope) -> Sequence[Cell]:
        """Return a cell of each source at each eps, one where eps differ by rounding alone."""
        values: list[float] = []
        for eps in sorted(named.attack.eps for named in scope.attacks):
            if not values or not is_equal(values[-1], eps):
                values.append(eps)
        return [Cell(source, source, "worst_case", eps) for source in scope.sources for eps in values]

    def made_of(self, attack: str, eps: float, attacks: Sequence[NamedAttack]) -> list[object]:
        return [named.identity for named in attacks_at(attacks, eps)]

    def workload(self, setup: Setup) -> Workload:
        models, craftings, finished = set[str](), set[str](), set[str]()
        for source, _, _, eps in self.error_cells(setup):
            what = worst_of(setup, eps)
            row = setup.identity(what, source, source)
            if setup.find(what, source, source) is None:
                models |= {source}
                craftings |= {row}
            else:
                finished |= {row}
        return Workload(frozenset(models), frozenset(craftings), frozenset(finished))

    def measure(self, setup: Setup) -> Rows:
        cells = self.error_cells(setup)
        return {"results": [row for source, _, _, eps in cells for row in worst_case_rows(setup, source, eps)]}

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        return matrix_sections(frames["results"], folder)

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return console_matrix(frames["results"])


def attacks_at(attacks: Sequence[NamedAttack], eps: float) -> list[NamedAttack]:
    return [named for named in attacks if is_equal(named.attack.eps, eps)]


def worst_of(setup: Setup, eps: float) -> dict[str, object]:
    """Return what is measured at one eps, for the rows' identity."""
    return {"worst": [named.identity for named in attacks_at(setup.attacks, eps)]}


def worst_case_rows(setup: Setup, source: str, eps: float) -> list[Row]:
    """Return the row of one model under all attacks of one eps, measured now or kept by an earlier run."""

    def measure() -> list[Row]:
        chosen = attacks_at(setup.attacks, eps)
        attacks = {named.name: named.attack for named in chosen}
        generators = {named.name: setup.generator(named, source) for named in chosen}
        title = f"worst of {len(attacks)} at eps {eps:g} on {source}"
        with setup.graphs():
            fooled, seconds = find_fooled(setup.models[source], attacks, setup.batched(), generators, title)
        return [worst_case_rates(setup.clean_mistakes(source), fooled, seconds)]

    found = setup.find_or_measure(worst_of(setup, eps), source, source, measure)
    return [setup.row(numbers, source, source, "worst_case", eps) for numbers in found]


def find_fooled(
    model: nn.Module, attacks: Mapping[str, Attack], test: Batched, generators: Mapping[str, Generator], title: str
) -> tuple[Tensor, float]:
    """Return (N,) booleans: which images the model gets wrong, clean or under any of the attacks; and seconds taken.

    The iterates of a gradient attack are looked at after 1, 2, 4, 8, ... steps and the last. An attack's generator
    gives the labels of all images in order, then for each restart the starts of all images in order, batch by
    batch: no image's random numbers depend on which others are fooled. Raises Violation when an example that it
    looks at is outside the pixel range or further than the attack's eps from its image.
    """
    began = seconds_at(test.device)
    fooled = torch.cat([mistakes(model, x, y).top1 for x, y in test])
    passes = sum(attack.restarts if isinstance(attack, GradientAttack) else 1 for attack in attacks.values())
    with Progress(title, len(test) * passes, "examples") as progress:
        for name, attack in attacks.items():
            reach = Reach(f"{name}, {title}", attack.eps)
            search = Search(model, test, test.device.type == "cuda", fooled, reach, progress)
            if isinstance(attack, GradientAttack):
                search.ascend(replace(attack, keep="last"), generators[name])
            else:
                search.craft(attack, generators[name])
            reach.checked()
    return fooled, seconds_at(test.device) - began


@dataclass(frozen=True)
class Search:
    """A search for images that one attack fools; it marks them in `fooled`."""

    model: nn.Module
    test: Batched
    one_size: bool  # whether every batch has the test's size: CUDA tunes and captures kernels anew for each
    fooled: Tensor  # (N,) booleans
    reach: Reach  # of all examples that were looked at
    progress: Progress  # counts every image once per pass over the test set

    def craft(self, attack: Attack, generator: Generator) -> None:
        """Mark the images whose one example fools the model: of all images, unless all are fooled, for what an image's
        example draws must not depend on which others are."""
        if self.fooled.all():
            return
        for index, x, y in self.batches():
            x_adv = craft(attack, self.model, x, y, generator)
            self.reach.add(x_adv, x)
            self.fooled[index] |= mistakes(self.model, x_adv, y).top1

    def ascend(self, attack: GradientAttack, generator: Generator) -> None:
        """Mark the images of which any restart has an iterate that fools the model."""
        chosen = [attack.choose_label(self.model, x, y, generator) for x, y in self.test]
        labels = [label for label in chosen if label is not None]
        for _ in range(attack.restarts):
            if self.fooled.all():
                return
            standing = self.starts(attack, torch.cat(labels) if labels else None, generator)
            for done, until in itertools.pairwise(doublings(attack.number_of_steps)):
                standing = self.advance(attack, packed(standing, self.test.size), until - done)
            for _ in standing:  # draws all batches through all steps
                pass

    def starts(self, attack: GradientAttack, labels: Tensor | None, generator: Generator) -> Iterator[Attacked]:
        """Begin the attack on the images that stand. Starts are drawn for all."""
        for index, x, _ in self.batches():
            start = attack.draw_start(x, x.new_ones(()), generator)
            left = (~self.fooled[index]).nonzero().squeeze(1)
            label = None if labels is None else labels[index][left]
            yield index[left], x[left], attack.begin(x[left], start[left], x.new_ones(()), label)

    def advance(self, attack: GradientAttack, batches: Iterator[Attacked], steps: int) -> Iterator[Attacked]:
        """Take `steps` steps on each batch, mark the images that fool the model now, hand on the others."""
        for index, x, state in batches:
            self.test.stop.check()
            rows = torch.arange(len(index), device=index.device)
            if self.one_size:  # filled up with its own images, whose copies are dropped below
                rows = torch.arange(self.test.size, device=index.device) % len(index)
                state = state.only(rows)
            attack.advance_captured(self.model, state, steps)
            self.reach.add(state.x_adv[: len(index)], x)
            wrong = mistakes(self.model, state.x_adv, self.test.images.y[index[rows]]).top1[: len(index)]
            self.fooled[index] |= wrong
            left = (~wrong).nonzero().squeeze(1)
            yield index[left], x[left], state.only(left)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield all test images in order: places, images, labels."""
        places = torch.split(torch.arange(len(self.test), device=self.test.device), self.test.size)
        for index, (x, y) in zip(places, self.test, strict=True):
            yield index, x, y
            self.progress.step(len(index))


def packed(parts: Iterator[Attacked], size: int) -> Iterator[Attacked]:
    """Put parts of at most `size` images together, in order, to batches of `size`; the last may be short."""
    waiting: list[Attacked] = []
    number = 0
    for part in parts:
        waiting, number = [*waiting, part], number + len(part[0])
        if number >= size:
            index, x, state = joined(waiting)
            yield index[:size], x[:size], state.only(slice(size))
            waiting, number = [(index[size:], x[size:], state.only(slice(size, None)))], number - size
    if number:
        yield joined(waiting)


def joined(parts: list[Attacked]) -> Attacked:
    index, x, states = zip(*parts, strict=True)
    return torch.cat(index), torch.cat(x), AttackState.joined(states)


def doublings(steps: int) -> list[int]:
    """Return 0, 1, 2, 4, 8, ... and `steps`."""
    return [0, *(2**k for k in range(steps.bit_length()) if 2**k < steps), steps]


def worst_case_rates(clean: Mistakes, fooled: Tensor, seconds: float) -> Row:
    """Return the error of a model under the strongest of several attacks, per image, as a fraction."""
    rates = {"n": len(fooled), "error_top1": rate(fooled), "clean_error_top1": rate(clean.top1), "seconds": seconds}
    return {**rates, TOP1: packed_bits(fooled.numpy(force=True))}
