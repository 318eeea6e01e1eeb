"""A paper's figures: an expression over eps, a step, an epoch or a grid's value, or a histogram; a line per model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsball.build import did_you_mean, listed, naming_field, require
from epsball.output.figures import Drawing, Kind, draw_figure
from epsball.output.pages import Section
from epsball.paper.expressions import ANY, Change, Quantity, Ratio, Sum, check_unit, parse_expression
from epsball.paper.placeholders import expanded, fill, fill_known, options
from epsball.paper.statement import Shown
from epsball.results.metrics import METRICS
from epsball.results.rows import seeds_text

if TYPE_CHECKING:
    import pandas as pd

EVERY_X = "every_x"  # stands for {x} where it stands for all values that our rows have


@dataclass(frozen=True)
class Figure(Shown):
    """A figure of a paper: y over x, or y's histogram, a line (or bar) per model."""

    title: str
    kind: Kind
    x: str
    """what the axis is called; with `values: null` the column of the rows whose values {x} stands for"""
    y: str
    """an expression in which {x} stands for the value; of a histogram one metric, `<quantity>_share(model)`"""
    lines: dict[str, str | dict[str, str]]
    """by the line's label what stands for {line} in y, or for each of several placeholders"""
    values: list[str | float] | dict[str, str | float] | None = None
    """of x; a dict has them by what labels call them; null: all that our rows have"""
    panels: dict[str, str | dict[str, str]] | None = None
    """by a panel's label what stands for {panel}, or for each of several placeholders; null: one panel"""
    each: str | None = None
    """of a line: a column of the rows; it is drawn as one thin curve for each value there, of the first seed"""
    log_x: bool = False
    log_y: bool = False
    paper: dict[str, list[float | None] | dict[str, list[float | None]]] | None = None
    """per line, a number for each of `values` or null, in the figure's unit; with panels, that per panel"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.x.isidentifier(), f"x should be a word, such as eps or epoch, is {self.x!r}")
        for field, given in (("lines", self.lines), ("panels", self.panels), ("values", self.values)):
            require(given is None or bool(given), f"{field} should be at least one, is empty")
        require("x" not in self.loops, "for.x should have another name: {x} stands for the values")
        check_unit(self.unit, [side for sides in self.sides.values() for side in sides])
        if self.kind == "histogram":
            self.check_histogram()
        else:
            self.check_x()
        self.check_each()
        self.check_paper()

    @cached_property
    def line_fields(self) -> dict[str, dict[str, str]]:
        """Return what stands for the placeholders of each line, by its label."""
        with naming_field("lines"):
            return expanded("line", self.lines, self.loops)

    @cached_property
    def panel_fields(self) -> dict[str, dict[str, str]]:
        """Return what stands for the placeholders of each panel, by its label; without panels the one has none."""
        with naming_field("panels"):
            return {"": {}} if self.panels is None else expanded("panel", self.panels, self.loops)

    @property
    def places(self) -> list[tuple[str, str]]:
        """Return panel and line of all lines."""
        return [(panel, line) for panel in self.panel_fields for line in self.line_fields]

    @cached_property
    def given(self) -> dict[float | str, str]:
        """Return the values of x that it gives: as points have them, labels where they have any, and as expressions
        do."""
        named = any(isinstance(value, str) for value in self.values or ())
        texts = [text for _, text in options(self.values or [])]
        return {str(x) if named else x: text for x, text in zip(self.values or (), texts, strict=True)}

    @cached_property
    def sides(self) -> dict[tuple[str, str], list[Sum]]:
        """Return y for each of its values, by panel and line; with `values: null` once, for any value."""
        texts = list(self.given.values()) or [EVERY_X]
        return {place: [self.side(*place, text) for text in texts] for place in self.places}

    def side(self, panel: str, line: str, x: str) -> Sum:
        """Return y of a line at a value of x."""
        with naming_field(named_y(panel, line)):
            found = parse_expression(
                fill(self.text(panel, line), {**self.line_fields[line], **self.panel_fields[panel], "x": x})
            )
        return self.changed(found.mapped(with_value(EVERY_X, ANY)))

    def text(self, panel: str, line: str) -> str:
        """Return y as it is written for a line, {x} in it."""
        return fill_known(fill_known(self.y, self.line_fields[line]), self.panel_fields[panel])

    @property
    def quantities(self) -> list[Quantity]:
        """Return all that it asks about; with `values: null` the condition on x is ANY, which every row meets."""
        every = (quantity for sides in self.sides.values() for side in sides for quantity in side.quantities)
        return list(dict.fromkeys(every))

    @property
    def drawn(self) -> tuple[str, ...]:
        return (self.x, *([self.each] if self.each else []), "bin_low", "bin_high")

    def check_histogram(self) -> None:
        """ValueError unless y is the share of one quantity, over its bins."""
        binned = [name for name, metric in METRICS.items() if metric.binned]
        for sides in self.sides.values():
            alone = sides[0].alone
            single = alone is not None and alone.metric in binned and len(alone.single) == 1
            require(single, f"y should be one of {listed(binned)} alone for a histogram, is {self.y!r}")
        given = self.values is not None or any(value == ANY for q in self.quantities for _, value in q.conditions)
        require(not given, "values should be null, and y without {x}, for a histogram: its bins are those of the rows")

    def check_x(self) -> None:
        """ValueError unless y says where x stands, and x can be drawn as it is asked to."""
        for place in self.places:
            said = f"should have {{x}}, such as {self.x}={{x}}, is {self.text(*place)!r}"
            require("{x}" in self.text(*place), f"{named_y(*place)} {said}")
        names = [name for quantity in self.quantities for name in named_in(quantity)]
        require(not any(EVERY_X in name for name in names), "values should be given: {x} stands in y for a name")
        columns = {column for q in self.quantities for column, value in q.conditions if value == ANY}
        require(self.values is not None or columns == {self.x}, f"x should be {listed(columns)}, is {self.x}")
        require(not self.log_x or self.kind != "bar", "log_x should be false: bars stand side by side")
        above_0 = all(not isinstance(x, str) and x > 0 for x in self.given)
        require(not self.log_x or above_0, "log_x should be false: values has no numbers above 0 alone")

    def check_each(self) -> None:
        """ValueError unless `each` can be drawn as curves beside one another."""
        if self.each is None:
            return
        require(self.each.isidentifier(), f"each should be a word, such as restart, is {self.each!r}")
        require(self.kind == "line", f"each should be null for a {self.kind}: only lines have curves")
        named = {self.x, *(column for quantity in self.quantities for column, _ in quantity.conditions)}
        require(self.each not in named, f"each should be a column that y does not name, is {self.each}")
        require(self.paper is None, "paper should be null beside each: its numbers are of no single curve")

    def check_paper(self) -> None:
        """ValueError unless the paper's numbers stand at lines and values that there are."""
        require(
            self.paper is None or self.values is not None, "paper should be null: values gives no x for its numbers"
        )
        for panel, lines in self.papers.items():
            where = "paper" if self.panels is None else f"paper.{panel}"
            known = self.panel_fields
            require(panel in known, f"{where} is no panel{did_you_mean(panel, known)}: they are {listed(known)}")
            require(isinstance(lines, dict), f"{where} should be a group of lines, is {lines}")
            for line, numbers in lines.items():
                known = self.line_fields
                require(
                    line in known, f"{where}.{line} is no line{did_you_mean(line, known)}: they are {listed(known)}"
                )
                long = isinstance(numbers, list) and len(numbers) == len(self.given)
                require(long, f"{where}.{line} should be {len(self.given)} numbers, is {numbers}")
                for x, number, side in zip(self.given, numbers, self.sides[panel, line], strict=True):
                    self.check_number(number, side, f"{where}.{line} has {number} at {x}")

    @property
    def papers(self) -> Mapping[str, Any]:
        """Return the paper's numbers by panel and line."""
        return (self.paper or {}) if self.panels is not None else {"": self.paper or {}}

    @property
    def drawing(self) -> Drawing:
        """Return how it is drawn."""
        metrics = [METRICS[quantity.metric] for quantity in self.quantities]
        names = listed(dict.fromkeys(metric.words for metric in metrics))
        single = any(column == "image" for quantity in self.quantities for column, _ in quantity.conditions)
        shares = f"share of the {'starts' if single else 'images'}"  # a single image's histogram is of its starts
        name = shares if self.kind == "histogram" else names
        terms = [term for sides in self.sides.values() for side in sides for _, term in side.terms]
        ratio = any(isinstance(term, Ratio) for term in terms)
        rate = all(side.alone and side.is_rate for sides in self.sides.values() for side in sides)
        return Drawing(
            kind=self.kind,
            x=self.x.replace("_", " "),
            y=("ratio of " if ratio else "") + name + (", per cent" if self.unit == "percent" else ""),
            log_x=self.log_x,
            log_y=self.log_y,
            y_range=(0.0, self.scale) if rate else (-inf, inf),
            names=[x for x in self.given if isinstance(x, str)],
        )


def named_y(panel: str, line: str) -> str:
    """Name the field whose text y of a line is."""
    return f"y of line {line}" + (f" in panel {panel}" if panel else "")


def with_value(old: str, new: float | str) -> Change:
    """Return the change of a quantity to another value where a condition has the old one."""

    def change(quantity: Quantity) -> Quantity:
        conditions = tuple((column, new if value == old else value) for column, value in quantity.conditions)
        return replace(quantity, conditions=conditions)

    return change


def named_in(quantity: Quantity) -> tuple[str, ...]:
    """Return the models and attacks of a quantity."""
    return (quantity.target, *quantity.sources, *quantity.attacks)


def figure_sections(figures: Mapping[str, Figure], points: "pd.DataFrame", folder: Path) -> list[Section]:
    """Draw each figure into `folder` and show it in a report, with what its intervals are."""
    sections = []
    for name, figure in figures.items():
        mine, image = points[points["figure"] == name], folder / f"figure_{name}.png"
        if mine.empty:
            sections.append(Section(figure.title, "Nothing of it was measured."))
            continue
        draw_figure(mine, figure.drawing, image)
        sections.append(Section(figure.title, caption(figure, mine), image=image))
    return sections


def caption(figure: Figure, mine: "pd.DataFrame") -> str:
    """Say what is drawn: intervals, of how many seeds, and whose the hollow markers are."""
    most, seeds = mine["seeds"].max(), seeds_text(mine["seeds"])
    if figure.each is not None:
        return f"One seed: a curve for each {figure.each.replace('_', ' ')}, {mine['each'].nunique()} of them."
    intervals = figure.kind != "histogram" and mine["low"].notna().any()
    text = f"With 95 % intervals, over {seeds}" if intervals else f"Mean over {seeds}" if most > 1 else "One seed"
    if mine["paper"].notna().any():
        elsewhere = "published_on" in mine and mine["published_on"].notna().any()
        text += "; hollow: the paper's values" + (f", of another data set, {figure.published_on}" if elsewhere else "")
    return f"{text}."
