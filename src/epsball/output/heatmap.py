"""The transfer matrix as a heatmap."""

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsball.output.plot import COLOURS, WARNING, lattice, save
from epsball.output.tables import four_characters
from epsball.results.rows import eps_label, error_rows, wide_matrix

if TYPE_CHECKING:
    import pandas as pd

LEGEND_WIDTH = 4.6  # inches; on narrower figures the legend takes two lines
LETTER_WIDTH = 0.1  # inches, of a title's


def draw_heatmap(rows: "pd.DataFrame", path: Path) -> None:
    """Draw error rates in per cent, one panel per (attack, eps): source down, target across, white-box cells outlined.

    Clean errors stand under the targets; unmeasured cells are hatched. With clean rows only, they are the panel.
    ValueError if no rows have an error.
    """
    if error_rows(rows).empty:
        raise ValueError("no rows to draw")
    per_cent = wide_matrix(rows) * 100
    attacks = [(attack, eps) for _, attack, eps in per_cent.index if attack != "clean"] or [("clean", 0.0)]
    panels = {key: panel(per_cent, *key) for key in dict.fromkeys(attacks)}
    figure, grid = canvas(panels)
    labels = target_labels(per_cent)
    for number, ((attack, eps), values) in enumerate(panels.items()):
        axes = grid[number]
        image = draw_panel(axes, values, labels)
        axes.set_title(title(attack, eps), fontsize=11, pad=8)
    bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.015, aspect=30)
    bar.set_label("error, per cent", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    legend = "rows: source; columns: target;{}outlined: white-box; hatched: not measured"
    between = " " if figure.get_figwidth() > LEGEND_WIDTH else "\n"
    figure.supxlabel(legend.format(between), fontsize=8, color="0.35")
    save(figure, path)


def title(attack: str, eps: float) -> str:
    """Return what stands above a panel."""
    return attack if attack == "clean" else f"{attack}\neps {eps_label(eps)}"


def panel(per_cent: "pd.DataFrame", attack: str, eps: float) -> "pd.DataFrame":
    """Return the source x target square of one attack; sources that never ran it are left out."""
    chosen = [key for key in per_cent.index if key[1] == attack and key[2] == eps]
    values = per_cent.loc[chosen]
    return values.set_axis([source for source, *_ in chosen], axis=0)


def target_labels(per_cent: "pd.DataFrame") -> list[str]:
    """Return each target's name with its clean error under it, where that was measured."""
    clean = per_cent[[attack == "clean" for _, attack, _ in per_cent.index]]
    if clean.empty or len(clean) == len(per_cent):
        return [str(target) for target in per_cent.columns]
    errors = clean.iloc[0]
    return [f"{t}\nclean {errors[t]:.1f}" if not isnan(errors[t]) else str(t) for t in per_cent.columns]


def canvas(panels: "dict[tuple[str, float], pd.DataFrame]") -> tuple[Any, list[Any]]:
    """Make a figure and its axes, at most PANELS_PER_ROW in a row, lines filled evenly, as large as the cells and
    their titles need."""
    height, width = (max(values.shape[side] for values in panels.values()) for side in (0, 1))
    longest = max(len(line) for key in panels for line in title(*key).splitlines())
    return lattice(len(panels), max(0.66 * width, LETTER_WIDTH * longest) + 0.5, 0.56 * height + 1.7)


def draw_panel(axes: Any, values: "pd.DataFrame", labels: list[str]) -> Any:
    """Draw colours, numbers, grid, outlines and hatching of one panel; return the image for the colour bar."""
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
    """Draw one cell's number in a colour readable on it, its hatching if unmeasured, its outline if white-box."""
    from matplotlib.patches import Rectangle

    if isnan(value):
        box = Rectangle((across - 0.5, down - 0.5), 1, 1, facecolor="0.93", edgecolor="0.7", hatch="////", linewidth=0)
        axes.add_patch(box)
    else:
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        text = four_characters(value)
        axes.text(across, down, text, ha="center", va="center", fontsize=9, color="white" if dark else "0.1")
    if white_box:
        outline = Rectangle((across - 0.46, down - 0.46), 0.92, 0.92, fill=False, edgecolor=WARNING, linewidth=1.8)
        outline.set_zorder(3)
        axes.add_patch(outline)
