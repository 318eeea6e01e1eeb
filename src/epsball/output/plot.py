"""Grids of panels and files without dates, for all figures."""

import io
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from epsball.runtime.files import write_whole

DPI = 150
PANELS_PER_ROW = 4
LEGEND_LINE = 0.17  # inches
COLOURS = "YlGnBu"
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#555555")
"""that colour-blind readers tell apart, too"""
MARKERS = "os^DvPX*<>pHd8"
WARNING, GREY = "#d9480f", "0.35"


def line_colours(count: int) -> list[str]:
    """Return so many different colours: where they are more than LINE_COLOURS, of the whole rainbow."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(LINE_COLOURS):
        return list(LINE_COLOURS[:count])
    return [to_hex(colormaps["turbo"](i / (count - 1))) for i in range(count)]


def lattice(
    count: int, width: float, height: float, most: int = PANELS_PER_ROW, legend: Sequence[Any] = ()
) -> tuple[Any, list[Any]]:
    """Make a figure of `count` axes of so many inches, at most `most` in a row, and two for a legend, whose handles it
    is high enough for."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    down = ceil(count / most)
    across = ceil(count / down)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)  # inches
    lines = sum(1 + handle.get_label().count("\n") for handle in legend)
    figure = Figure(figsize=(across * width + 2, max(down * height, LEGEND_LINE * (lines + 1))), layout=layout)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in list(grid.flat)[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat)


def apart(values: Iterable[float], scale: Callable[[float], float] = float, fixed: Sequence[float] = ()) -> list[float]:
    """Return the `fixed` ticks and those of `values`, the largest first, whose labels do not run into one another."""
    falling = sorted(set(values), reverse=True)
    places = [scale(value) for value in (*fixed, *falling)]
    reach = max(places) - min(places) if places else 0.0
    kept = list(fixed)
    for value in falling:
        if all(abs(scale(value) - scale(other)) >= 0.14 * reach for other in kept):
            kept.append(value)
    return kept


def add_legend(figure: Any, handles: Sequence[Any]) -> None:
    """Put a legend beside the panels."""
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False, handlelength=3)


def save(figure: Any, path: Path) -> None:
    """Write a PNG without dates or versions: the same rows give the same bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, png.getvalue())
