"""What a paper says, held against our rows: its tables filled with our numbers, its claims judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import hypot, isnan, nan
from operator import ge, gt, le, lt
from typing import Any, Literal

import pandas as pd

from epsball import statistics
from epsball.estimates import Estimate, is_rate, mean, of_rows
from epsball.expressions import Claim, Comparison, Quantity, Sum, Table
from epsball.statistics import Interval

Row = Mapping[str, Any]
Verdict = Literal["confirmed", "refuted", "open"]
CELL = "{:.1f}", "{:.2f}"  # per cent, other values


def measured(quantity: Quantity, rows: Sequence[Row], interval: Interval | None = statistics.wilson) -> Estimate:
    """Our value of a quantity over the seeds that have it. ValueError when a seed has several rows of it."""
    found = [row for row in rows if quantity.matches(row)]
    if len({row["seed"] for row in found}) < len(found):
        raise ValueError(f"{quantity} names several rows of a seed: say which eps")
    return of_rows(found, quantity.metric, interval)


def total(side: Sum, rows: Sequence[Row], interval: Interval | None = statistics.wilson) -> Estimate:
    """A sum's value and interval in one seed's rows; the distances to the ends add in quadrature (Newcombe 1998,
    Statistics in Medicine 17, method 10: the hybrid score interval). What is named twice counts once, weights added.
    """
    weights: dict[Quantity, float] = {}
    for weight, quantity in side.terms:
        weights[quantity] = weights.get(quantity, 0.0) + weight
    parts = [measured(quantity, rows, interval).times(weight) for quantity, weight in weights.items()]
    value = side.constant + sum(part.value for part in parts)
    below, above = (
        hypot(*distances)
        for distances in ([part.value - part.low for part in parts], [part.high - part.value for part in parts])
    )
    return Estimate(value, value - below, value + above)


@dataclass(frozen=True)
class Check:
    """A comparison with its two sides as measured, in each seed."""

    comparison: Comparison
    lefts: Sequence[Estimate]
    rights: Sequence[Estimate]

    @cached_property
    def left(self) -> Estimate:
        return mean(self.lefts)

    @cached_property
    def right(self) -> Estimate:
        return mean(self.rights)

    @cached_property
    def gap(self) -> Estimate:
        """left - right. In one seed its ends leave 0 out when the sides' intervals do not overlap; over seeds their
        spread is that of the seeds' gaps: the two sides are of the same models."""
        pairs = zip(self.lefts, self.rights, strict=True)
        return mean([Estimate(a.value - b.value, a.low - b.high, a.high - b.low) for a, b in pairs])

    @property
    def verdict(self) -> Verdict:
        """confirmed when the comparison holds and the gap's interval leaves 0 out, refuted when the opposite does."""
        below, above = self.gap.high < 0, self.gap.low > 0
        if self.comparison.operator.startswith(">"):
            below, above = above, below
        return "confirmed" if below else "refuted" if above else "open"

    @property
    def holds(self) -> bool | None:
        """Whether the measured values themselves compare so; None when one is missing."""
        return self.compared(self.left, self.right)

    @property
    def in_seeds(self) -> list[bool]:
        """The same of each seed that has both sides."""
        return [holds for holds in map(self.compared, self.lefts, self.rights) if holds is not None]

    def compared(self, left: Estimate, right: Estimate) -> bool | None:
        if isnan(left.value) or isnan(right.value):
            return None
        compare = {"<": lt, "<=": le, ">": gt, ">=": ge}[self.comparison.operator]
        return bool(compare(left.value, right.value))


def judged(claim: Claim, rows: Sequence[Row]) -> list[Check]:
    """All of a claim's comparisons, measured. Each side is summed up within a seed: its quantities share models."""
    interval = statistics.wilson if claim.images == "sample" else None
    by_seed: dict[object, list[Row]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row)
    seeds = list(by_seed.values()) or [[]]
    return [
        Check(c, *([total(side, own, interval) for own in seeds] for side in (c.left, c.right)))
        for c in claim.comparisons
    ]


def verdict(checks: Sequence[Check]) -> Verdict:
    """refuted when one check is, confirmed when all are, else open."""
    found = {check.verdict for check in checks}
    return "refuted" if "refuted" in found else "open" if "open" in found else "confirmed"


def claims_table(claims: Mapping[str, Claim], rows: Sequence[Row]) -> pd.DataFrame:
    """`claims.csv`: a line per check, each with its claim's verdict; `percent`: whether both sides are rates; `seeds`:
    how many measured it; `seeds_holding`: in how many of them the values compare so; `gap`: left - right."""
    lines = []
    for name, claim in claims.items():
        checks = judged(claim, rows)
        whole = verdict(checks)
        for check in checks:
            known = check.in_seeds
            line: dict[str, Any] = {"claim": name, "verdict": whole}
            line |= {"check": check.comparison.text, "operator": check.comparison.operator}
            line |= {"check_verdict": check.verdict, "holds": check.holds}
            line |= {"seeds": len(known), "seeds_holding": sum(known)}
            for side, estimate in (("left", check.left), ("right", check.right), ("gap", check.gap)):
                line |= {side: estimate.value, f"{side}_low": estimate.low, f"{side}_high": estimate.high}
            line["percent"] = all(is_rate(quantity.metric) for quantity in check.comparison.quantities)
            lines.append(line | {"says": claim.says, "paper": claim.paper})
    return pd.DataFrame(lines)


def claims_summary(table: pd.DataFrame) -> pd.DataFrame:
    """A line per claim for people: verdict, words, our numbers in the order of the paper's, their distance; with
    several seeds, in how many of them each check holds."""
    lines = []
    for _, group in table.groupby("claim", sort=False) if len(table) else ():
        checks = statistics.records(group)
        numbers = "; ".join(f"{side_text(c, 'left')} {c['operator']} {side_text(c, 'right')}" for c in checks)
        gaps = "; ".join(side_text(c, "gap") for c in checks)
        holding = "; ".join(f"{c['seeds_holding']} of {c['seeds']}" for c in checks)
        lines.append({**checks[0], "ours": numbers, "left - right": gaps, "holds in seeds": holding})
    several = ["holds in seeds"] if len(table) and table["seeds"].max() > 1 else []
    return pd.DataFrame(lines, columns=["claim", "verdict", "says", "ours", "left - right", *several, "paper"])


def side_text(check: Mapping[str, Any], side: str) -> str:
    """A side's value and half interval, as the papers write them."""
    scale = 100 if check["percent"] else 1
    value, low, high = (float(check[f"{side}{end}"]) * scale for end in ("", "_low", "_high"))
    if isnan(value):
        return "not measured"
    half = (high - low) / 2
    return f"{value:.3g}" + (f" ± {half:.2g}" if half > 0 else "")


def cells(tables: Mapping[str, Table], rows: Sequence[Row]) -> pd.DataFrame:
    """`comparison.csv`: a line per cell of the paper's tables, in the table's unit: ours, Wilson's and the normal
    interval, the paper's number, the difference, and whether the paper's number lies in our interval."""
    lines = []
    for name, table in tables.items():
        for row in table.rows:
            for column in table.columns:
                quantity, paper = table.cell(row, column), table.published(row, column)
                ours, normal = (
                    measured(quantity, rows, interval).times(table.scale)
                    for interval in (statistics.wilson, statistics.normal)
                )
                lines.append(
                    {"table": name, "row": row, "column": column, "unit": table.unit}
                    | {"metric": quantity.metric, "source": quantity.source, "target": quantity.target}
                    | {"attack": quantity.attack, "ours": ours.value, "low": ours.low, "high": ours.high}
                    | {"normal_low": normal.low, "normal_high": normal.high}
                    | {"sd": ours.sd, "seeds": ours.seeds, "paper": nan if paper is None else paper}
                )
    frame = pd.DataFrame(lines)
    if frame.empty:
        return frame
    inside = (frame["low"] <= frame["paper"]) & (frame["paper"] <= frame["high"])
    known = frame["paper"].notna() & frame["low"].notna()
    return frame.assign(
        difference=frame["ours"] - frame["paper"], inside=inside.map({True: "yes", False: "no"}).where(known, "-")
    )


def beside(compared: pd.DataFrame) -> pd.DataFrame:
    """`comparison.csv` for people: intervals as text."""
    shown = compared[["table", "row", "column"]].copy()
    digits = [1 if unit == "percent" else 3 for unit in compared["unit"]]
    for name in ("ours", "sd", "paper", "difference"):
        shown[name] = [number_text(value, d) for value, d in zip(compared[name], digits, strict=True)]
    for name, low, high in (("interval", "low", "high"), ("normal", "normal_low", "normal_high")):
        ends = zip(compared[low], compared[high], digits, strict=True)
        shown[name] = ["-" if isnan(a) else f"[{number_text(a, d)}, {number_text(b, d)}]" for a, b, d in ends]
    return shown.assign(inside=compared["inside"])


def number_text(value: float, digits: int) -> str:
    return "-" if isnan(value) else f"{value:.{digits}f}"


def with_paper(rows: pd.DataFrame, tables: Mapping[str, Table]) -> pd.DataFrame:
    """`rows` with paper_value (in the rows' unit), paper_metric and difference, where a table gives a cell's number."""
    known = [
        (table.cell(row, column), table.published(row, column), table.scale)
        for table in tables.values()
        for row in table.rows
        for column in table.columns
    ]
    columns: dict[str, list[Any]] = {"paper_value": [], "paper_metric": [], "difference": []}
    for row in statistics.records(rows):
        found = next(((q, value / scale) for q, value, scale in known if value is not None and q.matches(row)), None)
        value, metric = (round(found[1], 6), found[0].metric) if found else (nan, None)
        columns["paper_value"].append(value)
        columns["paper_metric"].append(metric)
        columns["difference"].append(statistics.number(row.get(metric or "")) - value)
    return rows.assign(**columns) if any(columns["paper_metric"]) else rows


def console(summary: pd.DataFrame) -> str:
    """`claims_summary` for a terminal, a line per claim."""
    if summary.empty:
        return ""
    found = statistics.records(summary)
    width = max(len(str(claim["claim"])) for claim in found)
    lines = [f"{claim['claim']:<{width}}  {claim['verdict']:<9}  {claim['says']}" for claim in found]
    return "\n" + "".join(f"{line}\n" for line in lines)


def in_shape(name: str, table: Table, compared: pd.DataFrame) -> pd.DataFrame:
    """One paper's table in the paper's shape: `ours ± sd (paper's)`, the best and those tied with it in bold."""
    mine = compared[compared["table"] == name]
    marks = tied(table, mine)
    text = CELL[0] if table.unit == "percent" else CELL[1]
    lines = []
    for row in table.rows:
        line = {"": row}
        for column in table.columns:
            cell = mine[(mine["row"] == row) & (mine["column"] == column)].iloc[0]
            line[column] = cell_text(cell, text, (row, column) in marks)
        lines.append(line)
    return pd.DataFrame(lines)


def cell_text(cell: "pd.Series[Any]", text: str, best: bool) -> str:
    ours = "-" if isnan(cell["ours"]) else text.format(cell["ours"])
    if not isnan(cell["sd"]):
        ours += " ± " + text.format(cell["sd"])
    if best:
        ours = f"**{ours}**"
    return ours if isnan(cell["paper"]) else f"{ours} ({text.format(cell['paper'])})"


def tied(table: Table, mine: pd.DataFrame) -> set[tuple[str, str]]:
    """The cells that are the lowest of their column (or row), or whose interval overlaps the lowest one's."""
    if table.best == "none":
        return set()
    found: set[tuple[str, str]] = set()
    for _, group in mine.groupby("column" if table.best == "columns" else "row", sort=False):
        values, lows, highs = (group[name].tolist() for name in ("ours", "low", "high"))
        best = statistics.ties_for_best(values, lows, highs)
        found |= {
            (row, column) for row, column, is_best in zip(group["row"], group["column"], best, strict=True) if is_best
        }
    return found
