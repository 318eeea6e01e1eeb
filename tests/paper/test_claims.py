"""Verdicts worked by hand and by simulation, and what is said of them."""

import re
from collections.abc import Sequence
from math import hypot, inf, isnan, nan, sqrt
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import pytest
from cells import T1, T2, Row, clean, ends, fgsm, of_table, seen, wilson

from epsball.paper.claims import (
    Check,
    Claim,
    Conclusion,
    claims_summary,
    claims_table,
    console_claims,
    judge_claim,
    overall_verdict,
    side_text,
)
from epsball.paper.placeholders import Loops
from epsball.paper.values import by_seed


def judged(check: str, *rows: Row) -> Check:
    (found,) = judge_claim(Claim("says", [check]), by_seed(rows))
    return found


# ---- verdicts


@pytest.mark.parametrize(
    ("a", "b", "smaller", "larger"),
    [
        (0.1, 0.9, "confirmed", "refuted"),
        (0.9, 0.1, "refuted", "confirmed"),
        (0.5, 0.5, "open", "open"),
        (0.50, 0.51, "open", "open"),
        (0.0, 0.0, "open", "open"),
        (1.0, 1.0, "open", "open"),
        (0.0, 1.0, "confirmed", "refuted"),
        (1.0, 0.0, "refuted", "confirmed"),
        (0.0, 0.01, "open", "open"),
        (0.43, 0.57, "confirmed", "refuted"),
        (0.44, 0.57, "open", "open"),
        (nan, 0.5, "open", "open"),
        (0.5, nan, "open", "open"),
        (nan, nan, "open", "open"),
    ],
)
def test_a_verdict_needs_a_gap_whose_interval_leaves_0_out(a: float, b: float, smaller: str, larger: str) -> None:
    for sign, expected in (("<", smaller), ("<=", smaller), (">", larger), (">=", larger)):
        check = judged(f"error(A) {sign} error(B)", clean("A", a), clean("B", b))
        assert check.verdict == expected
        assert (check.holds is None) == (isnan(a) or isnan(b))


@pytest.mark.parametrize(("a", "verdict"), [(0.43, "confirmed"), (0.44, "open")])
def test_the_gap_of_one_seed_has_the_hybrid_interval_of_its_sides(a: float, verdict: str) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10. The sides' own intervals overlap in both."""
    check = judged("error(A) < error(B)", clean("A", a), clean("B", 0.57))
    (low, high), (other_low, other_high) = wilson(100 * a, 100), wilson(57, 100)
    assert high > other_low
    gap = a - 0.57
    expected = gap - hypot(a - low, other_high - 0.57), gap + hypot(high - a, 0.57 - other_low)
    assert (check.gap.value, *ends(check.gap)) == pytest.approx((gap, *expected))
    assert (expected[1] < 0) == (verdict == "confirmed") and check.verdict == verdict


def test_a_missing_cell_leaves_a_check_open() -> None:
    check = judged("error(A) < error(B | A, fgsm)", clean("A", 0.0))
    assert (check.verdict, check.holds) == ("open", None)


def test_a_bound_is_a_number_without_an_interval() -> None:
    _, high = wilson(10, 100)
    assert judged(f"error(A) < {high + 1e-6}", clean("A", 0.1)).verdict == "confirmed"
    assert judged(f"error(A) < {high - 1e-6}", clean("A", 0.1)).verdict == "open"
    assert judged("error(A) > 0.5", clean("A", 0.1)).verdict == "refuted"


def test_a_margin_is_judged_as_a_difference() -> None:
    """At most half: 2 * 0.1 against 0.4; at least 0.3 less: open at these sizes, though it holds."""
    rows = clean("A", 0.1, 1000), clean("B", 0.4, 1000)
    assert judged("2 * error(A) <= error(B)", *rows).verdict == "confirmed"
    check = judged("error(B) - error(A) >= 0.29", *rows)
    assert (check.verdict, check.holds) == ("open", True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["confirmed"], "confirmed"),
        (["confirmed", "confirmed"], "confirmed"),
        (["confirmed", "open"], "open"),
        (["open", "refuted", "confirmed"], "refuted"),
        (["open"], "open"),
    ],
)
def test_the_verdict_of_a_claim_is_that_of_its_weakest_check(found: list[str], expected: str) -> None:
    errors = {"confirmed": 0.1, "refuted": 0.9, "open": 0.5}
    rows = [clean("B", 0.5), *(clean(f"A{i}", errors[verdict]) for i, verdict in enumerate(found))]
    claim = Claim("says", [f"error(A{i}) < error(B)" for i in range(len(found))])
    assert overall_verdict(judge_claim(claim, by_seed(rows))) == expected


def test_over_seeds_a_verdict_is_of_the_gap_within_each_seed() -> None:
    """The seeds differ a lot, and in both models alike: each side's interval holds the other's mean."""
    levels = (0.10, 0.30, 0.50)
    rows = [clean("A", level, 10_000, seed) for seed, level in enumerate(levels)]
    rows += [clean("B", level + 0.04, 10_000, seed) for seed, level in enumerate(levels)]
    check = judged("error(A) < error(B)", *rows)
    assert check.left.high > check.right.value and check.verdict == "confirmed"
    reaches = [
        [abs(p - end) for p in (level, level + 0.04) for end in wilson(10_000 * p, 10_000)] for level in levels
    ]  # of A down and up, of B down and up
    below = fmean(hypot(a_down, b_up) for a_down, _, _, b_up in reaches)
    above = fmean(hypot(a_up, b_down) for _, a_up, b_down, _ in reaches)
    assert (check.gap.value, *ends(check.gap)) == pytest.approx((-0.04, -0.04 - below, -0.04 + above))  # no spread
    swapped = [row | {"seed": 2 - row["seed"]} if row["target"] == "B" else row for row in rows]
    other = judged("error(A) < error(B)", *swapped)
    assert other.left == check.left and other.right.value == check.right.value and other.verdict == "open"


@pytest.mark.parametrize(("sign", "expected"), [("<", "confirmed"), ("<=", "confirmed"), (">", "refuted")])
def test_a_seed_without_one_of_the_sides_does_not_count(sign: str, expected: str) -> None:
    rows = [clean("A", 0.1, 1000), clean("B", 0.4, 1000), clean("A", 0.9, 1000, 1)]
    check = judged(f"error(A) {sign} error(B)", *rows)
    assert check.gap.seeds == 1 and check.gap.value == pytest.approx(-0.3) and check.verdict == expected


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (1000, 0.05), (10_000, 0.01)])
def test_a_false_claim_is_rarely_confirmed(n: int, p: float) -> None:
    """Equal true rates: `<` is false; a 95 % interval of the gap leaves 0 out in 2.5 % of samples on that side."""
    found = [judged("error(A) < error(B)", *pair).verdict for pair in pairs(2000, n, p, p)]
    assert 0.015 * 2000 < found.count("confirmed") < 0.035 * 2000
    assert 0.015 * 2000 < found.count("refuted") < 0.035 * 2000


def pairs(count: int, n: int, a: float, b: float) -> list[list[Row]]:
    """Rows of A and B whose errors are of `n` images, at true rates a and b."""
    counts = np.random.default_rng(n).binomial(n, (a, b), (count, 2)).tolist()
    return [[clean("A", k / n, n), clean("B", m / n, n)] for k, m in counts]


def test_a_true_claim_is_found() -> None:
    found = [judged("error(A) < error(B)", *pair).verdict for pair in pairs(200, 10_000, 0.04, 0.06)]
    assert found.count("confirmed") > 190


# ---- how many checks a claim needs


def of_verdicts(confirmed: int, refuted: int, still_open: int) -> list[Check]:
    """So many checks of each verdict."""
    rows = [clean("B", 0.5), clean("confirmed", 0.1), clean("refuted", 0.9), clean("open", 0.5)]
    names = ["confirmed"] * confirmed + ["refuted"] * refuted + ["open"] * still_open
    return judge_claim(Claim("says", [f"error({name}) < error(B)" for name in names]), by_seed(rows))


@pytest.mark.parametrize(
    ("confirmed", "refuted", "still_open", "share", "expected"),
    [
        (40, 0, 0, 1.0, "confirmed"),
        (39, 0, 1, 1.0, "open"),
        (39, 1, 0, 1.0, "refuted"),
        (36, 0, 4, 0.9, "confirmed"),
        (36, 4, 0, 0.9, "confirmed"),
        (35, 4, 1, 0.9, "open"),
        (35, 0, 5, 0.9, "open"),
        (35, 5, 0, 0.9, "refuted"),
        (0, 5, 35, 0.9, "refuted"),
        (0, 4, 36, 0.9, "open"),
        (2, 1, 0, 2 / 3, "confirmed"),
        (1, 1, 1, 2 / 3, "open"),
        (1, 2, 0, 2 / 3, "refuted"),
        (1, 9, 0, 0.1, "confirmed"),
        (7, 43, 0, 0.14, "confirmed"),  # 0.14 * 50 is a little more than 7 in floating point
    ],
)
def test_a_claim_of_most_cells_needs_its_share_of_checks(
    confirmed: int, refuted: int, still_open: int, share: float, expected: str
) -> None:
    """Kariyappa's claims are of 36 of 40 cells. Refuted where so many are that the share is out of reach."""
    checks = of_verdicts(confirmed, refuted, still_open)
    assert overall_verdict(checks, share) == expected


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(ValueError, match=r"^share should be in \(0, 1\], is "):
        Claim("says", ["error(A) < 1"], share=share)


def test_a_ratio_over_zero_in_one_seed_leaves_its_claim_open() -> None:
    """There it is above all bounds: leaving the seed out would confirm what it contradicts."""
    pairs = [(0.10, 0.5), (0.11, 0.5), (0.10, 0.5)]
    rows = [
        row
        for seed, (a, c) in enumerate(pairs)
        for row in (clean("A", a, 1000, seed=seed), clean("C", c, 1000, seed=seed))
    ]
    claim = Claim("says", ["error(A) / error(C) <= 0.5"])
    (check,) = judge_claim(claim, by_seed(rows))
    assert check.verdict == "confirmed"
    more = [*rows, clean("A", 0.2, 1000, seed=3), clean("C", 0.0, 1000, seed=3)]
    (check,) = judge_claim(claim, by_seed(more))
    assert check.verdict == "open" and (check.gap.low, check.gap.high) == (-inf, inf)
    assert check.gap.value == pytest.approx(0.62 / 3 - 0.5) and len(check.in_seeds) == 3
    (check,) = judge_claim(claim, by_seed(more[-2:]))
    assert check.verdict == "open" and isnan(check.gap.value) and check.gap.seeds == 0


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("error(A) < 5", "'error(A) < 5' is true whatever is measured: rates are in [0, 1], and 5 points are 0.05"),
        ("error(A) - error(B) >= 20", "'error(A) - error(B) >= 20' is false whatever is measured"),
        ("2 < accuracy(A)", "'2 < accuracy(A)' is false whatever is measured"),
        ("0 < error(A) < 3", "'error(A) < 3' is true whatever is measured"),
        ("-2 <= error(A) - error(B)", "'-2 <= error(A) - error(B)' is true whatever is measured"),
        ("error(A) - 2 < 0.5 * error(A)", "'error(A) - 2 < 0.5 * error(A)' is true whatever is measured"),
    ],
)
def test_a_check_that_no_rate_could_change_is_refused(check: str, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^checks\[1\]: {re.escape(told)}"):
        Claim("says", ["error(A) < 0.1", check])


@pytest.mark.parametrize(
    "check", ["error(A) < 1", "error(A) >= 0", "error(A) - error(B) > 1", "error(A) / error(B) > 5", "gal(A) < 5"]
)
def test_a_check_that_could_come_out_otherwise_is_taken(check: str) -> None:
    assert [comparison.text for comparison in Claim("says", [check]).comparisons] == [check]


@pytest.mark.parametrize("check", ["error(A) <= error(A)", "error(A) > error(A)", "error(A) + 0.01 >= 1 - accuracy(A)"])
def test_a_quantity_compared_with_itself_is_open(check: str) -> None:
    """As training_loss(A, epoch=1) > training_loss(A, epoch=LAST) where one epoch is all."""
    (found,) = judge_claim(Claim("says", [check]), by_seed([clean("A", 0.2, 1000)]))
    assert found.verdict == "open"


def test_all_pairs_leave_out_what_would_be_compared_with_itself() -> None:
    pairs: dict[str, object] = {"source": ["A", "B", "C"], "target": ["A", "B", "C"]}
    check = "accuracy({target} | {source}, fgsm) >= accuracy({target} | {target}, fgsm) - 0.01"
    checks = judge_claim(Claim("says", [check], for_=pairs), by_seed([]))
    found = [one.comparison.left.quantities[0] for one in checks]
    assert len(found) == 6 and all(quantity.source != quantity.target for quantity in found)


def test_the_share_of_a_claim_counts_in_claims_csv() -> None:
    rows = [clean("B", 0.5), *(clean(f"A{i}", 0.1 if i else 0.9) for i in range(10))]
    loops: Loops = {"i": {"none": 0, **{str(i): i for i in range(1, 10)}}}
    for share, verdict in ((0.9, "confirmed"), (0.95, "refuted")):
        claim = Claim("says", ["error(A{i}) < error(B)"], share=share, for_=loops)
        table = claims_table({"c": claim}, rows)
        assert len(table) == 10 and set(table["verdict"]) == {verdict}
        assert list(table["check_verdict"]) == ["refuted", *["confirmed"] * 9]
        assert list(claims_summary(table)["verdict"]) == [verdict]


def test_claims_of_one_name_say_of_which_part_they_are() -> None:
    tables = [claims_table({"c": Claim("says", [f"error(A) < {most}"])}, [clean("A", 0.5)]) for most in (0.1, 0.9)]
    one, other = (table.assign(part=part) for table, part in zip(tables, ("mine/a", "mine/b"), strict=True))
    said = console_claims(claims_summary(pd.concat([one, other])))
    assert said.split("\n")[1:3] == ["mine/a c  refuted    says", "mine/b c  confirmed  says"]
    assert "part" not in claims_summary(one)


def test_a_seed_that_lacks_a_side_counts_in_neither() -> None:
    rows = [clean("A", 0.1), clean("B", 0.2), clean("A", 0.7, seed=1), clean("B", 0.4, seed=2)]
    (check,) = judge_claim(Claim("says", ["error(A) < error(B)"]), by_seed(rows))
    assert (check.left.value, check.right.value, check.gap.value) == pytest.approx((0.1, 0.2, -0.1))
    (lacking,) = judge_claim(Claim("says", ["error(A) < error(B)"]), by_seed(rows[2:3]))
    assert lacking.left.value == 0.7 and isnan(lacking.right.value) and isnan(lacking.gap.value)


# ---- image by image


def pair(first: int, second: int, agree: int = 0, n: int = 1000, seed: int = 0) -> list[Row]:
    """A and B on the same n images: `first` mistaken by A alone, `second` by B alone, `agree` by both."""
    found = of_table(agree, first, second, n - agree - first - second)
    return [seen(clean(name, 0, seed=seed), wrong) for name, wrong in zip("AB", found, strict=True)]


def without_images(rows: Sequence[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "mistakes_top1"} for row in rows]


def test_pairs_settle_what_the_errors_alone_leave_open() -> None:
    """30.0 and 32.0 % of 1000 images are open, unless 25 images alone tell them apart."""
    rows = pair(5, 25, agree=295)
    assert [row["error_top1"] for row in rows] == [0.30, 0.32]
    paired, unpaired = judged("error(A) < error(B)", *rows), judged("error(A) < error(B)", *without_images(rows))
    assert (paired.verdict, unpaired.verdict) == ("confirmed", "open") and (paired.paired, unpaired.paired) == (
        True,
        False,
    )
    assert paired.gap.value == unpaired.gap.value and repr(paired.left) == repr(unpaired.left)  # of no sd: nan


@pytest.mark.parametrize(("alone", "n"), [(0.05, 200), (0.02, 1000)])
def test_a_false_claim_is_rarely_confirmed_by_pairs(alone: float, n: int) -> None:
    """Each of the two mistakes as many images that the other does not: `<` is false."""
    counts = np.random.default_rng(n).multinomial(n, (alone, alone, 0.2, 0.8 - 2 * alone), 1000).tolist()
    found = [judged("error(A) < error(B)", *pair(a, b, both, n)).verdict for a, b, both, _ in counts]
    assert found.count("confirmed") < 0.035 * 1000 and found.count("refuted") < 0.035 * 1000


def test_what_was_compared_image_by_image_is_said() -> None:
    rows = [*pair(5, 25, 295), clean("C", 0.9, 1000), seen(clean("D", 0) | {"dataset": "mnist"}, [True, False] * 500)]
    checks = {
        "error(A) < error(B)": "yes",
        "error(A) < 0.5 * accuracy(B) - 0.01": "yes",
        "error(A) / error(B) < 2": "yes",
        "error(A) < error(C)": "no",
        "error(A) < error(D)": "no",
        "error(A) + error(C) < 2 * error(B)": "no",
        "error(A) < 0.5": "-",
        "error(A) < 2 * error(A)": "-",
        "error(A) < error(E)": "-",
    }
    table = claims_table({"c": Claim("says", list(checks))}, rows)
    assert dict(zip(table["check"], table["paired"], strict=True)) == checks


def test_a_seed_that_lacks_a_side_does_not_say_that_nothing_is_paired() -> None:
    rows = [*pair(5, 25, 295), clean("A", 0.5, seed=1)]
    assert judged("error(A) < error(B)", *rows).paired
    assert not judged("error(A) < error(B)", *rows, clean("B", 0.5, seed=1)).paired


def test_over_seeds_students_t_of_the_paired_gaps_is_added_in_quadrature() -> None:
    """Gaps of -2, -3 and -4 points of 1000 images: t is 4.303 on two degrees of freedom, their sd 1 point."""
    single = [pair(5, 5 + 10 * number, agree=295, seed=seed) for seed, number in enumerate((2, 3, 4))]
    check = judged("error(A) < error(B)", *(row for rows in single for row in rows))
    gaps = [judged("error(A) < error(B)", *rows).gap for rows in single]
    assert [gap.value for gap in gaps] == pytest.approx([-0.02, -0.03, -0.04])
    spread = T2 * 0.01 / sqrt(3)
    below, above = fmean(gap.value - gap.low for gap in gaps), fmean(gap.high - gap.value for gap in gaps)
    expected = -0.03 - hypot(below, spread), -0.03 + hypot(above, spread)
    assert (check.gap.value, *ends(check.gap)) == pytest.approx((-0.03, *expected))
    assert check.gap.sd == pytest.approx(0.01) and check.verdict == "confirmed"


# ---- margins, ratios, other data sets and measurements


def test_a_margin_in_points_is_a_constant() -> None:
    """No weaker, within 1 point: Madry's claims of stronger attacks."""
    rows = pair(40, 42, agree=260)  # 30.0 and 30.2 %
    assert judged("error(A) >= error(B)", *rows).verdict == "open"
    within = judged("error(A) >= error(B) - 0.02", *rows)
    assert within.verdict == "confirmed" and within.right.value == pytest.approx(0.282)
    assert (within.gap.value, within.gap.low) == pytest.approx(
        (0.018, judged("error(A) > error(B)", *rows).gap.low + 0.02)
    )


@pytest.mark.parametrize("margin", [0.01, 0.03, 0.1])
def test_an_exact_tie_is_one_whatever_floating_point_makes_of_it(margin: float) -> None:
    """1 - 0.3 and 1 - 0.2 - 0.1 differ by 1e-16: neither is larger. Of a sample that says nothing; all images tie."""
    signs = {"<": False, "<=": True, ">": False, ">=": True}
    for count in range(0, 900, 7):
        rows = [clean("A", count / 1000 + margin, 1000), clean("B", count / 1000, 1000)]
        for sign, holds in signs.items():
            for text in (f"accuracy(A) {sign} accuracy(B) - {margin}", f"error(A) - {margin} {sign} error(B)"):
                for images in ("sample", "all"):
                    (check,) = judge_claim(Claim("says", [text], images=images), by_seed(rows))
                    assert (check.holds, check.in_seeds) == (holds, [holds]), (text, count)
                    exactly = "confirmed" if holds else "refuted"
                    assert (check.verdict, check.gap.value) == ("open" if images == "sample" else exactly, 0.0)
    (check,) = judge_claim(Claim("says", ["error(A) < error(B) + 0.1"], images="all"), by_seed(TIED_IN_MEAN))
    assert (check.holds, check.in_seeds, check.gap.value) == (False, [True, False], 0.0)


TIED_IN_MEAN = [clean("A", 0.3), clean("B", 0.3), clean("A", 0.4, seed=1), clean("B", 0.2, seed=1)]
"""gaps to error(B) + 0.1 of -0.1 and 0.1"""


def test_about_is_two_checks_with_a_margin() -> None:
    rows = pair(40, 42, agree=260)
    claim = Claim("says", ["error(B) - 0.03 < error(A) < error(B) + 0.03"])
    assert overall_verdict(judge_claim(claim, by_seed(rows))) == "confirmed"
    narrow = Claim("says", ["error(B) - 0.001 < error(A) < error(B) + 0.001"])
    assert overall_verdict(judge_claim(narrow, by_seed(rows))) == "open"


def test_a_ratio_is_judged_by_its_own_interval() -> None:
    """Kurakin's capacity: the share of clean accuracy that is left. 600 of 1000 against 900 of 1000."""
    rows = [clean("A", 0.1, 1000), fgsm("A", "A", 0.4, 1000)]
    text = "accuracy(A | A, fgsm) / accuracy(A)"
    check = judged(f"{text} > 0.5", *rows)
    assert check.left.value == pytest.approx(2 / 3) and check.verdict == "confirmed"
    for bound, verdict in (
        (check.left.low, "open"),
        (check.left.low - 1e-6, "confirmed"),
        (check.left.high + 1e-6, "refuted"),
    ):
        assert judged(f"{text} > {bound + 1e-9}", *rows).verdict == verdict
    line = claims_table({"c": Claim("says", [f"{text} > 0.5"])}, rows).iloc[0]
    assert not line["percent"] and side_text(line, "left").startswith("0.667 [") and side_text(line, "right") == "0.5"
    whole = Claim("says", [f"{text} > 0.66"], images="all")
    (certain,) = judge_claim(whole, by_seed(rows))
    assert certain.left.low == certain.left.high == certain.left.value and certain.verdict == "confirmed"
    assert judged(f"{text} > 0.66", *rows).verdict == "open"


def test_two_ratios_are_two_sides() -> None:
    rows = [clean("A", 0.1, 1000), fgsm("A", "A", 0.4, 1000), clean("B", 0.1, 1000), fgsm("B", "B", 0.8, 1000)]
    check = judged("accuracy(A | A, fgsm) / accuracy(A) > accuracy(B | B, fgsm) / accuracy(B)", *rows)
    below = hypot(check.left.value - check.left.low, check.right.high - check.right.value)
    assert check.gap.value == pytest.approx(4 / 9) and check.gap.low == pytest.approx(4 / 9 - below)
    assert check.verdict == "confirmed" and not check.paired


def test_one_claim_is_judged_over_two_data_sets() -> None:
    rows = [clean("A", 0.1), clean("B", 0.4)]
    rows += [row | {"dataset": "cifar10", "error_top1": 1 - row["error_top1"]} for row in rows]
    loops: Loops = {"data": ["digits", "cifar10"]}
    claim = Claim("says", ["error(A, dataset={data}) < error(B, dataset={data})"], for_=loops)
    assert [check.verdict for check in judge_claim(claim, by_seed(rows))] == ["confirmed", "refuted"]
    across = judged("error(A, dataset=cifar10) - error(A, dataset=digits) > 0.5", *rows)
    assert across.gap.value == pytest.approx(0.3) and across.verdict == "confirmed"
    missing = judged("error(A, dataset=mnist) < error(B, dataset=mnist)", *rows)
    assert (missing.verdict, missing.holds) == ("open", None)


def test_a_claim_says_which_measurement_it_is_about() -> None:
    rows = [fgsm("A", "A", 0.2, measurement="transfer_matrix"), fgsm("A", "A", 0.6, measurement="worst_case")]
    check = judged(
        "error(A | A, fgsm, measurement=worst_case) > error(A | A, fgsm, measurement=transfer_matrix)", *rows
    )
    assert (check.left.value, check.right.value, check.verdict) == (0.6, 0.2, "confirmed")


def test_a_cell_on_both_sides_must_be_measured() -> None:
    """It cancels in the gap: without it neither side has a value, and nothing is settled."""
    rows = [clean("B", 0.1), clean("C", 0.9)]
    check = judged("error(A) + error(B) < error(A) + error(C)", *rows)
    assert (check.verdict, check.holds, len(check.in_seeds)) == ("open", None, 0)
    check = judged("error(A) + error(B) < error(A) + error(C)", *rows, clean("A", 0.5))
    alone = judged("error(B) < error(C)", *rows)
    assert check.verdict == "confirmed" and repr(check.gap) == repr(alone.gap)  # of no sd: nan


def test_a_ratio_without_ends_leaves_a_check_open() -> None:
    rows = [clean("A", 0.5), clean("B", 0.31), clean("C", 0.3)]
    check = judged("error(A) / (error(B) - error(C)) > 1", *rows)
    assert check.holds and check.verdict == "open" and ends(check.gap) == (-inf, inf)


# ---- a small example: two seeds, worked by hand

ROWS: list[Row] = [
    *(clean("A", 0.01, 1000), clean("A", 0.03, 1000, 1)),
    *(clean("B", 0.02, 1000), clean("B", 0.02, 1000, 1)),
    *(fgsm("A", "B", 0.50, 1000), fgsm("A", "B", 0.54, 1000, 1)),
]
CLAIMS = {
    "one": Claim("A is better", ["error(A) < error(A | B, fgsm)", "error(B) > 0.5"], "1 < 5"),
    "two": Claim("B transfers", ["error(A | B, fgsm) >= error(B | A, fgsm)"], "no numbers"),
    "three": Claim("A is good", ["error(B) <= 0.1"], "1 < 10"),
}


def test_claims_table_has_a_line_per_check() -> None:
    table = claims_table(CLAIMS, ROWS)
    assert list(table["claim"]) == ["one", "one", "two", "three"]
    assert list(table["verdict"]) == ["refuted", "refuted", "open", "confirmed"]
    assert list(table["check_verdict"]) == ["confirmed", "refuted", "open", "confirmed"]
    assert list(table["holds"]) == [True, False, None, True]
    assert table["check"][0] == "error(A) < error(A | B, fgsm)"
    assert list(table["left"]) == pytest.approx([0.02, 0.02, 0.52, 0.02])
    assert list(table["right"]) == pytest.approx([0.52, 0.5, nan, 0.1], nan_ok=True)
    assert table["percent"].all()
    low, high = wilson(20, 1000)
    assert (table["left_low"][1], table["left_high"][1]) == pytest.approx((low, high))
    assert (table["right_low"][1], table["right_high"][1]) == (0.5, 0.5)
    assert list(table["says"]) == ["A is better", "A is better", "B transfers", "A is good"]
    assert list(table["paper"]) == ["1 < 5", "1 < 5", "no numbers", "1 < 10"]


def test_in_how_many_seeds_a_check_holds() -> None:
    rows = [clean("A", error, seed=seed) for seed, error in enumerate((0.1, 0.2, 0.4))]
    rows += [*(clean("B", 0.3, seed=seed) for seed in range(3)), clean("C", 0.5, seed=2)]
    found = {"one": Claim("says", ["error(A) < error(B)", "error(B) < error(C)", "error(A) < error(D)"])}
    table = claims_table(found, rows)
    assert table[["seeds_holding", "seeds"]].values.tolist() == [[2, 3], [1, 1], [0, 0]]
    assert list(claims_summary(table)["holds in seeds"]) == ["2 of 3; 1 of 1; 0 of 0"]
    alone = claims_table(found, [row for row in rows if row["seed"] == 0])
    assert "holds in seeds" not in claims_summary(alone).columns
    assert list(claims_table(found, [])["seeds"]) == [0, 0, 0]


def test_claims_summary_says_our_numbers_in_the_order_of_the_papers() -> None:
    summary = claims_summary(claims_table(CLAIMS, ROWS))
    columns = ["claim", "verdict", "checks", "says", "ours", "left - right", "holds in seeds", "paper"]
    assert list(summary.columns) == columns
    assert list(summary["claim"]) == ["one", "two", "three"]
    assert list(summary["verdict"]) == ["refuted", "open", "confirmed"]
    low, high = wilson(20, 1000)
    ends = f"[{100 * low:.1f}, {100 * high:.1f}]"  # not around the middle
    assert summary["ours"][2] == f"2.0 {ends} <= 10.0"
    assert summary["ours"][1].endswith(" >= not measured") and summary["ours"][1].startswith("52.0 [")
    assert summary["ours"][0].endswith(f"; 2.0 {ends} > 50.0")
    gap = f"-8.0 [{100 * low - 10:.1f}, {100 * high - 10:.1f}]"
    assert summary["left - right"][1] == "not measured" and summary["left - right"][2] == gap


def test_values_that_are_no_rates_are_not_in_per_cent() -> None:
    rows = [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8, gradient_zero_share=0.5)]
    found = {"norm": Claim("says", ["gradient_l2_mean(A) < 3"])}
    found["zeros"] = Claim("says", ["gradient_zero_share(A) > 0.2"])
    summary = claims_summary(claims_table(found, rows))
    assert list(summary["ours"]) == ["0.12 [0.0414, 0.199] < 3", "50.0 [45.1, 54.9] > 20.0"]


def test_a_line_per_claim_on_a_terminal() -> None:
    text = console_claims(claims_summary(claims_table(CLAIMS, ROWS)))
    assert [line.split()[:2] for line in text.splitlines() if line] == [
        ["one", "refuted"],
        ["two", "open"],
        ["three", "confirmed"],
    ]
    assert console_claims(claims_summary(claims_table({}, ROWS))) == ""


def test_side_text_leaves_out_an_interval_that_is_none() -> None:
    line = {"left": 0.5, "left_low": 0.5, "left_high": 0.5, "percent": True}
    assert side_text(line, "left") == "50.0"
    assert side_text({**line, "left_low": nan, "left_high": nan}, "left") == "50.0"
    assert side_text({**line, "left": nan}, "left") == "not measured"
    assert side_text({**line, "left": nan, "left_low": -inf, "left_high": inf}, "left") == "no number (over 0)"
    assert side_text({**line, "percent": False}, "left") == "0.5"


def test_a_rate_has_hundredths_where_its_interval_is_less_than_a_point_wide() -> None:
    line = {"gap": -0.07551, "gap_low": -0.07981, "gap_high": -0.07111, "percent": True}
    assert side_text(line, "gap") == "-7.55 [-7.98, -7.11]"
    assert side_text({**line, "gap_low": -0.09}, "gap") == "-7.6 [-9.0, -7.1]"
    line = {"gap": -0.0001, "gap_low": -0.01, "gap_high": 0.0098, "percent": True}
    assert side_text(line, "gap") == "0.0 [-1.0, 1.0]"  # nothing is -0.0


def test_a_claim_about_the_test_images_themselves_has_no_interval_of_one_seed_and_the_seeds_of_several() -> None:
    one = [
        clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.9),
        clean("B", 0.1, 400, gradient_l2_mean=0.11, gradient_l2_sd=0.9),
    ]
    text = ["gradient_l2_mean(B) < gradient_l2_mean(A)"]
    (sampled,) = judge_claim(Claim("says", text), by_seed(one))
    (whole,) = judge_claim(Claim("says", text, images="all"), by_seed(one))
    assert (sampled.verdict, whole.verdict) == ("open", "confirmed")
    assert whole.left.low == whole.left.high == 0.11
    seeds = [
        clean(model, 0.1, 400, seed, gradient_l2_mean=mean, gradient_l2_sd=0.9)
        for model, means in (("A", (0.12, 0.14)), ("B", (0.13, 0.11)))  # gaps: 0.01, -0.03
        for seed, mean in enumerate(means)
    ]
    (several,) = judge_claim(Claim("says", text, images="all"), by_seed(seeds))
    half = T1 * stdev((0.11, 0.13)) / 2**0.5
    assert several.verdict == "open"
    assert several.left.high - several.left.value == pytest.approx(half, rel=1e-3)


def test_claims_of_several_parts_stand_in_the_order_of_their_numbers() -> None:
    """A claim that two parts make is judged by each part's rows alone."""
    first = {f"tramer-{n}": Claim(f"says {n}", ["error(A) < 0.5"]) for n in (10, 2)}
    second = {f"tramer-{n}": Claim(f"says {n}", ["error(A) < 0.5", "error(A) < 0.6"]) for n in (1, 2)}
    tables = [claims_table(first, [clean("A", 0.1)]), claims_table(second, [clean("A", 0.9)])]
    judged_parts = [table.assign(part=part) for part, table in zip(("one", "two"), tables, strict=True)]
    summary = claims_summary(pd.concat(judged_parts, ignore_index=True))
    assert list(summary["claim"]) == ["tramer-1", "tramer-2", "tramer-2", "tramer-10"]
    assert list(summary["verdict"]) == ["refuted", "confirmed", "refuted", "confirmed"]
    assert [text.count("<") for text in summary["ours"]] == [2, 1, 2, 1]
    assert list(summary["part"]) == ["two", "one", "two", "one"]
    assert list(claims_summary(tables[0])["claim"]) == ["tramer-10", "tramer-2"]  # one part's: as its config has them


# ---- a claim at the value where models differ most, and what all claims say together

EPS: Loops = {"eps": [0.1, 0.2, 0.3]}
AT = {"eps": "error(A | A, fgsm, eps={eps})"}
STRONGER = "error(A | A, fgsm, eps={eps}) >= error(A | B, fgsm, eps={eps})"


def attacked(own: Sequence[float], other: Sequence[float]) -> list[Row]:
    """A under FGSM from itself and from B, at each eps; NaN is not measured."""
    pairs = [(source, zip((0.1, 0.2, 0.3), errors, strict=True)) for source, errors in (("A", own), ("B", other))]
    return [fgsm("A", source, error, eps=eps) for source, each in pairs for eps, error in each if not isnan(error)]


@pytest.mark.parametrize(
    ("own", "other", "chosen", "verdict"),
    [
        ((0.6, 1.0, 1.0), (0.1, 1.0, 1.0), "0.1", "confirmed"),  # where all are fooled nothing shows
        ((0.0, 0.0, 0.1), (0.0, 0.0, 0.4), "0.3", "refuted"),
        ((0.1, 0.45, 0.9), (0.1, 0.44, 0.9), "0.2", "open"),
        ((nan, 1.0, 0.9), (0.2, 0.2, 0.2), "0.3", "confirmed"),
        ((nan, nan, nan), (0.2, 0.2, 0.2), "0.3", "open"),
    ],
)
def test_a_claim_is_judged_where_a_rate_is_nearest_to_one_half(
    own: Sequence[float], other: Sequence[float], chosen: str, verdict: str
) -> None:
    claim = Claim("says", [STRONGER], for_=EPS, at=AT)
    table = claims_table({"c": claim}, attacked(own, other))
    assert list(table["verdict"]) == [verdict] and list(table["says"]) == [f"says (judged at eps {chosen})"]
    assert table["check"][0] == STRONGER.format(eps=chosen)


def test_over_seeds_it_is_the_mean_that_chooses() -> None:
    owns = ((0.5, 0.9, 1.0), (0.0, 0.2, 1.0))
    rows = [{**row, "seed": seed} for seed, own in enumerate(owns) for row in attacked(own, (0.0, 0.0, 0.0))]
    claim = Claim("says", [STRONGER], for_=EPS, at=AT)
    assert claim.chosen(by_seed(rows)) == {"eps": "0.2"}  # 0.25, 0.55, 1


def test_what_is_compared_with_itself_is_left_out() -> None:
    """Growth from the first eps over the chosen to the last: two checks between them, one at either end."""
    growth = [
        f"error(A | A, fgsm, eps={a}) <= error(A | A, fgsm, eps={b})" for a, b in (("0.1", "{eps}"), ("{eps}", "0.3"))
    ]
    claim = Claim("says", growth, for_=EPS, at=AT)
    for own, count in (((0.1, 0.5, 0.9), 2), ((0.1, 0.2, 0.4), 1), ((0.6, 0.9, 1.0), 1)):
        checks = judge_claim(claim, by_seed(attacked(own, own)))
        assert len(checks) == count and {check.verdict for check in checks} == {"confirmed"}
    assert overall_verdict(judge_claim(claim, by_seed(attacked((0.1, 0.5, 0.2), (0, 0, 0))))) == "refuted"


def test_it_asks_about_all_values_that_it_may_choose() -> None:
    claim = Claim("says", ["error(A | B, fgsm, eps={eps}) > 0"], for_=EPS, at=AT)
    asked = {(quantity.source, dict(quantity.conditions)["eps"]) for quantity in claim.quantities}
    assert asked == {(source, eps) for source in "AB" for eps in (0.1, 0.2, 0.3)}


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ({"x": "error(A | A, fgsm, eps={x})"}, r"at\.x: \{x\} should be a placeholder of for"),
        ({"eps": "error(A)"}, r"at\.eps: 'error\(A\)' should have \{eps\}"),
        ({"eps": "eror(A | A, fgsm, eps={eps})"}, r"at\.eps: eror .* is no metric"),
        ({"eps": "gradient_l2_mean(A | A, fgsm, eps={eps})"}, r"at\.eps: .* should be a rate"),
    ],
)
def test_what_cannot_choose_is_refused(at: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Claim("says", [STRONGER], for_=EPS, at=at)


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        (("confirmed", "confirmed"), "Fine: all 2 statements are confirmed."),
        (("confirmed", "refuted"), "Masked: 1 of 2 statements is refuted (c1)."),
        (("refuted", "refuted", "open"), "Masked: 2 of 3 statements are refuted (c0, c1)."),
        (("open", "confirmed", "open"), "Unclear: 2 of 3 statements are open (c0, c2)."),
    ],
)
def test_one_sentence_says_what_the_claims_say_together(verdicts: Sequence[str], sentence: str) -> None:
    lines = [{"claim": f"c{i}", "verdict": verdict} for i, verdict in enumerate(verdicts) for _ in range(2)]
    assert Conclusion(confirmed="Fine", refuted="Masked", open="Unclear").sentence(pd.DataFrame(lines)) == sentence
