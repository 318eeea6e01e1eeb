"""Quantities and comparisons as a paper states them, as text, and their values in our rows.

    error(A)                                    clean error of model A
    error(A_adv | B, fgsm)                      error of target A_adv on FGSM examples crafted on source B
    error(A_adv | A_adv, fgsm, eps=1)           the same at one of several eps; any other column can be named so
    2 * error(S | B, fgsm) <= error(T | B, fgsm)    sums and multiples on both sides; a < b < c is two comparisons

The first word is a metric (results/metrics.py; `error` is short for error_top1, `accuracy` is 1 - error). Rates and
constants are fractions.
The language is Python's own syntax, parsed by `ast` and never run.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import hypot, isclose, isnan, nan

from epsball.build import require
from epsball.results.intervals import Estimate, Interval, estimate_cell, wilson
from epsball.results.metrics import find_metric
from epsball.results.rows import Row

TEXTS = ("dataset", "measurement", "source", "target", "attack", "paper_metric")  # columns that no number stands in
OPERATORS: Mapping[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


@dataclass(frozen=True)
class Quantity:
    """One number of the results: a metric of a target on a source's examples."""

    metric: str
    """its full name"""
    target: str
    source: str
    attack: str
    conditions: tuple[tuple[str, float], ...] = ()
    """what stands in further columns"""

    def is_about(self, row: Row) -> bool:
        """Whether it asks about the row's cell, which need not be measured yet."""
        if (row["target"], row["source"], row["attack"]) != (self.target, self.source, self.attack):
            return False
        return all(isclose(row.get(column, nan), value, abs_tol=1e-9) for column, value in self.conditions)

    def matches(self, row: Row) -> bool:
        """Whether the row has its number: other measurements' rows of the same cell lack the metric."""
        return self.is_about(row) and not isnan(find_metric(self.metric).value_in(row))

    def renamed(self, names: Mapping[str, str]) -> "Quantity":
        """Return the same of models under other names."""
        return replace(self, target=names.get(self.target, self.target), source=names.get(self.source, self.source))


@dataclass(frozen=True)
class Sum:
    """A constant and multiples of quantities."""

    constant: float = 0.0
    terms: tuple[tuple[float, Quantity], ...] = ()
    """(factor, quantity)"""

    def plus(self, other: "Sum") -> "Sum":
        return Sum(self.constant + other.constant, self.terms + other.terms)

    def times(self, factor: float) -> "Sum":
        return Sum(self.constant * factor, tuple((factor * weight, quantity) for weight, quantity in self.terms))

    def renamed(self, names: Mapping[str, str]) -> "Sum":
        return Sum(self.constant, tuple((weight, quantity.renamed(names)) for weight, quantity in self.terms))


@dataclass(frozen=True)
class Comparison:
    """Two sides and how they are said to compare."""

    left: Sum
    operator: str
    """one of <, <=, >, >="""
    right: Sum
    text: str
    """as it was written"""

    @property
    def quantities(self) -> list[Quantity]:
        return [quantity for side in (self.left, self.right) for _, quantity in side.terms]

    def renamed(self, names: Mapping[str, str]) -> "Comparison":
        return replace(self, left=self.left.renamed(names), right=self.right.renamed(names))


@contextmanager
def naming_field(field: str) -> Iterator[None]:
    """Put the field before what a ValueError says of its text."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def parse_quantity(text: str) -> Quantity:
    """Read the one quantity that `text` names. ValueError when it is something else."""
    with readable(text) as node:
        if not isinstance(node, ast.Call):
            raise ValueError(f"{text!r} should be one quantity, such as error(A | B, fgsm)")
        return called(node, text)


def parse_comparisons(text: str) -> list[Comparison]:
    """Read what `text` compares, in order. ValueError says what is wrong with it."""
    with readable(text) as node:
        if not isinstance(node, ast.Compare) or any(type(op) not in OPERATORS for op in node.ops):
            raise ValueError(f"{text!r} should compare two sides by <, <=, > or >=")
        sides = [summed(side, text) for side in (node.left, *node.comparators)]
        written = [ast.unparse(side) for side in (node.left, *node.comparators)]
        signs = [OPERATORS[type(op)] for op in node.ops]
    found = [
        Comparison(sides[i], sign, sides[i + 1], f"{written[i]} {sign} {written[i + 1]}")
        for i, sign in enumerate(signs)
    ]
    for comparison in found:
        require(bool(comparison.quantities), f"{comparison.text!r} should compare a quantity, such as error(A)")
    return found


@contextmanager
def readable(text: str) -> Iterator[ast.expr]:
    """Parse the syntax of `text`. ValueError when it has none, or more than Python's stack can hold."""
    try:
        yield ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} cannot be read as an expression ({error.msg})") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{text[:40]!r}... is nested too deeply: it should be shorter") from None


def summed(node: ast.expr, text: str) -> Sum:
    """Read a side of a comparison."""
    match node:
        case ast.Constant():
            return Sum(constant(node, text))
        case ast.Call():
            return Sum(0.0, ((1.0, called(node, text)),))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return summed(inner, text).times(-1.0)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return summed(left, text).plus(summed(right, text))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return summed(left, text).plus(summed(right, text).times(-1.0))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            a, b = summed(left, text), summed(right, text)
            if not a.terms:
                return b.times(a.constant)
            if not b.terms:
                return a.times(b.constant)
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be a number, a quantity, or a sum or multiple of these")


def called(node: ast.Call, text: str) -> Quantity:
    """Read metric(target | source, attack, column=value, ...)."""
    metric = find_metric(ast.unparse(node.func), text).name
    conditions = tuple(condition(keyword, text) for keyword in node.keywords)
    require(len(dict(conditions)) == len(conditions), f"{ast.unparse(node)} in {text!r} should name a column once")
    match node.args:
        case [ast.Name(id=target)]:
            return Quantity(metric, target, target, "clean", conditions)
        case [ast.BinOp(left=ast.Name(id=target), op=ast.BitOr(), right=ast.Name(id=source)), ast.Name(id=attack)]:
            return Quantity(metric, target, source, attack, conditions)
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be metric(target) or metric(target | source, attack)")


def condition(keyword: ast.keyword, text: str) -> tuple[str, float]:
    """Read column=number."""
    if keyword.arg is None or keyword.arg in TEXTS:
        raise ValueError(f"{ast.unparse(keyword)} in {text!r} should be column=number, such as eps=0.3")
    return keyword.arg, constant(keyword.value, text)


def constant(node: ast.expr, text: str) -> float:
    """Read a number."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= sys.float_info.max:
        return float(value)
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be a number")


def measured_value(quantity: Quantity, rows: Sequence[Row], interval: Interval | None = wilson) -> Estimate:
    """Return our value of a quantity over the seeds that have it. ValueError when a seed has several rows of it."""
    found = [row for row in rows if quantity.matches(row)]
    if len({row["seed"] for row in found}) < len(found):
        raise ValueError(f"{quantity} names several rows of a seed: say which eps")
    return estimate_cell(found, quantity.metric, interval)


def total_of_sum(side: Sum, rows: Sequence[Row], interval: Interval | None = wilson) -> Estimate:
    """Return a sum's value and interval in one seed's rows; what is named twice counts once, weights added.

    The distances to the ends add in quadrature (Newcombe 1998, Statistics in Medicine 17, method 10: the hybrid score
    interval).
    """
    weights: dict[Quantity, float] = {}
    for weight, quantity in side.terms:
        weights[quantity] = weights.get(quantity, 0.0) + weight
    parts = [measured_value(quantity, rows, interval).times(weight) for quantity, weight in weights.items()]
    value = side.constant + sum(part.value for part in parts)
    below, above = (
        hypot(*distances)
        for distances in ([part.value - part.low for part in parts], [part.high - part.value for part in parts])
    )
    return Estimate(value, value - below, value + above)
