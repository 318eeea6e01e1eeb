"""Figures of a config: what is wrong is told in one line, and points are the rows' numbers with intervals by hand."""

from collections.abc import Callable
from math import hypot, isnan, nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest

from epsball.build import ConfigError, construct
from epsball.experiment.prepare import prepare_experiment
from epsball.paper.expressions import ANY, Quantity
from epsball.paper.figures import Figure, figure_sections
from epsball.paper.points import figure_points
from epsball.results.distributions import Bins, distribution_rows

Row = dict[str, Any]
Z = 1.959963984540054
T1 = 12.706204736  # two-sided 95 % quantile of Student's t with one degree of freedom
KEY = {"dataset": "digits", "seed": 0, "measurement": "transfer_matrix", "attack": "clean", "eps": 0.0}


def row(target: str, source: str | None = None, **numbers: Any) -> Row:
    return {**KEY, "target": target, "source": source or target, "n": 100, **numbers}


def attacked(target: str, source: str, eps: float, error: float, **more: Any) -> Row:
    return row(target, source, **{"attack": "fgsm", "eps": eps, "error_top1": error, **more})


def epoch(target: str, number: float, loss: float, **more: Any) -> Row:
    return row(target, measurement="training_curves", epoch=number, training_loss=loss, **more)


def histogram(target: str, values: list[float], bins: Bins, **more: Any) -> list[Row]:
    found = distribution_rows("gradient_l2", values, bins)
    return [row(target, **{"measurement": "gradient_norms", **numbers, **more}) for numbers in found]


def spec(**changes: Any) -> Row:
    """Error by eps, of two targets on examples of B, in per cent."""
    y = "error({line} | B, fgsm, eps={x})"
    return {
        "title": "F",
        "kind": "line",
        "x": "eps",
        "y": y,
        "lines": {"A": "A", "B": "B"},
        "unit": "percent",
    } | changes


def figure(**changes: Any) -> Figure:
    found: Figure = construct(Figure, spec(**changes), where="figures.f")
    return found


def points(rows: list[Row], **changes: Any) -> pd.DataFrame:
    return figure_points({"f": figure(**changes)}, rows)


def wilson(k: float, n: float) -> tuple[float, float]:
    """Both roots p of (k/n - p)^2 = z^2 p (1 - p) / n, in per cent."""
    a, b, c = 1 + Z * Z / n, -2 * k / n - Z * Z / n, (k / n) ** 2
    root = sqrt(b * b - 4 * a * c)
    return 100 * (-b - root) / (2 * a), 100 * (-b + root) / (2 * a)


# ---- what is refused

NORMS = {"kind": "histogram", "x": "gradient_l2", "y": "gradient_l2_share({line})"}
LOSS = {"x": "epoch", "y": "training_loss({line}, epoch={x})", "unit": "value"}
PATHS = {"x": "step", "y": "path_loss({line} | {line}, pgd, image=0, step={x})", "unit": "value", "each": "restart"}
BARS = {"kind": "bar", "x": "attack", "values": {"FGSM": "fgsm"}, "y": "error({line} | B, {x})"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pie"}, "kind should be one of line, histogram, bar, is 'pie'"),
        ({"colour": "red"}, "colour is not a field"),
        ({"x": "an eps"}, "x should be a word, such as eps or epoch, is 'an eps'"),
        ({"lines": {}}, "lines should be at least one, is empty"),
        ({"panels": {}}, "panels should be at least one, is empty"),
        ({"values": []}, "values should be at least one, is empty"),
        ({"values": [[1]]}, "values should be a list, each a text or a float or {NAME: a text or a float} or"),
        ({"y": "error({line} | B, fgsm, eps={x}"}, "y of line A: 'error(A | B, fgsm, eps=every_x' cannot be read"),
        (
            {"y": "eror({line} | B, fgsm, eps={x})"},
            "y of line A: eror in 'eror(A | B, fgsm, eps=every_x)' is no metric",
        ),
        ({"y": "error({lin}, eps={x})"}, "y of line A: 'error({lin}, eps={x})' has {lin}, for which nothing stands"),
        (
            {"panels": {"p": {"source": "B"}}, "y": "error({line} | {panel}, fgsm, eps={x})"},
            "y of line A in panel p: 'error(A | {panel}, fgsm, eps={x})' has {panel}, for which nothing stands",
        ),
        ({"y": "error({line} | B, fgsm)"}, "y of line A should have {x}, such as eps={x}, is 'error(A | B, fgsm)'"),
        ({"x": "epoch"}, "x should be eps, is epoch"),
        ({**BARS, "values": None}, "values should be given: {x} stands in y for a name"),
        ({"y": "error(m_{x} | B, fgsm)"}, "values should be given: {x} stands in y for a name"),
        ({"y": "error({line} | worst(B, m_{x}), fgsm)"}, "values should be given: {x} stands in y for a name"),
        ({**LOSS, "unit": "percent"}, "unit should be value: training_loss is no rate"),
        ({"y": "error({line}, eps={x}) / error(B)"}, "unit should be value: a ratio is no rate"),
        ({"for": {"x": [1]}, "lines": {"{x}": "A"}}, "for.x should have another name: {x} stands for the values"),
        ({"for": {"m": []}, "lines": {"{m}": "{m}"}}, "for.m should be at least one value, is empty"),
        (
            {**NORMS, "y": "gradient_l2_mean({line})", "unit": "value"},
            "y should be one of gradient_l2_share, loss_share",
        ),
        (
            {**NORMS, "y": "2 * gradient_l2_share({line})"},
            "y should be one of gradient_l2_share, loss_share, coherence_share, margin_share alone for a",
        ),
        ({**NORMS, "values": [1]}, "values should be null, and y without {x}, for a histogram"),
        ({**NORMS, "y": "gradient_l2_share({line}, epoch={x})"}, "values should be null, and y without {x}, for a"),
        ({**PATHS, "each": "a restart"}, "each should be a word, such as restart, is 'a restart'"),
        ({**BARS, "each": "restart"}, "each should be null for a bar: only lines have curves"),
        ({**NORMS, "each": "restart"}, "each should be null for a histogram: only lines have curves"),
        ({**PATHS, "each": "step"}, "each should be a column that y does not name, is step"),
        ({**PATHS, "each": "image"}, "each should be a column that y does not name, is image"),
        ({**PATHS, "values": [0], "paper": {"A": [1]}}, "paper should be null beside each: its numbers are of no"),
        ({**BARS, "log_x": True}, "log_x should be false: bars stand side by side"),
        ({"log_x": True, "values": [0, 0.1]}, "log_x should be false: values has no numbers above 0 alone"),
        ({"log_x": True, "values": {"small": 0.1}}, "log_x should be false: values has no numbers above 0 alone"),
        ({"paper": {"A": [1]}}, "paper should be null: values gives no x for its numbers"),
        ({"values": [0.1, 0.2], "paper": {"A": [1]}}, "paper.A should be 2 numbers, is [1.0]"),
        (
            {"values": [0.1, 0.2], "paper": {"A": [1, 103]}},
            "paper.A has 103.0 at 0.2, in percent it should be in [0, 100]",
        ),
        ({"values": [0.1], "paper": {"a": [1]}}, "paper.a is no line: they are A, B"),
        ({"values": [0.1], "paper": {"A": {"B": [1]}}}, "paper.A should be 1 numbers, is {'B': [1.0]}"),
        ({"values": [0.1], "panels": {"p": "p"}, "paper": {"A": [1]}}, "paper.A is no panel: they are p"),
        ({"values": [0.1], "panels": {"p": "p"}, "paper": {"p": [1]}}, "paper.p should be a group of lines, is [1.0]"),
        (
            {"values": [0.1], "panels": {"p": "p"}, "paper": {"p": {"C": [1]}}},
            "paper.p.C is no line: they are A, B",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(changes: Row, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        figure(**changes)
    assert str(error.value).startswith(f"figures.f.{message}") and "\n" not in str(error.value)


def test_a_config_is_told_which_figure_is_wrong(tiny: Callable[..., Row]) -> None:
    """And one over all eps need not say which; a name that is no file's, a model or an attack that is not there, do."""
    config = tiny("suite.fgsm.eps=[0.1,0.3]")
    good = spec(y="error({line} | target, fgsm, eps={x})", lines={"T": "target"})
    experiment = prepare_experiment({**config, "figures": {"f": good, "left_out": None}})
    assert list(experiment.statements.figures) == ["f"]
    assert experiment.asked == [Quantity("error_top1", "target", ("target",), ("fgsm",), (("eps", ANY),))]
    for name, wrong, message in (
        ("f", spec(), "figures.f asks about 'A'"),
        ("a/b", good, "figures.a/b should have a name of letters, digits, _ and -, of at most 100 bytes: it names"),
        ("f", {**good, "y": good["y"] + " - error(target | target, fgsm)"}, "figures.f asks about fgsm without saying"),
        ("f", {**good, "kind": "dots"}, "figures.f.kind should be one of line, histogram, bar, is 'dots'"),
    ):
        with pytest.raises(ConfigError) as error:
            prepare_experiment({**config, "figures": {name: wrong}})
        assert str(error.value).startswith(message)


# ---- points


def test_a_point_is_a_rate_with_wilsons_interval() -> None:
    rows = [attacked("A", "B", 0.1, 0.30), attacked("A", "B", 0.2, 0.5), attacked("B", "B", 0.1, 0.0)]
    found = points(rows, values=[0.1, 0.2])
    assert found[["figure", "unit", "panel", "line", "x"]].values.tolist() == [
        ["f", "percent", "", "A", 0.1],
        ["f", "percent", "", "A", 0.2],
        ["f", "percent", "", "B", 0.1],  # B's error at 0.2 was not measured: there is no such point
    ]
    assert list(found["y"]) == [30, 50, 0] and list(found["seeds"]) == [1, 1, 1]
    assert found["sd"].isna().all() and found["paper"].isna().all()
    assert found[["low", "high"]].values.tolist() == [pytest.approx(wilson(k, 100), abs=1e-9) for k in (30, 50, 0)]


def test_without_values_x_is_all_that_the_rows_have() -> None:
    """Of each line its own; rows of other attacks, of an empty column and without the metric are no points."""
    rows = [attacked("A", "B", eps, eps) for eps in (0.3, 8 / 255, 0.2)] + [attacked("B", "B", 0.25, 0.1)]
    rows += [attacked("A", "B", 0.4, nan), attacked("A", "B", 0.5, 0.5, attack="pgd"), attacked("A", "A", 0.6, 0.5)]
    found = points(rows)
    assert list(zip(found["line"], found["x"], strict=True)) == [
        *(("A", x) for x in (8 / 255, 0.2, 0.3)),
        ("B", 0.25),
    ]
    assert list(found["y"]) == pytest.approx([100 * 8 / 255, 20, 30, 10])
    rows = [epoch("A", 2.0, 0.5), row("A", error_top1=0.1), epoch("A", nan, 0.9), epoch("A", 1.0, 0.75)]
    found = points([*rows, epoch("B", 1.0, 2.0)], **LOSS)
    assert list(zip(found["line"], found["x"], found["y"], strict=True)) == [
        ("A", 1, 0.75),
        ("A", 2, 0.5),
        ("B", 1, 2.0),
    ]
    assert found["low"].isna().all()


def test_a_row_is_found_among_rows_that_have_nothing_in_its_column() -> None:
    """A frame of rows has NaN there, which has no place in an order."""
    rows = [
        epoch("A", number, nan if isnan(number) else number / 10) for number in (5.0, nan, 1, nan, 4, nan, 2, nan, 3)
    ]
    assert list(points(rows, **LOSS)["y"]) == [0.1, 0.2, 0.3, 0.4, 0.5]
    found = points(rows, **{**LOSS, "values": [4, 1, 7]})
    assert found[["x", "y"]].values.tolist() == [[4, 0.4], [1, 0.1]]


def test_words_in_a_column_are_values_too() -> None:
    rows = [attacked("A", "B", 0.3, 0.25, norm="linf"), attacked("A", "B", 0.3, 0.5, norm="l2")]
    found = points(rows, x="norm", y="error({line} | B, fgsm, norm={x})")
    assert list(found["x"]) == ["linf", "l2"] and list(found["y"]) == [25, 50]


def test_what_has_no_x_is_the_same_at_every_x() -> None:
    rows = [attacked("A", "B", 0.1, 0.3), attacked("A", "B", 0.2, 0.5), row("A", error_top1=0.1)]
    found = points(rows, y="error({line} | B, fgsm, eps={x}) - error({line})")
    assert list(found["x"]) == [0.1, 0.2] and list(found["y"]) == pytest.approx([20, 40])
    found = points(rows, y="accuracy({line} | B, fgsm, eps={x}) / accuracy({line})", unit="value")
    assert list(found["y"]) == pytest.approx([0.7 / 0.9, 0.5 / 0.9])
    assert (found["low"] < found["y"]).all() and (found["y"] < found["high"]).all()


def test_over_seeds_a_point_is_their_mean_with_both_sources_of_error() -> None:
    rates = (0.10, 0.14)
    rows = [attacked("A", "B", 0.1, rate, seed=seed) for seed, rate in enumerate(rates)]
    rows += [attacked("A", "B", 0.2, 0.5, seed=1)]
    found = points(rows)
    assert (
        list(found["x"]) == [0.1, 0.2]
        and list(found["seeds"]) == [2, 1]
        and list(found["y"]) == pytest.approx([12, 50])
    )
    assert found["sd"][0] == pytest.approx(100 * stdev(rates)) and isnan(found["sd"][1])
    spread = T1 * 100 * stdev(rates) / sqrt(2)
    below = fmean(100 * rate - wilson(100 * rate, 100)[0] for rate in rates)
    above = fmean(wilson(100 * rate, 100)[1] - 100 * rate for rate in rates)
    assert found["low"][0] == pytest.approx(12 - hypot(below, spread))
    assert found["high"][0] == pytest.approx(12 + hypot(above, spread))
    assert (found["low"][1], found["high"][1]) == pytest.approx(wilson(50, 100))


def test_two_lines_of_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^figures\.f\.lines: two of them are called 'A'$"):
        figure(lines={"{model}": "A", "A": "B"}, **{"for": {"model": ["A"]}})


def test_several_rows_of_a_point_are_refused_and_the_figure_is_named() -> None:
    rows = [attacked("A", "B", 0.1, rate, measurement=name) for name, rate in (("one", 0.1), ("two", 0.2))]
    with pytest.raises(ValueError, match=r"^figures\.f\.y: error\(A \| B, fgsm\) names several rows .*measurement="):
        points(rows)
    found = points(rows, y="error({line} | B, fgsm, eps={x}, measurement=two)")
    assert list(found["y"]) == [20]


def test_no_rows_are_no_points() -> None:
    for found in (points([]), figure_points({}, [attacked("A", "B", 0.1, 0.1)])):
        assert len(found) == 0 and {"figure", "x", "y", "low", "high"} <= set(found.columns)


# ---- a curve for each


def path(target: str, losses: list[list[float]], **more: Any) -> list[Row]:
    """Losses of image 0, a list for each restart."""
    key = {"measurement": "loss_paths", "attack": "pgd", "eps": 0.3, "image": 0}
    return [
        row(target, **{**key, "restart": restart, "step": step, "path_loss": loss, **more})
        for restart, own in enumerate(losses)
        for step, loss in enumerate(own)
    ]


def curves(found: pd.DataFrame, line: str) -> dict[float, list[tuple[float, float]]]:
    """(x, y) of each curve of a line, by its value."""
    own = found[found["line"] == line].groupby("each", sort=False)
    return {value: list(zip(part["x"], part["y"], strict=True)) for value, part in own}


def test_a_line_has_a_curve_for_each_value_of_a_column() -> None:
    rows = path("A", [[1, 2], [3, 4]]) + path("A", [[9, 9]], image=1) + path("B", [[5, 6, 7]])
    rows += [row("A", attack="pgd", step=1, path_loss=nan, path_loss_mean=8)]  # as a frame has it
    found = points(rows[::-1], **PATHS)
    assert curves(found, "A") == {0: [(0, 1), (1, 2)], 1: [(0, 3), (1, 4)]}
    assert curves(found, "B") == {0: [(0, 5), (1, 6), (2, 7)]}
    assert found[["low", "high", "sd"]].isna().all(axis=None) and list(found.columns)[-1] == "each"
    given = points(rows, **{**PATHS, "values": [1, 5]})
    assert curves(given, "A") == {0: [(1, 2)], 1: [(1, 4)]}
    assert "each" not in points(rows, **{**PATHS, "each": None, "y": PATHS["y"].replace("image", "restart=0, image")})


def test_words_are_curves_too_and_what_has_none_belongs_to_all() -> None:
    rows = path("A", [[1, 2]], restart="up") + path("A", [[3, 4]], restart="down") + [row("A", loss_mean=0.5)]
    found = points(rows, **{**PATHS, "y": PATHS["y"] + " - loss_mean({line})", "lines": {"A": "A"}})
    assert curves(found, "A") == {"down": [(0, 2.5), (1, 3.5)], "up": [(0, 0.5), (1, 1.5)]}


def test_curves_are_of_the_first_seed_and_said_to_be(tmp_path: Path) -> None:
    rows = path("B", [[0, 0]], seed=0) + path("A", [[1, 2], [3, 4]], seed=1) + path("A", [[5, 6]] * 3, seed=2)
    asked = {"f": figure(**{**PATHS, "lines": {"A": "A"}})}
    found = figure_points(asked, rows)
    assert curves(found, "A") == {0: [(0, 1), (1, 2)], 1: [(0, 3), (1, 4)]} and set(found["seeds"]) == {1}
    (section,) = figure_sections(asked, found, tmp_path)
    assert section.text == "One seed: a curve for each restart, 2 of them."


# ---- histograms

WIDE = Bins(0.0, 4.0, 2, log=False)


def test_a_histogram_is_the_mean_share_of_each_bin() -> None:
    rows = histogram("A", [0.5, 1, 1, 3], WIDE) + histogram("A", [0.5, 3, 3, 9], WIDE, seed=1)
    rows += [row("A", error_top1=0.1), *histogram("B", [3.0] * 4, WIDE)]
    found = points(rows, **NORMS)
    columns = ["line", "bin_low", "bin_high", "y", "seeds"]
    assert found[columns].values.tolist() == [
        ["A", 0, 2, 50, 2],  # 75 and 25
        ["A", 2, 4, 50, 2],  # what lies beyond 4 counts in the last bin
        ["B", 0, 2, 0, 1],
        ["B", 2, 4, 100, 1],
    ]
    assert found["x"].isna().all()
    assert list(found["low"][2:]) == pytest.approx([wilson(k, 4)[0] for k in (0, 4)], abs=1e-9)


def test_of_two_histograms_one_must_be_named() -> None:
    rows = histogram("A", [1.0, 3.0], WIDE) + histogram("A", [1.0, 3.0], Bins(0, 3, 3, False), measurement="fine")
    with pytest.raises(ValueError, match="names several histograms of a seed: say which, such as measurement="):
        points(rows, **NORMS)
    found = points(rows, **{**NORMS, "y": "gradient_l2_share({line}, measurement=fine)"})
    assert list(found["y"]) == [0, 50, 50]


# ---- placeholders


def cells(asked: Figure) -> list[tuple[str, str, str, tuple[tuple[str, object], ...]]]:
    return [(q.target, q.source, q.attack, q.conditions) for q in asked.quantities]


def test_each_line_is_asked_about_at_each_value() -> None:
    asked = figure(values=[0.1, 0.3])
    assert cells(asked) == [(target, "B", "fgsm", (("eps", eps),)) for target in "AB" for eps in (0.1, 0.3)]
    assert figure(x="attack", y="error({line} | B, {x})", values={"F": "fgsm", "P": "pgd"}, kind="bar").quantities == [
        Quantity("error_top1", target, ("B",), (attack,)) for target in "AB" for attack in ("fgsm", "pgd")
    ]


def test_a_figure_over_all_values_asks_about_every_row_of_its_cells() -> None:
    (quantity,) = figure(lines={"A": "A"}).quantities
    assert all(quantity.is_about(attacked("A", "B", eps, 0.1)) for eps in (0.1, 0.3))
    assert not quantity.is_about(attacked("A", "A", 0.1, 0.1))


def test_lines_and_panels_fill_their_placeholders_and_loops_repeat_them() -> None:
    """A loop's value may stand in a label, in what a line or a panel says, and in y."""
    asked = figure(
        y="error({model} | {panel}, {attack}, eps={x}) - {base}",
        lines={"{m} by FGSM": {"model": "{m}_adv", "attack": "fgsm", "base": "error({m})"}},
        panels={"from {s}": "{s}", "from C": "C_{x}"},
        values={"small": 1},
        unit="percent",
        **{"for": {"m": {"the first": "A", "the second": "B"}, "s": ["S", "T"]}},
    )
    assert list(asked.line_fields) == ["the first by FGSM", "the second by FGSM"]
    assert list(asked.panel_fields) == ["from S", "from T", "from C"]
    found = [quantity for quantity in asked.quantities if quantity.attack == "fgsm"]
    assert [(q.target, q.source) for q in found] == [
        *((target, source) for source in ("S", "T", "C_1") for target in ("A_adv", "B_adv"))
    ]
    assert all(q.conditions == (("eps", 1),) for q in found)
    assert {q.target for q in asked.quantities if q.attack == "clean"} == {"A", "B"}


def test_a_line_may_be_an_expression_of_its_own() -> None:
    lines = {"white-box": "error({panel} | {panel}, fgsm, eps={x})", "noise": "error({panel} | A, noise)"}
    asked = figure(y="{line} + 0 * error(A, eps={x})", lines=lines, panels={"B": "B", "C": "C"}, values=[0.1])
    assert [(q.target, q.source, q.attack) for q in asked.quantities if q.attack != "clean"] == [
        *(("B", "B", "fgsm"), ("B", "A", "noise"), ("C", "C", "fgsm"), ("C", "A", "noise"))
    ]


def test_points_stand_in_their_panels() -> None:
    rows = [attacked(target, source, 0.1, rate) for target, source, rate in (("A", "A", 0.5), ("A", "B", 0.25))]
    found = points(rows, y="error({line} | {panel}, fgsm, eps={x})", panels={"from A": "A", "from B": "B"})
    assert found[["panel", "line", "y"]].values.tolist() == [["from A", "A", 50], ["from B", "A", 25]]


def test_a_change_of_names_is_one_of_all_points() -> None:
    asked = figure(values=[0.1]).mapped(lambda quantity: quantity.renamed({"A": "C", "B": "D"}))
    assert [(q.target, q.source) for q in asked.quantities] == [("C", "D"), ("D", "D")]
    found = figure_points({"f": asked}, [attacked("C", "D", 0.1, 0.5)])
    assert found[["line", "y"]].values.tolist() == [["A", 50]]


def test_labels_stand_for_values() -> None:
    rows = [attacked("A", "B", 0.1, 0.1), attacked("A", "B", 0.1, 0.2, attack="pgd")]
    found = points(rows, x="attack", y="error({line} | B, {x})", values={"PGD": "pgd", "FGSM": "fgsm"})
    assert found[["x", "y"]].values.tolist() == [["PGD", 20], ["FGSM", 10]]
    assert figure(values={"low": 0.1}).drawing.names == ["low"] and not figure(values=[0.1]).drawing.names


# ---- beside the paper, and in the report


def test_the_papers_values_stand_at_their_points() -> None:
    rows = [attacked("A", "B", eps, 0.1) for eps in (0.1, 0.2)]
    found = points(rows, values=[0.1, 0.2], paper={"A": [None, 18.2], "B": [1, 2]})
    assert found["paper"].fillna(-1).tolist() == [-1, 18.2] and "published_on" not in found
    panels: Row = {"y": "error({line} | {panel}, fgsm, eps={x})", "panels": {"a": "A", "b": "B"}}
    found = points(rows, values=[0.1, 0.2], paper={"b": {"A": [3, 4]}}, **panels)
    assert list(found["paper"]) == [3, 4]


@pytest.mark.parametrize(("published_on", "told"), [("digits", False), ("imagenet", True), (None, False)])
def test_values_of_another_data_set_are_said_to_be(published_on: str | None, told: bool, tmp_path: Path) -> None:
    asked = figure(values=[0.1], paper={"A": [20]}, published_on=published_on)
    found = figure_points({"f": asked}, [attacked("A", "B", 0.1, 0.1)])
    (section,) = figure_sections({"f": asked}, found, tmp_path)
    of = ", of another data set, imagenet" if told else ""
    assert section.text == f"With 95 % intervals, over one seed; hollow: the paper's values{of}."


def test_a_section_says_over_how_many_seeds(tmp_path: Path) -> None:
    every = {"f": figure(), "loss": figure(**LOSS), "norms": figure(**NORMS), "none": figure(y="error(C, eps={x})")}
    rows = [attacked("A", "B", 0.1, 0.1, seed=seed) for seed in (0, 1)] + [attacked("A", "B", 0.2, 0.1)]
    rows += [epoch("A", 1.0, 0.5), *(row for seed in (0, 1) for row in histogram("A", [1.0], WIDE, seed=seed))]
    sections = figure_sections(every, figure_points(every, rows), tmp_path)
    assert [section.text for section in sections] == [
        "With 95 % intervals, over 1 to 2 seeds.",
        "One seed.",
        "Mean over 2 seeds.",
        "Nothing of it was measured.",
    ]
    images = [section.image for section in sections]
    assert images == [*(tmp_path / f"figure_{name}.png" for name in ("f", "loss", "norms")), None]
    assert all(image is None or image.read_bytes().startswith(b"\x89PNG") for image in images)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("changes", "x", "y", "y_range"),
    [
        ({}, "eps", "error, per cent", (0, 100)),
        ({"unit": "value"}, "eps", "error", (0, 1)),
        (NORMS, "gradient l2", "share of the images, per cent", (0, 100)),
        (
            {"kind": "histogram", "x": "loss", "y": "loss_share({line} | {line}, pgd, image=0)"},
            *("loss", "share of the starts, per cent", (0, 100)),
        ),
        (LOSS, "epoch", "training loss", (-float("inf"), float("inf"))),
        (LOSS | {"y": "training_gal({line}, epoch={x})"}, "epoch", "GAL in training", (-float("inf"), float("inf"))),
        (
            {"y": "gaas_all({line} | {line}, gaas, eps={x})"},
            *("eps", "images fooled along all directions, per cent", (0, 100)),
        ),
        (
            {"y": "accuracy({line}, eps={x}) / accuracy({line})", "unit": "value"},
            *("eps", "ratio of accuracy", (-float("inf"), float("inf"))),
        ),
        (
            {"y": "error({line}, eps={x}) - transfer_rate(A | B, fgsm)"},
            *("eps", "error, transfer rate, per cent", (-float("inf"), float("inf"))),
        ),
    ],
)
def test_axes_say_what_they_show(changes: Row, x: str, y: str, y_range: tuple[float, float]) -> None:
    drawing = figure(**changes).drawing
    assert (drawing.x, drawing.y, drawing.y_range) == (x, y, y_range)
