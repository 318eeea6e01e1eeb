"""Points of a paper's figures in our rows: `figures.csv`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from epsball.build import naming_field
from epsball.paper.expressions import ANY, Quantity, Sum
from epsball.paper.figures import Figure, with_value
from epsball.paper.values import SeedRows, by_seed, estimate, how_to_choose
from epsball.results.intervals import Estimate, estimate_row, mean_estimate, wilson
from epsball.results.metrics import METRICS
from epsball.results.rows import Row, as_float

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("figure", "unit", "panel", "line", "x", "y", "low", "high", "sd", "seeds", "paper")
"""of `figures.csv`; bin_low, bin_high, each and published_on stand there where a figure has them"""


def figure_points(figures: Mapping[str, Figure], rows: Sequence[Row]) -> "pd.DataFrame":
    """Measure all figures: `figures.csv`, a line per point, in the figure's unit, those that our rows lack left out.

    low, high: the 95 % interval; sd: over seeds; paper: the paper's number there. A histogram has bin_low and bin_high
    instead of x. each: what the column of that name has, for a curve of its own. published_on: the data set of the
    paper's numbers where it is not ours.
    """
    import pandas as pd

    seeds, datasets = by_seed(rows), {str(row["dataset"]) for row in rows}
    lines: list[dict[str, Any]] = []
    for name, figure in figures.items():
        about = {"figure": name, "unit": figure.unit}
        if figure.paper and not figure.compares_on(datasets):
            about["published_on"] = str(figure.published_on)
        with naming_field(f"figures.{name}.y"):
            lines += [{**about, **point} for point in points_of(figure, seeds)]
    optional = [name for name in ("bin_low", "bin_high", "each", "published_on") if any(name in line for line in lines)]
    return pd.DataFrame(lines, columns=[*COLUMNS, *optional])


def points_of(figure: Figure, seeds: Sequence[SeedRows]) -> Iterator[dict[str, Any]]:
    """Yield the points of a figure that our rows have, line by line."""
    measure = bins_of if figure.kind == "histogram" else curves_of if figure.each else line_of
    for panel, line in figure.places:
        for place, found in measure(figure, panel, line, seeds):
            ours = found.times(figure.scale)
            if not isnan(ours.value):
                numbers = {"y": ours.value, "low": ours.low, "high": ours.high, "sd": ours.sd, "seeds": ours.seeds}
                yield {"panel": panel, "line": line, **place, **numbers}


Points = Iterator[tuple[dict[str, Any], Estimate]]  # where each stands, and its value


def line_of(figure: Figure, panel: str, line: str, seeds: Sequence[SeedRows]) -> Points:
    """Yield a line's values over x: at those that it gives, or at all that our rows have."""
    sides = figure.sides[panel, line]
    if figure.values is None:
        for x in found_values(figure.x, sides[0], seeds):
            yield {"x": x}, estimate(sides[0].mapped(with_value(ANY, x)), seeds, wilson)
    else:
        paper = figure.papers.get(panel, {}).get(line) or [None] * len(sides)
        for x, side, number in zip(figure.given, sides, paper, strict=True):
            yield {"x": x, "paper": nan if number is None else number}, estimate(side, seeds, wilson)


def curves_of(figure: Figure, panel: str, line: str, seeds: Sequence[SeedRows]) -> Points:
    """Yield the curves of a line, without intervals: of the first seed that has any, one for each value of a column."""
    quantities = {quantity for side in figure.sides[panel, line] for quantity in side.quantities}
    for own in seeds:
        curves: dict[float | str, list[Row]] = {}
        common: list[Row] = []  # rows that have nothing in the column belong to every curve
        for row in {id(row): row for quantity in quantities for row in own.find(quantity)}.values():
            value = row.get(str(figure.each))
            if isinstance(value, str) or (isinstance(value, int | float) and not isnan(value)):
                curves.setdefault(value, []).append(row)
            else:
                common.append(row)
        for value in sorted(curves, key=lambda value: (isinstance(value, str), value)):
            for place, found in line_of(figure, panel, line, [SeedRows([*common, *curves[value]])]):
                yield {**place, "each": value}, replace(found, low=nan, high=nan)
        if curves:
            return


def found_values(column: str, side: Sum, seeds: Sequence[SeedRows]) -> list[float | str]:
    """Return what stands in a column of the rows that have a quantity at any of its values, numbers rising."""
    asked = [quantity for quantity in side.quantities if (column, ANY) in quantity.conditions]
    rows = (row for quantity in asked for own in seeds for row in own.find(quantity))
    values = [value for row in rows if isinstance(value := row.get(column), str | int | float)]
    texts = {f"{x:.9g}": float(x) for x in values if not isinstance(x, str) and not isnan(x)}
    return [*sorted(texts.values()), *dict.fromkeys(x for x in values if isinstance(x, str))]


def bins_of(figure: Figure, panel: str, line: str, seeds: Sequence[SeedRows]) -> Points:
    """Yield the bins of a line's histogram, each with its mean share over the seeds."""
    quantity = figure.sides[panel, line][0].alone
    assert quantity is not None
    found: dict[tuple[float, float], list[Estimate]] = {}
    for own in seeds:
        for row in one_histogram(quantity, own):
            ends = as_float(row["bin_low"]), as_float(row["bin_high"])
            found.setdefault(ends, []).append(estimate_row(row, METRICS[quantity.metric], wilson))
    for (low, high), shares in found.items():
        yield {"bin_low": low, "bin_high": high}, mean_estimate(shares)


def one_histogram(quantity: Quantity, rows: SeedRows) -> list[Row]:
    """Return the bins of a quantity in one seed, rising. ValueError where several histograms have its name."""
    bins = sorted(rows.find(quantity), key=lambda row: as_float(row["bin_low"]))
    for lower, upper in pairwise(bins):
        if as_float(lower["bin_high"]) > as_float(upper["bin_low"]):
            raise ValueError(f"{quantity.text} names several histograms of a seed{how_to_choose(bins)}")
    return bins
