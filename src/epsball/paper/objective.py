"""The number that a run gives back to whoever searches over runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite

from epsball.build import bound
from epsball.paper.expressions import Quantity, Sum, parse_expression
from epsball.paper.values import by_seed, estimate
from epsball.results.rows import Row


@dataclass(frozen=True)
class Objective:
    """An expression over a run's rows, `error(target | target, pgd)`."""

    expression: str
    changes: tuple[Callable[[Quantity], Quantity], ...] = bound(())
    """from the quantities as written to those of the results"""

    def __post_init__(self) -> None:
        parse_expression(self.expression)

    @cached_property
    def side(self) -> Sum:
        found = parse_expression(self.expression)
        for change in self.changes:
            found = found.mapped(change)
        return found

    @property
    def quantities(self) -> list[Quantity]:
        return self.side.quantities

    def mapped(self, change: Callable[[Quantity], Quantity]) -> "Objective":
        """Return the same of other quantities."""
        return replace(self, changes=(*self.changes, change))

    def value(self, rows: Sequence[Row]) -> float:
        """Return its mean over the seeds. RuntimeError where the rows have none: no search can go by it. ValueError
        where a seed has several."""
        try:
            value = estimate(self.side, by_seed(rows), None).value
        except ValueError as error:
            raise ValueError(f"objective: {error}") from None
        if not isfinite(value):
            raise RuntimeError(f"objective: {self.expression} has no value in this run's rows")
        return value
