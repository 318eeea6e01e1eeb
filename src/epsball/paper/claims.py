"""A paper's claims, judged by our rows: confirmed, refuted or open."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite, isnan
from typing import TYPE_CHECKING, Any, Literal, get_args

from epsball.build import naming_field, require
from epsball.output.pages import Section, Verdict
from epsball.paper.expressions import (
    Comparison,
    Quantity,
    Sum,
    check_constants,
    parse_comparisons,
    parse_expression,
)
from epsball.paper.placeholders import Loops, fill, looped, options
from epsball.paper.statement import Repeated
from epsball.paper.values import SeedRows, by_seed, estimate, estimate_of_images, images_of, is_paired
from epsball.results.intervals import Estimate, Interval, mean_estimate, wilson
from epsball.results.rows import Row, as_dicts

if TYPE_CHECKING:
    import pandas as pd

JUDGED = (
    "Rates are in per cent, ratios and other metrics as they are; in brackets the 95 % interval. Within a seed, rates "
    "of the same test images are compared image by image, where it is known which were mistaken, and rates of other "
    "numbers of images on the images that both have; over seeds, Student's t of the seeds' gaps is added. Confirmed: "
    "in every check (or the share of them that the claim needs) the interval of left - right lies on the claim's side "
    "of 0. Refuted: in one (or too many) it lies on the other; of many checks one may by chance. Else open. Of one "
    "seed a verdict is about these trained models: others of the same kind may differ by more."
)


@dataclass(frozen=True)
class Claim(Repeated):
    """One statement of a paper."""

    says: str
    """in words"""
    checks: list[str]
    """comparisons that all hold where it is right"""
    paper: str = ""
    """the numbers it rests on, of a paper's"""
    images: Literal["sample", "all"] = "sample"
    """sample: every value has an interval; all: the claim is about these images, so only seeds differ"""
    share: float = 1.0
    """of the checks, how many must be confirmed"""
    at: dict[str, str] | None = None
    """an expression of a rate by a placeholder of `for`: the claim is judged only at that value of the placeholder at
    which our rate is nearest to one half, for where all models have an error of 0 or 1 they cannot differ"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.checks), "checks should be at least one comparison, is empty")
        require(0 < self.share <= 1, f"share should be in (0, 1], is {self.share}")
        for name, text in (self.at or {}).items():
            with naming_field(f"at.{name}"):
                require(name in self.loops, f"{{{name}}} should be a placeholder of for")
                require(f"{{{name}}}" in text, f"{text!r} should have {{{name}}}")
                require(all(side.is_rate for side in self.rates(name).values()), f"{text!r} should be a rate")
        for i, check in enumerate(self.checks):
            with naming_field(f"checks[{i}]"):
                for comparison in comparisons_of(check, self.loops):
                    check_constants(comparison)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Return all that it may compare, at every value of its placeholders."""
        return self.comparisons_at(self.loops)

    def comparisons_at(self, loops: Loops) -> list[Comparison]:
        """Return what it compares at these values of its placeholders."""
        return [self.changed(comparison) for check in self.checks for comparison in comparisons_of(check, loops)]

    def rates(self, name: str) -> dict[str, Sum]:
        """Return the rate that chooses a placeholder's value, at each of its values, by what expressions call them."""
        text, values = (self.at or {})[name], [value for _, value in options(self.loops[name])]
        return {value: self.changed(parse_expression(fill(text, {name: value}))) for value in values}

    def chosen(self, seeds: Sequence[SeedRows]) -> dict[str, str]:
        """Return the value of each placeholder that `at` chooses by the rows; the last one where they have no rate."""
        found = {}
        for name in self.at or {}:
            values = {text: estimate(side, seeds, None).value for text, side in self.rates(name).items()}
            known = [text for text, value in values.items() if not isnan(value)] or list(values)[-1:]
            found[name] = min(known, key=lambda text: abs(values[text] - 0.5))
        return found

    @property
    def quantities(self) -> list[Quantity]:
        asked = [quantity for comparison in self.comparisons for quantity in comparison.quantities]
        chooses = [side for name in self.at or {} for side in self.rates(name).values()]
        return [*asked, *(quantity for side in chooses for quantity in side.quantities)]


def comparisons_of(check: str, loops: Loops) -> list[Comparison]:
    """Read the comparisons of a check, once for each combination of values of its placeholders."""
    return [comparison for text in looped(check, loops) for comparison in parse_comparisons(text)]


@dataclass(frozen=True)
class Check:
    """A comparison with its two sides as measured."""

    comparison: Comparison
    lefts: Sequence[Estimate]
    """the left side in each seed"""
    rights: Sequence[Estimate]
    """the right side in each seed"""
    gaps: Sequence[Estimate]
    """left minus right in each seed, 0 where they tie"""
    paired: bool
    """whether all its rates were compared image by image, in each seed that has them"""

    @cached_property
    def left(self) -> Estimate:
        return mean_estimate(self.in_both(self.lefts))

    @cached_property
    def right(self) -> Estimate:
        return mean_estimate(self.in_both(self.rights))

    def in_both(self, side: Sequence[Estimate]) -> Sequence[Estimate]:
        """Return a side in the seeds that have both, so that their difference is the gap; in all where none has."""
        return [one for one, gap in zip(side, self.gaps, strict=True) if not isnan(gap.value)] or side

    @cached_property
    def gap(self) -> Estimate:
        """Left minus right. Over seeds its spread is that of the seeds' gaps: the two sides are of the same models."""
        return without_noise(mean_estimate(self.gaps), self.left, self.right)

    @property
    def verdict(self) -> Verdict:
        """Confirm where the gap's interval lies on the comparison's side of 0, refute where it lies on the other. Where
        nothing varies, a tie is one: it is at most and at least, and not less and not more. What compares a quantity
        with itself is open."""
        if self.comparison.is_trivial:
            return "open"
        if self.gap.low == self.gap.high:
            return "confirmed" if self.holds else "refuted"
        below, above = self.gap.high < 0, self.gap.low > 0
        if self.comparison.operator.startswith(">"):
            below, above = above, below
        return "confirmed" if below else "refuted" if above else "open"

    @property
    def holds(self) -> bool | None:
        """Whether the measured values themselves compare as claimed; None when one is missing."""
        return None if isnan(self.gap.value) else self.comparison.holds(self.gap.value)

    @property
    def in_seeds(self) -> list[bool]:
        """Return the same of each seed that has both sides."""
        return [self.comparison.holds(gap.value) for gap in self.gaps if not isnan(gap.value)]


def without_noise(gap: Estimate, left: Estimate, right: Estimate) -> Estimate:
    """Return the gap between two values, 0 where it, or an end of its interval, is of floating point alone: of 0.2 and
    0.3 - 0.1 neither is larger."""
    noise = 1e-12 * max([1.0, *(abs(side.value) for side in (left, right) if isfinite(side.value))])
    value, low, high = (0.0 if abs(number) < noise else number for number in (gap.value, gap.low, gap.high))
    return replace(gap, value=value, low=low, high=high)


def judge_claim(claim: Claim, seeds: Sequence[SeedRows]) -> list[Check]:
    """Measure a claim's comparisons in the rows of each seed: all of them, or those at the values that `at` chooses.
    What is compared with itself, at one end of the values or on the diagonal of all pairs, says nothing and is left out
    where anything else is compared."""
    interval = wilson if claim.images == "sample" else None
    comparisons = claim.comparisons
    if claim.at:
        comparisons = claim.comparisons_at({**claim.loops, **{n: [v] for n, v in claim.chosen(seeds).items()}})
    comparisons = [one for one in comparisons if not one.is_trivial] or comparisons
    return [judge_comparison(comparison, seeds, interval) for comparison in comparisons]


def judge_comparison(comparison: Comparison, seeds: Sequence[SeedRows], interval: Interval | None) -> Check:
    """Measure both sides and the gap in the rows of each seed."""
    shared = [images_of(comparison.gap, own) for own in seeds]
    lefts, rights, gaps = (
        [estimate_of_images(side, own, interval, first) for own, first in zip(seeds, shared, strict=True)]
        for side in (comparison.left, comparison.right, comparison.gap)
    )
    gaps = [without_noise(*sides) for sides in zip(gaps, lefts, rights, strict=True)]
    measured = [first for first, gap in zip(shared, gaps, strict=True) if not isnan(gap.value)]
    return Check(comparison, lefts, rights, gaps, all(is_paired(comparison.gap, first) for first in measured))


def overall_verdict(checks: Sequence[Check], share: float = 1.0) -> Verdict:
    """Confirm when that share of the checks is confirmed, refute when so many are refuted that it cannot be, else leave
    open."""
    found = [check.verdict for check in checks]
    needed = share * len(found) - 1e-9
    if found.count("confirmed") >= needed:
        return "confirmed"
    return "refuted" if len(found) - found.count("refuted") < needed else "open"


def claims_table(claims: Mapping[str, Claim], rows: Sequence[Row]) -> "pd.DataFrame":
    """Judge all claims: `claims.csv`, a line per check, each with its claim's verdict.

    percent: whether both sides are rates. gap: left - right. seeds: how many measured the check; seeds_holding: in how
    many of them the values compare so. paired: whether its rates were compared image by image; - for one alone.
    """
    import pandas as pd

    lines, seeds = [], by_seed(rows)
    for name, claim in claims.items():
        checks = judge_claim(claim, seeds)
        whole = {"claim": name, "verdict": overall_verdict(checks, claim.share)}
        at = ", ".join(f"{placeholder} {value}" for placeholder, value in claim.chosen(seeds).items())
        said = {"says": claim.says + (f" (judged at {at})" if at else ""), "paper": claim.paper}
        lines += [{**whole, **check_line(check), **said} for check in checks]
    return pd.DataFrame(lines)


def check_line(check: Check) -> dict[str, Any]:
    """Return the columns of `claims.csv` that are a check's own."""
    known = check.in_seeds
    line: dict[str, Any] = {"check": check.comparison.text, "operator": check.comparison.operator}
    line |= {"check_verdict": check.verdict, "holds": check.holds}
    line |= {"seeds": len(known), "seeds_holding": sum(known)}
    for side, found in (("left", check.left), ("right", check.right), ("gap", check.gap)):
        line |= {side: found.value, f"{side}_low": found.low, f"{side}_high": found.high}
    compares = len(set(check.comparison.quantities)) > 1 and not isnan(check.gap.value)
    paired = "-" if not compares else "yes" if check.paired else "no"
    return line | {"percent": check.comparison.gap.is_rate, "paired": paired}


def claims_summary(table: "pd.DataFrame") -> "pd.DataFrame":
    """Sum up `claims.csv` for people, a line per claim: verdict, its checks', words, our numbers in the order of the
    paper's, their distance; with several seeds, in how many of them each check holds. Those of several parts are put in
    the order of their claims' numbers."""
    import pandas as pd

    lines = []
    by = [name for name in ("part", "claim") if name in table]
    for _, group in table.groupby(by, sort=False) if len(table) else ():
        checks = as_dicts(group)
        numbers = "; ".join(f"{side_text(c, 'left')} {c['operator']} {side_text(c, 'right')}" for c in checks)
        gaps = "; ".join(side_text(c, "gap") for c in checks)
        holding = "; ".join(f"{c['seeds_holding']} of {c['seeds']}" for c in checks)
        found = [check["check_verdict"] for check in checks]
        counts = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in get_args(Verdict) if verdict in found)
        own = {"checks": counts, "ours": numbers, "left - right": gaps, "holds in seeds": holding}
        lines.append({**checks[0], **own})
    if "part" in table:
        lines.sort(key=lambda line: natural(str(line["claim"])))
    several = ["holds in seeds"] if len(table) and table["seeds"].max() > 1 else []
    part = ["part"] if len({line["claim"] for line in lines}) < len(lines) else []  # parts have claims of one name
    return pd.DataFrame(
        lines, columns=[*part, "claim", "verdict", "checks", "says", "ours", "left - right", *several, "paper"]
    )


@dataclass(frozen=True)
class Conclusion:
    """One sentence that sums up all claims of a config, by what they say together."""

    confirmed: str
    """said where all are confirmed"""
    refuted: str
    """said where any is refuted"""
    open: str
    """said where none is refuted, and not all are confirmed"""

    def sentence(self, table: "pd.DataFrame") -> str:
        """Return it for judged claims, those named that it rests on."""
        verdicts = {str(line["claim"]): line["verdict"] for line in as_dicts(table)}
        named = {verdict: [name for name, own in verdicts.items() if own == verdict] for verdict in ("refuted", "open")}
        if not any(named.values()):
            count = f"all {len(verdicts)} statements are" if len(verdicts) > 1 else "its one statement is"
            return f"{self.confirmed}: {count} confirmed."
        verdict = "refuted" if named["refuted"] else "open"
        names = named[verdict]
        count = f"{len(names)} of {len(verdicts)} statements {'is' if len(names) == 1 else 'are'} {verdict}"
        return f"{self.refuted if verdict == 'refuted' else self.open}: {count} ({', '.join(names)})."


def conclusion_sections(conclusion: Conclusion | None, table: "pd.DataFrame") -> list[Section]:
    """Show the sentence at the head of a report; nothing where nothing is concluded."""
    return [Section("Conclusion", conclusion.sentence(table))] if conclusion and len(table) else []


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts tramer-2 before tramer-10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def claims_sections(summary: "pd.DataFrame") -> list[Section]:
    """Show `claims_summary` in a report, with the rule it was judged by; nothing where nothing is claimed."""
    return [Section("Claims", JUDGED, summary)] if len(summary) else []


def side_text(check: Mapping[str, Any], side: str) -> str:
    """Write a side's value and its interval, a rate in per cent with tenths, with hundredths where its interval is less
    than a point wide; other values with three digits."""
    value, low, high = (float(check[f"{side}{end}"]) for end in ("", "_low", "_high"))
    if isnan(value):
        return "no number (over 0)" if low == -inf else "not measured"
    number = number_format(bool(check["percent"]), high - low)
    return number(value) + (f" [{number(low)}, {number(high)}]" if high > low else "")


def number_format(percent: bool, width: float) -> Callable[[float], str]:
    """Return what writes the numbers of a side whose interval is so wide."""
    if not percent:
        return "{:.3g}".format
    digits = 2 if 0 < width < 0.01 else 1
    return lambda value: f"{100 * value:z.{digits}f}"  # z: no -0.0


def console_claims(summary: "pd.DataFrame") -> str:
    """Show `claims_summary` on a terminal, a line per claim."""
    if summary.empty:
        return ""
    found = as_dicts(summary)
    names = [f"{claim['part']} {claim['claim']}" if "part" in claim else str(claim["claim"]) for claim in found]
    width = max(map(len, names))
    both = zip(names, found, strict=True)
    lines = [f"{name:<{width}}  {claim['verdict']:<9}  {claim['says']}" for name, claim in both]
    return "\n" + "".join(f"{line}\n" for line in lines)
