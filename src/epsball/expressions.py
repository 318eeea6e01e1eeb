"""What a paper says about results, as text: a small language over the rows of `results.csv`.

    error(A)                                    clean error of model A
    error(A_adv | B, fgsm)                      error of target A_adv on FGSM examples crafted on source B
    error(A_adv | A_adv, fgsm, eps=1)           the same at one of several eps; any other column can be named so
    2 * error(S | B, fgsm) <= error(T | B, fgsm)    sums and multiples on both sides; a < b < c is two comparisons

The first word is a column of the rows (`error` is short for error_top1). Rates and constants are fractions.
The language is Python's own syntax, parsed by `ast` and never run.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isclose
from typing import Any, Literal

from epsball.build import bound, did_you_mean, listed, require

SHORT = {"error": "error_top1", "transfer_rate": "transfer_rate_top1"}
METRICS = (
    "error_top1", "error_top5", "transfer_rate_top1", "transfer_rate_top5",
    "gradient_l2_mean", "gradient_l2_sd", "gradient_zero_share", "loss_mean",
)  # fmt: skip
TEXTS = ("dataset", "source", "target", "attack", "paper_metric")  # columns that no number stands in
OPERATORS: Mapping[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


@dataclass(frozen=True)
class Quantity:
    """One cell of the results: `metric` of a target on a source's examples; `conditions` on further columns."""

    metric: str
    target: str
    source: str
    attack: str
    conditions: tuple[tuple[str, float], ...] = ()

    def matches(self, row: Mapping[str, Any]) -> bool:
        if (row["target"], row["source"], row["attack"]) != (self.target, self.source, self.attack):
            return False
        return all(isclose(row.get(column, float("nan")), value, abs_tol=1e-9) for column, value in self.conditions)

    def renamed(self, names: Mapping[str, str]) -> "Quantity":
        """The same of models under other names."""
        return replace(self, target=names.get(self.target, self.target), source=names.get(self.source, self.source))


@dataclass(frozen=True)
class Sum:
    """A constant and multiples of quantities."""

    constant: float = 0.0
    terms: tuple[tuple[float, Quantity], ...] = ()

    def plus(self, other: "Sum") -> "Sum":
        return Sum(self.constant + other.constant, self.terms + other.terms)

    def times(self, factor: float) -> "Sum":
        return Sum(self.constant * factor, tuple((factor * weight, quantity) for weight, quantity in self.terms))

    def renamed(self, names: Mapping[str, str]) -> "Sum":
        return Sum(self.constant, tuple((weight, quantity.renamed(names)) for weight, quantity in self.terms))


@dataclass(frozen=True)
class Comparison:
    """left < right, or one of <=, >, >=; `text` is how it was written."""

    left: Sum
    operator: str
    right: Sum
    text: str

    @property
    def quantities(self) -> list[Quantity]:
        return [quantity for side in (self.left, self.right) for _, quantity in side.terms]

    def renamed(self, names: Mapping[str, str]) -> "Comparison":
        return replace(self, left=self.left.renamed(names), right=self.right.renamed(names))


@dataclass(frozen=True)
class Claim:
    """One statement of a paper. says: in words. paper: the numbers it rests on. checks: comparisons that all hold
    where it is right. images: whether the test images are a sample, which gives every value an interval, or all that
    the statement is about, so that values differ between seeds alone."""

    says: str
    paper: str
    checks: list[str]
    images: Literal["sample", "all"] = "sample"
    names: Mapping[str, str] | None = bound(None)

    def __post_init__(self) -> None:
        require(bool(self.checks), "checks should be at least one comparison, is empty")
        for i, check in enumerate(self.checks):
            with at(f"checks[{i}]"):
                comparisons(check)

    @property
    def comparisons(self) -> list[Comparison]:
        found = [comparison for check in self.checks for comparison in comparisons(check)]
        return [comparison.renamed(self.names or {}) for comparison in found]

    @property
    def quantities(self) -> list[Quantity]:
        return [quantity for comparison in self.comparisons for quantity in comparison.quantities]

    def renamed(self, names: Mapping[str, str]) -> "Claim":
        """The same about models under other names."""
        return replace(self, names=dict(names))


@dataclass(frozen=True)
class Table:
    """A table of a paper in the paper's own shape.

    rows: what stands for {row} in the columns' expressions, by the row's label. columns: an expression by the column's
    label. paper: the published numbers, a list per row as wide as the columns, null where there is none; all null for a
    table that no paper has. unit: of the numbers; per cent is 100 times the rows' fraction. best: where the lowest
    number, and those tied with it, are marked.
    """

    title: str
    rows: dict[str, str]
    columns: dict[str, str]
    paper: dict[str, list[float | None]] | None
    unit: Literal["percent", "value"]
    best: Literal["none", "columns", "rows"]
    names: Mapping[str, str] | None = bound(None)

    def __post_init__(self) -> None:
        require(bool(self.rows), "rows should be at least one row, is empty")
        require(bool(self.columns), "columns should be at least one column, is empty")
        for row in self.rows:
            for column in self.columns:
                with at(f"columns.{column} of row {row}"):
                    self.cell(row, column)
        for row, values in (self.paper or {}).items():
            require(
                row in self.rows, f"paper.{row} is no row{did_you_mean(row, self.rows)}: they are {listed(self.rows)}"
            )
            require(len(values) == len(self.columns), f"paper.{row} should be {len(self.columns)} numbers, is {values}")

    def cell(self, row: str, column: str) -> Quantity:
        """The quantity that stands in a cell."""
        return quantity(self.columns[column].replace("{row}", self.rows[row])).renamed(self.names or {})

    @property
    def quantities(self) -> list[Quantity]:
        return [self.cell(row, column) for row in self.rows for column in self.columns]

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """The same about models under other names."""
        return replace(self, names=dict(names))

    def published(self, row: str, column: str) -> float | None:
        """The paper's number of a cell, in the table's unit."""
        values = (self.paper or {}).get(row)
        return None if values is None else values[list(self.columns).index(column)]

    @property
    def scale(self) -> float:
        """What a number of the rows is multiplied by."""
        return 100.0 if self.unit == "percent" else 1.0


@contextmanager
def at(field: str) -> Iterator[None]:
    """Put the field before what a ValueError says of its text."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def quantity(text: str) -> Quantity:
    """The one quantity that `text` names. ValueError when it is something else."""
    with readable(text) as node:
        if not isinstance(node, ast.Call):
            raise ValueError(f"{text!r} should be one quantity, such as error(A | B, fgsm)")
        return called(node, text)


def comparisons(text: str) -> list[Comparison]:
    """What `text` compares, in order. ValueError says what is wrong with it."""
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
    """The syntax of `text`. ValueError when it has none, or more than Python's stack can hold."""
    try:
        yield ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} cannot be read as an expression ({error.msg})") from None
    except (RecursionError, MemoryError):
        raise ValueError(f"{text[:40]!r}... is nested too deeply: it should be shorter") from None


def summed(node: ast.expr, text: str) -> Sum:
    """A side of a comparison."""
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
    """metric(target | source, attack, column=value, ...)."""
    metric = SHORT.get(ast.unparse(node.func), ast.unparse(node.func))
    if metric not in METRICS:
        known = [*SHORT, *METRICS]
        raise ValueError(f"{metric} in {text!r} is no metric{did_you_mean(metric, known)}: they are {listed(known)}")
    conditions = tuple(condition(keyword, text) for keyword in node.keywords)
    require(len(dict(conditions)) == len(conditions), f"{ast.unparse(node)} in {text!r} should name a column once")
    match node.args:
        case [ast.Name(id=target)]:
            return Quantity(metric, target, target, "clean", conditions)
        case [ast.BinOp(left=ast.Name(id=target), op=ast.BitOr(), right=ast.Name(id=source)), ast.Name(id=attack)]:
            return Quantity(metric, target, source, attack, conditions)
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be metric(target) or metric(target | source, attack)")


def condition(keyword: ast.keyword, text: str) -> tuple[str, float]:
    """column=number."""
    if keyword.arg is None or keyword.arg in TEXTS:
        raise ValueError(f"{ast.unparse(keyword)} in {text!r} should be column=number, such as eps=0.3")
    return keyword.arg, constant(keyword.value, text)


def constant(node: ast.expr, text: str) -> float:
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= sys.float_info.max:
        return float(value)
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be a number")
