"""What the quantities of expressions.py are in our rows: values with their intervals, in a seed and over seeds."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from math import inf, isnan, nan
from operator import itemgetter

import numpy as np

from epsball.paper.expressions import Quantity, Ratio, Sum
from epsball.results.intervals import (
    UNBOUNDED,
    Estimate,
    Interval,
    Term,
    estimate_row,
    estimate_sum,
    is_unbounded,
    mean_estimate,
)
from epsball.results.metrics import METRICS, Metric
from epsball.results.paired import Mistaken, unpacked_bits
from epsball.results.rows import FURTHER, IMAGES, MEASURED, Row

Cell = tuple[str, str, str]  # source, target, attack

UNKNOWN = Estimate(nan, nan, nan, seeds=0)


class SeedRows:
    """The rows of one seed, found by the cell that they are about."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.by_cell: dict[Cell, list[Row]] = {}
        self.by_number: dict[tuple[Cell, str], tuple[list[float], list[Row]]] = {}
        self.found: dict[Quantity, list[Row]] = {}
        self.known: dict[tuple[int, str], Mistaken] = {}
        for row in rows:
            self.by_cell.setdefault((row["source"], row["target"], row["attack"]), []).append(row)

    def find(self, quantity: Quantity) -> list[Row]:
        """Return the rows that have the number of a quantity: other measurements' rows of its cell lack the metric."""
        if quantity not in self.found:  # the ends of a ratio's interval ask a hundred times
            metric = METRICS[quantity.metric]
            cells = [(one.source, one.target, one.attack) for one in quantity.single]
            rows = [row for cell in cells for row in self.near(cell, quantity)]
            own = [row for row in rows if quantity.is_about(row) and not isnan(metric.value_in(row))]
            self.found[quantity] = own
        return self.found[quantity]

    def near(self, cell: Cell, quantity: Quantity) -> list[Row]:
        """Return the rows of a cell that are near that number of a quantity's conditions which the fewest rows have;
        all where it has none. Curves have thousands of rows, and a figure asks for each."""
        numbers = [(column, value) for column, value in quantity.conditions if not isinstance(value, str)]
        near = (self.near_number(cell, column, value) for column, value in numbers)
        return min(near, key=len, default=self.by_cell.get(cell, []))

    def near_number(self, cell: Cell, column: str, value: float) -> list[Row]:
        """Return the rows of a cell that are near a number in a column."""
        if (cell, column) not in self.by_number:
            own = self.by_cell.get(cell, [])
            found = [(row[column], row) for row in own if isinstance(row.get(column), int | float)]
            known = sorted((pair for pair in found if not isnan(pair[0])), key=itemgetter(0))
            self.by_number[cell, column] = [number for number, _ in known], [row for _, row in known]
        (rising, rows), far = self.by_number[cell, column], 1e-8 * max(abs(value), 1.0)
        return rows[bisect_left(rising, value - far) : bisect_right(rising, value + far)]

    def mistakes(self, row: Row, metric: Metric) -> Mistaken | None:
        """Return the images that a row's rate counts, None where they were not kept."""
        text = None if metric.mistakes is None else row.get(metric.mistakes)
        if not isinstance(text, str):
            return None
        place = id(row), str(metric.mistakes)
        if place not in self.known:
            bits = unpacked_bits(text, int(row[metric.trials]))
            self.known[place] = Mistaken(str(row.get(IMAGES) or row.get("dataset")), bits)
        return self.known[place]


def by_seed(rows: Iterable[Row]) -> list[SeedRows]:
    """Return the rows of each seed; of no seed where there are no rows."""
    seeds: dict[object, list[Row]] = {}
    for row in rows:
        seeds.setdefault(row["seed"], []).append(row)
    return [SeedRows(own) for own in seeds.values()] or [SeedRows(())]


def estimate(side: Sum, seeds: Sequence[SeedRows], interval: Interval | None) -> Estimate:
    """Return our value over the seeds that have it. Each seed's is summed up within it: its quantities share models.

    `interval`: of a rate; None where the test images are no sample of anything. ValueError when a seed has several rows
    of a quantity.
    """
    return mean_estimate([estimate_in_seed(side, own, interval) for own in seeds])


def estimate_in_seed(side: Sum, rows: SeedRows, interval: Interval | None) -> Estimate:
    """Return the value in one seed, NaN where a quantity of it was not measured. Rates of other numbers of images are
    those of the images that all have."""
    return estimate_of_images(side, rows, interval, images_of(side, rows))


def estimate_of_images(side: Sum, rows: SeedRows, interval: Interval | None, first: int | None) -> Estimate:
    """Return the value in one seed, of the `first` images where that is a number. What is named twice counts once,
    weights added."""
    whole = side.merged
    terms = [
        quantity_term(weight, what, rows, interval, first)
        if isinstance(what, Quantity)
        else Term(weight, estimate_ratio(what, rows, interval, first))
        for weight, what in whole.terms
    ]
    return estimate_sum(whole.constant, terms) if terms else Estimate(whole.constant, whole.constant, whole.constant)


def images_of(side: Sum, rows: SeedRows) -> int | None:
    """Return how many images all rates of a sum are of, the first ones; None where they share none."""
    return shared_images([mistaken(what, rows) for what in rates_in(side)])


def shared_images(parts: Sequence[Mistaken | None]) -> int | None:
    """Return how many images several rates are all of, the first ones; None where it is not known of each which images
    it counts, or they are of several data sets."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({part.dataset for part in known}) > 1:
        return None
    return min(len(part.bits) for part in known)


def rates_in(side: Sum) -> list[Quantity]:
    """Return the quantities of a sum and of its ratios that do not cancel out."""
    found: list[Quantity] = []
    for weight, term in side.merged.terms:
        if weight != 0:
            parts = [] if isinstance(term, Quantity) else [term.numerator, term.denominator]
            found += [term] if isinstance(term, Quantity) else [one for part in parts for one in rates_in(part)]
    return found


def mistaken(quantity: Quantity, rows: SeedRows) -> Mistaken | None:
    """Return the images that a quantity counts in one seed: of the worst of several attacks, or sources, those that
    are wrong under any of them. None where it is no rate, was not measured, or they are not known."""
    if len(quantity.single) == 1:
        row = only_row(quantity, rows)
        return None if row is None else rows.mistakes(row, METRICS[quantity.metric])
    parts = [mistaken(one, rows) for one in quantity.single]
    shared = shared_images(parts)
    if shared is None:
        return None
    known = [part.first(shared) for part in parts if part is not None]
    return Mistaken(known[0].dataset, np.logical_or.reduce([part.bits for part in known]))


def only_row(quantity: Quantity, rows: SeedRows) -> Row | None:
    """Return the row of a quantity of one source and one attack in one seed, None where it was not measured. ValueError
    where there are several."""
    found = rows.find(quantity)
    if len(found) > 1:
        raise ValueError(f"{quantity.text} names several rows of a seed{how_to_choose(found)}")
    return found[0] if found else None


def quantity_term(
    weight: float, quantity: Quantity, rows: SeedRows, interval: Interval | None, first: int | None
) -> Term:
    """Return a multiple of a quantity's value in one seed, of the `first` images where that is a number."""
    metric, wrong, single = METRICS[quantity.metric], mistaken(quantity, rows), len(quantity.single) == 1
    if wrong is not None and (first is not None or not single):
        wrong = wrong.first(first)
        rate = {metric.name: float(wrong.bits.mean()), metric.trials: len(wrong.bits)}
        return Term(weight, estimate_row(rate, metric, interval), wrong)
    row = only_row(quantity, rows) if single else None
    return Term(weight, UNKNOWN if row is None else estimate_row(row, metric, interval), wrong)


def is_paired(side: Sum, shared: int | None) -> bool:
    """Whether all rates of a sum, or of a ratio alone, are compared image by image, on the images that `images_of` says
    they share."""
    terms = [term for weight, term in side.merged.terms if weight != 0]
    if len(terms) == 1 and isinstance(terms[0], Ratio):
        return is_paired(terms[0].numerator.plus(terms[0].denominator), shared)
    return shared is not None and all(isinstance(term, Quantity) for term in terms)


def how_to_choose(rows: Sequence[Row]) -> str:
    """Say by which column a statement can tell these rows apart, with the first one's value as an example."""
    own = [name for name in rows[0] if name not in MEASURED and name != IMAGES]  # a grid's
    for name in ("dataset", "measurement", "eps", *FURTHER, *own):
        known = [row.get(name) for row in rows if not is_missing(row.get(name))]
        if len({str(row.get(name)) for row in rows}) > 1 and known:
            return f": say which, such as {name}={known[0]}"
    return ", which no column tells apart"


def is_missing(value: object) -> bool:
    """Whether a row has nothing in a column."""
    return value is None or (isinstance(value, float) and isnan(value))


def why_unknown(quantity: Quantity, seeds: Sequence[SeedRows]) -> str:
    """Say why the worst of several attacks, or sources, is not known in a seed that has the error of each; empty where
    there is none such."""
    metric = METRICS[quantity.metric]
    for rows in seeds if len(quantity.single) > 1 else ():
        found = [(one, rows.find(one)) for one in quantity.single]
        if all(len(own) == 1 for _, own in found):
            parts = [(one, own[0], rows.mistakes(own[0], metric)) for one, own in found]
            (first, of_first, known), *_ = parts
            for one, row, part in parts:
                if part is None:
                    return f"which images {one.text} counts was not kept"
                if known is not None and part.dataset != known.dataset:
                    datasets = f"of {of_first['dataset']} and of {row['dataset']}"
                    return f"{first.text} and {one.text} are of other images, {datasets}"
    return ""


def estimate_ratio(ratio: Ratio, rows: SeedRows, interval: Interval | None, first: int | None) -> Estimate:
    """Return a ratio's value in one seed. Its ends are those R at which the interval of numerator - R * denominator
    just leaves 0 out (E. C. Fieller; A. Donner and G. Y. Zou, Statistical Methods in Medical Research 21 (2012)
    347-359); infinite where the denominator's interval holds 0, and with it ratios of either sign without end."""
    if first is None:
        first = images_of(ratio.numerator.plus(ratio.denominator), rows)
    above, below = (estimate_of_images(side, rows, interval, first) for side in (ratio.numerator, ratio.denominator))
    if any(isnan(side.value) and not is_unbounded(side) for side in (above, below)):
        return UNKNOWN
    if below.value == 0 or is_unbounded(above) or is_unbounded(below):
        return UNBOUNDED
    value = above.value / below.value
    if interval is None:
        return Estimate(value, value, value)
    if isnan(above.low) or isnan(below.low):
        return Estimate(value, nan, nan)
    if below.low <= 0 <= below.high:
        return Estimate(value, -inf, inf)

    def gap(at: float) -> Estimate:
        return estimate_of_images(ratio.numerator.minus(ratio.denominator.times(at)), rows, interval, first)

    negative = below.value < 0
    low = limit(lambda at: gap(at).high < 0 if negative else gap(at).low > 0, value, -1.0)
    high = limit(lambda at: gap(at).low > 0 if negative else gap(at).high < 0, value, 1.0)
    return Estimate(value, low, high)


def limit(outside: Callable[[float], bool], value: float, direction: float) -> float:
    """Return where, seen from `value` in a direction, values begin that are `outside`; infinite where none does."""
    far = 1e-3 * max(abs(value), 1.0)
    while not outside(value + direction * far):
        far *= 2
        if far > 1e9 * max(abs(value), 1.0):
            return direction * inf
    near = 0.0
    for _ in range(50):
        middle = (near + far) / 2
        near, far = (near, middle) if outside(value + direction * middle) else (middle, far)
    return value + direction * far
