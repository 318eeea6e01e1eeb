"""Values and intervals of what tables and claims name, against published numbers, formulas and simulation."""

from collections.abc import Sequence
from math import hypot, inf, isnan, nan, sqrt
from typing import Any

import numpy as np
import pytest
from cells import T1, T2, T3, T399, Bits, Row, Z, clean, ends, fgsm, measured, of_table, seen, summed, wilson

from epsball.paper.expressions import Sum, parse_expression
from epsball.paper.values import SeedRows, by_seed, estimate_in_seed, images_of, is_paired, why_unknown
from epsball.results import intervals

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


def test_a_mean_has_students_interval_of_its_standard_deviation() -> None:
    found = measured("gradient_l2_mean(A)", [clean("A", 0.1, 400, gradient_l2_mean=0.12, gradient_l2_sd=0.8)])
    assert ends(found) == pytest.approx((0.12 - T399 * 0.04, 0.12 + T399 * 0.04))
    loss = measured("loss_mean(A | B, fgsm)", [fgsm("A", "B", nan, 4, loss_mean=2.0, loss_sd=0.5)])
    assert ends(loss) == pytest.approx((2 - T3 * 0.25, 2 + T3 * 0.25))


def test_a_standard_deviation_has_no_interval() -> None:
    rows = [clean("A", 0.1, gradient_l2_mean=0.1, gradient_l2_sd=0.95)]
    found = measured("gradient_l2_sd(A)", rows)
    assert found.value == 0.95 and isnan(found.low) and isnan(found.high)


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
    with pytest.raises(ValueError, match=r"error\(A \| B, fgsm\) names several rows of a seed: .* eps=0\.3"):
        measured("error(A | B, fgsm)", rows)
    assert measured("error(A | B, fgsm, eps=0.1)", rows).value == 0.2


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


# ---- several seeds


def test_over_seeds_is_mean_sd_and_both_sources_of_error_in_quadrature() -> None:
    rates = (0.10, 0.14, 0.12)
    found = measured("error(A)", [clean("A", rate, 100, seed) for seed, rate in enumerate(rates)])
    assert found.value == pytest.approx(0.12) and found.seeds == 3
    assert found.sd == pytest.approx(0.02)  # sqrt((0.02^2 + 0.02^2 + 0) / 2)
    spread = T2 * 0.02 / sqrt(3)
    each = [wilson(100 * rate, 100) for rate in rates]
    below = sum(rate - low for rate, (low, _) in zip(rates, each, strict=True)) / 3
    above = sum(high - rate for rate, (_, high) in zip(rates, each, strict=True)) / 3
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
    half = hypot(T399 * 0.04, T1 * sqrt(0.005) / sqrt(2))
    assert (found.value, *ends(found)) == pytest.approx((0.15, 0.15 - half, 0.15 + half))


# ---- sums


def test_a_difference_has_newcombes_hybrid_interval() -> None:
    """Newcombe 1998, Statistics in Medicine 17, table II: 56/70 - 48/80 by method 10."""
    found = summed("error(A) - error(B)", [clean("A", 56 / 70, 70), clean("B", 48 / 80, 80)])
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
    found = summed("error(A) - error(B)", [clean("A", a / m, m), clean("B", b / n, n)])
    assert ends(found) == pytest.approx((low, high), abs=5e-5)


def test_the_reversed_difference_has_the_reversed_interval() -> None:
    rows = [clean("A", 0.8, 70), clean("B", 0.6, 80)]
    one, other = (summed(text, rows) for text in ("error(A) - error(B)", "error(B) - error(A)"))
    assert ends(other) == pytest.approx((-one.high, -one.low))


def test_constants_and_multiples() -> None:
    rows = [clean("A", 0.2)]
    low, high = wilson(20, 100)
    assert ends(summed("3 * error(A) + 0.1", rows)) == pytest.approx((0.1 + 3 * low, 0.1 + 3 * high))
    assert ends(summed("1 - error(A)", rows)) == pytest.approx((1 - high, 1 - low))
    assert ends(estimate_in_seed(Sum(0.25), SeedRows(rows), intervals.wilson)) == (0.25, 0.25)
    assert isnan(summed("error(A) + error(B)", rows).low)


def test_what_is_named_twice_is_one_measurement() -> None:
    rows = [clean("A", 0.2)]
    twice, both = (summed(text, rows) for text in ("2 * error(A)", "error(A) + error(A)"))
    assert ends(both) == pytest.approx(ends(twice))
    nothing = summed("error(A) - error(A)", rows)
    assert (nothing.value, *ends(nothing)) == (0, 0, 0)


@pytest.mark.parametrize(("p", "n"), [(0.5, 100), (0.1, 100), (0.02, 1000)])
def test_the_interval_of_a_difference_covers_the_truth(p: float, n: int) -> None:
    counts = np.random.default_rng(n).binomial(n, (p, 0.3), (1000, 2)).tolist()
    found = [summed("error(A) - error(B)", [clean("A", k / n, n), clean("B", m / n, n)]) for k, m in counts]
    assert 930 <= sum(one.low <= p - 0.3 <= one.high for one in found) <= 980


# ---- rates of the same images


def alike(n: int, error: float, flipped: float, seed: int = 0) -> tuple[Bits, Bits]:
    """Mistakes that are the same but for some images."""
    draw = np.random.default_rng(seed)
    first = draw.random(n) < error
    return first, first ^ (draw.random(n) < flipped)


def paired(text: str, rows: Sequence[Row]) -> bool:
    """Whether a side is compared image by image in the rows of a seed."""
    side = parse_expression(text)
    return is_paired(side, images_of(side, SeedRows(rows)))


def test_two_rates_are_compared_image_by_image_where_the_rows_keep_them() -> None:
    first, second = of_table(20, 12, 2, 16)
    a, b = seen(clean("A", 0), first), seen(clean("B", 0), second)
    found = summed("error(A) - error(B)", [a, b])
    assert ends(found) == pytest.approx((0.0562, 0.3292), abs=5e-5)  # Newcombe's paired interval: test_paired.py
    assert ends(summed("error(B) - error(A)", [a, b])) == pytest.approx((-found.high, -found.low))
    unpaired = summed("error(A) - error(B)", [clean("A", 32 / 50, 50), clean("B", 22 / 50, 50)])
    assert ends(unpaired) != pytest.approx(ends(found), abs=0.01)
    lacking: dict[str, list[Row]] = {
        "one has none": [a, clean("B", 22 / 50, 50)],
        "one has NaN": [a, {**b, "mistakes_top1": nan}],
        "of another data set": [a, {**b, "dataset": "mnist"}],
    }
    for why, rows in lacking.items():
        assert ends(summed("error(A) - error(B)", rows)) == pytest.approx(ends(unpaired)), why


def test_rates_of_other_numbers_of_images_are_compared_on_those_that_both_have() -> None:
    """Whoever measures fewer measures the first."""
    wrong = {"A": [True] * 40 + [False] * 60, "B": [True] * 30 + [False] * 20}
    rows = [seen(clean(name, 0), bits) for name, bits in wrong.items()]
    fewer = [seen(clean(name, 0), bits[:50]) for name, bits in wrong.items()]
    for text in ("error(A) - error(B)", "error(B) / error(A)", "accuracy(A) / accuracy(B) - 1"):
        assert repr(summed(text, rows)) == repr(summed(text, fewer))  # of no sd: nan
        assert paired(text, rows) == paired(text, fewer)
    assert summed("error(A) - error(B)", rows).value == pytest.approx(0.2)
    assert measured("error(A)", rows).value == pytest.approx(0.4)
    assert summed("2 * error(A)", rows).value == pytest.approx(0.8)


def test_the_worst_of_several_is_of_the_images_that_it_is_compared_on() -> None:
    rows = [
        seen(fgsm("A", "A", 0), [True, True, False, False, True, True]),
        seen({**fgsm("A", "A", 0), "attack": "pgd"}, [False, True, True, False, True, True]),
        seen(clean("A", 0), [True, False, False, False]),
    ]
    assert summed("error(A | A, worst(fgsm, pgd)) - error(A)", rows).value == pytest.approx(0.5)


def test_the_worst_of_several_is_of_the_images_that_all_have() -> None:
    rows = [
        seen(fgsm("A", "A", 0), [True, False, False, False]),
        seen({**fgsm("A", "A", 0), "attack": "pgd"}, [False, True, False, False, True, True, True, True]),
    ]
    assert summed("error(A | A, worst(fgsm, pgd))", rows).value == pytest.approx(0.5)
    assert ends(summed("error(A | A, worst(fgsm, pgd))", rows)) == pytest.approx(wilson(2, 4))


def test_a_worst_that_cancels_out_may_be_of_fewer_images_than_the_rest() -> None:
    short, long = [True, False], [True, False, True, False]
    rows = [seen(clean("A", 0), long), seen(clean("B", 0), long), seen(fgsm("A", "A", 0), short)]
    rows.append(seen({**fgsm("A", "A", 0), "attack": "pgd"}, long))
    worst = "error(A | A, worst(fgsm, pgd))"
    assert summed(f"error(A) - error(B) + {worst} - {worst}", rows).value == 0


def test_a_ratio_of_a_ratio_over_zero_is_unbounded_too() -> None:
    rows = [clean("A", 0.1, 1000), clean("B", 0.0, 1000), clean("C", 0.5, 1000)]
    assert intervals.is_unbounded(summed("(error(A) / error(B)) / error(C)", rows))
    assert intervals.is_unbounded(summed("error(C) / (error(A) / error(B))", rows))
    assert isnan(summed("(error(A) / error(B)) / error(D)", rows).low)  # D is not measured


def test_a_sum_of_opposite_mistakes_has_the_interval_of_their_difference() -> None:
    """What one counts the other hardly ever does: the sum is next to certain, as the difference of equal ones is."""
    first, second = of_table(0, 300, 690, 10)
    together = summed("error(A) + error(B)", [seen(clean("A", 0), first), seen(clean("B", 0), second)])
    apart = summed("error(A) - error(B)", [seen(clean("A", 0), first), seen(clean("B", 0), ~second)])
    assert together.high - together.value == pytest.approx(apart.high - apart.value)


@pytest.mark.parametrize(
    "unknown", [clean("B", 0.5, 50), seen({**clean("B", 0), "dataset": "other"}, [True, False] * 25)]
)
def test_rates_of_other_numbers_of_images_are_as_they_are_where_what_they_share_is_not_known(unknown: Row) -> None:
    known = seen(clean("A", 0), [True] * 40 + [False] * 60)
    found, without = (summed("error(A) - error(B)", [first, unknown]) for first in (known, clean("A", 0.4, 100)))
    assert (found.value, *ends(found)) == pytest.approx((without.value, *ends(without)))


def test_an_accuracy_is_compared_as_the_error_that_it_is_one_minus() -> None:
    """Mirrored exactly, alone and against an error of the same images."""
    first, second = alike(400, 0.3, 0.1)
    rows = [seen(clean("A", 0), first), seen(clean("B", 0), second)]
    error, accuracy = (summed(f"{metric}(A)", rows) for metric in ("error", "accuracy"))
    assert (accuracy.value, *ends(accuracy)) == pytest.approx(
        (1 - error.value, 1 - error.high, 1 - error.low), abs=1e-15
    )
    gap = summed("error(A) - error(B)", rows)
    for text in ("accuracy(B) - accuracy(A)", "error(A) + accuracy(B) - 1", "1 - accuracy(A) - error(B)"):
        found = summed(text, rows)
        assert (found.value, *ends(found)) == pytest.approx((gap.value, *ends(gap)), abs=1e-12), text
    nothing = summed("accuracy(A) + error(A)", rows)
    assert (nothing.value, *ends(nothing)) == (1, 1, 1)


def test_each_rate_has_its_own_images() -> None:
    """Top 5 mistakes are among the top 1 mistakes; a transfer rate is of some images alone: paired with nothing."""
    first, _ = alike(400, 0.3, 0)
    fifth = first & (np.arange(400) % 2 == 0)
    row = seen(clean("A", 0), first)
    row |= {"error_top5": float(fifth.mean()), "mistakes_top5": seen({}, fifth)["mistakes_top1"]}
    found = summed("error(A) - error_top5(A)", [row])
    expected = summed("error(A) - error(B)", [seen(clean("A", 0), first), seen(clean("B", 0), fifth)])
    assert (found.value, *ends(found)) == (expected.value, *ends(expected))
    row |= {"transfer_rate_top1": 0.5, "transfer_n": 400}
    assert not paired("transfer_rate(A) - error(A)", [row])


def test_over_seeds_the_pairs_of_each_seed_are_averaged() -> None:
    """Each seed's gap has its paired interval; Student's t of the three gaps is added in quadrature."""
    pairs = [alike(1000, 0.3, 0.05 * (seed + 1), seed) for seed in range(3)]
    rows = [
        seen(clean(name, 0, seed=seed), wrong)
        for seed, pair in enumerate(pairs)
        for name, wrong in zip("AB", pair, strict=True)
    ]
    single = [summed("error(A) - error(B)", [row for row in rows if row["seed"] == seed]) for seed in range(3)]
    found = measured("error(A) - error(B)", rows)
    gaps = [float(a.mean() - b.mean()) for a, b in pairs]
    spread = T2 * np.std(gaps, ddof=1) / sqrt(3)
    below, above = (np.mean([abs(ends(one)[i] - one.value) for one in single]) for i in (0, 1))
    assert found.value == pytest.approx(np.mean(gaps)) and found.seeds == 3
    assert ends(found) == pytest.approx((np.mean(gaps) - hypot(below, spread), np.mean(gaps) + hypot(above, spread)))


PAIRED: list[tuple[str, bool]] = [
    ("error(A) - error(B)", True),
    ("2 * error(A) - 0.5 * accuracy(B) + 1", True),
    ("error(A)", True),
    ("error(A) - error(C)", False),
    ("error(A) - error(D)", False),
    ("error(A) - error(E)", False),
    ("error(A) + error(C) - error(C) - error(B)", True),
    ("error(A) - error(A)", False),
    ("error(A) - loss_mean(A)", False),
    ("error(A) / error(B)", True),
    ("(error(A) + error(B)) / accuracy(A)", True),
    ("error(A) / error(C)", False),
    ("error(A) / error(B) - error(A)", False),
    ("error(A) / error(B) - error(B) / error(A)", False),
    ("2 * error(A) / error(B) - 1", True),
]


@pytest.mark.parametrize(("text", "expected"), PAIRED)
def test_whether_all_is_compared_image_by_image(text: str, expected: bool) -> None:
    """C keeps no images, D is of others, E was not measured."""
    first, second = alike(100, 0.3, 0.1)
    rows = [seen(clean("A", 0, loss_mean=1.0, loss_sd=1.0), first), seen(clean("B", 0), second), clean("C", 0.5)]
    rows.append(seen(clean("D", 0) | {"dataset": "mnist"}, first))
    assert paired(text, rows) == expected


# ---- the worst of several

LEAST = [0, 0, 0, 0, 0, 0, 1, 1]  # of these eight images a clean model mistakes two
FGSM, PGD, FROM_C = [0, 0, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 1, 0, 1, 0]


def attacked(wrong: Sequence[int], source: str = "B", attack: str = "fgsm", **more: Any) -> Row:
    return seen(fgsm("A", source, 0) | {"attack": attack} | more, [bool(one) for one in wrong])


ATTACKED = [
    *(attacked(FGSM), attacked(PGD, attack="pgd"), attacked(FROM_C, "C"), attacked(LEAST, "C", "pgd")),
    seen(clean("A", 0), [bool(one) for one in LEAST]),
]


@pytest.mark.parametrize(
    ("text", "k"),
    [
        ("error(A | B, worst(fgsm, pgd))", 5),  # 2, 3, 4, 6, 7
        ("error(A | worst(B, C), fgsm)", 5),  # 0, 3, 4, 6, 7
        ("error(A | worst(B, C), worst(fgsm, pgd))", 6),
        ("error(A | B, worst(fgsm, fgsm))", 4),
        ("error(A | B, worst(fgsm))", 4),
    ],
)
def test_the_worst_of_several_is_the_images_that_any_fools(text: str, k: int) -> None:
    found = summed(text, ATTACKED)
    assert found.value == k / 8 and ends(found) == pytest.approx(wilson(k, 8))
    mirrored = summed(text.replace("error", "accuracy"), ATTACKED)
    assert (mirrored.value, *ends(mirrored)) == pytest.approx((1 - k / 8, 1 - found.high, 1 - found.low))


def test_the_worst_of_several_is_no_average_and_no_maximum() -> None:
    assert summed("error(A | B, worst(fgsm, pgd)) - error(A | B, fgsm)", ATTACKED).value == 1 / 8
    assert summed("error(A | B, fgsm) - error(A | B, pgd)", ATTACKED).value == 0


def test_the_worst_of_several_is_paired_with_each_of_them() -> None:
    """Who is fooled by one is fooled by the worst: McNemar's table has an empty cell."""
    found = summed("error(A | B, worst(fgsm, pgd)) - error(A | B, fgsm)", ATTACKED)
    pair = [
        seen(clean("A", 0), [i in (2, 3, 4, 6, 7) for i in range(8)]),
        seen(clean("B", 0), [i in (3, 4, 6, 7) for i in range(8)]),
    ]
    expected = summed("error(A) - error(B)", pair)
    assert (found.value, *ends(found)) == (expected.value, *ends(expected))


LACKING: dict[str, list[Row]] = {
    "no row": ATTACKED[:1],
    "no images": [ATTACKED[0], fgsm("A", "B", 0.5, 8) | {"attack": "pgd"}],
    "no images of either": [fgsm("A", "B", 0.5, 8), fgsm("A", "B", 0.5, 8) | {"attack": "pgd"}],
    "another data set": [ATTACKED[0], attacked(PGD, attack="pgd", dataset="mnist")],
}


@pytest.mark.parametrize("rows", LACKING.values(), ids=list(LACKING))
def test_the_worst_of_what_is_not_known_image_by_image_is_not_measured(rows: list[Row]) -> None:
    """The larger of two errors would be too low."""
    found = measured("error(A | B, worst(fgsm, pgd))", rows)
    assert isnan(found.value) and isnan(found.low) and found.seeds == 0


def test_why_the_worst_of_several_is_not_known_is_said() -> None:
    """Nothing where a row is missing: that is told before anything is measured."""
    (fgsm_, pgd) = (f"error(A | B, {attack})" for attack in ("fgsm", "pgd"))
    said = {
        "no row": "",
        "no images": f"which images {pgd} counts was not kept",
        "no images of either": f"which images {fgsm_} counts was not kept",
        "another data set": f"{fgsm_} and {pgd} are of other images, of digits and of mnist",
    }
    (worst,) = parse_expression("error(A | B, worst(fgsm, pgd))").quantities
    assert {name: why_unknown(worst, by_seed(rows)) for name, rows in LACKING.items()} == said
    assert why_unknown(worst, by_seed(ATTACKED)) == why_unknown(worst.single[0], by_seed(LACKING["no images"])) == ""


def test_the_worst_of_several_eps_says_which() -> None:
    rows = [*ATTACKED, attacked(LEAST, eps=0.1), attacked(LEAST, attack="pgd", eps=0.1)]
    with pytest.raises(ValueError, match=r"fgsm\) names several rows of a seed: say which, such as eps=0\.3"):
        summed("error(A | B, worst(fgsm, pgd))", rows)
    assert summed("error(A | B, worst(fgsm, pgd), eps=0.1)", rows).value == 2 / 8


def test_label_leaking_is_counted_image_by_image() -> None:
    """A. Kurakin et al. 2017, section 4.2: images that a model gets right on the example made with the true label, and
    wrong on the one made without: what the first attack tells it."""
    draw = np.random.default_rng(0)
    true = draw.random(2000) < 0.2
    predicted = true ^ (draw.random(2000) < 0.15)
    rows = [
        seen(fgsm("A", "A", 0) | {"attack": attack}, wrong)
        for attack, wrong in (("fgsm", true), ("fgsm_pred", predicted))
    ]
    found = summed("error(A | A, worst(fgsm, fgsm_pred)) - error(A | A, fgsm)", rows)
    assert found.value == pytest.approx(int((~true & predicted).sum()) / 2000, abs=1e-12)
    plain = summed("error(A | A, fgsm_pred) - error(A | A, fgsm)", rows)
    assert plain.value < found.value and found.low > 0  # the difference of the errors alone hides it


# ---- ratios


def donner_zou(k: float, m: int, j: float, n: int) -> tuple[float, float]:
    """MOVER-R with Wilson's intervals: A. Donner and G. Y. Zou, Statistical Methods in Medical Research 21 (2012)
    347-359, section 2."""
    p, q = k / m, j / n
    (l1, u1), (l2, u2) = wilson(k, m), wilson(j, n)
    low = (p * q - sqrt((p * q) ** 2 - l1 * u2 * (2 * p - l1) * (2 * q - u2))) / (u2 * (2 * q - u2))
    high = (p * q + sqrt((p * q) ** 2 - u1 * l2 * (2 * p - u1) * (2 * q - l2))) / (l2 * (2 * q - l2))
    return low, high


@pytest.mark.parametrize(
    ("k", "m", "j", "n"),
    [
        (7, 34, 1, 34),  # u2 > 2 q: the quadratic of the lower end opens the other way
        (10, 100, 50, 100),
        (50, 100, 10, 100),
        (3900, 10_000, 1550, 10_000),
        (100, 100, 99, 100),
        (1, 1000, 999, 1000),
        (620, 10_000, 1350, 10_000),
    ],
)
def test_a_ratio_of_two_rates_has_the_interval_of_donner_and_zou(k: int, m: int, j: int, n: int) -> None:
    found = summed("error(A) / error(B)", [clean("A", k / m, m), clean("B", j / n, n)])
    assert found.value == pytest.approx(k / m / (j / n))
    assert ends(found) == pytest.approx(donner_zou(k, m, j, n), rel=1e-9)


def test_a_ratio_of_no_error_begins_at_0() -> None:
    found = summed("error(A) / error(B)", [clean("A", 0), clean("B", 0.5)])
    assert found.value == 0 and found.low == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(donner_zou(0, 100, 50, 100)[1])


def test_a_ratio_of_accuracies_is_that_of_the_rates() -> None:
    rows = [clean("A", 0.7), clean("B", 0.1)]
    found = summed("accuracy(A) / accuracy(B)", rows)
    assert (found.value, *ends(found)) == pytest.approx((1 / 3, *donner_zou(30, 100, 90, 100)))


def test_a_rate_is_once_itself() -> None:
    rows = [clean("A", 0.3)]
    for text in ("error(A) / error(A)", "accuracy(A) / accuracy(A)", "(1 - error(A)) / accuracy(A)"):
        found = summed(text, rows)
        assert (found.value, *ends(found)) == pytest.approx((1, 1, 1), abs=1e-9), text
    twice = summed("3 * error(A) / error(A)", rows)
    assert (twice.value, *ends(twice)) == pytest.approx((3, 3, 3), abs=1e-9)


def test_a_number_over_a_rate_has_the_ends_of_the_rate() -> None:
    low, high = wilson(20, 100)
    found = summed("0.5 / error(A)", [clean("A", 0.2)])
    assert (found.value, *ends(found)) == pytest.approx((2.5, 0.5 / high, 0.5 / low))
    negative = summed("-0.5 / error(A)", [clean("A", 0.2)])
    assert (negative.value, *ends(negative)) == pytest.approx((-2.5, -0.5 / low, -0.5 / high))


def test_over_something_negative_a_ratio_is_turned_round() -> None:
    rows = [clean("A", 0.5), clean("B", 0.2, 400), clean("C", 0.8, 400)]
    one, other = (summed(f"error(A) / ({text})", rows) for text in ("error(C) - error(B)", "error(B) - error(C)"))
    assert (other.value, *ends(other)) == pytest.approx((-one.value, -one.high, -one.low))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_ends_of_a_ratio_scale_with_it(scale: float) -> None:
    rows = [clean("A", 0.5), clean("B", 0.2)]
    found = summed(f"{scale!r} * error(A) / error(B)", rows)
    low, high = donner_zou(50, 100, 20, 100)
    assert (found.value, *ends(found)) == pytest.approx((2.5 * scale, scale * low, scale * high), rel=1e-6)


def test_where_the_denominator_may_be_0_a_ratio_has_no_ends() -> None:
    """Fieller's set is then all that lies outside an interval, or everything."""
    rows = [clean("A", 0.5), clean("B", 0.31), clean("C", 0.3), clean("D", 0.0)]
    for text in ("error(A) / (error(B) - error(C))", "error(A) / (error(C) - error(B))"):
        found = summed(text, rows)
        assert abs(found.value) == pytest.approx(50) and ends(found) == (-inf, inf)
    gap = summed("error(A) / (error(B) - error(C)) - error(A)", rows)
    assert ends(gap) == (-inf, inf)
    wald = summed("error(A) / error(E)", [*rows, clean("E", 0.01)], intervals.normal_interval)
    assert wald.value == 50 and ends(wald) == (-inf, inf)


def test_over_0_nothing_is_measured() -> None:
    rows = [clean("A", 0.5), clean("D", 0.0), clean("E", 1.0)]
    for text in ("error(A) / error(D)", "error(D) / error(D)", "accuracy(A) / accuracy(E)", "error(A) / error(F)"):
        found = measured(text, rows)
        assert isnan(found.value) and isnan(found.low) and found.seeds == 0, text
    assert isnan(measured("error(F) / error(A)", rows).value)


def test_a_ratio_of_an_unknown_end_has_none() -> None:
    rows = [clean("A", 0.5, loss_mean=2.0, loss_sd=nan), clean("B", 0.5, loss_mean=4.0, loss_sd=nan)]
    found = summed("loss_mean(A) / loss_mean(B)", rows)
    assert found.value == 0.5 and isnan(found.low) and isnan(found.high)


def test_a_ratio_about_the_test_images_themselves_has_no_interval() -> None:
    found = summed("error(A) / error(B)", [clean("A", 0.1), clean("B", 0.4)], None)
    assert (found.value, *ends(found)) == (0.25, 0.25, 0.25)


def test_a_ratio_of_the_same_images_ends_where_the_paired_gap_does() -> None:
    """Its ends are those R at which numerator - R * denominator just leaves 0 out; pairs bring them nearer."""
    first, second = alike(1000, 0.4, 0.1)
    rows = [seen(clean("A", 0), first), seen(clean("B", 0), second)]
    found = summed("error(A) / error(B)", rows)
    assert summed(f"error(A) - {found.low!r} * error(B)", rows).low == pytest.approx(0, abs=1e-12)
    assert summed(f"error(A) - {found.high!r} * error(B)", rows).high == pytest.approx(0, abs=1e-12)
    low, high = donner_zou(first.sum(), 1000, second.sum(), 1000)
    assert low < found.low < found.value < found.high < high


@pytest.mark.parametrize(("p", "q"), [(0.1, 0.5), (0.5, 0.1)])
def test_the_interval_of_a_ratio_covers_the_truth(p: float, q: float) -> None:
    counts = np.random.default_rng(1).binomial(500, (p, q), (150, 2)).tolist()
    found = [summed("error(A) / error(B)", [clean("A", k / 500, 500), clean("B", j / 500, 500)]) for k, j in counts]
    assert sum(one.low <= p / q <= one.high for one in found) >= 0.93 * 150


def test_a_ratio_is_of_each_seed_and_then_averaged() -> None:
    """The seeds' ratios are 2 and 1; of their means it would be 3 / 2.25."""
    rows = [clean("A", 0.2), clean("B", 0.1), clean("A", 0.1, seed=1), clean("B", 0.1, seed=1)]
    found = measured("error(A) / error(B)", rows, None)
    spread = T1 * sqrt(0.5) / sqrt(2)
    assert (found.value, *ends(found)) == pytest.approx((1.5, 1.5 - spread, 1.5 + spread))


# ---- conditions


def test_a_condition_says_whose_row_it_is() -> None:
    rows = [clean("A", 0.1), clean("A", 0.2) | {"dataset": "mnist"}]
    assert summed("error(A, dataset=digits)", rows).value == 0.1
    gap = summed("error(A, dataset=mnist) - error(A, dataset=digits)", rows)
    assert gap.value == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"say which, such as dataset=digits$"):
        summed("error(A)", rows)
    assert isnan(summed("error(A, dataset=cifar10)", rows).value)
    for name, error in (("transfer_matrix", 0.3), ("worst_case", 0.4)):
        rows.append(fgsm("A", "B", error, measurement=name))
    assert summed("error(A | B, fgsm, measurement=worst_case)", rows).value == 0.4
    with pytest.raises(ValueError, match=r"say which, such as measurement=transfer_matrix$"):
        summed("error(A | B, fgsm)", rows)
    assert isnan(summed("error(A | B, fgsm, measurement=0.3)", rows).value)


def test_rows_are_of_their_seeds() -> None:
    rows = [clean("A", 0.1, seed=seed) for seed in (3, 1, 3)]
    assert [sum(map(len, own.by_cell.values())) for own in by_seed(rows)] == [2, 1]
    assert [own.by_cell for own in by_seed([])] == [{}]


def test_a_ratio_beside_what_keeps_no_images_is_of_its_own_shared_images() -> None:
    first, second = alike(1000, 0.4, 0.1)
    rows = [seen(clean("A", 0), first), seen(clean("B", 0), second[:500]), clean("C", 0.5)]
    alone, beside = (summed(text, rows) for text in ("error(A) / error(B)", "error(A) / error(B) - error(C)"))
    assert alone.value == pytest.approx(first[:500].mean() / second[:500].mean())
    assert beside.value == pytest.approx(alone.value - 0.5)
