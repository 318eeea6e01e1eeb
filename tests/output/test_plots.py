"""Lines, bars and histograms: the same bytes for the same points, and what is drawn is what was given."""

import struct
from math import inf, nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from epsball.output import figures
from epsball.output.figures import Drawing, apart, draw_figure
from epsball.output.plot import LINE_COLOURS

COLUMNS = ["panel", "line", "x", "y", "low", "high", "paper"]
Point = tuple[Any, ...]
LINES: list[Point] = [
    *(("left", "A", x, 100 * x, 90 * x, 120 * x, nan) for x in (0.3, 0.1, 0.2)),
    ("left", "B", 0.1, 5, 4, 6, 7),
    *(("right", "B", x, 50, 40, 60, nan) for x in (0.1, 0.2)),
]
BARS: list[Point] = [
    *(("", line, x, y, y - 1, y + 1, nan) for line, x, y in (("A", "FGSM", 10), ("B", "FGSM", 20), ("A", "PGD", 30))),
    ("", "B", "PGD", 40, nan, nan, 35),
]
BINS = pd.DataFrame(
    [
        ("", line, low, 2 * low, y, y - 1, y + 9, nan)
        for line, low, y in (("A", 1, 30), ("A", 2, 70), ("B", 1, 40), ("B", 4, 60))
    ],
    columns=["panel", "line", "bin_low", "bin_high", "y", "low", "high", "paper"],
)
CURVES = pd.DataFrame(
    [
        ("", line, x, float(10 * restart + x + 5 * (line == "B")), nan, nan, nan, restart)
        for line in "AB"
        for restart in range(3)
        for x in (1, 0, 2)
    ],
    columns=[*COLUMNS, "each"],
)


def frame(points: list[Point]) -> pd.DataFrame:
    return pd.DataFrame(points, columns=COLUMNS)


def drawing(**changes: Any) -> Drawing:
    fields = {"kind": "line", "x": "eps", "y": "error, per cent", "log_x": False, "log_y": False}
    return Drawing(**{**fields, "y_range": (0.0, 100.0), "names": [], **changes})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn, kept instead of written."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    return kept


def show(points: pd.DataFrame, kept: list[Figure], **changes: Any) -> tuple[Figure, Any]:
    """Draw points; the figure and its first axes."""
    draw_figure(points, drawing(**changes), Path("unused.png"))
    return kept[-1], kept[-1].axes[0]


def line_named(axes: Any, label: str, figure: Figure) -> Any:
    """The curve of a line, by its colour in the legend."""
    colours = {text.get_text(): handle.get_color() for text, handle in legend(figure) if isinstance(handle, Line2D)}
    return next(line for line in axes.lines if line.get_color() == colours[label] and line.get_linestyle() != "None")


def legend(figure: Figure) -> list[tuple[Any, Any]]:
    (found,) = figure.legends
    return list(zip(found.get_texts(), found.legend_handles, strict=True))


def entries(figure: Figure) -> list[str]:
    return [text.get_text() for text, _ in legend(figure) if text.get_text() != " "]


def size(path: Path) -> tuple[int, int]:
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


def heights(axes: Any) -> list[list[float]]:
    """The heights of the bars, line by line."""
    return [[bar.get_height() for bar in container] for container in axes.containers]


# ---- files

KINDS: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {
    "line": (frame(LINES), {}),
    "bar": (frame(BARS), {"kind": "bar", "names": ["FGSM", "PGD"]}),
    "histogram": (BINS, {"kind": "histogram"}),
    "curves": (CURVES, {"x": "step"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_same_points_same_bytes(kind: str, tmp_path: Path) -> None:
    points, changes = KINDS[kind]
    other = points.assign(y=points["y"] + (points.index == 1))
    for name, own in {"one.png": points, "again.png": points.copy(), "other.png": other}.items():
        draw_figure(own, drawing(**changes), tmp_path / name)
    first, again, changed = ((tmp_path / name).read_bytes() for name in ("one.png", "again.png", "other.png"))
    assert first.startswith(b"\x89PNG\r\n\x1a\n") and first == again != changed
    assert len(list(tmp_path.iterdir())) == 3


def test_a_line_with_curves_has_one_thin_one_for_each_in_its_colour(drawn: list[Figure]) -> None:
    figure, axes = show(CURVES, drawn, x="step")
    assert len(axes.lines) == 2 * 3 and entries(figure) == ["A", "B"]
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    colours = [line.get_color() for line in axes.lines]
    assert colours == [LINE_COLOURS[0]] * 3 + [LINE_COLOURS[1]] * 3
    assert all(line.get_linewidth() < handle.get_linewidth() for line in axes.lines for _, handle in legend(figure))
    both = pd.concat([CURVES[CURVES["line"] == "A"], frame([("", "C", x, 50, 40, 60, nan) for x in range(3)])])
    _, axes = show(both, drawn, x="step")
    assert len(axes.lines) == 3 + 2  # C's own and its place for the paper's values


def test_panels_stand_side_by_side_while_they_fit(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 3, 4):
        points = frame([(f"p{i}", "A", 0.1, 1, nan, nan, nan) for i in range(count)])
        draw_figure(points, drawing(), tmp_path / "f.png")
        sizes.append(size(tmp_path / "f.png"))
    (two, height), (three, same), (four, twice) = sizes
    assert two == four < three and height == same and twice == 2 * height


def test_a_long_legend_makes_room_for_itself(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 10, 40):
        points = frame([("", f"line {i}", 0.1, 1, nan, nan, nan) for i in range(count)])
        draw_figure(points, drawing(), tmp_path / "f.png")
        sizes.append(size(tmp_path / "f.png")[1])
    assert sizes[0] == sizes[1] < sizes[2] and sizes[2] > 40 * 150 / 6  # six lines an inch


# ---- lines


def test_a_line_goes_through_its_points_in_the_order_of_x(drawn: list[Figure]) -> None:
    figure, left = show(frame(LINES), drawn)
    right = figure.axes[1]
    assert [axes.get_title() for axes in figure.axes] == ["left", "right"]
    assert entries(figure) == ["A", "B", "95 % interval", "the paper"]
    a, b = (line_named(left, label, figure) for label in "AB")
    assert list(a.get_xdata()) == [0.1, 0.2, 0.3] and list(a.get_ydata()) == pytest.approx([10, 20, 30])
    assert (list(b.get_xdata()), list(b.get_ydata())) == ([0.1], [5])
    assert list(line_named(right, "B", figure).get_ydata()) == [50, 50]
    assert {line.get_color() for line in right.lines if line.get_linestyle() != "None"} == {b.get_color()}


def test_bands_reach_from_low_to_high_and_a_point_by_itself_has_a_bar(drawn: list[Figure]) -> None:
    _, left = show(frame(LINES), drawn)
    band, *others = left.collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(x, y) for x, low, high in ((0.1, 9, 12), (0.2, 18, 24), (0.3, 27, 36)) for y in (low, high)}
    (bar,) = (found for found in others if isinstance(found, LineCollection))
    assert [[list(end) for end in segment] for segment in bar.get_segments()] == [[[0.1, 4], [0.1, 6]]]


def test_the_papers_values_are_hollow(drawn: list[Figure]) -> None:
    figure, left = show(frame(LINES), drawn)
    (hollow,) = (line for line in left.lines if line.get_markerfacecolor() == "none" and 7 in line.get_ydata())
    assert list(hollow.get_xdata()) == [0.1] and hollow.get_linestyle() == "None"
    assert hollow.get_markeredgecolor() == line_named(left, "B", figure).get_color()
    figure, _ = show(frame(LINES).assign(paper=nan), drawn)
    assert "the paper" not in entries(figure)
    figure, _ = show(frame(LINES).assign(low=nan, high=nan), drawn)
    assert "95 % interval" not in entries(figure)


def test_a_missing_point_leaves_no_trace(drawn: list[Figure]) -> None:
    figure, left = show(frame([point for point in LINES if point[2] != 0.2]), drawn)
    assert list(line_named(left, "A", figure).get_xdata()) == [0.1, 0.3]


def test_many_points_have_no_markers(drawn: list[Figure]) -> None:
    for count, marked in ((12, True), (13, False)):
        points = frame([("", "A", float(epoch), 1 / epoch, nan, nan, nan) for epoch in range(1, count + 1)])
        figure, axes = show(points, drawn, x="epoch")
        assert (line_named(axes, "A", figure).get_marker() != "None") == marked
        assert (legend(figure)[0][1].get_marker() != "None") == marked
        ticks = [tick for tick in axes.get_xticks() if 1 <= tick <= count]
        assert all(float(tick).is_integer() for tick in ticks) and len(ticks) >= 4


def test_eps_is_written_as_people_do(drawn: list[Figure]) -> None:
    points = frame([("", "A", n / 255, n, nan, nan, nan) for n in (2, 4, 8, 16)])
    _, axes = show(points, drawn)
    assert {label.get_text() for label in axes.get_xticklabels()} == {"2/255", "4/255", "8/255", "16/255"}
    _, axes = show(points, drawn, x="step")
    assert "/" not in "".join(label.get_text() for label in axes.get_xticklabels())


def test_ticks_that_would_touch_give_way_to_the_larger() -> None:
    assert apart([0.001, 0.01, 0.29, 0.3], float) == [0.3, 0.01]
    assert apart([0.3], float) == [0.3] and apart([], float) == []


# ---- the axes


@pytest.mark.parametrize(
    ("points", "changes", "ends"),
    [
        ([("", "A", 1, 90, 80, 110, nan)], {}, (0, 100)),  # an interval that leaves what a rate can be
        ([("", "A", 1, 4, -1, 8, nan)], {}, (0, 8.4)),
        ([("", "A", 1, 4, 3, 5, 10)], {}, (0, 10.5)),
        ([("", "A", 1, 4, -2, 8, nan)], {"y_range": (-inf, inf)}, (-2.1, 8.4)),
        ([("", "A", 1, -4, -6, -2, nan)], {"y_range": (-inf, inf)}, (-6.3, 0)),
        ([("", "A", 1, 4, -inf, inf, nan)], {"y_range": (-inf, inf)}, (0, 4.2)),
        ([("", "A", 1, 0, nan, nan, nan)], {}, (0, 1)),
        ([("", "A", 1, 10, 0, 20, nan), ("", "A", 2, 0.1, -1, 1, nan)], {"log_y": True}, (0.1 / 1.3, 26)),
        ([("", "A", 1, 0, 0, 0, nan)], {"log_y": True}, (1 / 1.3, 1.3)),
    ],
)
@pytest.mark.parametrize("kind", ["line", "bar"])
def test_y_reaches_a_little_beyond_what_is_there(
    points: list[Point],
    changes: dict[str, Any],
    ends: tuple[float, float],
    kind: str,
    tmp_path: Path,
    drawn: list[Figure],
) -> None:
    _, axes = show(frame(points), drawn, kind=kind, **changes)
    assert axes.get_ylim() == pytest.approx(ends)


@pytest.mark.parametrize("kind", ["line", "bar"])
@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("ends", [(0.0, inf), (-inf, nan), (nan, nan), (0.0, 0.0)])
def test_zeros_and_unknown_ends_can_be_drawn(kind: str, log_y: bool, ends: tuple[float, float], tmp_path: Path) -> None:
    """What a log scale does not have lies nowhere, not far below the page."""
    points = frame([("", "A", x, y, *ends, 0.0) for x, y in ((0.0, 0.0), (0.1, 3.0))])
    for log_x in (False, True) if kind == "line" else (False,):
        draw_figure(points, drawing(kind=kind, log_x=log_x, log_y=log_y), tmp_path / "f.png")
        assert size(tmp_path / "f.png")[1] < 600


def test_log_scales_have_plain_ticks(drawn: list[Figure]) -> None:
    points = frame([("", "A", float(width), 0.5 / width, nan, nan, nan) for width in (1, 2, 4, 8, 16)])
    figure, axes = show(points, drawn, x="width", log_x=True, log_y=True)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["16", "8", "4", "2", "1"]
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    bottom, top = axes.get_ylim()
    ticks = {
        label.get_text()
        for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if bottom <= tick <= top
    }
    assert ticks == {"0.05", "0.1", "0.2", "0.5"}


def test_a_log_axis_leaves_out_what_it_cannot_have(drawn: list[Figure]) -> None:
    points = frame([("", "A", x, 1.0, nan, nan, nan) for x in (0.0, 0.1, 0.2)])
    figure, axes = show(points, drawn, log_x=True)
    assert [x for x in line_named(axes, "A", figure).get_xdata() if x > 0] == [0.1, 0.2]
    assert axes.get_xlim()[0] > 0.05


def test_texts_are_shown_as_they_are_and_long_ones_in_lines(drawn: list[Figure]) -> None:
    long = "trained on examples of an ensemble of static models"
    figure, axes = show(frame([("a $ b", long, 0.1, 1, nan, nan, nan)]), drawn, x="cost in $")
    figure.draw_without_rendering()  # type: ignore[no-untyped-call]
    assert axes.get_title() == r"a \$ b" and figure.get_supxlabel() == r"cost in \$"
    assert figure.get_supylabel() == "error, per cent"
    (name,) = entries(figure)
    assert name.replace("\n", " ") == long and max(map(len, name.splitlines())) <= 32


def test_lines_after_the_last_colour_are_dashed(drawn: list[Figure]) -> None:
    names = [f"l{i}" for i in range(len(LINE_COLOURS) + 1)]
    figure, _ = show(
        frame([("", name, x, i, nan, nan, nan) for i, name in enumerate(names) for x in (0.1, 0.2)]), drawn
    )
    handles = [handle for _, handle in legend(figure)]
    assert entries(figure) == names
    assert handles[0].get_color() == handles[-1].get_color() == LINE_COLOURS[0]
    assert [handle.get_linestyle() for handle in handles] == ["-"] * len(LINE_COLOURS) + ["--"]


# ---- bars


def test_bars_stand_in_groups_one_of_each_line(drawn: list[Figure]) -> None:
    figure, axes = show(frame(BARS), drawn, kind="bar", names=["PGD", "FGSM"])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["PGD", "FGSM"]  # in the order of the config
    assert heights(axes) == [[30, 10], [40, 20]]
    a, b = ([bar.get_x() + bar.get_width() / 2 for bar in container] for container in axes.containers)
    assert a == pytest.approx([-0.2, 0.8]) and b == pytest.approx([0.2, 1.2])
    width = axes.containers[0][0].get_width()
    assert 0.3 < width < 0.4  # bars of a group do not overlap, nor do groups
    assert entries(figure) == ["A", "B", "95 % interval", "the paper"]
    segments = [segment.tolist() for found in axes.collections for segment in found.get_segments() if len(segment)]
    drawn_ends = [ends for ends in segments if ends[0][1] == ends[0][1]]
    assert [(ends[0][1], ends[1][1]) for ends in drawn_ends] == [(29, 31), (9, 11), (19, 21)]
    marks = [(x, y) for line in axes.lines for x, y in line.get_xydata() if y == y]
    assert marks == [pytest.approx((0.2, 35))]


def test_numbers_under_bars_rise_and_stand_equally_far_apart(drawn: list[Figure]) -> None:
    points = frame([("", "A", eps, 100 * eps, nan, nan, nan) for eps in (0.3, 0.01, 0.1)])
    _, axes = show(points, drawn, kind="bar")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.1", "0.3"]
    assert list(axes.get_xticks()) == [0, 1, 2] and heights(axes) == [pytest.approx([1, 10, 30])]


def test_a_name_without_bars_in_a_panel_keeps_its_place(drawn: list[Figure]) -> None:
    points = frame(
        [("p", "A", "FGSM", 1, nan, nan, nan), ("p", "A", "PGD", 2, nan, nan, nan), ("q", "A", "PGD", 3, nan, nan, nan)]
    )
    figure, _ = show(points, drawn, kind="bar", names=["FGSM", "CW", "PGD"])
    _, second = figure.axes
    (bar,) = second.containers[0]
    assert bar.get_x() + bar.get_width() / 2 == 1 and bar.get_height() == 3
    assert [label.get_text() for label in second.get_xticklabels()] == ["FGSM", "PGD"]  # nobody has CW


def test_long_names_are_aslant(drawn: list[Figure]) -> None:
    for names, rotation in ((["FGSM", "PGD"], 0), (["an attack with a long name", "FGSM", "PGD"], 30)):
        points = frame([("", "A", name, 1, nan, nan, nan) for name in names])
        _, axes = show(points, drawn, kind="bar", names=names)
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}


# ---- histograms


def test_a_histogram_has_a_step_per_bin_and_gaps_where_there_is_none(drawn: list[Figure]) -> None:
    figure, axes = show(BINS, drawn, kind="histogram", log_x=True, x="loss")
    filled, outline, _, of_b = axes.patches
    assert [list(found.get_data().values) for found in (filled, outline)] == [[30, 70]] * 2
    assert list(filled.get_data().edges) == [1, 2, 4]
    assert filled.get_fill() and not outline.get_fill() and 0 < filled.get_alpha() < 0.5
    values, edges = list(of_b.get_data().values), list(of_b.get_data().edges)
    assert edges == [1, 2, 4, 8] and values[0] == 40 and values[2] == 60 and values[1] != values[1]
    assert axes.get_xscale() == "log" and axes.get_xlim() == pytest.approx((1, 8))
    assert axes.get_ylim() == pytest.approx((0, 73.5))
    assert entries(figure) == ["A", "B"]
    assert [to_hex(handle.get_facecolor()) for _, handle in legend(figure)] == list(LINE_COLOURS[:2])


def test_an_empty_bin_can_be_drawn_on_a_log_scale(tmp_path: Path) -> None:
    draw_figure(BINS.assign(y=[0.0, 70.0, 40.0, 60.0]), drawing(kind="histogram", log_y=True), tmp_path / "f.png")
    assert size(tmp_path / "f.png")[1] < 600
