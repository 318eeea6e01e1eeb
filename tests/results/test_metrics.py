"""A metric is said once: whoever reads, bounds, tabulates or draws a number asks METRICS what it is."""

from collections.abc import Callable
from dataclasses import replace
from math import nan, sqrt
from typing import Any

import pandas as pd
import pytest
from cells import measured

from epsball.output.curves import curves
from epsball.output.matrix import best_in_bold
from epsball.paper.claims import Claim, claims_summary, claims_table
from epsball.paper.expressions import parse_expression
from epsball.paper.tables import Table, compare, paper_table, with_paper_values
from epsball.results.intervals import estimate_cell, normal_interval, wilson, with_intervals
from epsball.results.metrics import ERROR, METRICS, Metric, find_metric
from epsball.results.rows import MISTAKES, over_seeds

Row = dict[str, Any]
Z = 1.959963984540054
T24, T99 = 2.0638985616280245, 1.9842169515864174  # two-sided 95 % quantiles of Student's t
COUNTS = {"n": 100, "training_adversarial_n": 50, "transfer_n": 40, "transfer_n_top5": 20, "certain_n": 30}
MEANS = ("final_loss", "restart_loss_sd", "maxima_distance", "starts_distance", "maxima_angle", "gradient_cosine")
ALIGNED = ("coherence", "gal", "gradient_zero_components", "margin")
SPREADS = {"gradient_l2_sd": 0.8, "loss_sd": 0.5, "path_loss_sd": 0.3}
SPREADS |= {f"{name}_sd": 0.2 for name in (*MEANS, *ALIGNED)}


def around_half(sd: float) -> tuple[float, float]:
    """Return the interval of a mean of a half over 100 images."""
    return 0.5 - T99 * sd / 10, 0.5 + T99 * sd / 10


ENDS: dict[str, tuple[str, str | None, tuple[float, float]]] = {  # unit, better end, interval around a half
    "error_top1": ("percent", "low", wilson(50, 100)),
    "error_top5": ("percent", "low", wilson(50, 100)),
    "accuracy_top1": ("percent", "high", wilson(50, 100)),
    "accuracy_top5": ("percent", "high", wilson(50, 100)),
    "transfer_rate_top1": ("percent", "low", wilson(20, 40)),
    "transfer_rate_top5": ("percent", "low", wilson(10, 20)),
    "clean_error_top1": ("percent", "low", wilson(50, 100)),
    "gradient_zero_share": ("percent", None, wilson(50, 100)),
    "gradient_l2_mean": ("value", None, around_half(0.8)),
    "loss_mean": ("value", None, around_half(0.5)),
    "gradient_l2_sd": ("value", None, (nan, nan)),
    "loss_sd": ("value", None, (nan, nan)),
    "gradient_l2_share": ("percent", None, wilson(50, 100)),
    "loss_share": ("percent", None, wilson(50, 100)),
    "training_loss": ("value", None, (nan, nan)),
    "training_gal": ("value", None, (nan, nan)),
    "training_clean_error": ("percent", "low", wilson(50, 100)),
    "training_adversarial_error": ("percent", "low", wilson(25, 50)),
    "learning_rate": ("value", None, (nan, nan)),
    **dict.fromkeys(MEANS, ("value", None, around_half(0.2))),
    **{name: ("percent", None, wilson(50, 100)) for name in ("loss_outlier_share", "negative_gradient_share")},
    "ball_distance": ("value", None, (nan, nan)),
    "path_loss": ("value", None, (nan, nan)),
    **{name: ("percent", "low", wilson(50, 100)) for name in ("gaas_all", "gaas_share")},
    "path_loss_mean": ("value", None, around_half(0.3)),
    "coherence_mean": ("value", "low", around_half(0.2)),
    "coherence_sd": ("value", None, (nan, nan)),
    "coherence_share": ("percent", None, wilson(50, 100)),
    "margin_mean": ("value", None, around_half(0.2)),
    "margin_sd": ("value", None, (nan, nan)),
    "margin_share": ("percent", None, wilson(50, 100)),
    "certain": ("percent", None, wilson(50, 100)),
    "rounded_signs": ("percent", None, wilson(50, 100)),
    "certain_rounded_signs": ("percent", None, wilson(15, 30)),
    "gal_mean": ("value", "low", around_half(0.2)),
    "gradient_zero_components_mean": ("value", None, around_half(0.2)),
}
SHARE = Metric("robust_share", "percent", "high", "robust_n", short="robust")
MARGIN = Metric("margin", "value", "low", "margin_n", spread="margin_sd")


def clean(model: str, seed: int = 0, **numbers: float) -> Row:
    key = {"dataset": "digits", "seed": seed, "source": model, "target": model, "attack": "clean", "eps": 0.0}
    return {**key, "n": 1000, **numbers}


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[Metric], None]:
    """`add(metric)`: a line more in METRICS."""
    return lambda metric: monkeypatch.setitem(METRICS, metric.name, metric)  # type: ignore[arg-type]


def test_every_metric_is_stated_here() -> None:
    """Which end is best for robustness; of a histogram's share, a loss or a rate of learning there is none."""
    assert {name: (metric.unit, metric.better) for name, metric in METRICS.items()} == {
        name: (unit, better) for name, (unit, better, _) in ENDS.items()
    }
    assert all(name == metric.name for name, metric in METRICS.items())


def test_images_are_kept_of_rates_of_all_images() -> None:
    """An accuracy counts the images that its error does not; a transfer rate is of some images alone."""
    kept = {name: metric.mistakes for name, metric in METRICS.items() if metric.mistakes}
    top1, top5 = ({f"{name}_{top}": f"mistakes_{top}" for name in ("error", "accuracy")} for top in ("top1", "top5"))
    assert kept == top1 | top5 and set(kept.values()) == set(MISTAKES)
    assert all(METRICS[name].is_rate and METRICS[name].trials == "n" for name in kept)


@pytest.mark.parametrize("name", ENDS)
def test_every_metric_has_the_interval_of_its_own_trials(name: str) -> None:
    found = estimate_cell([{**COUNTS, **SPREADS, METRICS[name].complement or name: 0.5}], METRICS[name])
    assert (found.low, found.high) == pytest.approx(ENDS[name][2], nan_ok=True)


def test_an_accuracy_is_one_minus_the_error_with_its_interval_mirrored() -> None:
    """In a table with the higher end marked, in a claim, and beside the paper's number."""
    rows = [clean("A", error_top1=0.125), clean("B", error_top1=0.5)]
    a, error = (estimate_cell(rows[:1], METRICS[f"{name}_top1"]) for name in ("accuracy", "error"))
    assert (a.value, a.low, a.high) == pytest.approx((0.875, 1 - error.high, 1 - error.low))
    columns = {"clean": "accuracy({row})"}
    table = Table("t", {"A": "A", "B": "B"}, columns, {"A": [87.0], "B": [60.0]}, unit="percent", best="columns")
    compared = compare({"t": table}, rows)
    assert list(compared["ours"]) == pytest.approx([87.5, 50.0])
    assert list(compared["difference"]) == pytest.approx([0.5, -10.0])
    assert list(paper_table("t", table, compared)["clean"]) == ["**87.5** (87.0)", "50.0 (60.0)"]
    judged = claims_table({"c": Claim("says", ["accuracy(A) > accuracy(B)"])}, rows)
    assert list(judged["check_verdict"]) == ["confirmed"]
    beside = with_paper_values(pd.DataFrame(rows), {"t": table})
    assert list(beside["difference"]) == pytest.approx([0.005, -0.1])
    assert set(beside["paper_metric"]) == {"accuracy_top1"}


@pytest.mark.parametrize("name", ["error", "accuracy", "transfer_rate"])
def test_short_names_are_those_of_the_first_choice(name: str) -> None:
    assert find_metric(name, "") is METRICS[f"{name}_top1"]


@pytest.mark.parametrize(
    ("short", "name"), [("coherence", "coherence"), ("gal", "gal"), ("zero_components", "gradient_zero_components")]
)
def test_short_names_of_means_over_images(short: str, name: str) -> None:
    assert find_metric(short, "") is METRICS[f"{name}_mean"]


def test_an_unknown_metric_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^eror in 'eror\(A\)' is no metric \(did you mean 'error'\?\): .*error_top5"):
        find_metric("eror", "eror(A)")


# ---- one line more in METRICS is enough


def test_an_added_rate_can_be_asked_for_by_both_its_names(add: Callable[[Metric], None]) -> None:
    with pytest.raises(ValueError, match=r"robust in 'robust\(Never\)' is no metric"):
        parse_expression("robust(Never)")  # what was read once is not read again
    add(SHARE)
    assert parse_expression("robust(A)") == parse_expression("robust_share(A)")
    assert [quantity.metric for quantity in parse_expression("robust(A)").quantities] == ["robust_share"]


def test_an_added_metric_has_the_interval_of_its_trials(add: Callable[[Metric], None]) -> None:
    add(SHARE)
    add(MARGIN)
    rows = [clean("A", robust_share=0.25, robust_n=40, margin=2.0, margin_n=25, margin_sd=0.5)]
    share, margin = (measured(text, rows) for text in ("robust(A)", "margin(A)"))
    assert (share.low, share.high) == pytest.approx(wilson(10, 40))
    assert (margin.low, margin.high) == pytest.approx((2 - T24 * 0.1, 2 + T24 * 0.1))
    normal = measured("robust(A)", rows, normal_interval)
    assert (normal.low, normal.high) == pytest.approx((0.25 - Z * sqrt(0.1875 / 40), 0.25 + Z * sqrt(0.1875 / 40)))


@pytest.mark.parametrize(("metric", "bold"), [(SHARE, "B"), (replace(SHARE, better="low"), "A")])
def test_an_added_rate_stands_in_a_table_marked_at_its_better_end(
    metric: Metric, bold: str, add: Callable[[Metric], None]
) -> None:
    add(metric)
    table = Table("T", {"A": "A", "B": "B"}, {"Robust": "robust({row})"}, {"A": [20.0]}, unit="percent", best="columns")
    rows = [clean("A", robust_share=0.25, robust_n=400), clean("B", robust_share=0.75, robust_n=400)]
    compared = compare({"t": table}, rows)
    cells = paper_table("t", table, compared).set_index("")["Robust"]
    assert [name for name in "AB" if "**" in cells[name]] == [bold]
    assert [cells[name].replace("**", "") for name in "AB"] == ["25.0 (20.0)", "75.0"]
    assert (compared["low"][0], compared["high"][0]) == pytest.approx(tuple(100 * end for end in wilson(100, 400)))


def test_an_added_mean_stands_in_a_table_of_values_alone(add: Callable[[Metric], None]) -> None:
    add(MARGIN)
    fields: dict[str, Any] = {"title": "T", "rows": {"A": "A", "B": "B"}, "columns": {"Margin": "margin({row})"}}
    with pytest.raises(ValueError, match="unit should be value: margin is no rate"):
        Table(**fields, paper=None, unit="percent", best="none")
    table = Table(**fields, paper=None, unit="value", best="columns")
    rows = [clean(name, margin=value, margin_n=100, margin_sd=0.5) for name, value in (("A", 2.0), ("B", 3.0))]
    assert list(paper_table("t", table, compare({"t": table}, rows))["Margin"]) == ["**2.00**", "3.00"]


def test_metrics_that_call_opposite_ends_better_share_none(add: Callable[[Metric], None]) -> None:
    add(SHARE)
    columns = {"Error": "error({row})", "Robust": "robust({row})"}
    with pytest.raises(ValueError, match="best should be none"):
        Table("T", {"A": "A"}, columns, None, unit="percent", best="rows")
    table = Table("T", {"A": "A", "B": "B"}, columns, None, unit="percent", best="columns")  # a column has its own end
    rows = [clean(name, error_top1=rate, robust_share=rate, robust_n=400) for name, rate in (("A", 0.25), ("B", 0.75))]
    found = paper_table("T", table, compare({"T": table}, rows))
    assert found[["Error", "Robust"]].values.tolist() == [["**25.0**", "25.0"], ["75.0", "**75.0**"]]


def test_a_claim_is_in_per_cent_where_its_metrics_are(add: Callable[[Metric], None]) -> None:
    add(SHARE)
    add(MARGIN)
    rows = [clean("A", robust_share=0.25, margin=0.25)]
    claims = {"rate": Claim("s", ["robust(A) > 0.2"]), "mean": Claim("s", ["margin(A) > 0.2"])}
    assert list(claims_summary(claims_table(claims, rows))["ours"]) == ["25.0 > 20.0", "0.25 > 0.2"]


def test_an_added_rate_has_a_mean_over_seeds_and_an_added_value_none(add: Callable[[Metric], None]) -> None:
    add(SHARE)
    add(MARGIN)
    rows = pd.DataFrame([clean("A", seed, robust_share=share, margin=1.0) for seed, share in enumerate((0.2, 0.4))])
    found = over_seeds(rows, ["target"])
    assert list(found["robust_share"]) == pytest.approx([0.3]) and "margin" not in found
    assert list(found["robust_share_sd"]) == pytest.approx([0.02**0.5])


# ---- the matrix and its figures ask the same line


def attacked(*errors: float, eps: float = 0.1) -> pd.DataFrame:
    """Errors of A, B, ... on FGSM examples of A, of 1000 images and of 40 others."""
    names = "ABC"[: len(errors)]
    cells = [clean(name, error_top1=error) for name, error in zip(names, errors, strict=True)]
    return pd.DataFrame(cells).assign(measurement="matrix", source="A", attack="fgsm", eps=eps, others=40)


@pytest.mark.parametrize(("better", "bold"), [("low", [True, False, False]), ("high", [False, False, True])])
def test_the_matrix_is_marked_at_the_better_end(better: Any, bold: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epsball.output.matrix.ERROR", replace(ERROR, better=better))
    cells = best_in_bold(attacked(0.1, 0.5, 0.9)).loc[("A", "fgsm", 0.1)]
    assert [cell.startswith("**") for cell in cells] == bold


def test_matrix_and_curves_have_the_intervals_of_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.concat([attacked(0.1, 0.5), attacked(0.25, 0.5, eps=0.2)], ignore_index=True)
    for trials, n in (("n", 1000), ("others", 40)):
        monkeypatch.setattr("epsball.results.intervals.ERROR", replace(ERROR, trials=trials))
        low, high = wilson(n / 4, n)
        assert f"[{100 * low:.1f}, {100 * high:.1f}]" in best_in_bold(rows).loc[("A", "fgsm", 0.2), "A"]
        line = curves(rows)["A", "A", "fgsm"]
        assert (line["error_top1_low"].iloc[1], line["error_top1_high"].iloc[1]) == pytest.approx((low, high))


def test_the_intervals_of_results_csv_are_of_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epsball.results.intervals.ERROR", replace(ERROR, trials="others"))
    found = with_intervals(attacked(0.25))
    assert (found["error_top1_low"][0], found["error_top1_high"][0]) == pytest.approx(wilson(10, 40))
