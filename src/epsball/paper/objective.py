"""The number that a run gives back to whoever searches over runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from epsball.build import naming_field
from epsball.paper.expressions import Quantity, Sum, parse_expression
from epsball.paper.statement import Statement
from epsball.paper.values import by_seed, estimate
from epsball.results.rows import Row


@dataclass(frozen=True)
class Objective(Statement):
    """An expression over a run's rows, `error(target | target, pgd)`."""

    expression: str

    def __post_init__(self) -> None:
        parse_expression(self.expression)

    @cached_property
    def side(self) -> Sum:
        return self.changed(parse_expression(self.expression))

    @property
    def quantities(self) -> list[Quantity]:
        return self.side.quantities

    def value(self, rows: Sequence[Row]) -> float:
        """Return its mean over the seeds. RuntimeError where no row has it, for a search needs a number. ValueError
        where a seed has several."""
        with naming_field("objective"):
            value = estimate(self.side, by_seed(rows), None).value
        if not isfinite(value):
            raise RuntimeError(f"objective: {self.expression} has no value in this run's rows")
        return value
