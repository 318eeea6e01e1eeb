"""Values over x as lines or bars, and histograms, each with its 95 % intervals and the paper's values."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from epsball.output.plot import GREY, LINE_COLOURS, MARKERS, add_legend, apart, lattice, save
from epsball.results.rows import eps_label

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["line", "histogram", "bar"]
FEW = 12  # values of x up to which each has a marker and a tick
BAR, CHARACTER, ROW = 0.17, 0.07, 10.5  # inches: a bar, a letter of a tick, panels side by side
DASHES = ("-", (0, (4, 1.6)), (0, (1, 1)))
CURVE: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.55, "solid_capstyle": "round", "zorder": 3}
"""one of many of a line"""


@dataclass(frozen=True)
class Drawing:
    """How the points of a figure are drawn."""

    kind: Kind
    x: str
    """the axis' label"""
    y: str
    log_x: bool
    log_y: bool
    y_range: tuple[float, float]
    """what y can be: (0, 100) for a rate in per cent"""
    names: Sequence[str]
    """values of x in their order, where they are names and no numbers"""


class Style(NamedTuple):
    """What tells a line from the others."""

    colour: str
    marker: str
    dash: Any
    place: float
    """of its bar among those of one x, from -0.5 to 0.5"""
    width: float
    """of its bar"""


def draw_figure(points: "pd.DataFrame", drawing: Drawing, path: Path) -> None:
    """Draw `points` (columns panel, line, x, y, low, high, paper; of a histogram bin_low and bin_high; of curves each),
    axes for each panel and a colour for each line, both in order of appearance. What a log scale cannot show is left
    out."""
    points = positioned(points, drawing)
    panels, lines = (list(dict.fromkeys(points[name])) for name in ("panel", "line"))
    styles, ends = styles_of(lines), y_ends(points, drawing)
    width, height = panel_size(points, drawing)
    handles = list(legend(points, drawing, styles))
    figure, grid = lattice(len(panels), width, height, max(1, int(ROW / width)), handles)
    for axes, panel in zip(grid, panels, strict=False):
        set_axes(axes, points, drawing, ends, width)
        mine = points[points["panel"] == panel]
        for line, own in mine.groupby("line", sort=False):
            DRAW[drawing.kind](axes, own, styles[str(line)], ends)
        axes.set_title(plain(panel), fontsize=11, pad=8)
    figure.supxlabel(plain(drawing.x), fontsize=10)
    figure.supylabel(plain(drawing.y), fontsize=10)
    add_legend(figure, handles)
    save(figure, path)


def plain(text: str) -> str:
    """Return a text as matplotlib shows it unchanged, in lines that fit beside the axes."""
    return textwrap.fill(text, 32).replace("$", r"\$")


def positioned(points: "pd.DataFrame", drawing: Drawing) -> "pd.DataFrame":
    """Add `at`, where a point stands on the x axis, and sort by it within each line. NaN where a log scale has no such
    place."""
    if drawing.log_y:
        points = points.assign(**{name: points[name].where(points[name] > 0) for name in ("y", "paper")})
    if drawing.kind == "histogram":
        return points
    names = side_by_side(points, drawing)
    at = points["x"].map({name: float(i) for i, name in enumerate(names)}) if names else points["x"].astype(float)
    order = points.groupby(["panel", "line"], sort=False).ngroup()
    found = points.assign(at=at.where(at > 0) if drawing.log_x else at, order=order)
    return found.sort_values(["order", "at"], kind="stable")


def side_by_side(points: "pd.DataFrame", drawing: Drawing) -> list[Any]:
    """Return the values of x that stand side by side, as names and bars do; nothing where x is a scale."""
    found = list(dict.fromkeys(points["x"]))
    if drawing.names:
        return [name for name in drawing.names if name in found]
    if any(isinstance(x, str) for x in found):
        return found
    return sorted(found) if drawing.kind == "bar" else []


def styles_of(lines: Sequence[str]) -> dict[str, Style]:
    """Give each line its style; those after the last colour are dashed."""
    width = 0.8 / max(len(lines), 1)
    dashes = [dash for dash in DASHES for _ in LINE_COLOURS]
    looks = zip(lines, cycle(LINE_COLOURS), cycle(MARKERS), cycle(dashes), strict=False)
    return {
        line: Style(colour, marker, dash, (i - (len(lines) - 1) / 2) * width, width)
        for i, (line, colour, marker, dash) in enumerate(looks)
    }


def panel_size(points: "pd.DataFrame", drawing: Drawing) -> tuple[float, float]:
    """Return width and height of a panel in inches: a panel by itself is wider, and bars need room."""
    width, height = (5.0, 3.5) if points["panel"].nunique() == 1 else (3.4, 3.1)
    if drawing.kind == "bar":
        width = max(width, BAR * points["at"].nunique() * (points["line"].nunique() + 1) + 0.6)
    return width, height


def y_ends(points: "pd.DataFrame", drawing: Drawing) -> tuple[float, float]:
    """Return the ends of the y axis, of all panels: a little beyond what is finite, and 0 unless the scale is log."""
    drawn = ("y", "paper") if drawing.kind == "histogram" else ("y", "low", "high", "paper")
    values = [value for name in drawn for value in points[name]]
    known = [value for value in values if isfinite(value) and (value > 0 or not drawing.log_y)] or [1.0]
    least, most = drawing.y_range
    if drawing.log_y:
        return min(known) / 1.3, min(max(known) * 1.3, most)
    bottom, top = max(1.05 * min(*known, 0.0), least), min(1.05 * max(*known, 0.0), most)
    return (bottom, top) if bottom < top else (0.0, 1.0)


def set_axes(axes: Any, points: "pd.DataFrame", drawing: Drawing, ends: tuple[float, float], width: float) -> None:
    """Give a panel, so many inches wide, its scales, ticks and grid."""
    axes.set_xscale("log" if drawing.log_x else "linear")
    axes.set_yscale("log" if drawing.log_y else "linear")
    axes.set_ylim(*ends)
    axes.tick_params(labelsize=8, length=0, which="both")
    if drawing.log_y:
        set_log_ticks(axes.yaxis, *ends)
    if drawing.kind == "histogram":
        axes.set_xlim(points["bin_low"].min(), points["bin_high"].max())
        if drawing.log_x:
            set_log_ticks(axes.xaxis, *axes.get_xlim())
    elif names := side_by_side(points, drawing):
        axes.set_xlim(-0.5, len(names) - 0.5)
        set_names(axes, [tick_text(name, drawing) for name in names], width)
    else:
        set_x_ticks(axes, sorted(set(points["at"].dropna())), drawing)
    axes.grid(color="0.9", linewidth=0.8, axis="both" if drawing.kind == "line" else "y")
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def set_names(axes: Any, names: Sequence[str], width: float) -> None:
    """Write names under the axis, aslant where one of them would run into the next."""
    long = max(map(len, names)) * CHARACTER > 0.9 * width / len(names)
    aslant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(names)), names, **aslant)


def set_x_ticks(axes: Any, values: Sequence[float], drawing: Drawing) -> None:
    """Put ticks at the values themselves where they are few, else where they are round."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    if len(values) <= FEW:
        ticks = apart(values, log10 if drawing.log_x else float)
        axes.set_xticks(ticks, [tick_text(tick, drawing) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif drawing.log_x:
        set_log_ticks(axes.xaxis, values[0], values[-1])
    else:
        whole = all(float(value).is_integer() for value in values)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=whole))


def set_log_ticks(axis: Any, low: float, high: float) -> None:
    """Put ticks at powers of ten, and between them where they are few; plain numbers where these are short."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_minor_locator(NullLocator())
    if low >= 1e-4 and high <= 1e4:
        axis.set_major_formatter(FormatStrFormatter("%g"))


def tick_text(x: float | str, drawing: Drawing) -> str:
    if isinstance(x, str):
        return plain(x)
    return eps_label(x) if drawing.x == "eps" else f"{x:g}"


def draw_line(axes: Any, own: "pd.DataFrame", style: Style, ends: tuple[float, float]) -> None:
    """Draw a line with the band of its intervals; a point by itself has a bar. Where it has curves, draw these."""
    if "each" in own and own["each"].notna().any():
        for _, curve in own.groupby("each", sort=False):
            axes.plot(curve["at"], curve["y"], color=style.colour, linestyle=style.dash, **CURVE)
        return
    at, y, paper = (own[name].to_numpy(dtype=float) for name in ("at", "y", "paper"))
    low, high = (own[name].clip(*ends).to_numpy(dtype=float) for name in ("low", "high"))
    few = len(own) <= FEW
    axes.fill_between(at, low, high, color=style.colour, alpha=0.15, linewidth=0)
    if len(own) == 1:
        axes.vlines(at, low, high, color=style.colour, linewidth=1.2)
    marks = {"marker": style.marker, "mec": "white", "mew": 0.6, "markersize": 6} if few else {}
    axes.plot(at, y, color=style.colour, linestyle=style.dash, linewidth=1.8, clip_on=False, zorder=3, **marks)
    hollow = {"marker": style.marker, "mfc": "none", "mec": style.colour, "mew": 1.3, "markersize": 9}
    axes.plot(at, paper, linestyle="none", clip_on=False, zorder=4, **hollow)


def draw_bars(axes: Any, own: "pd.DataFrame", style: Style, ends: tuple[float, float]) -> None:
    """Draw one bar of each group, with its interval."""
    at, y, paper = (own[name].to_numpy(dtype=float) for name in ("at", "y", "paper"))
    low, high = (own[name].clip(*ends).to_numpy(dtype=float) for name in ("low", "high"))
    at = at + style.place
    axes.bar(at, y, 0.92 * style.width, color=style.colour, alpha=0.85, zorder=2)
    axes.vlines(at, low, high, color="0.15", linewidth=1.1, zorder=3)
    hollow = {"marker": "D", "mfc": "white", "mec": "0.15", "mew": 1.1, "markersize": 5}
    axes.plot(at, paper, linestyle="none", clip_on=False, zorder=4, **hollow)


def draw_histogram(axes: Any, own: "pd.DataFrame", style: Style, ends: tuple[float, float]) -> None:
    """Draw steps over a transparent area; a bin that is missing leaves a gap."""
    edges = sorted({*own["bin_low"], *own["bin_high"]})
    shares = dict(zip(own["bin_low"], own["y"], strict=True))
    heights = [shares.get(edge, float("nan")) for edge in edges[:-1]]
    axes.stairs(heights, edges, baseline=ends[0], fill=True, color=style.colour, alpha=0.16, linewidth=0)
    axes.stairs(heights, edges, baseline=None, color=style.colour, linewidth=1.5, linestyle=style.dash, zorder=3)


DRAW: Mapping[Kind, Callable[..., None]] = {"line": draw_line, "bar": draw_bars, "histogram": draw_histogram}


def legend(points: "pd.DataFrame", drawing: Drawing, styles: Mapping[str, Style]) -> Iterator[Any]:
    """Explain the lines and, apart from them, intervals and the paper's values."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    few = drawing.kind == "line" and points["x"].nunique() <= FEW
    for line, style in styles.items():
        name = textwrap.fill(plain(line), 24)
        if drawing.kind == "line":
            marks: dict[str, Any] = {"marker": style.marker, "mec": "white", "mew": 0.6} if few else {}
            yield Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=1.8, label=name, **marks)
        else:
            yield Patch(facecolor=style.colour, alpha=0.85, label=name)
    interval, paper = (bool(points[name].notna().any()) for name in ("low", "paper"))
    if (interval and drawing.kind != "histogram") or paper:
        yield Line2D([], [], linestyle="none", label=" ")
    if interval and drawing.kind == "line":
        yield Patch(facecolor=GREY, alpha=0.2, label="95 % interval")
    if interval and drawing.kind == "bar":
        yield Line2D([], [], color="0.15", marker="|", markersize=9, linestyle="none", label="95 % interval")
    if paper:
        look = ("D", "white") if drawing.kind == "bar" else ("o", "none")
        yield Line2D([], [], marker=look[0], mfc=look[1], color=GREY, mew=1.2, linestyle="none", label="the paper")
