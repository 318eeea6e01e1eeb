"""Intervals and verdicts against published numbers, formulas worked by hand, and simulation."""

from collections.abc import Sequence
from math import hypot, isnan, nan, sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest

from epsball.paper.claims import (
    Check,
    Claim,
    claims_summary,
    claims_table,
    console_claims,
    judge_claim,
    overall_verdict,
    side_text,
)
from epsball.paper.expressions import Sum, measured_value, parse_comparisons, parse_quantity, total_of_sum
from epsball.paper.tables import Table, compare, comparison_text, paper_table, with_paper_values
from epsball.results.intervals import Estimate

Row = dict[str, Any]
Z = 1.959963984540054
T1, T2 = 12.706204736, 4.302652730  # two-sided 95 % quantiles of Student's t with 1 and 2 degrees of freedom
MISSING = Estimate(nan, nan, nan)


def clean(model: str, error: float, n: int = 100, seed: int = 0, **more: Any) -> Row:
    key = {"dataset": "digits", "seed": seed, "source": model, "target": model, "attack": "clean", "eps": 0.0}
    return {**key, "n": n, "error_top1": error, **more}


def fgsm(target: str, source: str, error: float, n: int = 100, seed: int = 0, **more: Any) -> Row:
    return {**clean(target, error, n, seed), "source": source, "attack": "fgsm", "eps": 0.3, **more}


def wilson(k: float, n: float) -> tuple[float, float]:
    """Both roots p of (k/n - p)^2 = z^2 p (1 - p) / n."""
    a, b, c = 1 + Z * Z / n, -2 * k / n - Z * Z / n, (k / n) ** 2
    root = sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def measured(text: str, rows: Sequence[Row]) -> Estimate:
    return measured_value(parse_quantity(text), rows)


def side(text: str) -> Sum:
    return parse_comparisons(f"{text} < 1")[0].left


def judged(check: str, *rows: Row) -> Check:
    (found,) = judge_claim(Claim("says", "paper", [check]), rows)
    return found


def ends(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


# ---- one row


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (431, 10_000), (9_999, 10_000)])
def test_a_rate_has_wilsons_interval(k: int, n: int) -> None:
    found = measured("error(A)", [clean("A", k / n, n)])
    assert found.value == k / n and found.seeds == 1 and isnan(found.sd)
    assert ends(found) == pytest.approx(wilson(k, n), abs=1e-12)


def test_rates_of_zero_and_one_have_intervals_that_begin_there() -> None:
    none, all_of_them = measured("error(A)", [clean("A", 0.0)]), measured("error(A)", [clean("A", 1.0)])
    assert none.low == 0 and none.high == pytest.approx(Z**2 / (100 + Z**2))
    assert all_of_them.high == 1 and all_of_them.low == pytest.approx(100 / (100 + Z**2))


def test_a_transfer_rate_is_of_the_images_that_it_counts() -> None:
    rows = [fgsm("A", "B", 0.5, 1000, transfer_rate_top1=0.25, transfer_n=40, transfer_rate_top5=0.1)]
    assert ends(measured("transfer_rate(A | B, fgsm)", rows)) == pytest.approx(wilson(10, 40))
    fifth = measured("transfer_rate_top5(A | B, fgsm)", rows)  # transfer_n counts for top 1 alone
    assert fifth.value == 0.1 and isnan(fifth.low) and isnan(fifth.high)
    rows[0]["transfer_n_top5"] = 30
    assert ends(measured("transfer_rate_top5(A | B, fgsm)", rows)) == pytest.approx(wilson(3, 30))


def test_a_mean_has_the_normal_interval_of_its_standard_deviation() -> None:
    found = measured("gradient_l2_mean(A)", [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)])
    assert ends(found) == pytest.approx((0.12 - Z * 0.04, 0.12 + Z * 0.04))
    loss = measured("loss_mean(A | B, fgsm)", [fgsm("A", "B", nan, 25, loss_mean=2.0, loss_sd=0.5)])
    assert ends(loss) == pytest.approx((2 - Z * 0.1, 2 + Z * 0.1))


def test_a_standard_deviation_has_no_interval_and_settles_nothing() -> None:
    rows = [clean("A", 0.1, gradient_l2_mean=0.1, gradient_l2_sd=0.95), clean("B", 0.1, gradient_l2_sd=0.1)]
    found = measured("gradient_l2_sd(A)", rows)
    assert found.value == 0.95 and isnan(found.low) and isnan(found.high)
    assert judged("gradient_l2_sd(B) < gradient_l2_sd(A)", *rows).verdict == "open"


def test_what_was_not_measured_is_nan() -> None:
    for found in (
        measured("error(A)", []),
        measured("error(A)", [clean("B", 0.1), fgsm("A", "B", 0.2)]),
        measured("error(A)", [clean("A", nan)]),
        measured("error(A)", [{**clean("A", 0.1), "error_top1": None}]),
        measured("error_top5(A)", [clean("A", 0.1)]),
        measured("error(A, eps=0.3)", [clean("A", 0.1)]),
        measured("transfer_rate(A | B, fgsm)", [fgsm("A", "B", 0.5, transfer_rate_top1=nan, transfer_n=0)]),
        measured("loss_mean(A | B, fgsm)", [fgsm("A", "B", nan, 0, loss_mean=nan, loss_sd=nan)]),
    ):
        assert all(isnan(value) for value in (found.value, found.low, found.high, found.sd)) and found.seeds == 0


def test_several_rows_of_a_seed_are_no_quantity() -> None:
    rows = [fgsm("A", "B", 0.1), {**fgsm("A", "B", 0.2), "eps": 0.1}]
    with pytest.raises(ValueError, match="say which eps"):
        measured("error(A | B, fgsm)", rows)
    assert measured("error(A | B, fgsm, eps=0.1)", rows).value == 0.2


# ---- several seeds


def test_over_seeds_is_mean_sd_and_both_sources_of_error_in_quadrature() -> None:
    rates = (0.10, 0.14, 0.12)
    found = measured("error(A)", [clean("A", rate, 100, seed) for seed, rate in enumerate(rates)])
    assert found.value == pytest.approx(0.12) and found.seeds == 3
    assert found.sd == pytest.approx(0.02)  # sqrt((0.02^2 + 0.02^2 + 0) / 2)
    spread = T2 * 0.02 / sqrt(3)
    intervals = [wilson(100 * rate, 100) for rate in rates]
    below = sum(rate - low for rate, (low, _) in zip(rates, intervals, strict=True)) / 3
    above = sum(high - rate for rate, (_, high) in zip(rates, intervals, strict=True)) / 3
    assert ends(found) == pytest.approx((0.12 - hypot(below, spread), 0.12 + hypot(above, spread)))


def test_equal_seeds_say_no_more_than_one() -> None:
    """They share their test images: a second seed does not halve what sampling these leaves open."""
    one = measured("error(A)", [clean("A", 0.3)])
    two = measured("error(A)", [clean("A", 0.3), clean("A", 0.3, seed=1)])
    assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high))
    assert two.sd == 0 and two.seeds == 2


def test_a_seed_without_the_number_does_not_count() -> None:
    rows = [fgsm("A", "B", 0.5, transfer_rate_top1=0.25, transfer_n=40)]
    rows += [fgsm("A", "B", 0.5, seed=1, transfer_rate_top1=nan, transfer_n=0)]
    found = measured("transfer_rate(A | B, fgsm)", rows)
    assert (found.value, found.seeds) == (0.25, 1) and ends(found) == pytest.approx(wilson(10, 40))


def test_means_over_seeds() -> None:
    rows = [clean("A", 0.1, 400, seed, gradient_l2_mean=m, gradient_l2_sd=0.8) for seed, m in enumerate((0.1, 0.2))]
    found = measured("gradient_l2_mean(A)", rows)
    half = hypot(Z * 0.04, T1 * sqrt(0.005) / sqrt(2))
    assert (found.value, *ends(found)) == pytest.approx((0.15, 0.15 - half, 0.15 + half))


# ---- sums


def test_a_difference_has_newcombes_hybrid_interval() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table II: 56/70 - 48/80 by method 10."""
    found = total_of_sum(side("error(A) - error(B)"), [clean("A", 56 / 70, 70), clean("B", 48 / 80, 80)])
    assert found.value == pytest.approx(0.2)
    assert ends(found) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(  # the same table's further contrasts, method 10
    ("a", "m", "b", "n", "low", "high"),
    [
        (9, 10, 3, 10, 0.1705, 0.8090),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0000),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ],
)
def test_newcombes_other_differences(a: int, m: int, b: int, n: int, low: float, high: float) -> None:
    found = total_of_sum(side("error(A) - error(B)"), [clean("A", a / m, m), clean("B", b / n, n)])
    assert ends(found) == pytest.approx((low, high), abs=5e-5)


def test_the_reversed_difference_has_the_reversed_interval() -> None:
    rows = [clean("A", 0.8, 70), clean("B", 0.6, 80)]
    one, other = (total_of_sum(side(text), rows) for text in ("error(A) - error(B)", "error(B) - error(A)"))
    assert ends(other) == pytest.approx((-one.high, -one.low))


def test_constants_and_multiples() -> None:
    rows = [clean("A", 0.2)]
    low, high = wilson(20, 100)
    assert ends(total_of_sum(side("3 * error(A) + 0.1"), rows)) == pytest.approx((0.1 + 3 * low, 0.1 + 3 * high))
    assert ends(total_of_sum(side("1 - error(A)"), rows)) == pytest.approx((1 - high, 1 - low))
    assert ends(total_of_sum(Sum(0.25), rows)) == (0.25, 0.25)
    assert isnan(total_of_sum(side("error(A) + error(B)"), rows).low)


def test_what_is_named_twice_is_one_measurement() -> None:
    rows = [clean("A", 0.2)]
    twice, both = (total_of_sum(side(text), rows) for text in ("2 * error(A)", "error(A) + error(A)"))
    assert ends(both) == pytest.approx(ends(twice))
    nothing = total_of_sum(side("error(A) - error(A)"), rows)
    assert (nothing.value, *ends(nothing)) == (0, 0, 0)


def test_times_keeps_the_ends_in_order() -> None:
    turned = Estimate(0.2, 0.1, 0.4, 0.05, 3).times(-2)
    assert (turned.value, *ends(turned), turned.sd, turned.seeds) == (-0.4, -0.8, -0.2, 0.1, 3)
    assert isnan(MISSING.times(-1).low) and isnan(MISSING.times(0).value)


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
        (nan, 0.5, "open", "open"),
        (0.5, nan, "open", "open"),
        (nan, nan, "open", "open"),
    ],
)
def test_a_verdict_needs_intervals_that_do_not_overlap(a: float, b: float, smaller: str, larger: str) -> None:
    for sign, expected in (("<", smaller), ("<=", smaller), (">", larger), (">=", larger)):
        check = judged(f"error(A) {sign} error(B)", clean("A", a), clean("B", b))
        assert check.verdict == expected
        assert (check.holds is None) == (isnan(a) or isnan(b))


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
    claim = Claim("says", "paper", [f"error(A{i}) < error(B)" for i in range(len(found))])
    assert overall_verdict(judge_claim(claim, rows)) == expected


def test_over_seeds_a_verdict_is_of_the_gap_within_each_seed() -> None:
    """The seeds differ a lot, and in both models alike: each side's interval holds the other's mean."""
    levels = (0.10, 0.30, 0.50)
    rows = [clean("A", level, 10_000, seed) for seed, level in enumerate(levels)]
    rows += [clean("B", level + 0.04, 10_000, seed) for seed, level in enumerate(levels)]
    check = judged("error(A) < error(B)", *rows)
    assert check.left.high > check.right.value and check.verdict == "confirmed"
    below, above = (
        fmean(pair[0][end] - pair[1][1 - end] for pair in zip(*intervals(levels), strict=True)) for end in (0, 1)
    )
    assert (check.gap.value, *ends(check.gap)) == pytest.approx((-0.04, below, above))  # the gaps have no spread
    swapped = [row | {"seed": 2 - row["seed"]} if row["target"] == "B" else row for row in rows]
    other = judged("error(A) < error(B)", *swapped)
    assert other.left == check.left and other.right.value == check.right.value and other.verdict == "open"


def intervals(levels: Sequence[float]) -> list[list[tuple[float, float]]]:
    return [[wilson(10_000 * (level + more), 10_000) for level in levels] for more in (0, 0.04)]


@pytest.mark.parametrize(("sign", "expected"), [("<", "confirmed"), ("<=", "confirmed"), (">", "refuted")])
def test_a_seed_without_one_of_the_sides_does_not_count(sign: str, expected: str) -> None:
    rows = [clean("A", 0.1, 1000), clean("B", 0.4, 1000), clean("A", 0.9, 1000, 1)]
    check = judged(f"error(A) {sign} error(B)", *rows)
    assert check.gap.seeds == 1 and check.gap.value == pytest.approx(-0.3) and check.verdict == expected


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (1000, 0.05), (10_000, 0.01)])
def test_a_false_claim_is_rarely_confirmed(n: int, p: float) -> None:
    """Equal true rates: `<` is false; two 95 % intervals lie apart in about 0.3 % of samples on that side."""
    found = [judged("error(A) < error(B)", *pair).verdict for pair in pairs(2000, n, p, p)]
    assert found.count("confirmed") < 0.01 * 2000
    assert found.count("refuted") < 0.01 * 2000


def pairs(count: int, n: int, a: float, b: float) -> list[list[Row]]:
    """Rows of A and B whose errors are of `n` images, at true rates a and b."""
    counts = np.random.default_rng(n).binomial(n, (a, b), (count, 2)).tolist()
    return [[clean("A", k / n, n), clean("B", m / n, n)] for k, m in counts]


def test_a_true_claim_is_found() -> None:
    found = [judged("error(A) < error(B)", *pair).verdict for pair in pairs(200, 10_000, 0.04, 0.06)]
    assert found.count("confirmed") > 190


@pytest.mark.parametrize(("p", "n"), [(0.5, 100), (0.1, 100), (0.02, 1000)])
def test_the_interval_of_a_difference_covers_the_truth(p: float, n: int) -> None:
    found = [total_of_sum(side("error(A) - error(B)"), pair) for pair in pairs(1000, n, p, 0.3)]
    assert 930 <= sum(one.low <= p - 0.3 <= one.high for one in found) <= 980


# ---- a small example: two seeds, a paper's table, worked by hand

ROWS: list[Row] = [
    *(clean("A", 0.01, 1000), clean("A", 0.03, 1000, 1)),
    *(clean("B", 0.02, 1000), clean("B", 0.02, 1000, 1)),
    *(fgsm("A", "B", 0.50, 1000), fgsm("A", "B", 0.54, 1000, 1)),
]
CLEAN_AND_FGSM = Table(
    title="Table 0",
    rows={"first": "A", "second": "B"},
    columns={"Clean": "error({row})", "FGSM": "error({row} | B, fgsm)"},
    paper={"first": [1.9, 71.4], "second": [50.0, None]},
    unit="percent",
    best="none",
)
MEAN_AND_SD = {"mean": "gradient_l2_mean", "stdev": "gradient_l2_sd"}
NORMS = Table("Norms", MEAN_AND_SD, {"A": "{row}(A)"}, None, "value", "none")
CLAIMS = {
    "one": Claim("A is better", "1 < 5", ["error(A) < error(A | B, fgsm)", "error(B) > 0.5"]),
    "two": Claim("B transfers", "no numbers", ["error(A | B, fgsm) >= error(B | A, fgsm)"]),
    "three": Claim("A is good", "1 < 10", ["error(B) <= 0.1"]),
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
    found = {"one": Claim("says", "paper", ["error(A) < error(B)", "error(B) < error(C)", "error(A) < error(D)"])}
    table = claims_table(found, rows)
    assert table[["seeds_holding", "seeds"]].values.tolist() == [[2, 3], [1, 1], [0, 0]]
    assert list(claims_summary(table)["holds in seeds"]) == ["2 of 3; 1 of 1; 0 of 0"]
    alone = claims_table(found, [row for row in rows if row["seed"] == 0])
    assert "holds in seeds" not in claims_summary(alone).columns
    assert list(claims_table(found, [])["seeds"]) == [0, 0, 0]


def test_claims_summary_says_our_numbers_in_the_order_of_the_papers() -> None:
    summary = claims_summary(claims_table(CLAIMS, ROWS))
    assert list(summary.columns) == ["claim", "verdict", "says", "ours", "left - right", "holds in seeds", "paper"]
    assert list(summary["claim"]) == ["one", "two", "three"]
    assert list(summary["verdict"]) == ["refuted", "open", "confirmed"]
    low, high = wilson(20, 1000)
    half = f"{100 * (high - low) / 2:.2g}"
    assert summary["ours"][2] == f"2 ± {half} <= 10"
    assert summary["ours"][1].endswith(" >= not measured") and summary["ours"][1].startswith("52 ± ")
    assert summary["ours"][0].endswith(f"; 2 ± {half} > 50")
    assert summary["left - right"][1] == "not measured" and summary["left - right"][2] == f"-8 ± {half}"


def test_values_that_are_no_rates_are_not_in_per_cent() -> None:
    rows = [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8, gradient_zero_share=0.5)]
    found = {"norm": Claim("says", "paper", ["gradient_l2_mean(A) < 3"])}
    found["zeros"] = Claim("says", "paper", ["gradient_zero_share(A) > 0.2"])
    summary = claims_summary(claims_table(found, rows))
    assert list(summary["ours"]) == ["0.12 ± 0.078 < 3", "50 ± 4.9 > 20"]


def test_a_line_per_claim_on_a_terminal() -> None:
    text = console_claims(claims_summary(claims_table(CLAIMS, ROWS)))
    assert [line.split()[:2] for line in text.splitlines() if line] == [
        ["one", "refuted"],
        ["two", "open"],
        ["three", "confirmed"],
    ]
    assert console_claims(claims_summary(claims_table({}, ROWS))) == ""


def test_cells_is_ours_beside_the_papers_in_the_tables_unit() -> None:
    frame = compare({"t": CLEAN_AND_FGSM}, ROWS)
    assert frame[["row", "column"]].values.tolist() == [
        ["first", "Clean"],
        ["first", "FGSM"],
        ["second", "Clean"],
        ["second", "FGSM"],
    ]
    assert set(frame["table"]) == {"t"} and set(frame["unit"]) == {"percent"} and set(frame["metric"]) == {"error_top1"}
    assert list(frame["target"]) == ["A", "A", "B", "B"] and list(frame["source"]) == ["A", "B", "B", "B"]
    assert list(frame["attack"]) == ["clean", "fgsm", "clean", "fgsm"]
    assert list(frame["ours"]) == pytest.approx([2.0, 52.0, 2.0, nan], nan_ok=True)
    assert list(frame["sd"]) == pytest.approx([sqrt(2), 2 * sqrt(2), 0, nan], nan_ok=True)
    assert list(frame["seeds"]) == [2, 2, 2, 0]
    assert list(frame["paper"]) == pytest.approx([1.9, 71.4, 50.0, nan], nan_ok=True)
    assert list(frame["difference"]) == pytest.approx([0.1, -19.4, -48.0, nan], nan_ok=True)
    assert (frame["low"][2], frame["high"][2]) == pytest.approx(tuple(100 * end for end in wilson(20, 1000)))
    assert list(frame["inside"]) == ["yes", "yes", "no", "-"]  # two seeds 4 points apart leave FGSM's wide open


def test_the_normal_interval_has_the_spread_of_the_seeds_added() -> None:
    frame = compare({"t": CLEAN_AND_FGSM}, ROWS)
    of_images = fmean(100 * Z * sqrt(p * (1 - p) / 1000) for p in (0.01, 0.03))
    half = hypot(of_images, 12.7062 * stdev((1, 3)) / sqrt(2))
    assert (frame["normal_low"][0], frame["normal_high"][0]) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert frame.loc[3, ["normal_low", "normal_high"]].isna().all()


def test_the_normal_approximation_is_that_of_table_4() -> None:
    """Tramèr et al. 2017, Table 4: ± 0.43 points at 5 % of 10,000 images."""
    table = Table("T", {"A": "A"}, {"Clean": "error({row})"}, None, "percent", "none")
    cell = compare({"t": table}, [clean("A", 0.05, 10_000)]).iloc[0]
    assert (cell["normal_high"] - cell["normal_low"]) / 2 == pytest.approx(0.43, abs=0.005)
    assert (cell["normal_high"] + cell["normal_low"]) / 2 == pytest.approx(5)


def test_a_seed_without_trials_does_not_spoil_the_others() -> None:
    table = Table("T", {"A": "A"}, {"T": "transfer_rate({row} | B, fgsm)"}, None, "percent", "none")
    rows = [fgsm("A", "B", 0.5, transfer_rate_top1=0.2, transfer_n=100)]
    rows += [fgsm("A", "B", 0.5, seed=1, transfer_rate_top1=nan, transfer_n=0)]
    cell = compare({"t": table}, rows).iloc[0]
    assert (cell["normal_low"], cell["normal_high"]) == pytest.approx((20 - Z * 4, 20 + Z * 4))


def test_means_have_the_normal_interval_only() -> None:
    rows = [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)]
    frame = compare({"t": NORMS}, rows)
    assert list(frame["ours"]) == [0.12, 0.8]
    assert frame[["paper", "difference"]].isna().all(axis=None)
    assert frame["normal_high"].equals(frame["high"])
    assert frame["high"][0] == pytest.approx(0.12 + Z * 0.04) and isnan(frame["high"][1])


def test_where_there_is_no_interval_nothing_is_inside_it() -> None:
    table = Table("T", NORMS.rows, NORMS.columns, {"mean": [0.15], "stdev": [0.8]}, "value", "none")
    frame = compare({"t": table}, [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)])
    assert list(frame["inside"]) == ["yes", "-"]
    assert list(frame["difference"]) == pytest.approx([-0.03, 0.0])


def test_beside_is_the_same_for_people() -> None:
    shown = comparison_text(compare({"t": CLEAN_AND_FGSM}, ROWS))
    columns = ["table", "row", "column", "ours", "sd", "paper", "difference", "interval", "normal", "inside"]
    assert list(shown.columns) == columns
    low, high = wilson(20, 1000)
    line = shown.iloc[2].to_dict()
    assert line["interval"] == f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert [line[name] for name in columns[3:7]] == ["2.0", "0.0", "50.0", "-48.0"] and line["inside"] == "no"
    assert list(shown.iloc[3])[3:] == ["-"] * 7
    norms = comparison_text(compare({"t": NORMS}, [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)]))
    assert list(norms.iloc[0])[3:] == ["0.120", "-", "-", "-", "[0.042, 0.198]", "[0.042, 0.198]", "-"]
    assert list(norms.iloc[1])[3:] == ["0.800", "-", "-", "-", "-", "-", "-"]


def test_without_tables_there_is_nothing_to_compare() -> None:
    assert compare({}, ROWS).empty
    assert claims_table({}, ROWS).empty


def test_with_paper_puts_the_papers_number_beside_the_row() -> None:
    rows = with_paper_values(pd.DataFrame(ROWS), {"t": CLEAN_AND_FGSM})
    assert list(rows["paper_value"]) == pytest.approx([0.019, 0.019, 0.5, 0.5, 0.714, 0.714])
    assert set(rows["paper_metric"]) == {"error_top1"}
    assert list(rows["difference"]) == pytest.approx([-0.009, 0.011, -0.48, -0.48, -0.214, -0.174])


def test_rows_that_no_table_gives_have_no_papers_number() -> None:
    rows = pd.DataFrame([*ROWS, clean("C", 0.1, 1000), fgsm("B", "B", 0.5, 1000)])
    found = with_paper_values(rows, {"t": CLEAN_AND_FGSM}).iloc[-2:]
    assert found[["paper_value", "paper_metric", "difference"]].isna().all(axis=None)
    assert with_paper_values(rows, {"t": NORMS}) is rows
    assert with_paper_values(rows, {}) is rows


def test_with_paper_knows_other_metrics_and_units() -> None:
    table = Table("T", {"mean": "gradient_l2_mean"}, {"A": "{row}(A)"}, {"mean": [0.12]}, "value", "none")
    row = with_paper_values(pd.DataFrame([clean("A", 0.1, gradient_l2_mean=0.2)]), {"t": table}).iloc[0]
    assert (row["paper_value"], row["paper_metric"]) == (0.12, "gradient_l2_mean")
    assert row["difference"] == pytest.approx(0.08)


# ---- in the paper's shape


def shape(table: Table, rows: Sequence[Row]) -> list[list[str]]:
    frame = paper_table("t", table, compare({"other": NORMS, "t": table}, rows))
    assert list(frame.columns) == ["", *table.columns]
    return [list(line) for line in frame.itertuples(index=False, name=None)]


def test_in_shape_is_ours_with_its_spread_and_the_papers() -> None:
    assert shape(CLEAN_AND_FGSM, ROWS) == [
        ["first", "2.0 ± 1.4 (1.9)", "52.0 ± 2.8 (71.4)"],
        ["second", "2.0 ± 0.0 (50.0)", "-"],
    ]
    assert shape(CLEAN_AND_FGSM, [])[0] == ["first", "- (1.9)", "- (71.4)"]
    assert shape(NORMS, [clean("A", 0.1, gradient_l2_mean=0.12, gradient_l2_sd=0.8)]) == [
        ["mean", "0.12"],
        ["stdev", "0.80"],
    ]


def grid(best: str, errors: dict[str, tuple[float, float]], n: int) -> list[list[str]]:
    """A table of clean and FGSM errors with marks."""
    rows = [clean(model, error, n) for model, (error, _) in errors.items()]
    rows += [fgsm(model, "B", error, n) for model, (_, error) in errors.items()]
    columns = {"Clean": "error({row})", "FGSM": "error({row} | B, fgsm)"}
    return [line[1:] for line in shape(Table("T", {m: m for m in errors}, columns, None, "percent", best), rows)]  # type: ignore[arg-type]


def test_the_best_of_a_column_and_those_tied_with_it_are_bold() -> None:
    errors = {"A": (0.010, 0.30), "B": (0.012, 0.10), "C": (0.050, nan)}
    assert grid("columns", errors, 10_000) == [["**1.0**", "30.0"], ["**1.2**", "**10.0**"], ["5.0", "-"]]
    assert grid("none", errors, 10_000) == [["1.0", "30.0"], ["1.2", "10.0"], ["5.0", "-"]]


def test_the_best_of_a_row_and_those_tied_with_it_are_bold() -> None:
    errors = {"A": (0.10, 0.30), "B": (0.20, 0.20), "C": (0.05, nan), "D": (nan, nan)}
    found = grid("rows", errors, 1000)
    assert found == [["**10.0**", "30.0"], ["**20.0**", "**20.0**"], ["**5.0**", "-"], ["-", "-"]]


def test_ties_are_of_intervals_that_overlap_the_best_ones() -> None:
    """A chain of overlaps is no tie: only those that overlap the lowest itself."""
    errors = [0.10, 0.12, 0.145]
    intervals = [wilson(1000 * error, 1000) for error in errors]
    assert intervals[0][1] > intervals[1][0] and intervals[1][1] > intervals[2][0] and intervals[0][1] < intervals[2][0]
    found = grid("columns", {name: (error, nan) for name, error in zip("ABC", errors, strict=True)}, 1000)
    assert [line[0] for line in found] == ["**10.0**", "**12.0**", "14.5"]


def test_bold_goes_around_ours_alone() -> None:
    table = Table("T", {"A": "A"}, {"Clean": "error({row})"}, {"A": [3.0]}, "percent", "columns")
    assert shape(table, [clean("A", 0.01), clean("A", 0.02, seed=1)]) == [["A", "**1.5 ± 0.7** (3.0)"]]


def test_side_text_leaves_out_an_interval_that_is_none() -> None:
    line = {"left": 0.5, "left_low": 0.5, "left_high": 0.5, "percent": True}
    assert side_text(line, "left") == "50"
    assert side_text({**line, "left_low": nan, "left_high": nan}, "left") == "50"
    assert side_text({**line, "left": nan}, "left") == "not measured"
    assert side_text({**line, "percent": False}, "left") == "0.5"


def test_a_claim_about_the_test_images_themselves_has_no_interval_of_one_seed_and_the_seeds_of_several() -> None:
    one = [
        clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.9),
        clean("B", 0.1, 400, gradient_l2_mean=0.11, gradient_l2_sd=0.9),
    ]
    text = ["gradient_l2_mean(B) < gradient_l2_mean(A)"]
    (sampled,) = judge_claim(Claim("says", "paper", text), one)
    (whole,) = judge_claim(Claim("says", "paper", text, images="all"), one)
    assert (sampled.verdict, whole.verdict) == ("open", "confirmed")
    assert whole.left.low == whole.left.high == 0.11
    seeds = [
        clean(model, 0.1, 400, seed, gradient_l2_mean=mean, gradient_l2_sd=0.9)
        for model, means in (("A", (0.12, 0.14)), ("B", (0.13, 0.11)))  # gaps: 0.01, -0.03
        for seed, mean in enumerate(means)
    ]
    (several,) = judge_claim(Claim("says", "paper", text, images="all"), seeds)
    half = 12.706 * stdev((0.11, 0.13)) / 2**0.5  # Student's t of one degree of freedom
    assert several.verdict == "open"
    assert several.left.high - several.left.value == pytest.approx(half, rel=1e-3)


def test_claims_of_several_parts_stand_in_the_order_of_their_numbers() -> None:
    """A claim that two parts make is judged by each part's rows alone."""
    first = {f"tramer-{n}": Claim(f"says {n}", "p", ["error(A) < 0.5"]) for n in (10, 2)}
    second = {f"tramer-{n}": Claim(f"says {n}", "p", ["error(A) < 0.5", "error(A) < 0.6"]) for n in (1, 2)}
    tables = [claims_table(first, [clean("A", 0.1)]), claims_table(second, [clean("A", 0.9)])]
    judged_parts = [table.assign(part=part) for part, table in zip(("one", "two"), tables, strict=True)]
    summary = claims_summary(pd.concat(judged_parts, ignore_index=True))
    assert list(summary["claim"]) == ["tramer-1", "tramer-2", "tramer-2", "tramer-10"]
    assert list(summary["verdict"]) == ["refuted", "confirmed", "refuted", "confirmed"]
    assert [text.count("<") for text in summary["ours"]] == [2, 1, 2, 1]
    assert "part" not in summary
    assert list(claims_summary(tables[0])["claim"]) == ["tramer-10", "tramer-2"]  # one part's: as its config has them


@pytest.mark.parametrize("named", [True, False])
def test_other_measurements_of_a_cell_do_not_disturb_it(named: bool) -> None:
    """Rows of gradient norms lie in the cell of the clean row, those of a loss surface in that of an attack."""
    others = [
        clean("A", nan, gradient_l2_mean=0.1, gradient_l2_sd=0.9),
        fgsm("A", "B", nan, loss_mean=2.0, loss_sd=0.5),
    ]
    own = [clean("A", 0.1), fgsm("A", "B", 0.5)]
    if named:
        own = [row | {"measurement": name} for row, name in zip(own, ("clean", "transfer_matrix"), strict=True)]
        others = [row | {"measurement": "other"} for row in others]
    for text, value in {"error(A)": 0.1, "error(A | B, fgsm)": 0.5, "gradient_l2_mean(A)": 0.1}.items():
        assert measured(text, [*own, *others]).value == value
    frame = with_paper_values(pd.DataFrame([*own, *others]), {"t": CLEAN_AND_FGSM})
    assert list(frame["paper_value"]) == pytest.approx([0.019, 0.714, nan, nan], nan_ok=True)
