"""Quantities that every image has: mean, deviation and histogram against numpy and by hand."""

from itertools import pairwise
from math import isnan
from typing import Any

import numpy as np
import pytest

from epsball.build import ConfigError, construct
from epsball.results.distributions import Bins, distribution_rows
from epsball.results.metrics import METRICS


def test_linear_bins_are_equally_wide() -> None:
    assert Bins(0.0, 1.0, 4, log=False).edges == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert Bins(-1.0, 1.0, 1, log=False).edges == [-1.0, 1.0]


def test_logarithmic_bins_have_equal_ratios() -> None:
    assert Bins(1e-4, 1.0, 4, log=True).edges == [0.0001, 0.001, 0.01, 0.1, 1.0]
    edges = Bins(0.02, 7.3, 9, log=True).edges
    assert (edges[0], edges[-1]) == (0.02, 7.3)
    ratios = [high / low for low, high in pairwise(edges)]
    assert ratios == pytest.approx([(7.3 / 0.02) ** (1 / 9)] * 9)


def test_edges_are_short_numbers_that_a_table_can_name() -> None:
    """0.1 and not 0.1 + 2e-17: `loss_share(A, bin_low=0.1)`."""
    assert all(edge == float(f"{edge:.9g}") for edge in Bins(0.0, 0.7, 7, log=False).edges)
    assert Bins(0.0, 0.7, 7, log=False).edges[3] == 0.3


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"low": 1.0}, "b.low should be below high, 1.0, is 1.0"),
    ({"low": 2.0}, "b.low should be below high, 1.0, is 2.0"),
    ({"number": 0}, "b.number should be at least 1, is 0"),
    ({"low": 0.0, "log": True}, "b.low should be above 0 on a log scale, is 0.0"),
    ({"low": -1.0, "log": True}, "b.low should be above 0 on a log scale, is -1.0"),
    ({"number": 2.5}, "b.number should be an int, is 2.5"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bins_that_are_none_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        construct(Bins, {"low": 0.1, "high": 1.0, "number": 4, "log": False, **changes}, where="b")
    assert str(caught.value) == message


def test_the_first_row_has_mean_and_sample_deviation() -> None:
    (row,) = distribution_rows("loss", [1.0, 2.0, 6.0], None)
    assert row == {"n": 3, "loss_mean": 3.0, "loss_sd": pytest.approx(7**0.5)}  # (4 + 1 + 9) / 2
    (single,) = distribution_rows("loss", [2.0], None)
    assert single["n"] == 1 and single["loss_mean"] == 2.0 and isnan(single["loss_sd"])


def test_each_bin_has_the_share_of_its_values() -> None:
    """A value on an edge lies in the bin above it, on the last edge in the last."""
    values = [0.0, 0.1, 0.25, 0.3, 0.5, 0.74, 0.75, 1.0]
    _, *bins = distribution_rows("gradient_l2", values, Bins(0.0, 1.0, 4, log=False))
    assert [(row["bin_low"], row["bin_high"]) for row in bins] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert [row["gradient_l2_share"] for row in bins] == [2 / 8, 2 / 8, 2 / 8, 2 / 8]
    assert all(row["n"] == 8 for row in bins) and not any("gradient_l2_mean" in row for row in bins)


def test_what_lies_beyond_the_ends_is_counted_at_the_ends() -> None:
    """Gradients of 0 have no place on a log scale: they stand in the lowest bin."""
    values = [0.0, 1e-9, 0.05, 0.5, 2.0, 1e6]
    whole, *bins = distribution_rows("gradient_l2", values, Bins(0.01, 1.0, 2, log=True))
    assert [row["gradient_l2_share"] for row in bins] == [3 / 6, 3 / 6]
    assert whole["gradient_l2_mean"] == pytest.approx(sum(values) / 6)  # of the values as they are


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_shares_are_of_all_images(seed: int, log: bool) -> None:
    draw = np.random.default_rng(seed)
    values = draw.lognormal(-2, 2, 1000)
    bins = Bins(0.01, 2.0, 17, log)
    _, *rows = distribution_rows("loss", values.tolist(), bins)
    shares = [row["loss_share"] for row in rows]
    assert sum(shares) == pytest.approx(1, abs=1e-12) and len(rows) == 17
    inner = [
        int(((low <= values) & (values < high)).sum())
        for low, high in zip(bins.edges[1:-2], bins.edges[2:-1], strict=True)
    ]
    assert [round(share * 1000) for share in shares[1:-1]] == inner


@pytest.mark.parametrize("quantity", ["gradient_l2", "loss"])
def test_every_number_of_a_distribution_is_a_metric(quantity: str) -> None:
    whole, line = distribution_rows(quantity, [0.5], Bins(0.0, 1.0, 1, log=False))
    numbers = ({*whole, *line}) - {"n", "bin_low", "bin_high"}
    assert numbers == {f"{quantity}_mean", f"{quantity}_sd", f"{quantity}_share"} and numbers <= set(METRICS)
    assert METRICS[f"{quantity}_share"].is_rate and METRICS[f"{quantity}_mean"].spread == f"{quantity}_sd"
