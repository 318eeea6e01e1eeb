"""Intervals against constants from the literature and numbers worked by hand."""

import math
import random

import pandas as pd
import pytest

from epsball.results.intervals import (
    Estimate,
    Term,
    error_estimates,
    estimate_cell,
    estimate_sum,
    mean_estimate,
    normal_interval,
    ties_for_best,
    wilson,
    with_intervals,
)
from epsball.results.metrics import METRICS


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 10, 0.0179, 0.4042),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_gives_the_known_intervals(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_touches_zero_and_one_exactly() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize("k", range(0, 21))
def test_wilson_is_symmetric_contains_the_rate_and_stays_inside(k: int) -> None:
    low, high = wilson(k, 20)
    mirrored = wilson(20 - k, 20)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))
    assert 0 <= low <= k / 20 <= high <= 1


def test_wilson_solves_its_defining_equation() -> None:
    """Both ends p satisfy |k/n - p| = z sqrt(p(1-p)/n)."""
    for k, n, z in [(3, 17, 1.959964), (431, 10_000, 1.959964)]:
        for p in wilson(k, n):
            assert abs(k / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), rel=1e-5)


def test_more_examples_are_narrower() -> None:
    def width(k: int, n: int) -> float:
        low, high = wilson(k, n)
        return high - low

    assert width(3000, 10_000) < width(300, 1000) < width(30, 100)


def test_normal_has_the_papers_half_width() -> None:
    """0.43 points at 5 % error on 10,000 images."""
    low, high = normal_interval(500, 10_000)
    assert (high - low) / 2 == pytest.approx(0.0043, abs=5e-5)
    assert (high + low) / 2 == pytest.approx(0.05)
    assert normal_interval(0, 10) == (0, 0)


@pytest.mark.parametrize("interval", [wilson, normal_interval])
@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, -1), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(interval, k: int, n: int) -> None:
    with pytest.raises(ValueError, match="should"):
        interval(k, n)


def test_with_intervals_adds_wilson_and_leaves_gaps_as_gaps() -> None:
    table = with_intervals(pd.DataFrame({"error_top1": [0.5, math.nan], "n": 10}))
    assert list(table.loc[0, ["error_top1_low", "error_top1_high"]]) == pytest.approx(wilson(5, 10))
    assert table.loc[1, ["error_top1_low", "error_top1_high"]].isna().all()
    assert with_intervals(table[:0]).empty


@pytest.mark.parametrize("rows", [pd.DataFrame(), pd.DataFrame({"n": [10], "loss_mean": [2.0]})])
def test_rows_without_an_error_have_no_interval(rows: pd.DataFrame) -> None:
    table = with_intervals(rows)
    assert len(table) == len(rows) and list(table.columns)[-2:] == ["error_top1_low", "error_top1_high"]
    assert table[["error_top1_low", "error_top1_high"]].isna().all(axis=None)


def test_times_keeps_the_ends_in_order() -> None:
    turned = Estimate(0.2, 0.1, 0.4, 0.05, 3).times(-2)
    assert (turned.value, turned.low, turned.high, turned.sd, turned.seeds) == (-0.4, -0.8, -0.2, 0.1, 3)
    missing = Estimate(math.nan, math.nan, math.nan)
    assert math.isnan(missing.times(-1).low) and math.isnan(missing.times(0).value)


# ---- sums

A, B, C = Estimate(0.5, 0.4, 0.7), Estimate(0.3, 0.25, 0.32), Estimate(2.0, 1.0, 2.5)
UNKNOWN = Estimate(math.nan, math.nan, math.nan)
WITHOUT_ENDS = Estimate(0.5, math.nan, math.nan)
WITHOUT_END = Estimate(0.5, -math.inf, math.inf)


def summed(constant: float, *terms: tuple[float, Estimate]) -> tuple[float, float, float]:
    found = estimate_sum(constant, [Term(weight, value) for weight, value in terms])
    return found.value, found.low, found.high


def test_a_sum_of_one_is_a_multiple_of_it() -> None:
    assert summed(0.0, (1.0, A)) == pytest.approx((0.5, 0.4, 0.7))
    assert summed(0.1, (2.0, A)) == pytest.approx((1.1, 0.9, 1.5))
    assert summed(1.0, (-1.0, A)) == pytest.approx((0.5, 0.3, 0.6))  # one minus it has its ends mirrored
    assert summed(0.0, (-2.0, A)) == pytest.approx((-1.0, -1.4, -0.8))


def test_distances_add_in_quadrature_each_towards_its_own_end() -> None:
    """By hand: A reaches 0.1 down and 0.2 up, B 0.05 and 0.02, C 1 and 0.5."""
    assert summed(0.0, (1.0, A), (1.0, B)) == pytest.approx(
        (0.8, 0.8 - math.hypot(0.1, 0.05), 0.8 + math.hypot(0.2, 0.02))
    )
    assert summed(0.0, (1.0, A), (-1.0, B)) == pytest.approx(
        (0.2, 0.2 - math.hypot(0.1, 0.02), 0.2 + math.hypot(0.2, 0.05))
    )
    below, above = math.hypot(3 * 0.1, 2 * 0.02, 0.5 * 1), math.hypot(3 * 0.2, 2 * 0.05, 0.5 * 0.5)
    assert summed(0.25, (3.0, A), (-2.0, B), (0.5, C)) == pytest.approx((2.15, 2.15 - below, 2.15 + above))


def test_a_sum_of_nothing_is_its_constant() -> None:
    assert summed(0.25) == (0.25, 0.25, 0.25)


def test_what_is_not_known_of_a_term_is_not_known_of_the_sum() -> None:
    assert all(map(math.isnan, summed(0.0, (1.0, A), (1.0, UNKNOWN))))
    value, low, high = summed(0.0, (1.0, A), (1.0, WITHOUT_ENDS))
    assert value == 1.0 and math.isnan(low) and math.isnan(high)
    assert summed(0.0, (1.0, A), (-1.0, WITHOUT_END)) == (0.0, -math.inf, math.inf)


def test_a_term_of_weight_0_counts_only_as_measured() -> None:
    """`error(A) + error(B) < error(A) + error(C)` is not settled where A was not measured."""
    for other in (WITHOUT_ENDS, WITHOUT_END, C):
        assert summed(0.0, (1.0, A), (0.0, other)) == pytest.approx((0.5, 0.4, 0.7))
    assert math.isnan(summed(0.0, (1.0, A), (0.0, UNKNOWN))[0])


def test_a_mean_of_shares_counts_no_whole_number_of_images() -> None:
    """0.5 of 48 images; of rates, a whole number of them."""
    row = {"gaas_share": 0.5 / 48, "gaas_all": 1 / 48, "n": 48}
    share, every = (estimate_cell([row], METRICS[name]) for name in ("gaas_share", "gaas_all"))
    assert (share.low, share.high) == wilson(0.5, 48) and (every.low, every.high) == wilson(1, 48)


def test_nothing_bounds_a_mean_with_an_infinite_value() -> None:
    """A loss that overflows in one seed: nothing that was measured is lost for it."""
    rows = [{"loss_mean": value, "loss_sd": 1.0, "n": 100} for value in (math.inf, 2.0)]
    found = estimate_cell(rows, METRICS["loss_mean"])
    assert (found.value, found.low, found.high, found.seeds) == (math.inf, -math.inf, math.inf, 2)
    assert math.isnan(found.sd)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_one_more_training_is_reached_in_95_cases_of_100(seeds: int) -> None:
    """Normally distributed seeds, measured without error; with one seed nothing says how far another would be."""
    generator = random.Random(0)
    cases = 2000
    reached = 0
    for _ in range(cases):
        *known, more = [generator.gauss(0.5, 0.1) for _ in range(seeds + 1)]
        reached += mean_estimate([Estimate(value, value, value) for value in known]).reaches(more)
    assert reached / cases == pytest.approx(0.0 if seeds == 1 else 0.95, abs=0.02)


def test_of_one_seed_its_interval_is_reached() -> None:
    found = Estimate(0.5, 0.4, 0.7)
    assert [found.reaches(value) for value in (0.39, 0.4, 0.7, 0.71)] == [False, True, True, False]


def test_a_mean_of_no_images_has_no_interval() -> None:
    found = estimate_cell([{"loss_mean": 2.0, "loss_sd": 1.0, "n": 0}], METRICS["loss_mean"])
    assert found.value == 2.0 and math.isnan(found.low) and math.isnan(found.high)


def test_error_estimates_have_a_row_per_cell_over_its_seeds() -> None:
    key = {"dataset": "digits", "source": "A", "target": "A", "n": 100}
    rows = pd.DataFrame(
        [
            {**key, "seed": 0, "attack": "clean", "eps": 0.0, "error_top1": 0.1},
            {**key, "seed": 1, "attack": "clean", "eps": 0.0, "error_top1": 0.1},
            {**key, "seed": 0, "attack": "fgsm", "eps": 0.3, "error_top1": 0.4},
            {**key, "seed": 0, "attack": "pgd", "eps": 0.3, "error_top1": math.nan},
        ]
    )
    names = ["clean", "clean", "transfer_matrix", "transfer_matrix"]
    found = error_estimates(rows.assign(measurement=names))
    assert list(found["measurement"]) == ["clean", "transfer_matrix"]  # what has no error has no place in a matrix
    assert list(found["error_top1"]) == pytest.approx([0.1, 0.4])
    ends = found[["error_top1_low", "error_top1_high"]].to_numpy().tolist()
    assert ends == [pytest.approx(wilson(10, 100)), pytest.approx(wilson(40, 100))]


def test_ties_for_best() -> None:
    values, lows, highs = [5.0, 5.6, 7.0, math.nan], [4.6, 5.2, 6.5, math.nan], [5.4, 6.1, 7.5, math.nan]
    assert ties_for_best(values, lows, highs, "low") == [True, True, False, False]
    assert ties_for_best(values, lows, highs, "high") == [False, False, True, False]
    assert ties_for_best([math.nan], [math.nan], [math.nan], "low") == [False]
    assert ties_for_best([], [], [], "low") == []
