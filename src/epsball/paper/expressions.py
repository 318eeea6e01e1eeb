"""Quantities and comparisons as a paper states them, as text.

    error(A)                                    clean error of model A
    error(A_adv | B, fgsm)                      error of target A_adv on FGSM examples crafted on source B
    error(A_adv | A_adv, fgsm, eps=1)           the same at one of several eps; any other column can be named so
    error(A | A, worst(fgsm, i_fgsm))           share of images wrong under any of them; sources likewise: worst(B, C)
    accuracy(A | A, fgsm) / accuracy(A)         sums, multiples and ratios
    2 * error(S | B, fgsm) <= error(T | B, fgsm)    a comparison; a < b < c is two

The first word is a metric (results/metrics.py; `error` is short for error_top1, `accuracy` is 1 - error). Rates and
constants are fractions.
The language is Python's own syntax, parsed by `ast` and never run. What the quantities are in our rows: values.py.
"""

import ast
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import inf, isclose
from operator import ge, gt, le, lt

from epsball.build import listed, require
from epsball.results.metrics import METRICS, Better, Unit, find_metric
from epsball.results.rows import Row

KEYED = ("source", "target", "attack", "seed", "paper_metric")  # columns that a quantity does not name by `column=`
ANY = "*"  # a condition that every row meets: a figure's x, whatever our rows have there; nobody can write it
OPERATORS: Mapping[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
COMPARES: Mapping[str, Callable[[float, float], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


@dataclass(frozen=True)
class Quantity:
    """One number of the results: a metric of a target on a source's examples, or on the worst of several."""

    metric: str
    """its full name"""
    target: str
    sources: tuple[str, ...]
    """several: an image counts that the examples of any of them fool"""
    attacks: tuple[str, ...]
    conditions: tuple[tuple[str, float | str], ...] = ()
    """what stands in further columns"""

    @property
    def source(self) -> str:
        return listed_worst(self.sources)

    @property
    def attack(self) -> str:
        return listed_worst(self.attacks)

    @property
    def text(self) -> str:
        """Return it as it is written, without conditions."""
        metric = METRICS[self.metric].short or self.metric
        if self.attack == "clean" and self.source == self.target:
            return f"{metric}({self.target})"
        return f"{metric}({self.target} | {self.source}, {self.attack})"

    @property
    def single(self) -> list["Quantity"]:
        """Return the quantities of one source and one attack each whose images it counts."""
        return [replace(self, sources=(s,), attacks=(a,)) for s, a in product(self.sources, self.attacks)]

    def is_about(self, row: Row) -> bool:
        """Whether it asks about the row's cell, which need not be measured yet."""
        if row["target"] != self.target or row["source"] not in self.sources or row["attack"] not in self.attacks:
            return False
        return all(is_equal(row.get(column), value) for column, value in self.conditions)

    def without(self, column: str) -> "Quantity":
        """Return the same without its condition on a column."""
        return replace(self, conditions=tuple(pair for pair in self.conditions if pair[0] != column))

    def renamed(self, names: Mapping[str, str]) -> "Quantity":
        """Return the same of models under other names."""
        sources = tuple(names.get(source, source) for source in self.sources)
        return replace(self, target=names.get(self.target, self.target), sources=sources)


Change = Callable[[Quantity], Quantity]
"""from a quantity as it is written to another"""


def listed_worst(names: Sequence[str]) -> str:
    """Write one name as it is, several as `worst(a, b)`."""
    return names[0] if len(names) == 1 else f"worst({', '.join(names)})"


def is_equal(found: object, value: float | str) -> bool:
    """Whether a column holds what a condition says."""
    if value == ANY:
        return True
    if isinstance(value, str) or found is None or isinstance(found, str):
        return found == value
    return isclose(float(str(found)), value, abs_tol=1e-9)


@dataclass(frozen=True)
class Sum:
    """A constant and multiples of quantities and ratios."""

    constant: float = 0.0
    terms: "tuple[tuple[float, Quantity | Ratio], ...]" = ()
    """(factor, what is multiplied)"""

    def plus(self, other: "Sum") -> "Sum":
        return Sum(self.constant + other.constant, self.terms + other.terms)

    def times(self, factor: float) -> "Sum":
        return Sum(self.constant * factor, tuple((factor * weight, term) for weight, term in self.terms))

    def minus(self, other: "Sum") -> "Sum":
        return self.plus(other.times(-1.0))

    def mapped(self, change: Change) -> "Sum":
        """Return the same of other quantities."""
        changed = [(w, change(t) if isinstance(t, Quantity) else t.mapped(change)) for w, t in self.terms]
        return Sum(self.constant, tuple(changed))

    @property
    def merged(self) -> "Sum":
        """Return the same with each term once, weights added, to 0 where it cancels. Every accuracy is written as one
        minus an error, so that both meet."""
        constant, weights = self.constant, dict[Quantity | Ratio, float]()
        for weight, term in self.terms:
            if isinstance(term, Quantity) and (other := METRICS[term.metric].complement):
                constant, weight, term = constant + weight, -weight, replace(term, metric=other)
            weights[term] = weights.get(term, 0.0) + weight
        return Sum(constant, tuple((weight, term) for term, weight in weights.items()))

    @property
    def quantities(self) -> list[Quantity]:
        found: list[Quantity] = []
        for _, term in self.terms:
            found += [term] if isinstance(term, Quantity) else term.quantities
        return found

    @property
    def alone(self) -> Quantity | None:
        """Return the one quantity that it consists of; None for anything more."""
        if self.constant == 0 and len(self.terms) == 1 and self.terms[0][0] == 1:
            term = self.terms[0][1]
            return term if isinstance(term, Quantity) else None
        return None

    @property
    def is_rate(self) -> bool:
        """Whether its value is a fraction that people write in per cent."""
        return all(isinstance(term, Quantity) and METRICS[term.metric].is_rate for _, term in self.terms)

    @property
    def bounds(self) -> tuple[float, float]:
        """Return ends that its value cannot pass: of rates, which are in [0, 1], finite ones."""
        if not self.is_rate:
            return -inf, inf
        weights = [weight for weight, _ in self.terms]
        return self.constant + sum(min(w, 0.0) for w in weights), self.constant + sum(max(w, 0.0) for w in weights)

    @property
    def better(self) -> Better | None:
        """Return the end that is best for robustness; None where its terms do not agree on one."""
        ends: set[Better | None] = set()
        for weight, term in self.terms:
            end = METRICS[term.metric].better if isinstance(term, Quantity) else term.numerator.better
            ends.add(end if weight > 0 or end is None else "high" if end == "low" else "low")
        return ends.pop() if len(ends) == 1 else None


def check_unit(unit: Unit, sums: Collection[Sum]) -> None:
    """ValueError unless what is written in per cent consists of rates, which are fractions: a hundred of one are in per
    cent already."""
    metrics = {quantity.metric for one in sums for quantity in one.quantities}
    no_rates = sorted(name for name in metrics if not METRICS[name].is_rate)
    rates = not no_rates and all(one.is_rate for one in sums)
    require(unit == "value" or rates, f"unit should be value: {listed(no_rates) if no_rates else 'a ratio'} is no rate")
    hundredfold = any(abs(weight) >= 100 for one in sums for weight, _ in one.terms)
    require(unit == "value" or not hundredfold, "unit should be value: 100 times a rate is in per cent already")


def check_constants(comparison: "Comparison") -> None:
    """ValueError for a comparison of rates that no rate in [0, 1] could change, as error(A) < 5 is."""
    low, high = comparison.gap.merged.bounds
    always = "true" if comparison.holds(low) else "false"
    fits = low <= 0 <= high or comparison.is_trivial
    fractions = "rates are in [0, 1], and 5 points are 0.05"
    require(fits, f"{comparison.text!r} is {always} whatever is measured: {fractions}")


@dataclass(frozen=True)
class Ratio:
    """One sum over another."""

    numerator: Sum
    denominator: Sum

    def mapped(self, change: Change) -> "Ratio":
        return Ratio(self.numerator.mapped(change), self.denominator.mapped(change))

    @property
    def quantities(self) -> list[Quantity]:
        return self.numerator.quantities + self.denominator.quantities


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
        return self.left.quantities + self.right.quantities

    @property
    def gap(self) -> Sum:
        """Return left minus right."""
        return self.left.minus(self.right)

    @property
    def is_trivial(self) -> bool:
        """Whether its sides differ by a constant alone: a quantity is compared with itself, as first and last epoch of
        a single one are."""
        return all(weight == 0 for weight, _ in self.gap.merged.terms)

    def holds(self, gap: float) -> bool:
        """Whether two sides this far apart, left minus right, compare as it says."""
        return COMPARES[self.operator](gap, 0.0)

    def mapped(self, change: Change) -> "Comparison":
        """Return the same of other quantities."""
        return replace(self, left=self.left.mapped(change), right=self.right.mapped(change))


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Sum:
    """Read the sum, multiple or ratio of quantities that `text` states. ValueError says what is wrong with it."""
    with readable(text) as node:
        found = summed(node, text)
    require(bool(found.terms), f"{text!r} should name a quantity, such as error(A | B, fgsm)")
    return found


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
        split = ": YAML splits a list at commas, so each is quoted" if text.count("(") != text.count(")") else ""
        raise ValueError(f"{text!r} cannot be read as an expression ({error.msg}){split}") from None
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
            return summed(left, text).minus(summed(right, text))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            a, b = summed(left, text), summed(right, text)
            if not a.terms:
                return b.times(a.constant)
            if not b.terms:
                return a.times(b.constant)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            a, b = summed(left, text), summed(right, text)
            if b.terms:
                return Sum(0.0, ((1.0, Ratio(a, b)),))
            require(b.constant != 0, f"{ast.unparse(node)} in {text!r} should not divide by 0")
            return a.times(1 / b.constant)
    what = "a number, a quantity, or a sum, multiple or ratio of these"
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be {what}")


def called(node: ast.Call, text: str) -> Quantity:
    """Read metric(target | source, attack, column=value, ...)."""
    metric = find_metric(ast.unparse(node.func), text)
    conditions = tuple(condition(keyword, text) for keyword in node.keywords)
    require(len(dict(conditions)) == len(conditions), f"{ast.unparse(node)} in {text!r} should name a column once")
    match node.args:
        case [ast.Name(id=target)]:
            return Quantity(metric.name, target, (target,), ("clean",), conditions)
        case [ast.BinOp(left=ast.Name(id=target), op=ast.BitOr(), right=source), attack]:
            found = Quantity(metric.name, target, one_or_worst(source, text), one_or_worst(attack, text), conditions)
            alone = len(found.single) == 1
            require(alone or metric.mistakes is not None, f"{metric.name} in {text!r} has no worst of several")
            return found
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be metric(target) or metric(target | source, attack)")


def one_or_worst(node: ast.expr, text: str) -> tuple[str, ...]:
    """Read a name, or worst(name, name, ...)."""
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Call(func=ast.Name(id="worst"), args=[_, *_] as names, keywords=[]):
            found = [name.id for name in names if isinstance(name, ast.Name)]
            if len(found) == len(names):
                return tuple(dict.fromkeys(found))
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be a name, or worst(name, name)")


def condition(keyword: ast.keyword, text: str) -> tuple[str, float | str]:
    """Read column=number, which may be written as 8/255, or column=word."""
    if keyword.arg is None or keyword.arg in KEYED:
        raise ValueError(f"{ast.unparse(keyword)} in {text!r} should be column=value, such as eps=0.3")
    if isinstance(keyword.value, ast.Name):
        return keyword.arg, keyword.value.id
    calls = any(isinstance(part, ast.Call) for part in ast.walk(keyword.value))
    require(not calls, f"{ast.unparse(keyword.value)} in {text!r} should be a number")
    return keyword.arg, summed(keyword.value, text).constant


def constant(node: ast.expr, text: str) -> float:
    """Read a number."""
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= sys.float_info.max:
        return float(value)
    raise ValueError(f"{ast.unparse(node)} in {text!r} should be a number")
