"""A paper's claims, judged by our rows: confirmed, refuted or open."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from operator import ge, gt, le, lt
from typing import TYPE_CHECKING, Any, Literal

from epsball.build import bound, require
from epsball.output.pages import Section
from epsball.paper.expressions import Comparison, Quantity, naming_field, parse_comparisons, total_of_sum
from epsball.results.intervals import Estimate, mean_estimate, wilson
from epsball.results.metrics import METRICS
from epsball.results.rows import Row, as_dicts

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["confirmed", "refuted", "open"]
JUDGED = (
    "± is the 95 % interval. Confirmed: in every check left - right lies on the claim's side and its interval leaves "
    "out 0 (with one seed: the two sides' intervals do not overlap). Refuted: in one, on the other side. Else open."
)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper."""

    says: str
    """in words"""
    paper: str
    """the numbers it rests on"""
    checks: list[str]
    """comparisons that all hold where it is right"""
    images: Literal["sample", "all"] = "sample"
    """sample: every value has an interval; all: the claim is about these images, so only seeds differ"""
    names: Mapping[str, str] | None = bound(None)
    """of models in the results, by those in the checks"""

    def __post_init__(self) -> None:
        require(bool(self.checks), "checks should be at least one comparison, is empty")
        for i, check in enumerate(self.checks):
            with naming_field(f"checks[{i}]"):
                parse_comparisons(check)

    @property
    def comparisons(self) -> list[Comparison]:
        found = [comparison for check in self.checks for comparison in parse_comparisons(check)]
        return [comparison.renamed(self.names or {}) for comparison in found]

    @property
    def quantities(self) -> list[Quantity]:
        return [quantity for comparison in self.comparisons for quantity in comparison.quantities]

    def renamed(self, names: Mapping[str, str]) -> "Claim":
        """Return the same about models under other names."""
        return replace(self, names=dict(names))


@dataclass(frozen=True)
class Check:
    """A comparison with its two sides as measured."""

    comparison: Comparison
    lefts: Sequence[Estimate]
    """the left side in each seed"""
    rights: Sequence[Estimate]
    """the right side in each seed"""

    @cached_property
    def left(self) -> Estimate:
        return mean_estimate(self.lefts)

    @cached_property
    def right(self) -> Estimate:
        return mean_estimate(self.rights)

    @cached_property
    def gap(self) -> Estimate:
        """Subtract right from left. In one seed its ends leave 0 out when the sides' intervals do not overlap; over
        seeds their spread is that of the seeds' gaps: the two sides are of the same models."""
        pairs = zip(self.lefts, self.rights, strict=True)
        return mean_estimate([Estimate(a.value - b.value, a.low - b.high, a.high - b.low) for a, b in pairs])

    @property
    def verdict(self) -> Verdict:
        """Confirm where the gap's interval lies on the comparison's side of 0, refute where it lies on the other."""
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
        """Return the same of each seed that has both sides."""
        return [holds for holds in map(self.compared, self.lefts, self.rights) if holds is not None]

    def compared(self, left: Estimate, right: Estimate) -> bool | None:
        """Whether these values compare as claimed; None when one is missing."""
        if isnan(left.value) or isnan(right.value):
            return None
        compare = {"<": lt, "<=": le, ">": gt, ">=": ge}[self.comparison.operator]
        return bool(compare(left.value, right.value))


def judge_claim(claim: Claim, rows: Sequence[Row]) -> list[Check]:
    """Measure all of a claim's comparisons. Each side is summed up within a seed: its quantities share models."""
    interval = wilson if claim.images == "sample" else None
    by_seed: dict[object, list[Row]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row)
    seeds = list(by_seed.values()) or [[]]
    return [
        Check(c, *([total_of_sum(side, own, interval) for own in seeds] for side in (c.left, c.right)))
        for c in claim.comparisons
    ]


def overall_verdict(checks: Sequence[Check]) -> Verdict:
    """Refute when one check is refuted, confirm when all are confirmed, else leave open."""
    found = {check.verdict for check in checks}
    return "refuted" if "refuted" in found else "open" if "open" in found else "confirmed"


def claims_table(claims: Mapping[str, Claim], rows: Sequence[Row]) -> "pd.DataFrame":
    """Judge all claims: `claims.csv`, a line per check, each with its claim's verdict.

    percent: whether both sides are rates. gap: left - right. seeds: how many measured the check; seeds_holding: in how
    many of them the values compare so.
    """
    import pandas as pd

    lines = []
    for name, claim in claims.items():
        checks = judge_claim(claim, rows)
        whole = {"claim": name, "verdict": overall_verdict(checks)}
        lines += [{**whole, **check_line(check), "says": claim.says, "paper": claim.paper} for check in checks]
    return pd.DataFrame(lines)


def check_line(check: Check) -> dict[str, Any]:
    """Return the columns of `claims.csv` that are a check's own."""
    known = check.in_seeds
    line: dict[str, Any] = {"check": check.comparison.text, "operator": check.comparison.operator}
    line |= {"check_verdict": check.verdict, "holds": check.holds}
    line |= {"seeds": len(known), "seeds_holding": sum(known)}
    for side, estimate in (("left", check.left), ("right", check.right), ("gap", check.gap)):
        line |= {side: estimate.value, f"{side}_low": estimate.low, f"{side}_high": estimate.high}
    return line | {"percent": all(METRICS[quantity.metric].is_rate for quantity in check.comparison.quantities)}


def claims_summary(table: "pd.DataFrame") -> "pd.DataFrame":
    """Sum up `claims.csv` for people, a line per claim: verdict, words, our numbers in the order of the paper's, their
    distance; with several seeds, in how many of them each check holds. Those of several parts are put in the order of
    their claims' numbers."""
    import pandas as pd

    lines = []
    by = [name for name in ("part", "claim") if name in table]
    for _, group in table.groupby(by, sort=False) if len(table) else ():
        checks = as_dicts(group)
        numbers = "; ".join(f"{side_text(c, 'left')} {c['operator']} {side_text(c, 'right')}" for c in checks)
        gaps = "; ".join(side_text(c, "gap") for c in checks)
        holding = "; ".join(f"{c['seeds_holding']} of {c['seeds']}" for c in checks)
        lines.append({**checks[0], "ours": numbers, "left - right": gaps, "holds in seeds": holding})
    if "part" in table:
        lines.sort(key=lambda line: natural(str(line["claim"])))
    several = ["holds in seeds"] if len(table) and table["seeds"].max() > 1 else []
    return pd.DataFrame(lines, columns=["claim", "verdict", "says", "ours", "left - right", *several, "paper"])


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts tramer-2 before tramer-10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def claims_sections(summary: "pd.DataFrame") -> list[Section]:
    """Show `claims_summary` in a report, with the rule it was judged by; nothing where nothing is claimed."""
    return [Section("Claims", JUDGED, summary)] if len(summary) else []


def side_text(check: Mapping[str, Any], side: str) -> str:
    """Write a side's value and half interval as the papers do."""
    scale = 100 if check["percent"] else 1
    value, low, high = (float(check[f"{side}{end}"]) * scale for end in ("", "_low", "_high"))
    if isnan(value):
        return "not measured"
    half = (high - low) / 2
    return f"{value:.3g}" + (f" ± {half:.2g}" if half > 0 else "")


def console_claims(summary: "pd.DataFrame") -> str:
    """Show `claims_summary` on a terminal, a line per claim."""
    if summary.empty:
        return ""
    found = as_dicts(summary)
    width = max(len(str(claim["claim"])) for claim in found)
    lines = [f"{claim['claim']:<{width}}  {claim['verdict']:<9}  {claim['says']}" for claim in found]
    return "\n" + "".join(f"{line}\n" for line in lines)
