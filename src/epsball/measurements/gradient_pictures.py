"""Originals, signed gradients and perturbed images (Tramèr et al. 2017, Figure 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from epsball.attacks import NamedAttack
from epsball.attacks.attack import Attack, craft
from epsball.attacks.losses import input_gradient
from epsball.build import require
from epsball.data.images import Images, in_batches
from epsball.measurements.measurement import Measurement, Rows, Scope, Setup, Workload, one_seed
from epsball.measurements.violations import Reach
from epsball.output.pages import Section
from epsball.output.plot import DPI, WARNING, save
from epsball.results.rows import as_dicts, eps_label

if TYPE_CHECKING:
    import pandas as pd

CAPTION: dict[bool, dict[str, str]] = {True: {"color": "0.35"}, False: {"color": WARNING, "weight": "bold"}}
PICTURES_PER_LINE = 12


@dataclass(frozen=True)
class GradientPictures(Measurement):
    """Originals, signed gradients and examples (Tramèr et al. 2017, Figure 1), of each attack on each source."""

    images: int
    """how many of each class, the first of the test set"""

    def __post_init__(self) -> None:
        require(self.images >= 1, f"images should be at least 1, is {self.images}")

    def check(self, sources: Sequence[str], targets: Sequence[str], attacks: Sequence[NamedAttack]) -> None:
        require(bool(attacks), "name gradient_pictures needs an attack: suite=fgsm")

    def clean_models(self, scope: Scope) -> Sequence[str]:
        return scope.sources

    def workload(self, setup: Setup) -> Workload:
        """Return all sources: pictures are not kept."""
        return Workload(frozenset(setup.sources))

    def measure(self, setup: Setup) -> Rows:
        if setup.skips:
            return {"results": [], "pictures": []}
        x, y, index = first_of_each_class(setup.test, self.images)
        found = []
        for named in setup.attacks:
            for source in setup.sources:
                setup.stop.check()
                generator = setup.generator(named, source)
                reach = Reach(f"{named.name} eps {named.attack.eps:g} on {source}", named.attack.eps)
                drawn = [
                    picture
                    for some, labels in in_batches(setup.batch_size, x, y)
                    for picture in picture_gradients(setup.models[source], named.attack, some, labels, generator, reach)
                ]
                reach.checked()
                key = {"model": source, "attack": named.name, "eps": named.attack.eps}
                places = zip(index.tolist(), y.tolist(), drawn, strict=True)
                found += [{**key, "image": i, "label": label, **picture} for i, label, picture in places]
        return {"results": [], "pictures": found}

    def present(self, frames: Mapping[str, "pd.DataFrame"], folder: Path) -> list[Section]:
        sections: list[Section] = []
        if frames["pictures"].empty:
            return sections
        for (attack, eps), shown in one_seed(frames["pictures"]).groupby(["attack", "eps"], sort=False):
            image = folder / f"gradients_{attack}_{eps:g}.png"
            draw_gradient_pictures(shown, image)
            sections.append(Section(f"Original, signed gradient, {attack} at eps {eps:g}", image=image))
        return sections

    def say(self, frames: Mapping[str, "pd.DataFrame"]) -> str:
        return f"{len(frames['pictures'])} pictures\n"


def first_of_each_class(test: Images, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first `number` test images of each class, class by class: images, labels, places."""
    places = [(test.y == label).nonzero().flatten()[:number] for label in torch.unique(test.y)]
    index = torch.cat(places)
    return *test.take(index), index


def picture_gradients(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, generator: Generator, reach: Reach
) -> list[dict[str, Any]]:
    """Return images, signed gradients and examples, as arrays (C, H, W), and what the model takes them for; `reach` is
    told how far the examples lie from the images."""
    x_adv, sign = craft(attack, model, x, y, generator), input_gradient(model, x, y).sign()
    reach.add(x_adv, x)
    with torch.no_grad():
        predicted, predicted_adv = model(x).argmax(1), model(x_adv).argmax(1)
    return [
        {"original": a, "gradient": g, "perturbed": b, "predicted": int(p), "predicted_adv": int(p_adv)}
        for a, g, b, p, p_adv in zip(
            x.cpu().numpy(), sign.cpu().numpy(), x_adv.cpu().numpy(), predicted, predicted_adv, strict=True
        )
    ]


def draw_gradient_pictures(pictures: "pd.DataFrame", path: Path) -> None:
    """Draw, per model, images, signed gradients and perturbed images, with the classes that the model predicts.

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


def draw_block(figure: Any, block: "pd.DataFrame", spec: Any, first: bool) -> None:
    """Draw one model's three lines of pictures in `spec`; what they are stands beside the `first` block."""
    for across, row in enumerate(as_dicts(block)):
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


def name_lines(grid: list[Any], block: "pd.DataFrame", first: bool) -> None:
    """Write the model above the leftmost pictures of its block and, if it is the `first`, what they are beside them."""
    outside = {"xycoords": "axes fraction", "textcoords": "offset points"}
    grid[0].annotate(str(block["model"].iloc[0]), (0, 1), (0, 31), fontsize=11, **outside)
    if first:
        eps = ", ".join(eps_label(eps) for eps in dict.fromkeys(block["eps"]))
        for axes, name in zip(grid, ("original", "sign of\ngradient", f"perturbed\neps {eps}"), strict=True):
            axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=8)
        grid[0].annotate("class", (0, 1), (-8, 4), ha="right", fontsize=9, **outside)
        grid[2].annotate("predicted", (0, 0), (-8, -4), ha="right", va="top", fontsize=9, **outside)


def as_rgb(picture: Any, lowest: float) -> Any:
    """(C, H, W) in [lowest, 1] as (H, W, 3) in [0, 1], one channel as grey, NaN in the colour of warnings."""
    import numpy as np
    from matplotlib.colors import to_rgb

    pixels = (np.moveaxis(np.asarray(picture, dtype=float), 0, -1) - lowest) / (1 - lowest)
    rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return np.where(np.isnan(rgb), to_rgb(WARNING), rgb).clip(0, 1)
