"""Statistics against constants from the literature and numbers worked by hand."""

import math

import pandas as pd
import pytest

from epsball import statistics


def rows(*cells: tuple[int, str, str, str, float, float], n: int = 100) -> pd.DataFrame:
    names = ["seed", "source", "target", "attack", "eps", "error_top1"]
    return pd.DataFrame([dict(zip(names, cell, strict=True)) for cell in cells]).assign(dataset="digits", n=n)


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
    assert statistics.wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_touches_zero_and_one_exactly() -> None:
    assert statistics.wilson(0, 7)[0] == 0.0
    assert statistics.wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize("k", range(0, 21))
def test_wilson_is_symmetric_contains_the_rate_and_stays_inside(k: int) -> None:
    low, high = statistics.wilson(k, 20)
    mirrored = statistics.wilson(20 - k, 20)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]))
    assert 0 <= low <= k / 20 <= high <= 1


def test_wilson_solves_its_defining_equation() -> None:
    """Both ends p satisfy |k/n - p| = z sqrt(p(1-p)/n)."""
    for k, n, z in [(3, 17, 1.959964), (431, 10_000, 1.959964)]:
        for p in statistics.wilson(k, n):
            assert abs(k / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), rel=1e-5)


def test_more_confidence_is_wider_and_more_examples_narrower() -> None:
    def width(k: int, n: int, confidence: float) -> float:
        low, high = statistics.wilson(k, n, confidence)
        return high - low

    assert width(30, 100, 0.9) < width(30, 100, 0.95) < width(30, 100, 0.99)
    assert width(3000, 10_000, 0.95) < width(300, 1000, 0.95) < width(30, 100, 0.95)


def test_normal_has_the_papers_half_width() -> None:
    """0.43 points at 5 % error on 10,000 images."""
    low, high = statistics.normal(500, 10_000)
    assert (high - low) / 2 == pytest.approx(0.0043, abs=5e-5)
    assert (high + low) / 2 == pytest.approx(0.05)
    assert statistics.normal(0, 10) == (0, 0)


@pytest.mark.parametrize("interval", [statistics.wilson, statistics.normal])
@pytest.mark.parametrize(
    ("k", "n", "confidence"), [(0, 0, 0.95), (1, -1, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0)]
)
def test_impossible_counts_are_refused(interval, k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="should"):
        interval(k, n, confidence)


def test_with_intervals_adds_wilson_and_leaves_gaps_as_gaps() -> None:
    table = statistics.with_intervals(rows((0, "A", "A", "fgsm", 0.3, 0.5), (0, "A", "B", "fgsm", 0.3, math.nan), n=10))
    assert list(table.loc[0, ["error_top1_low", "error_top1_high"]]) == pytest.approx(statistics.wilson(5, 10))
    assert table.loc[1, ["error_top1_low", "error_top1_high"]].isna().all()
    assert statistics.with_intervals(table[:0]).empty


def test_ties_for_best() -> None:
    values, lows, highs = [5.0, 5.6, 7.0, math.nan], [4.6, 5.2, 6.5, math.nan], [5.4, 6.1, 7.5, math.nan]
    assert statistics.ties_for_best(values, lows, highs) == [True, True, False, False]
    assert statistics.ties_for_best(values, lows, highs, smallest_is_best=False) == [False, False, True, False]
    assert statistics.ties_for_best([math.nan], [math.nan], [math.nan]) == [False]
    assert statistics.ties_for_best([], [], []) == []


def test_over_seeds_is_mean_and_sample_sd() -> None:
    table = statistics.over_seeds(
        rows(
            (0, "A", "B", "fgsm", 0.3, 0.1),
            (1, "A", "B", "fgsm", 0.3, 0.2),
            (2, "A", "B", "fgsm", 0.3, 0.3),
            (0, "B", "B", "fgsm", 0.3, 0.7),
        ).assign(paper_value=[0.15, 0.15, 0.15, math.nan])
    )
    assert list(table["source"]) == ["A", "B"]
    assert list(table["seeds"]) == [3, 1]
    assert list(table["error_top1"]) == pytest.approx([0.2, 0.7])
    assert table.loc[0, "error_top1_sd"] == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / 2)
    assert math.isnan(table.loc[1, "error_top1_sd"])
    assert table.loc[0, "paper_value"] == 0.15


def test_empty_columns_have_empty_means() -> None:
    empty = rows((0, "A", "B", "fgsm", 0.3, 0.2)).assign(error_top5=None, paper_value=None, paper_metric=None)
    assert statistics.over_seeds(empty)["error_top5"].isna().all()


def test_matrix_has_sources_as_rows_and_targets_as_columns_in_order_of_appearance() -> None:
    wide = statistics.matrix(
        rows(
            (0, "B", "B", "clean", 0, 0.01),
            (0, "A", "A", "clean", 0, 0.02),
            (0, "B", "B", "pgd", 0.3, 0.9),
            (0, "A", "B", "pgd", 0.3, 0.4),
            (0, "A", "B", "fgsm", 0.3, 0.1),
            (1, "A", "B", "fgsm", 0.3, 0.3),
        )
    )
    assert list(wide.columns) == ["B", "A"]
    assert list(wide.index) == [("-", "clean", 0), ("B", "pgd", 0.3), ("A", "pgd", 0.3), ("A", "fgsm", 0.3)]
    assert wide.loc[("A", "fgsm", 0.3), "B"] == pytest.approx(0.2)
    assert math.isnan(wide.loc[("B", "pgd", 0.3), "A"])
    assert list(wide.iloc[0]) == [0.01, 0.02]


def test_matrix_keeps_one_name_in_two_datasets_apart() -> None:
    one = rows((0, "A", "A", "clean", 0, 0.1))
    wide = statistics.matrix(pd.concat([one, one.assign(dataset="mnist", error_top1=0.3)], ignore_index=True))
    assert wide.to_dict("list") == {"digits/A": [0.1], "mnist/A": [0.3]}


@pytest.mark.parametrize(
    ("eps", "label"),
    [(0.3, "0.3"), (0.0, "0"), (8 / 255, "8/255"), (16 / 256, "0.0625"), (5 / 256, "5/256"), (1 / 7, "0.1429")],
)
def test_eps_label(eps: float, label: str) -> None:
    assert statistics.eps_label(eps) == label
