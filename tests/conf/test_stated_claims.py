"""A paper's claims, judged on the paper's own numbers: each says what the paper says, and is confirmed there."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from configs import Compose, Config
from stated import PARTS

from epsball.build import construct
from epsball.paper.claims import Check, Claim, judge_claim, overall_verdict
from epsball.paper.expressions import Quantity
from epsball.paper.tables import Table
from epsball.paper.values import by_seed

CLAIMS: dict[str, list[tuple[float, str, float]]] = {  # left, operator, right in per cent (12: as they are): claims.md
    "tramer-1": [(3.6, "<", 71.4)],
    "tramer-2": [(11.9, ">", 3.6), (18.2, ">", 3.6)],
    "tramer-3": [(24.7, "<", 62.4), (25.4, "<", 50.7)],
    "tramer-4": [(75.3, ">", 71.4), (34.1, ">", 3.6), (86.2, ">", 84.6), (30.5, ">", 3.9), (30.5, ">", 1.6)],
    "tramer-6": [(10.0, "<", 11.9), (12.4, "<", 18.2)],
    "tramer-7": [(2 * 3.9, "<=", 1.01 * 15.5), (2 * 6.2, "<=", 1.01 * 13.5), (2 * 2.9, "<=", 1.01 * 9.5)],
    "tramer-8": [(0.0, "<=", 0.3), (0.0, "<=", 0.3)],
    "tramer-9": [(6.0, ">", 3.8)],
    "tramer-10": [(3.9, "<=", 6.0)],
    "tramer-11": [(6.0, "<", 11.8), (3.8, ">", 3.6 - 1)],
    "tramer-12": [(0.7 * 12, "<", 11), (11, "<", 1.3 * 12)],
    "tramer-13": [(57, "<", 80)],
    "tramer-14": [(2, "<", 2.9), (2.9, "<", 4), (99, ">", 95)],
}
WITHOUT_NUMBERS: dict[str, tuple[str, list[str]]] = {  # why there is nothing to judge on; what the words compare
    "tramer-5": (
        'section 4 has no numbers: "FGSM with norm eps - alpha yields a weaker attack than the FGSM with norm eps"',
        [f"error({m} | {m}, fgsm, eps=0.25) < error({m} | {m}, fgsm, eps=0.3)" for m in ("A", "A_adv", "B")],
    ),
    "tramer-15": (
        'section 4 has no numbers: "were not able to increase robustness to either RAND+FGSM examples or FGSM examples '
        '(in white-box or black-box settings)"',
        [
            "error(A_rand | A_rand, rand_fgsm, eps=0.3) >= error(A_adv | A_adv, rand_fgsm, eps=0.3)",
            "error(A_rand | A_rand, fgsm, eps=0.3) >= error(A_adv | A_adv, fgsm, eps=0.3)",
            "error(A_rand | B, rand_fgsm, eps=0.3) >= error(A_adv | B, rand_fgsm, eps=0.3)",
            "error(A_rand | B, fgsm, eps=0.3) >= error(A_adv | B, fgsm, eps=0.3)",
        ],
    ),
    "tramer-16": (
        'Figure 2 is a picture: "varies very little" along A_adv\'s gradient, B\'s "yields an adversarial input"; near '
        'the point "the loss increases sharply in the direction of" A_adv\'s',
        [
            "loss_mean(A_adv | B, surface, e1=0.3, e2=0) < 0.5 * loss_mean(A_adv | B, surface, e1=0, e2=0.3)",
            "loss_mean(A_adv | B, surface_zoom, e1=0.03, e2=0) - loss_mean(A_adv | B, surface_zoom, e1=0, e2=0.03) > 0",
            "loss_mean(A_adv | B, surface, e1=0, e2=0) < loss_mean(A_adv | B, surface, e1=0, e2=0.3)",
        ],
    ),
}


@pytest.fixture(scope="module")
def parts(compose: Compose) -> dict[str, Config]:
    return {part: compose(f"paper=tramer/{part}", "scale=paper") for part in PARTS}


@pytest.fixture(scope="module")
def stated(parts: dict[str, Config]) -> dict[str, Claim]:
    """Return every claim of the paper's files, by name."""
    both = [(name, spec) for config in parts.values() for name, spec in config["claims"].items()]
    assert len(dict(both)) == len(both)
    return {name: construct(Claim, spec, where=name) for name, spec in both}


@pytest.fixture(scope="module")
def papers_rows(parts: dict[str, Config]) -> list[Config]:
    """Return rows of results that have the numbers of all the paper's tables, of 10,000 images."""
    rows: dict[tuple[Any, ...], Config] = {}
    for config in parts.values():
        for name, spec in config["tables"].items():
            table = construct(Table, spec, where=name)
            for cell, number in printed(table):
                key = (cell.target, cell.source, cell.attack, dict(cell.conditions).get("eps", 0.3))
                row = rows.setdefault(key, {"seed": 0, "n": 10_000, "transfer_n": 10_000})
                row |= dict(zip(("target", "source", "attack", "eps"), key, strict=True))
                assert row.setdefault(cell.metric, number) == number, (name, cell)  # what two tables print is the same
    return list(rows.values())


def printed(table: Table) -> Iterator[tuple[Quantity, float]]:
    """Yield the cells that have a number in the paper, with it as the rows have it."""
    for (row, column), whole in table.cells.items():
        cell, number = whole.alone, table.published(row, column)
        if cell is not None and number is not None:
            yield cell, number / table.scale


def judged(claim: Claim, rows: list[Config]) -> list[Check]:
    """Return the claim's checks on the paper's rows; where it names no eps, on those at 0.3."""
    several = any(dict(quantity.conditions) for quantity in claim.quantities)
    return judge_claim(claim, by_seed(rows if several else [row for row in rows if row["eps"] == 0.3]))


def test_every_claim_is_judged_here(stated: dict[str, Claim]) -> None:
    assert set(stated) == {*CLAIMS, *WITHOUT_NUMBERS} and not set(CLAIMS) & set(WITHOUT_NUMBERS)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_holds_on_the_papers_own_numbers(
    stated: dict[str, Claim], papers_rows: list[Config], name: str
) -> None:
    """Both sides as the paper prints them: an operator turned round, or a factor dropped, is another claim."""
    checks = judged(stated[name], papers_rows)
    for check, (left, operator, right) in zip(checks, CLAIMS[name], strict=True):
        assert check.comparison.operator == operator, check.comparison.text
        sides = (100 * check.left.value, 100 * check.right.value)
        assert sides == (pytest.approx(left), pytest.approx(right)), check.comparison.text
        assert check.holds, check.comparison.text


@pytest.mark.parametrize("name", CLAIMS)
def test_the_papers_own_numbers_confirm_a_claim(stated: dict[str, Claim], papers_rows: list[Config], name: str) -> None:
    """By the rule that judges our rows. A margin or a share in the claim's words makes up for what is left open by as
    many images as the paper has, of which it does not say who was mistaken: no pairs."""
    checks = judged(stated[name], papers_rows)
    gaps = {check.comparison.text: (check.gap.low, check.gap.high) for check in checks}
    assert overall_verdict(checks, stated[name].share) == "confirmed", gaps
    assert not any(check.paired for check in checks)


def test_the_margin_of_a_half_is_the_least_whole_per_cent_that_the_papers_numbers_confirm(
    stated: dict[str, Claim], papers_rows: list[Config]
) -> None:
    """2 * 6.2 <= 13.5, of 10,000 images each: Newcombe's interval of the gap holds 0, within 1 % it does not."""
    (check,) = (check for check in stated["tramer-7"].checks if " i_fgsm" in check)
    for margin, verdict in (("", "open"), ("1.01 * ", "confirmed")):
        claim = Claim(says="", paper="", checks=[check.replace("1.01 * ", margin)])
        assert overall_verdict(judged(claim, papers_rows)) == verdict


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_turned_round_does_not_hold_on_the_papers_numbers(
    stated: dict[str, Claim], papers_rows: list[Config], name: str
) -> None:
    """The numbers decide: none is missing, and none so close to its limit that the opposite would hold as well."""
    for check in (comparison.text for comparison in stated[name].comparisons):
        opposite = Claim(says="", paper="", checks=[check.translate(str.maketrans("<>", "><"))])
        assert not all(turned.holds for turned in judged(opposite, papers_rows)), check


@pytest.mark.parametrize("name", WITHOUT_NUMBERS)
def test_a_claim_without_numbers_says_what_the_words_say(stated: dict[str, Claim], name: str) -> None:
    _, compared = WITHOUT_NUMBERS[name]
    assert [comparison.text for comparison in stated[name].comparisons] == compared


# ---- the masking diagnostic, asked of the paper's A_adv

ROLES = {"target": "A_adv", "natural": "A", "holdout": "B"}
ASKED: dict[str, tuple[list[tuple[float, str, float]], bool]] = {  # left, operator, right in per cent; whether it holds
    "white box strongest": ([(3.6, ">=", 11.9), (3.6, ">=", 18.2)], False),
    "random step useless": ([(3.6, ">=", 34.1)], False),
    "gradients are not smoothed": ([(11, ">", 0.1 * 12)], True),
}
GROWING = [f"error(target | target, fgsm, eps={0.3 * share})" for share in (0.05, 0.1, 0.25, 0.5, 0.75, 1)]
ASKED_WITHOUT_NUMBERS = {
    "iteration helps": ["error(target | target, i_fgsm) >= error(target | target, fgsm, eps=0.3)"],
    "error grows with eps": [f"{less} <= {more}" for less, more in pairwise(GROWING)],
    "gradients do not vanish": ["gradient_zero_share(target) < 0.05"],
}


def test_the_masking_diagnostic_says_that_the_papers_a_adv_masks(compose: Compose, papers_rows: list[Config]) -> None:
    asked = compose("diagnostic=masking", "dataset=mnist")["claims"]
    assert set(asked) == {*ASKED, *ASKED_WITHOUT_NUMBERS}
    for name, (sides, holds) in ASKED.items():
        claim = construct(Claim, asked[name], where=name).mapped(lambda quantity: quantity.renamed(ROLES))
        checks = judge_claim(claim, by_seed(papers_rows))
        assert [c.comparison.operator for c in checks] == [operator for _, operator, _ in sides], name
        values = [100 * side.value for c in checks for side in (c.left, c.right)]
        assert values == pytest.approx([side for left, _, right in sides for side in (left, right)]), name
        assert [c.holds for c in checks] == [holds] * len(sides), name
    assert {name: asked[name]["checks"] for name in ASKED_WITHOUT_NUMBERS} == ASKED_WITHOUT_NUMBERS
