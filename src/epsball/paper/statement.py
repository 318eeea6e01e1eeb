"""What tables, figures, claims and an objective have in common: text that asks about quantities."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from epsball.build import bound, require
from epsball.paper.expressions import Change, Comparison, Quantity, Sum
from epsball.paper.placeholders import Loops, check_loops
from epsball.results.metrics import Unit

Expression = TypeVar("Expression", Sum, Comparison)


@dataclass(frozen=True, kw_only=True)
class Statement(ABC):
    """What a config states of its results, or asks of them."""

    changes: tuple[Change, ...] = bound(())
    """from the quantities as written to those of the results"""

    @property
    @abstractmethod
    def quantities(self) -> list[Quantity]:
        """Return all that it asks about."""

    @property
    def single(self) -> list[Quantity]:
        """Return what it asks about of one source and one attack each, each once."""
        return list(dict.fromkeys(one for asked in self.quantities for one in asked.single))

    @property
    def drawn(self) -> tuple[str, ...]:
        """Return the columns of the rows in which it has all that there is."""
        return ()

    def mapped(self, change: Change) -> Self:
        """Return the same about other quantities."""
        return replace(self, changes=(*self.changes, change))

    def changed(self, written: Expression) -> Expression:
        """Return an expression of its text about the quantities of the results."""
        for change in self.changes:
            written = written.mapped(change)
        return written


@dataclass(frozen=True, kw_only=True)
class Repeated(Statement):
    """One whose texts may stand for several, by placeholders."""

    for_: dict[str, list[str | float] | dict[str, str | float]] | None = None
    """values of placeholders: a label, or a check, that has one stands for each of its values"""

    def __post_init__(self) -> None:
        check_loops(self.loops)

    @property
    def loops(self) -> Loops:
        return self.for_ or {}


@dataclass(frozen=True, kw_only=True)
class Shown(Repeated):
    """One that shows our numbers beside the paper's."""

    unit: Unit
    """of the numbers; per cent is 100 times the rows' fraction"""
    published_on: str | None = None
    """the data set of the paper's numbers, where it need not be ours: on another they are shown, and not compared"""

    @property
    def scale(self) -> float:
        """Return the factor from the rows' unit to its own."""
        return 100.0 if self.unit == "percent" else 1.0

    def check_number(self, number: float | None, shown: Sum, where: str) -> None:
        """ValueError for a number of the paper that what is shown cannot have, such as one in another unit."""
        low, high = (end * self.scale for end in shown.bounds)
        fits = number is None or low <= number <= high
        require(fits, f"{where}, in {self.unit} it should be in [{low:g}, {high:g}]")

    def compares_on(self, datasets: set[str]) -> bool:
        """Whether the paper's numbers are of the data sets of our rows."""
        return self.published_on is None or datasets <= {self.published_on}
