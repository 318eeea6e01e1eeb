"""Figures over eps, of gradients and of loss: the same bytes for the same rows, and what is drawn is what was given."""

import struct
from collections.abc import Callable
from itertools import pairwise
from math import inf, log10, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from epsball.measurements.gradient_pictures import as_rgb, draw_block, draw_gradient_pictures
from epsball.measurements.loss_surface import LOSS_FLOOR, draw_loss, draw_loss_surfaces, loss_ticks
from epsball.output.curves import colours_of, curves, draw_curves, draw_error_by_eps
from epsball.output.plot import WARNING, apart, lattice
from epsball.results.intervals import wilson


def errors(models: str = "AB", eps: tuple[float, ...] = (0.1, 0.2, 0.3), seed: int = 0, n: int = 1000) -> pd.DataFrame:
    """Clean errors of 1 per cent; an attack adds 1 or, white-box, 2 times its eps."""
    cells = [(m, m, "clean", 0.0, 0.01) for m in models]
    cells += [(s, t, "fgsm", e, 0.01 + e * (1 + (s == t))) for s in models for t in models for e in eps]
    frame = pd.DataFrame(cells, columns=["source", "target", "attack", "eps", "error_top1"])
    return frame.assign(dataset="digits", measurement="matrix", seed=seed, n=n)


def pictures(models: str = "AB", count: int = 2, channels: int = 1, side: int = 8) -> pd.DataFrame:
    """Ramps, gradients of all three signs; the model is always right but on the perturbed image 1."""
    x = np.linspace(0, 1, channels * side * side).reshape(channels, side, side)
    g = np.arange(x.size).reshape(x.shape) % 3 - 1.0
    arrays = {"original": x, "gradient": g, "perturbed": (x + 0.3 * g).clip(0, 1)}
    rows = [
        {"model": m, "image": i, "label": i, "predicted": i, "predicted_adv": 7 if i == 1 else i, "eps": 0.3, **arrays}
        for m in models
        for i in range(count)
    ]
    return pd.DataFrame(rows)


def surface(points: str = "p", loss: Callable[[Any, Any], Any] = lambda e1, e2: np.exp(9 * e1 + e2)) -> pd.DataFrame:
    """`loss` on a grid of 5 x 5 as far as 0.3, and as far as 0.03."""
    parts = []
    for point in points:
        for window, last in {"whole": 0.3, "zoom": 0.03}.items():
            e1, e2 = (e.ravel() for e in np.meshgrid(np.linspace(0, last, 5), np.linspace(0, last, 5)))
            value = np.broadcast_to(loss(e1, e2), e1.shape)
            parts.append(pd.DataFrame({"point": point, "window": window, "e1": e1, "e2": e2, "loss": value}))
    return pd.concat(parts, ignore_index=True)


def draw_surfaces(rows: pd.DataFrame, path: Path) -> None:
    draw_loss_surfaces(rows, path, "A_adv", "B")


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG in pixels."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


@pytest.mark.parametrize(
    ("draw", "one", "other"),
    [
        (draw_error_by_eps, errors(), errors().replace({"error_top1": {0.11: 0.15}})),
        (draw_gradient_pictures, pictures(), pictures().replace({"predicted_adv": {7: 8}})),
        (draw_surfaces, surface(), surface(loss=lambda e1, e2: np.exp(8 * e1 + e2))),
    ],
)
def test_same_rows_same_bytes(draw: Any, one: pd.DataFrame, other: pd.DataFrame, tmp_path: Path) -> None:
    for name, rows in {"one.png": one, "again.png": one.copy(), "other.png": other}.items():
        draw(rows, tmp_path / name)
    first, again, changed = ((tmp_path / name).read_bytes() for name in ("one.png", "again.png", "other.png"))
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert first == again != changed
    assert len(list(tmp_path.iterdir())) == 3


def test_error_by_eps_grows_with_its_targets(tmp_path: Path) -> None:
    sizes = []
    for models in ("A", "AB", "ABCDE"):
        assert draw_error_by_eps(errors(models), tmp_path / "e.png")
        sizes.append(size(tmp_path / "e.png"))
    assert sizes[0][0] < sizes[1][0] < sizes[2][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]


@pytest.mark.parametrize("models", ["ABC", "ABCDEFGHIJKL"])
def test_every_source_has_its_own_colour_and_a_place_in_the_legend(
    models: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr("epsball.output.curves.save", lambda figure, path: figures.append(figure))
    rows = errors(models)
    assert draw_error_by_eps(rows[rows["target"] == "A"], tmp_path / "unused.png")
    (legend,) = figures[0].legends
    drawn = zip(legend.get_texts(), legend.legend_handles, strict=True)
    colours = {text.get_text(): handle.get_color() for text, handle in drawn if "from " in text.get_text()}  # type: ignore[union-attr]
    assert list(colours) == [f"from {name}" for name in models]
    assert len(set(colours.values())) == len(models)
    figures[0].draw_without_rendering()
    assert legend.get_window_extent().y0 >= 0


@pytest.mark.parametrize(
    "rows",
    [
        errors(eps=(0.3,)),
        errors(eps=()),
        errors(eps=(0.0, 0.3)),
        errors().iloc[:0],
        pd.concat([errors(eps=(0.1,)), errors(eps=(0.3,)).replace("fgsm", "pgd")]),
        errors(eps=(0.1, 0.3)).assign(error_top1=lambda rows: rows["error_top1"].where(rows["eps"] < 0.2)),
    ],
)
def test_one_eps_is_no_line_and_no_file(rows: pd.DataFrame, tmp_path: Path) -> None:
    assert draw_error_by_eps(rows, tmp_path / "e.png") is False
    assert list(tmp_path.iterdir()) == []


def test_a_line_starts_at_the_clean_error() -> None:
    lines = curves(errors())
    assert list(lines) == [("A", "A", "fgsm"), ("A", "B", "fgsm"), ("B", "A", "fgsm"), ("B", "B", "fgsm")]
    assert list(lines["B", "A", "fgsm"]["eps"]) == [0.0, 0.1, 0.2, 0.3]
    assert list(lines["B", "A", "fgsm"]["error_top1"]) == pytest.approx([0.01, 0.11, 0.21, 0.31])
    assert list(lines["B", "B", "fgsm"]["error_top1"]) == pytest.approx([0.01, 0.21, 0.41, 0.61])


def test_a_line_is_the_mean_of_the_seeds_that_have_it() -> None:
    second = errors(seed=1, eps=(0.1,), n=500).assign(error_top1=0.5)
    line = curves(pd.concat([errors(), second]))["B", "A", "fgsm"]
    assert list(line["error_top1"]) == pytest.approx([(0.01 + 0.5) / 2, (0.11 + 0.5) / 2, 0.21, 0.31])
    bounds = [wilson(k, 1000) for k in (210, 310)]
    assert list(line["error_top1_low"])[2:] == pytest.approx([low for low, _ in bounds])
    assert list(line["error_top1_high"])[2:] == pytest.approx([high for _, high in bounds])
    spread = 12.7062 * 0.49 / 2  # Student's t at one degree of freedom
    assert 0.255 + spread < line["error_top1_high"].iloc[0] < 0.255 + 1.01 * spread


def test_what_was_not_measured_leaves_a_line_without_it(tmp_path: Path) -> None:
    rows = errors()
    rows.loc[(rows["attack"] == "clean") | (rows["eps"] == 0.2), "error_top1"] = nan
    assert list(curves(rows)["A", "A", "fgsm"]["eps"]) == [0.1, 0.3]
    assert draw_error_by_eps(rows, tmp_path / "e.png")
    assert draw_error_by_eps(errors()[errors()["attack"] != "clean"], tmp_path / "e.png")
    assert draw_error_by_eps(errors().assign(n=errors()["n"].where(rows["eps"] > 0, 0)), tmp_path / "e.png")


def test_an_attack_at_eps_0_stands_in_for_the_clean_error() -> None:
    line = curves(errors(eps=(0.0, 0.1, 0.2)))["A", "A", "fgsm"]
    assert list(line["attack"]) == ["fgsm"] * 3


def test_models_of_two_datasets_keep_apart() -> None:
    targets = {target for target, *_ in curves(pd.concat([errors(), errors().assign(dataset="mnist")]))}
    assert targets == {"digits/A", "digits/B", "mnist/A", "mnist/B"}


def test_white_box_lines_are_solid_and_heavier() -> None:
    figure, (axes,) = lattice(1, 3, 3)
    lines = {key: line for key, line in curves(errors()).items() if key[0] == "A"}
    draw_curves(axes, lines, {("A", "fgsm"): "red", ("B", "fgsm"): "blue"}, {"fgsm": "s"})
    white, black, clean = axes.get_lines()
    assert (white.get_linestyle(), black.get_linestyle(), clean.get_linestyle()) == ("-", "--", "None")
    assert white.get_linewidth() > black.get_linewidth() and white.get_zorder() > black.get_zorder()
    assert (white.get_color(), black.get_color(), white.get_markevery()) == ("red", "blue", [1, 2, 3])
    assert list(white.get_ydata()) == pytest.approx([1, 21, 41, 61])
    assert axes.get_ylim() == (0, 100) and list(axes.get_xticks()) == [0.0, 0.3, 0.2, 0.1]
    assert figure.axes == [axes]


def test_colours_tell_attacks_apart_where_no_target_has_several_sources() -> None:
    own = [(model, model, attack) for model in "AB" for attack in ("fgsm", "pgd")]
    colours = colours_of(own)
    assert colours["A", "fgsm"] == colours["B", "fgsm"] != colours["A", "pgd"] == colours["B", "pgd"]
    colours = colours_of([*own, ("A", "B", "fgsm")])
    assert colours["A", "fgsm"] == colours["A", "pgd"] != colours["B", "fgsm"] == colours["B", "pgd"]


def test_ticks_that_would_touch_give_way_to_the_larger() -> None:
    assert apart([2 / 255, 4 / 255, 8 / 255, 16 / 255], fixed=[0.0]) == [0, 16 / 255, 8 / 255, 4 / 255]
    assert apart([0.3, 0.3, 0.29, 0.01], fixed=[0.0]) == [0, 0.3]


def test_gradient_pictures_lie_side_by_side_while_they_fit(tmp_path: Path) -> None:
    sizes = {}
    for models, count in [("A", 1), ("A", 6), ("AB", 6), ("A", 7), ("AB", 7)]:
        draw_gradient_pictures(pictures(models, count), tmp_path / "g.png")
        sizes[models, count] = size(tmp_path / "g.png")
    assert sizes["A", 1][0] < sizes["A", 6][0] < sizes["AB", 6][0]
    assert sizes["A", 6][1] == sizes["AB", 6][1] < sizes["AB", 7][1]
    assert sizes["AB", 7][0] == sizes["A", 7][0]


def test_gradient_pictures_in_colour_and_with_unequal_numbers(tmp_path: Path) -> None:
    rows = pictures("AB", 3, channels=3, side=32).iloc[:-1]
    rows.at[0, "gradient"] = np.full((3, 32, 32), nan)
    draw_gradient_pictures(rows, tmp_path / "g.png")
    assert size(tmp_path / "g.png")[0] > 2 * 3 * 32
    with pytest.raises(ValueError, match="no pictures"):
        draw_gradient_pictures(rows[:0], tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_pictures_become_rgb() -> None:
    sign = as_rgb(np.array([[[-1.0, 0.0, 1.0]]]), -1)
    assert sign.tolist() == [[[0.0] * 3, [0.5] * 3, [1.0] * 3]]
    image = as_rgb(np.array([[[0.25, nan]], [[0.5, 0.5]], [[1.5, 0.5]]]), 0)
    assert image[0, 0].tolist() == [0.25, 0.5, 1.0]
    assert image[0, 1].tolist() == [to_rgb(WARNING)[0], 0.5, 0.5]
    with pytest.raises(ValueError, match="broadcast"):
        as_rgb(np.zeros((2, 4, 4)), 0)


def test_wrong_predictions_are_in_the_warning_colour() -> None:
    figure = Figure()
    rows = pictures("A", 3).assign(predicted=[0, 1, 9])
    draw_block(figure, rows, figure.add_gridspec(3, 3), first=True)
    above, below = ([figure.axes[3 * i + line] for i in range(3)] for line in (0, 2))
    assert [axes.get_title() for axes in above] == ["0", "1", "2\nas 9"]
    assert [axes.title.get_color() == WARNING for axes in above] == [False, False, True]
    assert [axes.get_xlabel() for axes in below] == ["0", "7", "2"]
    assert [axes.xaxis.label.get_color() == WARNING for axes in below] == [False, True, False]
    assert [axes.get_ylabel() for axes in figure.axes[:3]] == ["original", "sign of\ngradient", "perturbed\neps 0.3"]


def test_loss_surfaces_grow_with_their_points(tmp_path: Path) -> None:
    sizes = []
    for points in ("p", "pq", "pqrstu"):
        draw_surfaces(surface(points), tmp_path / "s.png")
        sizes.append(size(tmp_path / "s.png"))
    assert len({width for width, _ in sizes}) == 1
    assert [height / sizes[0][1] for _, height in sizes] == [1, 2, 6]


def test_names_of_both_gradients_change_the_figure(tmp_path: Path) -> None:
    for name, models in {"ab": ("A", "B"), "ba": ("B", "A")}.items():
        draw_loss_surfaces(surface(), tmp_path / name, *models)
    assert (tmp_path / "ab").read_bytes() != (tmp_path / "ba").read_bytes()


@pytest.mark.parametrize("value", [0.0, 1e-12, 2.3, 1e9])
def test_a_plain_can_be_drawn(value: float, tmp_path: Path) -> None:
    draw_surfaces(surface(loss=lambda e1, e2: value), tmp_path / "s.png")


@pytest.mark.parametrize("holes", [nan, inf])
@pytest.mark.parametrize("known", [0, 1, 7, 25])
def test_holes_can_be_drawn(holes: float, known: int, tmp_path: Path) -> None:
    rows = surface()
    rows.loc[known:, "loss"] = holes
    draw_surfaces(rows, tmp_path / "s.png")


def test_a_window_may_be_absent(tmp_path: Path) -> None:
    for window in ("whole", "zoom"):
        draw_surfaces(surface()[lambda rows, window=window: rows["window"] == window], tmp_path / f"{window}.png")
    assert (tmp_path / "whole.png").read_bytes() != (tmp_path / "zoom.png").read_bytes()


def test_surfaces_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no surfaces"):
        draw_surfaces(surface()[:0], tmp_path / "s.png")
    with pytest.raises(ValueError, match="duplicate"):
        draw_surfaces(pd.concat([surface(), surface()]), tmp_path / "s.png")
    assert list(tmp_path.iterdir()) == []


def test_height_is_the_logarithm_from_the_floor_on() -> None:
    figure = Figure()
    solid, flat, bar = figure.add_subplot(131, projection="3d"), figure.add_subplot(132), figure.add_subplot(133)
    grid = pd.DataFrame([[0.0, 1e-9], [1.0, 10.0]], index=[0, 0.3], columns=[0, 0.2])
    draw_loss(solid, flat, bar, grid)
    assert solid.get_zlim() == pytest.approx((log10(LOSS_FLOOR), 1))
    assert [text.get_text() for text in solid.get_zticklabels()] == ["≤ 0.0001", "0.001", "0.01", "0.1", "1", "10"]
    assert flat.get_xlim() == pytest.approx((0, 0.2)) and flat.get_ylim() == pytest.approx((0, 0.3))
    assert bar.get_ylim() == pytest.approx((-4, 1))


@pytest.mark.parametrize("low", np.linspace(-4, 2, 13))
@pytest.mark.parametrize("span", [log10(2), 0.5, 1, 5])
def test_every_range_of_losses_has_ticks(low: float, span: float) -> None:
    ticks = loss_ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-6 <= height <= low + span + 1e-6 for height in ticks)
    assert all(below < above for below, above in pairwise(ticks))
    assert all(float(text.removeprefix("≤ ")) == pytest.approx(10**height) for height, text in ticks.items())
    assert ("≤ 0.0001" in ticks.values()) == (low == -4)
