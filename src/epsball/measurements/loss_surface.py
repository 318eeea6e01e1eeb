"""The loss on a plane through an image (Tramèr et al. 2017, Figures 2 and 3)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, inf, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from epsball.attacks import NamedAttack
from epsball.attacks.attack import Attack, craft
from epsball.attacks.losses import input_gradient
from epsball.build import require
from epsball.data.images import Batched
from epsball.measurements.measurement import Measurement, Row, Rows, Scope, Setup, Workload, one_seed
from epsball.measurements.violations import Reach
from epsball.models.predictions import mistakes
from epsball.output.pages import Section
from epsball.output.plot import WARNING, save
from epsball.output.tables import write_csv
from epsball.results.distributions import mean_and_sd

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["mean", "drawn"]
PARTS: Sequence[Part] = ("mean", "drawn")
"""what is kept: the mean losses, on which claims rest, and those of single images, which are drawn"""
LOSS_FLOOR = 1e-4
LOSS_COLOURS = "viridis"
WINDOWS = {"whole": "surface", "zoom": "surface_zoom"}
"""the two parts of the plane, and what their rows have as attack"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossSurface(Measurement):
    """The loss of `model` on x + e1 sign(g1) + e2 sign(g2), g1 its own gradient and g2 that of `other` (Tramèr et al.
    2017, Figures 2 and 3), around images that it gets right and whose example by the one attack on `other` fools it."""

    model: str
    other: str
    extent: float
    """the largest e1 and e2"""
    zoom: float
    """the same near the image"""
    grid: int
    """values of e1, and of e2"""
    points: int
    """how many images are drawn"""
    averaged: int
    """over how many images the mean is taken, on which claims rest"""
    clip: bool
    """whether x* is clipped to [0, 1]; the formula of Figure 2 does not say so, section 2.2 clips all attacks"""

    def __post_init__(self) -> None:
        require(0 < self.zoom < self.extent <= 1, f"zoom should be in (0, extent), is {self.zoom} of {self.extent}")
        require(self.grid >= 2, f"grid should be at least 2, is {self.grid}")
        require(1 <= self.points <= self.averaged, f"points should be in [1, averaged], is {self.points}")

    @property
    def makes(self) -> tuple[str, ...]:
        return ("surface", "surface_zoom")

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        for field, name in (("model", self.model), ("other", self.other)):
            require(name in sources, f"{field} names {name!r}: the sources are {', '.join(sources)}")
        require(len(attacks) == 1, f"name loss_surface needs one attack, has {len(attacks)}: suite=fgsm attack=none")

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return list(dict.fromkeys((self.model, self.other)))

    def workload(self, setup: Setup) -> Workload:
        """Return both models unless the mean losses are finished, and with them the single images that are drawn:
        whoever gives rows gives the means alone."""
        identity = setup.identity(self.what(setup, "mean"), self.other, self.model)
        needed: Sequence[Part] = PARTS if setup.given.find(identity) is None else ["mean"]
        missing = any(self.find(setup, part) is None for part in needed)
        return Workload(frozenset((self.model, self.other) if missing else ()))

    def measure(self, setup: Setup) -> Rows:
        found = {part: self.find(setup, part) for part in PARTS}
        if self.workload(setup).models and not setup.skips:
            for part, measured in zip(PARTS, self.measure_losses(setup), strict=True):
                if found[part] is None:
                    found[part] = setup.keep(self.what(setup, part), self.other, self.model, measured)
        rows = [setup.row(row, self.other, self.model, row["attack"], row["eps"]) for row in found["mean"] or ()]
        images = [{name: value for name, value in row.items() if name != "identity"} for row in found["drawn"] or ()]
        return {"results": rows, "surface": images}

    def find(self, setup: Setup, part: Part) -> list[Row] | None:
        """Return the finished rows of a part, None where there are none."""
        return setup.find(self.what(setup, part), self.other, self.model)

    def what(self, setup: Setup, part: Part) -> object:
        """What is measured, for the rows' identity."""
        fields = {name: value for name, value in asdict(self).items() if name not in ("model", "other")}
        if part == "mean":
            del fields["points"]
        loss = setup.loss_identity(self.model, self.other)
        return {"surface": part, "attack": setup.attacks[0].identity, **fields, **loss}

    def measure_losses(self, setup: Setup) -> tuple[list[Row], list[Row]]:
        """Return the mean losses of both windows, and the losses of the images that are drawn."""
        model, other, named = setup.models[self.model], setup.models[self.other], setup.attacks[0]
        index = find_transferring(
            other,
            model,
            named.attack,
            setup.batched(),
            setup.generator(named, self.other),
            self.averaged,
            f"{named.name} eps {named.attack.eps:g} on {self.other}",
        )
        if len(index) == 0:
            message = "no example of %s crafted on %s fools %s: there is no surface"
            log.warning(message, named.name, self.other, self.model)
        images = setup.test.only(index)
        means: list[Row] = []
        drawn: list[Row] = []
        for window, name in WINDOWS.items():
            steps = torch.linspace(0, {"whole": self.extent, "zoom": self.zoom}[window], self.grid)
            losses = losses_on_grid(model, (model, other), setup.batched(images), steps, self.clip)
            means += [mean_row(name, losses, steps, i, j) for i, j in grid(self.grid)]
            drawn += self.drawn(window, losses, steps, index.tolist(), images.y.tolist())
        return means, drawn

    def drawn(self, window: str, losses: Tensor, steps: Tensor, index: list[int], labels: list[int]) -> list[Row]:
        """Return the grid of each image that is drawn, and of the mean."""
        named = {f"image {i} (a {label})": losses[k] for k, (i, label) in enumerate(zip(index, labels, strict=True))}
        chosen = dict(list(named.items())[: self.points])
        if len(index):
            chosen[f"mean of {len(index)}"] = losses.mean(0)
        return [
            {
                "point": point,
                "window": window,
                "e1": float(steps[i]),
                "e2": float(steps[j]),
                "loss": float(values[i, j]),
            }
            for point, values in chosen.items()
            for i, j in grid(self.grid)
        ]

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        surface = mean_surface(frames["results"]) if frames["surface"].empty else frames["surface"]
        if surface.empty:
            return [Section("Loss surface", f"No example crafted on {self.other} fools {self.model}.")]
        write_csv(surface, folder / "surface.csv")
        image = folder / "loss_surface.png"
        draw_loss_surfaces(one_seed(surface), image, self.model, self.other)
        text = f"Loss of {self.model} on x + e1 sign(gradient of {self.model}) + e2 sign(gradient of {self.other})."
        return [Section("Loss surface", text, image=image)]

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return f"{frames['surface']['point'].nunique() if len(frames['surface']) else 0} loss surfaces\n"


def mean_row(name: str, losses: Tensor, steps: Tensor, i: int, j: int) -> Row:
    """Return the mean loss over all chosen images at one place of the grid."""
    at, e1, e2 = losses[:, i, j], round(float(steps[i]), 6), round(float(steps[j]), 6)
    row = {"attack": name, "eps": max(e1, e2), "n": len(at), "e1": e1, "e2": e2}
    return {**row, **mean_and_sd("loss", at.numpy())}


def mean_surface(results: "pd.DataFrame") -> "pd.DataFrame":
    """Return the mean losses as rows of a surface: all that is known where the rows were given by the user."""
    import pandas as pd

    windows = {name: window for window, name in WINDOWS.items()}
    own = results[results["attack"].isin(list(windows))]
    if own.empty or not (own["n"] > 0).any():
        return pd.DataFrame()
    point = "mean of " + own["n"].astype(int).astype(str)
    columns = {"point": point, "window": own["attack"].map(windows), "loss": own["loss_mean"]}
    return own[["seed", "e1", "e2"]].assign(**columns)


def grid(size: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(size) for j in range(size))


def find_transferring(
    source: nn.Module,
    target: nn.Module,
    attack: Attack,
    test: Batched,
    generator: Generator,
    most: int,
    title: str,
) -> Tensor:
    """Return the places of the first test images, `most` at most, that the target gets right and whose example crafted
    on the source fools it. Raises Violation when an example is outside the pixel range or the eps-ball."""
    found: list[Tensor] = []
    reach = Reach(title, attack.eps)
    for number, (x, y) in enumerate(test):
        right = ~mistakes(target, x, y).top1
        x_adv = craft(attack, source, x, y, generator)
        reach.add(x_adv, x)
        fooled = mistakes(target, x_adv, y).top1
        found.append((right & fooled).nonzero().flatten() + number * test.size)
        if sum(map(len, found)) >= most:
            break
    reach.checked()
    return torch.cat(found)[:most]


def losses_on_grid(
    model: nn.Module, along: tuple[nn.Module, nn.Module], images: Batched, steps: Tensor, clip: bool
) -> Tensor:
    """Return (N, S, S) losses on x + steps[i] sign(g1) + steps[j] sign(g2), g1 and g2 the gradients of `along`."""
    losses = torch.empty(len(images), len(steps), len(steps), device=images.device)
    parts = torch.split(losses, images.size)  # of no image one, which is empty
    for part, (x, y) in zip(parts, images, strict=False):
        first, second = (input_gradient(one, x, y).sign() for one in along)
        for i, e1 in enumerate(steps.tolist()):
            for j, e2 in enumerate(steps.tolist()):
                images.stop.check()
                moved = x + e1 * first + e2 * second
                with torch.no_grad():
                    part[:, i, j] = F.cross_entropy(model(moved.clamp(0, 1) if clip else moved), y, reduction="none")
    return losses.cpu()


def draw_loss_surfaces(surface: "pd.DataFrame", path: Path, first: str, second: str) -> None:
    """Draw the loss on x + e1 sign(gradient of `first`) + e2 sign(gradient of `second`), one line of panels a point.

    One row per (point, window, e1, e2), window "whole" or "zoom", with its loss; each (point, window) is a grid, at
    least 2 x 2, with its own colours on a log scale. Loss below LOSS_FLOOR is drawn there; what is absent or not finite
    is a hole. ValueError if there are no rows, or two for one place. Source: Tramèr et al. 2017, Figures 2 and 3.
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


def draw_loss(solid: Any, flat: Any, bar: Any, grid: "pd.DataFrame") -> None:
    """Draw one grid (e2 down, e1 across) as a surface, as contours with the point itself, and the colours of both."""
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
    """Return round losses between two heights (log10 of losses), by height: decades, or finer ones if few."""
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        if len(ticks) < 3:
            losses = [step * 10.0**decade for decade in range(floor(low), ceil(high) + 1) for step in steps]
            ticks = [loss for loss in losses if low - 1e-9 <= log10(loss) <= high + 1e-9]
    return {log10(loss): f"{'≤ ' if loss == LOSS_FLOOR else ''}{loss:.2g}" for loss in ticks}
