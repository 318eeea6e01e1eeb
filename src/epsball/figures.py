"""Rows to PNG: error as heat maps and over eps, gradients as pictures, loss as surfaces. Same rows, same bytes."""

import io
from collections.abc import Iterable, Mapping
from itertools import cycle
from math import ceil, floor, inf, isnan, log10
from pathlib import Path
from typing import Any

import pandas as pd

from epsball import estimates, statistics
from epsball.files import write_whole

DPI = 150
PANELS_PER_ROW = 4
COLOURS = "YlGnBu"
OF_SOURCES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555555")
OF_ATTACKS = "os^DvPX*<>"
WARNING = "#d9480f"
CAPTION: dict[bool, dict[str, str]] = {True: {"color": "0.35"}, False: {"color": WARNING, "weight": "bold"}}
CURVE: dict[bool, dict[str, Any]] = {  # by whether it is white-box
    True: {"linestyle": "-", "linewidth": 2.4, "zorder": 4},
    False: {"linestyle": (0, (4, 1.6)), "linewidth": 1.2, "zorder": 3},
}
PICTURES_PER_LINE = 12
LOSS_FLOOR = 1e-4
LOSS_COLOURS = "viridis"


def transfer_heatmap(rows: pd.DataFrame, path: Path) -> None:
    """Error rates in per cent, one panel per (attack, eps): source down, target across, white-box cells outlined.

    Clean errors stand under the targets; unmeasured cells are hatched. With clean rows only, they are the panel.
    ValueError if there are no rows.
    """
    if rows.empty:
        raise ValueError("no rows to draw")
    per_cent = statistics.matrix(rows) * 100
    attacks = [(attack, eps) for _, attack, eps in per_cent.index if attack != "clean"] or [("clean", 0.0)]
    panels = {key: panel(per_cent, *key) for key in dict.fromkeys(attacks)}
    figure, grid = canvas(panels)
    labels = target_labels(per_cent)
    for number, ((attack, eps), values) in enumerate(panels.items()):
        axes = grid[number]
        image = draw_panel(axes, values, labels)
        title = attack if attack == "clean" else f"{attack}, eps {statistics.eps_label(eps)}"
        axes.set_title(title, fontsize=11, pad=8)
    bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.015, aspect=30)
    bar.set_label("error, per cent", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    legend = "rows: source; columns: target; outlined: white-box; hatched: not measured"
    figure.supxlabel(legend, fontsize=8, color="0.35")
    save(figure, path)


def panel(per_cent: pd.DataFrame, attack: str, eps: float) -> pd.DataFrame:
    """The source x target square of one attack; sources that never ran it are left out."""
    chosen = [key for key in per_cent.index if key[1] == attack and key[2] == eps]
    values = per_cent.loc[chosen]
    return values.set_axis([source for source, *_ in chosen], axis=0)


def target_labels(per_cent: pd.DataFrame) -> list[str]:
    """Each target's name with its clean error under it, where that was measured."""
    clean = per_cent[[attack == "clean" for _, attack, _ in per_cent.index]]
    if clean.empty or len(clean) == len(per_cent):
        return [str(target) for target in per_cent.columns]
    errors = clean.iloc[0]
    return [f"{t}\nclean {errors[t]:.1f}" if pd.notna(errors[t]) else str(t) for t in per_cent.columns]


def canvas(panels: dict[tuple[str, float], pd.DataFrame]) -> tuple[Any, list[Any]]:
    """A figure and its axes, at most PANELS_PER_ROW in a row, lines filled evenly; sizes follow the cell counts."""
    height, width = (max(values.shape[side] for values in panels.values()) for side in (0, 1))
    return lattice(len(panels), 0.66 * width + 0.5, 0.56 * height + 1.5)


def lattice(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of `count` axes of so many inches, at most PANELS_PER_ROW in a row, two inches left for a legend."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    down = ceil(count / PANELS_PER_ROW)
    across = ceil(count / down)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)  # inches
    figure = Figure(figsize=(across * width + 2, down * height), layout=layout)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in list(grid.flat)[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat)


def draw_panel(axes: Any, values: pd.DataFrame, labels: list[str]) -> Any:
    """Colours, numbers, grid, outlines and hatching of one panel; gives back the image for the colour bar."""
    image = axes.imshow(values.to_numpy(dtype=float), cmap=COLOURS, vmin=0, vmax=100, aspect="auto", zorder=1)
    long = max(len(str(target)) for target in values.columns) > 6
    turned = {"rotation": 90, "multialignment": "right"} if long else {}
    axes.set_xticks(range(values.shape[1]), labels, fontsize=8, **turned)
    axes.set_yticks(range(values.shape[0]), [str(source) for source in values.index], fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for across in range(1, values.shape[1]):
        axes.axvline(across - 0.5, color="white", linewidth=1.5, zorder=2)
    for down in range(1, values.shape[0]):
        axes.axhline(down - 0.5, color="white", linewidth=1.5, zorder=2)
    for down, (source, line) in enumerate(zip(values.index, values.to_numpy(dtype=float), strict=True)):
        for across, (target, value) in enumerate(zip(values.columns, line, strict=True)):
            draw_cell(axes, across, down, float(value), source == target, image)
    return image


def draw_cell(axes: Any, across: int, down: int, value: float, white_box: bool, image: Any) -> None:
    """One cell's number in a colour that can be read on it, its hatching if unmeasured, its outline if white-box."""
    from matplotlib.patches import Rectangle

    if isnan(value):
        box = Rectangle((across - 0.5, down - 0.5), 1, 1, facecolor="0.93", edgecolor="0.7", hatch="////", linewidth=0)
        axes.add_patch(box)
    else:
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        text = "100" if value >= 99.95 else f"{value:.1f}"
        axes.text(across, down, text, ha="center", va="center", fontsize=9, color="white" if dark else "0.1")
    if white_box:
        outline = Rectangle((across - 0.46, down - 0.46), 0.92, 0.92, fill=False, edgecolor=WARNING, linewidth=1.8)
        outline.set_zorder(3)
        axes.add_patch(outline)


def error_by_eps(rows: pd.DataFrame, path: Path) -> bool:
    """Error over eps, one panel per target, a line per (source, attack) that was run with two eps or more.

    Gradient masking shows as error that does not rise with eps, or white-box lines (solid) below black-box ones
    (dashed). Lines start at the clean error; bands are 95 % intervals, of several seeds' mean where there are several.
    False, and no file, where there is no line. Source: Tramèr et al. 2017, section 3.3.
    """
    lines = curves(rows)
    if not lines:
        return False
    targets, sources, attacks = (list(dict.fromkeys(key[part] for key in lines)) for part in range(3))
    colours, markers = dict(zip(sources, cycle(OF_SOURCES))), dict(zip(attacks, cycle(OF_ATTACKS)))
    figure, grid = lattice(len(targets), 3.3, 3.0)
    for axes, target in zip(grid, targets, strict=False):
        draw_curves(axes, {key: line for key, line in lines.items() if key[0] == target}, colours, markers)
    figure.supxlabel("eps", fontsize=10)
    figure.supylabel("error, per cent", fontsize=10)
    handles = curve_legend(colours, markers, {source == target for target, source, _ in lines})
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, handlelength=3)
    save(figure, path)
    return True


def curves(rows: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """(target, source, attack) to its errors and their intervals by eps, from clean on, if it has two eps above 0."""
    cells = estimates.errors(statistics.distinct(rows)).dropna()
    lines = {}
    for target, shown in cells.groupby("target", sort=False):
        clean = shown["attack"] == "clean"
        for (source, attack), own in shown[~clean].groupby(["source", "attack"], sort=False):
            if (own["eps"] > 0).sum() >= 2:
                line = pd.concat([shown[clean], own])
                key = str(target), str(source), str(attack)
                lines[key] = line.drop_duplicates("eps", keep="last").sort_values("eps")
    return lines


def draw_curves(axes: Any, lines: Mapping[Any, pd.DataFrame], colours: dict[str, str], markers: dict[str, str]) -> None:
    """One target's lines with their bands, markers on the attacks' errors and another on the clean one."""
    for (target, source, attack), line in lines.items():
        eps, error = line["eps"].to_numpy(), 100 * line["error_top1"].to_numpy()
        low, high = (100 * line[f"error_top1_{side}"].to_numpy() for side in ("low", "high"))
        axes.fill_between(eps, low, high, color=colours[source], alpha=0.15, linewidth=0)
        style = {"color": colours[source], "marker": markers[attack], "mec": "white", "clip_on": False}
        own = list((line["attack"] != "clean").to_numpy().nonzero()[0])
        axes.plot(eps, error, markevery=own, mew=0.6, **style, **CURVE[source == target])
    every = pd.concat(list(lines.values()))
    for clean in every.loc[every["attack"] == "clean", "error_top1"].unique():
        axes.plot(0, 100 * clean, "o", color="0.15", mfc="white", markersize=5, zorder=5, clip_on=False)
    ticks = spaced(every["eps"])
    axes.set_xticks(ticks, [statistics.eps_label(eps) for eps in ticks])
    axes.set(xlim=(0, 1.03 * every["eps"].max()), ylim=(0, 100))
    axes.set_title(f"target {target}", fontsize=11, pad=8)
    axes.tick_params(labelsize=8, length=0)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def spaced(values: Iterable[float]) -> list[float]:
    """0 and those of `values`, the largest first, whose labels do not run into one another."""
    ticks = [0.0]
    for value in sorted(values, reverse=True):
        if all(abs(value - other) >= 0.14 * max(value, *ticks) for other in ticks):
            ticks.append(value)
    return ticks


def curve_legend(colours: dict[str, str], markers: dict[str, str], boxes: set[bool]) -> list[Any]:
    """Sources by colour, attacks by marker, white-box and black-box by line, each group apart from the next."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey: dict[str, Any] = {"color": "0.35"}
    apart = Line2D([], [], linestyle="none", label=" ")
    sources = [Line2D([], [], color=colour, linewidth=2.4, label=f"from {name}") for name, colour in colours.items()]
    attacks = [Line2D([], [], marker=m, linestyle="none", label=name, **grey) for name, m in markers.items()]
    clean = Line2D([], [], marker="o", linestyle="none", mfc="white", label="clean", **grey)
    names = {True: "white-box", False: "black-box"}
    styles = [Line2D([], [], label=names[box], **grey, **CURVE[box]) for box in sorted(boxes, reverse=True)]
    band = Patch(facecolor="0.35", alpha=0.2, label="95 % interval")
    return [*sources, apart, *attacks, clean, apart, *styles, band]


def gradient_pictures(pictures: pd.DataFrame, path: Path) -> None:
    """Per model: images, their signed gradients and the perturbed images, with the classes that the model predicts.

    One row per (model, image): model, image, label, predicted, predicted_adv, eps, and arrays (C, H, W), C 1 or 3, all
    of one shape: original and perturbed in [0, 1], gradient in {-1, 0, 1}; NaN is drawn in orange, as are wrong
    predictions. ValueError if there are no rows. Source: Tramèr et al. 2017, Figure 1.
    """
    from matplotlib.figure import Figure

    if pictures.empty:
        raise ValueError("no pictures to draw")
    blocks = [block for _, block in pictures.groupby("model", sort=False)]
    most, longest = max(map(len, blocks)), max(map(len, pictures["model"]))
    across = max(1, min(len(blocks), PICTURES_PER_LINE // most))
    _, high, wide = pictures["original"].iloc[0].shape
    dots = max(1, round(DPI / wide)) / DPI  # inches of a pixel: whole dots, so that all pixels of a picture are alike
    inner = (1.05 * most - 0.05) * dots * wide, 3.1 * dots * high
    width, height = max(inner[0] + 0.25, 0.1 * longest), inner[1] + 1.0
    size = 0.95 + across * width, ceil(len(blocks) / across) * height
    figure = Figure(figsize=size)
    for number, block in enumerate(blocks):
        left, top = 0.95 + number % across * width, size[1] - number // across * height - 0.7
        sides = {"left": left / size[0], "right": (left + inner[0]) / size[0]}
        edges = {"top": top / size[1], "bottom": (top - inner[1]) / size[1], **sides}
        spec = figure.add_gridspec(3, most, wspace=0.05, hspace=0.05, **edges)
        draw_block(figure, block, spec, first=number % across == 0)
    save(figure, path)


def draw_block(figure: Any, block: pd.DataFrame, spec: Any, first: bool) -> None:
    """One model's three lines of pictures in the cells of `spec`; what they are stands beside the `first` block."""
    for across, row in enumerate(statistics.records(block)):
        grid = [figure.add_subplot(spec[down, across]) for down in range(3)]
        for axes, (column, lowest) in zip(grid, {"original": 0, "gradient": -1, "perturbed": 0}.items(), strict=True):
            axes.imshow(as_rgb(row[column], lowest), interpolation="nearest", aspect="auto")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="0.8", linewidth=0.5)
        label, before, after = (str(row[name]) for name in ("label", "predicted", "predicted_adv"))
        title = label if before == label else f"{label}\nas {before}"
        grid[0].set_title(title, pad=4, fontsize=9, **CAPTION[before == label])
        grid[2].set_xlabel(after, labelpad=4, fontsize=9, **CAPTION[after == label])
        if across == 0:
            name_lines(grid, block, first)


def name_lines(grid: list[Any], block: pd.DataFrame, first: bool) -> None:
    """The model above the leftmost pictures of its block and, if it is the `first`, what they are beside them."""
    beside = {"xycoords": "axes fraction", "textcoords": "offset points"}
    grid[0].annotate(str(block["model"].iloc[0]), (0, 1), (0, 31), fontsize=11, **beside)
    if first:
        eps = ", ".join(statistics.eps_label(eps) for eps in dict.fromkeys(block["eps"]))
        for axes, name in zip(grid, ("original", "sign of\ngradient", f"perturbed\neps {eps}"), strict=True):
            axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
        grid[0].annotate("class", (0, 1), (-8, 4), ha="right", fontsize=9, **beside)
        grid[2].annotate("predicted", (0, 0), (-8, -4), ha="right", va="top", fontsize=9, **beside)


def as_rgb(picture: Any, lowest: float) -> Any:
    """(C, H, W) in [lowest, 1] as (H, W, 3) in [0, 1], one channel as grey, NaN in the colour of warnings."""
    import numpy as np
    from matplotlib.colors import to_rgb

    pixels = (np.moveaxis(np.asarray(picture, dtype=float), 0, -1) - lowest) / (1 - lowest)
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.where(np.isnan(rgb), to_rgb(WARNING), rgb).clip(0, 1)


def loss_surfaces(surface: pd.DataFrame, path: Path, first: str, second: str) -> None:
    """Loss on x + e1 sign(gradient of `first`) + e2 sign(gradient of `second`), log scale, one line of panels a point.

    One row per (point, window, e1, e2), window "whole" or "zoom", with its loss; each (point, window) is a grid, at
    least 2 x 2, with its own colours. Loss below LOSS_FLOOR is drawn there; what is absent or not finite is a hole.
    ValueError if there are no rows, or two for one place. Source: Tramèr et al. 2017, Figures 2 and 3.
    """
    from matplotlib.figure import Figure

    if surface.empty:
        raise ValueError("no surfaces to draw")
    groups = surface.groupby(["point", "window"], sort=False)
    grids = {key: part.pivot(index="e2", columns="e1", values="loss") for key, part in groups}
    points = list(dict.fromkeys(surface["point"]))
    tall = 3.9 * len(points)
    figure = Figure(figsize=(16, tall))
    edges = {"left": 0.035, "right": 0.95, "bottom": 0.8 / tall, "top": 1 - 0.55 / tall}
    widths = (1.3, 1, 0.045, 0.28, 1.3, 1, 0.045)
    spec = figure.add_gridspec(len(points), 7, width_ratios=widths, wspace=0.17, hspace=0.42, **edges)
    for (point, window), grid in grids.items():
        if not (grid < inf).any(axis=None):
            continue
        down, across = points.index(point), 4 * (window == "zoom")
        solid = figure.add_subplot(spec[down, across], projection="3d")
        flat, bar = (figure.add_subplot(spec[down, across + i]) for i in (1, 2))
        draw_loss(solid, flat, bar, grid)
        flat.set(xlabel=f"ε₁ along sign(∇ {first})", ylabel=f"ε₂ along sign(∇ {second})")
        solid.set_title(f"{point}, {window}", fontsize=11, loc="left", y=1, pad=8)
        if window == "whole" and (point, "zoom") in grids:
            (left, *_, right), (bottom, *_, top) = grids[point, "zoom"].columns, grids[point, "zoom"].index
            box = [left, right, right, left, left], [bottom, bottom, top, top, bottom]
            flat.plot(*box, color=WARNING, linewidth=1.4, clip_on=False)
    figure.text(0.5, 0.1 / tall, "dot: the point itself; box: the zoom", fontsize=8, color="0.35", ha="center")
    save(figure, path)


def draw_loss(solid: Any, flat: Any, bar: Any, grid: pd.DataFrame) -> None:
    """One grid (e2 down, e1 across) as a surface, as contours with the point itself, and the colours of both."""
    import numpy as np

    height = np.ma.log10(np.ma.masked_invalid(grid.clip(lower=LOSS_FLOOR)))
    low, high = height.min(), max(height.max(), height.min() + log10(2))  # noise on a plain stays a plain
    ticks = loss_ticks(low, high)
    e1, e2 = np.meshgrid(grid.columns, grid.index)
    colours = {"cmap": LOSS_COLOURS, "vmin": low, "vmax": high}
    solid.plot_surface(e1, e2, height, rstride=1, cstride=1, edgecolor=(0, 0, 0, 0.18), linewidth=0.25, **colours)
    solid.locator_params(nbins=4)
    solid.set_zticks(list(ticks), list(ticks.values()))
    solid.set(zlim=(low, high), xlabel="ε₁", ylabel="ε₂")
    solid.set_zlabel("loss", labelpad=6)
    for axis, pad in {"x": -1, "y": -1, "z": 3}.items():
        solid.tick_params(axis=axis, labelsize=7, pad=pad)
    solid.view_init(elev=30, azim=-120)  # from the corner of the point itself: loss rises away from it
    solid.set_box_aspect((1, 1, 0.75), zoom=1.15)
    filled = flat.contourf(e1, e2, height, levels=np.linspace(low, high, 33), **colours)
    inside = [tick for tick in ticks if height.min() < tick < height.max()]
    if inside:
        flat.contour(e1, e2, height, levels=inside, colors="white", linewidths=0.7, linestyles="solid", alpha=0.8)
    flat.plot(0, 0, "o", color="0.15", mfc="white", markersize=6, clip_on=False, zorder=5)
    flat.tick_params(labelsize=8)
    flat.locator_params(nbins=5)
    flat.figure.colorbar(filled, cax=bar).set_ticks(list(ticks), labels=list(ticks.values()), fontsize=8)
    bar.set_title("loss", fontsize=8)


def loss_ticks(low: float, high: float) -> dict[float, str]:
    """Round losses between two heights (log10 of losses), by height: decades, or finer where those would be few."""
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        if len(ticks) < 3:
            losses = [step * 10.0**decade for decade in range(floor(low), ceil(high) + 1) for step in steps]
            ticks = [loss for loss in losses if low - 1e-9 <= log10(loss) <= high + 1e-9]
    return {log10(loss): f"{'≤ ' if loss == LOSS_FLOOR else ''}{loss:.2g}" for loss in ticks}


def save(figure: Any, path: Path) -> None:
    """PNG without dates or versions: the same rows give the same bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, png.getvalue())
