"""Error against eps, a line per source, target and attack."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epsball.output.plot import GREY, MARKERS, add_legend, apart, lattice, line_colours, save
from epsball.results.intervals import error_estimates
from epsball.results.rows import eps_label, error_rows, with_dataset_names

if TYPE_CHECKING:
    import pandas as pd

Line = tuple[str, str]
"""(source, attack)"""
CURVE: dict[bool, dict[str, Any]] = {  # by whether it is white-box
    True: {"linestyle": "-", "linewidth": 2.4, "zorder": 4},
    False: {"linestyle": (0, (4, 1.6)), "linewidth": 1.2, "zorder": 3},
}


def draw_error_by_eps(rows: "pd.DataFrame", path: Path) -> bool:
    """Draw error over eps, one panel per target, a line per (source, attack) that was run with two eps or more.

    Gradient masking shows as error that does not rise with eps, or white-box lines (solid) below black-box ones
    (dashed). Lines start at the clean error; bands are 95 % intervals, of several seeds' mean where there are several.
    False, and no file, where there is no line. Source: Tramèr et al. 2017, section 3.3.
    """
    lines = curves(rows)
    if not lines:
        return False
    targets, _, attacks = (list(dict.fromkeys(key[part] for key in lines)) for part in range(3))
    colours, markers = colours_of(lines), dict(zip(attacks, cycle(MARKERS)))
    legend = curve_legend(colours, markers, {source == target for target, source, _ in lines})
    figure, grid = lattice(len(targets), 3.3, 3.0, legend=legend)
    for axes, target in zip(grid, targets, strict=False):
        draw_curves(axes, {key: line for key, line in lines.items() if key[0] == target}, colours, markers)
    figure.supxlabel("eps", fontsize=10)
    figure.supylabel("error, per cent", fontsize=10)
    add_legend(figure, legend)
    save(figure, path)
    return True


def curves(rows: "pd.DataFrame") -> "dict[tuple[str, str, str], pd.DataFrame]":
    """Return, for each (target, source, attack) with two eps above 0, its errors and their intervals by eps, from the
    clean one on."""
    import pandas as pd

    rows = error_rows(rows)
    if rows.empty:
        return {}
    cells = error_estimates(with_dataset_names(rows)).dropna()
    lines = {}
    for target, shown in cells.groupby("target", sort=False):
        clean = shown["attack"] == "clean"
        for (source, attack), own in shown[~clean].groupby(["source", "attack"], sort=False):
            if (own["eps"] > 0).sum() >= 2:
                line = pd.concat([shown[clean], own])
                key = str(target), str(source), str(attack)
                lines[key] = line.drop_duplicates("eps", keep="last").sort_values("eps")
    return lines


def colours_of(lines: Iterable[tuple[str, str, str]]) -> dict[Line, str]:
    """Return the colour of each (source, attack): the source's, or the attack's where no target has several sources."""
    lines = list(lines)
    panels = {(target, source) for target, source, _ in lines}
    told_by = 1 if len(panels) > len({target for target, _ in panels}) else 2
    names = list(dict.fromkeys(line[told_by] for line in lines))
    colours = dict(zip(names, line_colours(len(names)), strict=True))
    return {line[1:]: colours[line[told_by]] for line in lines}


def draw_curves(
    axes: Any, lines: "Mapping[Any, pd.DataFrame]", colours: Mapping[Line, str], markers: Mapping[str, str]
) -> None:
    """Draw one target's lines with their bands, markers on the attacks' errors and another on the clean one."""
    import pandas as pd

    for (target, source, attack), line in lines.items():
        eps, error = line["eps"].to_numpy(), 100 * line["error_top1"].to_numpy()
        low, high = (100 * line[f"error_top1_{side}"].to_numpy() for side in ("low", "high"))
        colour = colours[source, attack]
        axes.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
        style = {"color": colour, "marker": markers[attack], "mec": "white", "clip_on": False}
        own = list((line["attack"] != "clean").to_numpy().nonzero()[0])
        axes.plot(eps, error, markevery=own, mew=0.6, **style, **CURVE[source == target])
    every = pd.concat(list(lines.values()))
    for clean in every.loc[every["attack"] == "clean", "error_top1"].unique():
        axes.plot(0, 100 * clean, "o", color="0.15", mfc="white", markersize=5, zorder=5, clip_on=False)
    ticks = apart(every["eps"], fixed=[0.0])
    axes.set_xticks(ticks, [eps_label(eps) for eps in ticks])
    axes.set(xlim=(0, 1.03 * every["eps"].max()), ylim=(0, 100))
    axes.set_title(f"target {target}", fontsize=11, pad=8)
    axes.tick_params(labelsize=8, length=0)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def curve_legend(colours: Mapping[Line, str], markers: Mapping[str, str], boxes: set[bool]) -> list[Any]:
    """Explain sources and attacks, by colour what it tells apart, attacks by marker, and white-box and black-box by
    line, each group apart from the next."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey: dict[str, Any] = {"color": GREY}
    blank = Line2D([], [], linestyle="none", label=" ")
    own = {name: common(colours, 0, name) for name in dict.fromkeys(source for source, _ in colours)}
    sources = [Line2D([], [], color=colour, linewidth=2.4, label=f"from {name}") for name, colour in own.items()]
    attacks = [
        Line2D([], [], marker=marker, linestyle="none", label=name, color=common(colours, 1, name))
        for name, marker in markers.items()
    ]
    clean = Line2D([], [], marker="o", linestyle="none", mfc="white", label="clean", **grey)
    names = {True: "white-box", False: "black-box"}
    styles = [Line2D([], [], label=names[box], **grey, **CURVE[box]) for box in sorted(boxes, reverse=True)]
    band = Patch(facecolor=GREY, alpha=0.2, label="95 % interval")
    return [*sources, blank, *attacks, clean, blank, *styles, band]


def common(colours: Mapping[Line, str], part: int, name: str) -> str:
    """Return the colour that all lines of a source (part 0) or an attack (1) have, grey where they differ."""
    found = {colour for line, colour in colours.items() if line[part] == name}
    return found.pop() if len(found) == 1 else GREY
