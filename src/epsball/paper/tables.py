"""A paper's tables in its own shape: our numbers beside the published ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Literal

from epsball.build import bound, did_you_mean, listed, require
from epsball.output.pages import Section
from epsball.paper.expressions import Quantity, measured_value, naming_field, parse_quantity
from epsball.results.intervals import normal_interval, ties_for_best, wilson
from epsball.results.metrics import METRICS, Better, Unit
from epsball.results.rows import Row, as_dicts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table of a paper in the paper's own shape."""

    title: str
    rows: dict[str, str]
    """what stands for {row} in the columns' expressions, by the row's label"""
    columns: dict[str, str]
    """an expression by the column's label"""
    paper: dict[str, list[float | None]] | None
    """per row, a number for each column or null; null: no paper has it"""
    unit: Unit
    """of the numbers; per cent is 100 times the rows' fraction"""
    best: Literal["none", "columns", "rows"]
    """where the metric's better end, and what is tied with it, is marked"""
    names: Mapping[str, str] | None = bound(None)
    """of models in the results, by those in the expressions"""

    def __post_init__(self) -> None:
        require(bool(self.rows), "rows should be at least one row, is empty")
        require(bool(self.columns), "columns should be at least one column, is empty")
        for row in self.rows:
            for column in self.columns:
                with naming_field(f"columns.{column} of row {row}"):
                    self.cell(row, column)
        for row, values in (self.paper or {}).items():
            require(
                row in self.rows, f"paper.{row} is no row{did_you_mean(row, self.rows)}: they are {listed(self.rows)}"
            )
            require(len(values) == len(self.columns), f"paper.{row} should be {len(self.columns)} numbers, is {values}")
        no_rates = sorted({quantity.metric for quantity in self.quantities if not METRICS[quantity.metric].is_rate})
        require(self.unit == "value" or not no_rates, f"unit should be value: {listed(no_rates)} is no rate")
        require(self.best == "none" or self.better is not None, "best should be none: its metrics share no better end")

    def cell(self, row: str, column: str) -> Quantity:
        """Return the quantity that stands in a cell."""
        return parse_quantity(self.columns[column].replace("{row}", self.rows[row])).renamed(self.names or {})

    @property
    def quantities(self) -> list[Quantity]:
        return [self.cell(row, column) for row in self.rows for column in self.columns]

    @property
    def better(self) -> Better | None:
        """Return the end that all its metrics call better, None where they do not agree on one."""
        ends = {METRICS[quantity.metric].better for quantity in self.quantities}
        return ends.pop() if len(ends) == 1 else None

    def renamed(self, names: Mapping[str, str]) -> "Table":
        """Return the same about models under other names."""
        return replace(self, names=dict(names))

    def published(self, row: str, column: str) -> float | None:
        """Return the paper's number of a cell, in the table's unit."""
        values = (self.paper or {}).get(row)
        return None if values is None else values[list(self.columns).index(column)]

    @property
    def scale(self) -> float:
        """Return the factor from the rows' unit to the table's."""
        return 100.0 if self.unit == "percent" else 1.0


DIGITS = {"percent": 1, "value": 2}  # of a number in the paper's shape


def compare(tables: Mapping[str, Table], rows: Sequence[Row]) -> "pd.DataFrame":
    """Set our numbers beside the paper's: `comparison.csv`, a line per cell of its tables, in the table's unit.

    low, high: Wilson's interval; normal_low, normal_high: the normal one; inside: whether the paper's number lies in
    Wilson's.
    """
    import pandas as pd

    lines = [
        {"table": name, "row": row, "column": column, "unit": table.unit, **compared_cell(table, row, column, rows)}
        for name, table in tables.items()
        for row in table.rows
        for column in table.columns
    ]
    frame = pd.DataFrame(lines)
    if frame.empty:
        return frame
    inside = (frame["low"] <= frame["paper"]) & (frame["paper"] <= frame["high"])
    known = frame["paper"].notna() & frame["low"].notna()
    return frame.assign(
        difference=frame["ours"] - frame["paper"], inside=inside.map({True: "yes", False: "no"}).where(known, "-")
    )


def compared_cell(table: Table, row: str, column: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return a cell's quantity, our number with its intervals, and the paper's number."""
    quantity, paper = table.cell(row, column), table.published(row, column)
    ours, normal = (
        measured_value(quantity, rows, interval).times(table.scale) for interval in (wilson, normal_interval)
    )
    return {
        **{"metric": quantity.metric, "source": quantity.source, "target": quantity.target, "attack": quantity.attack},
        **{"ours": ours.value, "low": ours.low, "high": ours.high},
        **{"normal_low": normal.low, "normal_high": normal.high, "sd": ours.sd, "seeds": ours.seeds},
        "paper": nan if paper is None else paper,
    }


def comparison_text(compared: "pd.DataFrame") -> "pd.DataFrame":
    """Write `comparison.csv` for people: intervals as text."""
    shown = compared[["table", "row", "column"]].copy()
    digits = [1 if unit == "percent" else 3 for unit in compared["unit"]]
    for name in ("ours", "sd", "paper", "difference"):
        shown[name] = [number_text(value, d) for value, d in zip(compared[name], digits, strict=True)]
    for name, low, high in (("interval", "low", "high"), ("normal", "normal_low", "normal_high")):
        ends = zip(compared[low], compared[high], digits, strict=True)
        shown[name] = ["-" if isnan(a) else f"[{number_text(a, d)}, {number_text(b, d)}]" for a, b, d in ends]
    return shown.assign(inside=compared["inside"])


def number_text(value: float, digits: int) -> str:
    """Write a number with so many decimals, `-` for one that is missing."""
    return "-" if isnan(value) else f"{value:.{digits}f}"


def with_paper_values(rows: "pd.DataFrame", tables: Mapping[str, Table]) -> "pd.DataFrame":
    """Add paper_value (in the rows' unit), paper_metric and difference, where a table gives a cell's number."""
    known = [
        (table.cell(row, column), table.published(row, column), table.scale)
        for table in tables.values()
        for row in table.rows
        for column in table.columns
    ]
    columns: dict[str, list[Any]] = {"paper_value": [], "paper_metric": [], "difference": []}
    for row in as_dicts(rows):
        found = next(((q, value / scale) for q, value, scale in known if value is not None and q.matches(row)), None)
        value, metric = (round(found[1], 6), found[0].metric) if found else (nan, None)
        columns["paper_value"].append(value)
        columns["paper_metric"].append(metric)
        columns["difference"].append(METRICS[metric].value_in(row) - value if metric else nan)
    return rows.assign(**columns) if any(columns["paper_metric"]) else rows


def table_sections(tables: Mapping[str, Table], compared: "pd.DataFrame") -> list[Section]:
    """Show each table in the paper's own shape in a report; nothing where nothing was compared."""
    if compared.empty:
        return []
    sections = []
    for name, table in tables.items():
        text = "Ours" + (" (the paper's)" if table.paper else "") + ("; per cent" if table.unit == "percent" else "")
        text += "; mean ± sd over the seeds" if compared["seeds"].max() > 1 else ""
        end = {"low": "lowest", "high": "highest"}.get(table.better or "", "")
        text += f"; bold: the {end}, and those whose interval overlaps its interval" if table.best != "none" else ""
        sections.append(Section(table.title, text + ".", paper_table(name, table, compared)))
    return sections


def comparison_sections(compared: "pd.DataFrame") -> list[Section]:
    """Show every number beside the paper's in a report; nothing where there is no table."""
    rule = "Wilson's and the normal 95 % interval; inside: the paper's number lies in Wilson's."
    return [Section("Every number with its interval", rule, comparison_text(compared))] if len(compared) else []


def paper_table(name: str, table: Table, compared: "pd.DataFrame") -> "pd.DataFrame":
    """Lay out one table in the paper's shape: `ours ± sd (paper's)`, the best and those tied with it in bold."""
    import pandas as pd

    mine = compared[compared["table"] == name]
    best = tied_for_best(table, mine)
    cells = {(cell["row"], cell["column"]): cell for cell in as_dicts(mine)}
    lines = [
        {"": row}
        | {column: cell_text(cells[row, column], DIGITS[table.unit], (row, column) in best) for column in table.columns}
        for row in table.rows
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
    if table.best == "none" or table.better is None:
        return set()
    found: set[tuple[str, str]] = set()
    for _, group in mine.groupby("column" if table.best == "columns" else "row", sort=False):
        values, lows, highs = (group[name].tolist() for name in ("ours", "low", "high"))
        best = ties_for_best(values, lows, highs, table.better)
        cells = zip(group["row"], group["column"], best, strict=True)
        found |= {(row, column) for row, column, is_best in cells if is_best}
    return found
