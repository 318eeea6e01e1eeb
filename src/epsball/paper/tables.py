"""A paper's tables in its own shape: our numbers beside the published ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import floor, inf, isnan, log10, nan
from typing import TYPE_CHECKING, Any, Literal

from epsball.build import did_you_mean, listed, naming_field, require
from epsball.output.pages import Section
from epsball.paper.expressions import Quantity, Sum, check_unit, parse_expression
from epsball.paper.placeholders import expanded, fill
from epsball.paper.statement import Shown
from epsball.paper.values import by_seed, estimate
from epsball.results.intervals import OVER_SEEDS, normal_interval, ties_for_best, wilson
from epsball.results.metrics import METRICS, Better
from epsball.results.rows import Row, as_dicts, seeds_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table(Shown):
    """A table of a paper in the paper's own shape."""

    title: str
    rows: dict[str, str | dict[str, str]]
    """by the row's label what stands for {row} in the columns' expressions, or for each of several placeholders"""
    columns: dict[str, str]
    """an expression by the column's label"""
    paper: dict[str, list[float | None]] | None = None
    """per row, a number for each column or null; null: no paper has it"""
    best: Literal["none", "columns", "rows"] = "none"
    """where the metric's better end, and what is tied with it, is marked"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.rows), "rows should be at least one row, is empty")
        require(bool(self.columns), "columns should be at least one column, is empty")
        with naming_field("rows"):
            known = self.row_fields
        with naming_field("columns"):
            wide = len(self.column_fields)
        for column in self.column_fields:
            spread = f"{column} sd"
            require(
                spread not in self.column_fields, f"columns.{spread} should have another name: it means {column}'s ±"
            )
        for row in known:
            for column in self.column_fields:
                with naming_field(f"columns.{column} of row {row}"):
                    self.cell(row, column)
        for row, values in (self.paper or {}).items():
            require(row in known, f"paper.{row} is no row{did_you_mean(row, known)}: they are {listed(known)}")
            columns = listed(self.column_fields)
            require(len(values) == wide, f"paper.{row} should be {wide} numbers, {columns}: it is {values}")
        check_unit(self.unit, self.cells.values())
        for (row, column), cell in self.cells.items():
            number = self.published(row, column)
            self.check_number(number, cell, f"paper.{row} has {number} for {column}")
        marked = self.best == "none" or all(self.better(group) for group in self.groups)
        require(marked, "best should be none: its metrics share no better end")

    @cached_property
    def row_fields(self) -> dict[str, dict[str, str]]:
        """Return what stands for the placeholders in each row, by its label."""
        return expanded("row", self.rows, self.loops)

    @cached_property
    def column_fields(self) -> dict[str, dict[str, str]]:
        """Return each column's expression, as `column`, and what its label's placeholders stand for."""
        return expanded("column", self.columns, self.loops)

    def cell(self, row: str, column: str) -> Sum:
        """Return what stands in a cell."""
        fields = dict(self.column_fields[column])
        text = fields.pop("column")
        return self.changed(parse_expression(fill(text, {**fields, **self.row_fields[row]})))

    @cached_property
    def cells(self) -> dict[tuple[str, str], Sum]:
        """Return what stands in each cell, by row and column."""
        return {(row, column): self.cell(row, column) for row in self.row_fields for column in self.column_fields}

    @property
    def quantities(self) -> list[Quantity]:
        return [quantity for cell in self.cells.values() for quantity in cell.quantities]

    @property
    def groups(self) -> list[str]:
        """Return the columns, or the rows, in each of which the best is marked."""
        return list({"columns": self.column_fields, "rows": self.row_fields, "none": {}}[self.best])

    def better(self, group: str) -> Better | None:
        """Return the end that all cells of a column (or row) call better, None where they do not agree on one."""
        place = 1 if self.best == "columns" else 0
        ends = {cell.better for key, cell in self.cells.items() if key[place] == group}
        return ends.pop() if len(ends) == 1 else None

    def published(self, row: str, column: str) -> float | None:
        """Return the paper's number of a cell, in the table's unit."""
        values = (self.paper or {}).get(row)
        return None if values is None else values[list(self.column_fields).index(column)]


DIGITS = {"percent": 1, "value": 2}  # at least, of a number in the paper's shape
EXACT = {"percent": 1, "value": 3}  # and of one with its interval


def compare(tables: Mapping[str, Table], rows: Sequence[Row]) -> "pd.DataFrame":
    """Set our numbers beside the paper's: `comparison.csv`, a line per cell of its tables, in the table's unit.

    low, high: Wilson's interval; normal_low, normal_high: the normal one; inside: whether the paper's number lies in
    Wilson's, or, of several seeds, where one more training would lie in 95 cases of 100. Numbers that the paper has of
    another data set are not compared.
    """
    import pandas as pd

    seeds, datasets = by_seed(rows), {str(row["dataset"]) for row in rows}
    lines: list[dict[str, Any]] = []
    for name, table in tables.items():
        about, compares = {"table": name, "unit": table.unit}, table.compares_on(datasets)
        if not compares:
            about["published_on"] = str(table.published_on)
        for (row, column), cell in table.cells.items():
            wide, normal = (estimate(cell, seeds, each).times(table.scale) for each in (wilson, normal_interval))
            numbers = {"ours": wide.value, "low": wide.low, "high": wide.high}
            numbers |= {"normal_low": normal.low, "normal_high": normal.high, "sd": wide.sd, "seeds": wide.seeds}
            paper = table.published(row, column)
            published = nan if paper is None else paper
            numbers |= {"paper": published, "difference": wide.value - published if compares else nan}
            known = not isnan(numbers["difference"]) and not isnan(wide.low)
            inside = "-" if not known else "yes" if wide.reaches(published) else "no"
            place = {"row": row, "column": column, **named_cell(cell)}
            lines.append({**about, **place, **numbers, "inside": inside})
    return pd.DataFrame(lines)


def named_cell(cell: Sum) -> dict[str, str]:
    """Return what a cell's number is: metric, source, target and attack of a quantity that stands alone."""
    alone = cell.alone
    if alone is None:
        names = dict.fromkeys(quantity.metric for quantity in cell.quantities)
        return {"metric": " and ".join(names), "source": "-", "target": "-", "attack": "-"}
    return {"metric": alone.metric, "source": alone.source, "target": alone.target, "attack": alone.attack}


def comparison_text(compared: "pd.DataFrame") -> "pd.DataFrame":
    """Write `comparison.csv` for people: intervals as text."""
    shown = compared[["table", "row", "column"]].copy()
    own = {column: digits_of(cells, EXACT) for column, cells in compared.groupby(["table", "column"])}
    digits = [own[column] for column in zip(compared["table"], compared["column"], strict=True)]
    for name in ("ours", "sd", "paper", "difference"):
        shown[name] = [number_text(value, d) for value, d in zip(compared[name], digits, strict=True)]
    for name, low, high in (("interval", "low", "high"), ("normal", "normal_low", "normal_high")):
        ends = zip(compared[low], compared[high], digits, strict=True)
        shown[name] = ["-" if isnan(a) else f"[{number_text(a, d)}, {number_text(b, d)}]" for a, b, d in ends]
    return shown.assign(inside=compared["inside"])


def digits_of(cells: "pd.DataFrame", fewest: Mapping[str, int]) -> int:
    """Return how many decimals the numbers of a column are written with: of values so many that the smallest of ours
    and of the paper's keeps two digits."""
    unit = str(cells["unit"].iloc[0])
    numbers = [abs(number) for name in ("ours", "paper") for number in cells[name]] if unit == "value" else []
    needed = [1 - floor(log10(number)) for number in numbers if 1e-12 < number < inf]
    return max([fewest[unit], *needed])


def number_text(value: float, digits: int) -> str:
    """Write a number with so many decimals, `-` for one that is missing."""
    return "-" if isnan(value) else f"{value:.{digits}f}"


def with_paper_values(rows: "pd.DataFrame", tables: Mapping[str, Table]) -> "pd.DataFrame":
    """Add paper_value (in the rows' unit), paper_metric and difference, where a table gives the number of a row."""
    datasets = set(rows["dataset"]) if "dataset" in rows else set()
    known: dict[tuple[str, str, str], list[tuple[Quantity, float]]] = {}
    for table in tables.values():
        for (row, column), cell in table.cells.items():
            value, alone = table.published(row, column), cell.alone
            if value is not None and alone is not None and table.compares_on(datasets):
                known.setdefault((alone.source, alone.target, alone.attack), []).append((alone, value / table.scale))
    columns: dict[str, list[Any]] = {"paper_value": [], "paper_metric": [], "difference": []}
    for line in as_dicts(rows):
        own = known.get((str(line["source"]), str(line["target"]), str(line["attack"])), [])
        ours = ((METRICS[q.metric].value_in(line), q.metric, value) for q, value in own if q.is_about(line))
        found = next(((number, name, value) for number, name, value in ours if not isnan(number)), None)
        columns["paper_value"].append(round(found[2], 6) if found else nan)
        columns["paper_metric"].append(found[1] if found else None)
        columns["difference"].append(found[0] - round(found[2], 6) if found else nan)
    return rows.assign(**columns) if any(columns["paper_metric"]) else rows


def table_sections(tables: Mapping[str, Table], compared: "pd.DataFrame") -> list[Section]:
    """Show each table in the paper's own shape in a report; nothing where nothing was compared."""
    if compared.empty:
        return []
    sections = []
    for name, table in tables.items():
        mine = compared[compared["table"] == name]
        elsewhere = f" on {table.published_on}" if "published_on" in mine and mine["published_on"].notna().any() else ""
        text = "Ours" + (f" (the paper's{elsewhere})" if table.paper else "")
        text += "; per cent" if table.unit == "percent" else ""
        text += f"; mean ± sd over {seeds_text(mine['seeds'])}" if mine["seeds"].max() > 1 else ""
        ends = {str(table.better(group)) for group in table.groups}
        end = "best" if len(ends) > 1 else {"low": "lowest", "high": "highest"}.get("".join(ends), "")
        text += f"; bold: the {end}, and those whose interval overlaps its interval" if table.groups else ""
        sections.append(Section(table.title, text + ".", paper_table(name, table, compared)))
    return sections


def comparison_sections(compared: "pd.DataFrame") -> list[Section]:
    """Show every number beside the paper's in a report; nothing where there is no table."""
    if compared.empty:
        return []
    rule = (
        "Wilson's and the normal 95 % interval. Inside: the paper's number lies in Wilson's, which is of the test "
        "images alone: that of another training often does not"
    )
    several = compared["seeds"].max() > 1
    rule += (
        f"; of several seeds, where one more training would lie in 95 cases of 100. {OVER_SEEDS}" if several else "."
    )
    return [Section("Every number with its interval", rule, comparison_text(compared))]


def paper_table(name: str, table: Table, compared: "pd.DataFrame") -> "pd.DataFrame":
    """Lay out one table in the paper's shape: `ours ± sd (paper's)`, the best and those tied with it in bold."""
    import pandas as pd

    mine = compared[compared["table"] == name]
    best = tied_for_best(table, mine)
    cells = {(cell["row"], cell["column"]): cell for cell in as_dicts(mine)}
    digits = {name: digits_of(mine[mine["column"] == name], DIGITS) for name in table.column_fields}
    lines = [
        {"": row} | {name: cell_text(cells[row, name], own, (row, name) in best) for name, own in digits.items()}
        for row in table.row_fields
    ]
    return pd.DataFrame(lines)


def cell_text(cell: Mapping[str, Any], digits: int, best: bool) -> str:
    """Write one cell: `ours ± sd (paper's)`, ours in bold if `best`."""
    ours = number_text(cell["ours"], digits)
    if not isnan(cell["sd"]):
        ours += f" ± {number_text(cell['sd'], digits)}"
    if best:
        ours = f"**{ours}**"
    return ours if isnan(cell["paper"]) else f"{ours} ({number_text(cell['paper'], digits)})"


def tied_for_best(table: Table, mine: "pd.DataFrame") -> set[tuple[str, str]]:
    """Return the cells at the better end of their column (or row), and those whose interval overlaps that one's."""
    found: set[tuple[str, str]] = set()
    place = "column" if table.best == "columns" else "row"
    for name in table.groups:
        group, better = mine[mine[place] == name], table.better(name)
        assert better is not None
        values, lows, highs = (group[end].tolist() for end in ("ours", "low", "high"))
        best = ties_for_best(values, lows, highs, better)
        cells = zip(group["row"], group["column"], best, strict=True)
        found |= {(row, column) for row, column, is_best in cells if is_best}
    return found
