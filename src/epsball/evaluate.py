"""The transfer matrix: craft on a source once, show the examples to every target. Counts in, rows out; no files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from epsball.attacks import Attack
from epsball.data import Split
from epsball.progress import Progress, Stop

Row = dict[str, float]
TOLERANCE = 1e-6  # float32 rounding of x + eps - x


class Violation(RuntimeError):
    """An attack left its eps-ball or the pixel range: its numbers would not mean what they say."""


@dataclass(frozen=True)
class Mistakes:
    """Which images a model gets wrong."""

    top1: Tensor  # (N,) booleans: the label is not the first guess
    top5: Tensor | None  # (N,) booleans: it is not among the first five; None with five classes or fewer
    seconds: float  # of wall clock, to find them


@torch.no_grad()
def mistakes(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return (N,) booleans: is the label not the first guess, not among the first five."""
    logits = model(x)
    top1 = logits.argmax(1) != y
    if logits.shape[1] <= 5:
        return top1, None
    return top1, ~(logits.topk(5, dim=1).indices == y[:, None]).any(1)


def clean_mistakes(model: nn.Module, test: Split, batch_size: int, stop: Stop) -> Mistakes:
    """Find the model's mistakes on the unperturbed test images."""
    began = seconds_at(test.y.device)
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(mistakes(model, x, y))
    return gathered(parts, seconds_at(test.y.device) - began)


def transfer(
    source: nn.Module,
    attack: Attack,
    targets: Mapping[str, nn.Module],
    test: Split,
    batch_size: int,
    generator: Generator,
    stop: Stop,
    title: str,
) -> tuple[Mistakes, dict[str, Mistakes], float]:
    """Return the mistakes of the source and of every target on examples crafted once on the source, and the largest
    perturbation.

    All lie on one device; models are in eval mode. Raises Violation when an example is outside the pixel range or
    further than eps from its image.
    """
    began = seconds_at(test.y.device)
    models = {**targets, "": source} if all(t is not source for t in targets.values()) else dict(targets)
    parts: dict[str, list[tuple[Tensor, Tensor | None]]] = {name: [] for name in models}
    largest = outside = torch.zeros((), device=test.x.device)
    with Progress(title, len(test)) as progress:
        for x, y in test.batches(batch_size):
            stop.check()
            x_adv = attack(source, x, y, generator)
            largest = torch.maximum(largest, (x_adv - x).abs().amax())
            outside = torch.maximum(outside, (x_adv - 0.5).abs().amax() - 0.5)
            for name, model in models.items():
                parts[name].append(mistakes(model, x_adv, y))
            progress.step(len(x))
    if not (float(largest) <= attack.eps + TOLERANCE and float(outside) <= TOLERANCE):
        where = f"{float(largest):.6f} from its image, {float(outside):.6f} outside [0, 1]"
        raise Violation(f"{title}: eps is {attack.eps:.6f}, an example lies {where}")
    seconds = seconds_at(test.y.device) - began
    found = {name: gathered(part, seconds) for name, part in parts.items()}
    own = next(found[name] for name, model in models.items() if model is source)
    return own, {name: found[name] for name in targets}, float(largest)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of each image's own cross-entropy, in the shape of x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


def gradient_norms(model: nn.Module, test: Split, batch_size: int, stop: Stop) -> Tensor:
    """Return (N,) L2 norms of the loss's gradient for each test image (Tramèr et al. 2017, appendix D)."""
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(input_gradient(model, x, y).flatten(1).norm(dim=1))
    return torch.cat(parts)


def gradient_row(norms: Tensor) -> Row:
    """Return mean, standard deviation and share of zeros of the gradients' norms."""
    norms = norms.cpu().double()  # in this order: not every device has float64
    mean, sd = float(norms.mean()), float(norms.std())
    return {"gradient_l2_mean": mean, "gradient_l2_sd": sd, "gradient_zero_share": float((norms == 0).double().mean())}


def pictures(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, generator: Generator) -> list[dict[str, Any]]:
    """Return images, signed gradients and examples, as arrays (C, H, W), and what the model takes them for."""
    x_adv, sign = attack(model, x, y, generator), input_gradient(model, x, y).sign()
    with torch.no_grad():
        predicted, predicted_adv = model(x).argmax(1), model(x_adv).argmax(1)
    return [
        {"original": a, "gradient": g, "perturbed": b, "predicted": int(p), "predicted_adv": int(p_adv)}
        for a, g, b, p, p_adv in zip(
            x.cpu().numpy(), sign.cpu().numpy(), x_adv.cpu().numpy(), predicted, predicted_adv, strict=True
        )
    ]


def transferring(
    source: nn.Module,
    target: nn.Module,
    attack: Attack,
    test: Split,
    batch_size: int,
    generator: Generator,
    stop: Stop,
    most: int,
) -> Tensor:
    """Return the places of the first test images, `most` at most, that the target gets right and whose example crafted
    on the source fools it."""
    found: list[Tensor] = []
    for number, (x, y) in enumerate(test.batches(batch_size)):
        stop.check()
        right = ~mistakes(target, x, y)[0]
        fooled = mistakes(target, attack(source, x, y, generator), y)[0]
        found.append((right & fooled).nonzero().flatten() + number * batch_size)
        if sum(map(len, found)) >= most:
            break
    return torch.cat(found)[:most]


def surface(
    model: nn.Module,
    along: tuple[nn.Module, nn.Module],
    x: Tensor,
    y: Tensor,
    steps: Tensor,
    clip: bool,
    batch_size: int,
    stop: Stop,
) -> Tensor:
    """Return (N, S, S) losses on x + steps[i] sign(g1) + steps[j] sign(g2), g1 and g2 the gradients of `along`."""
    first, second = (input_gradient(one, x, y).sign() for one in along)
    losses = x.new_empty(len(x), len(steps), len(steps))
    for i, e1 in enumerate(steps.tolist()):
        for j, e2 in enumerate(steps.tolist()):
            stop.check()
            moved = x + e1 * first + e2 * second
            losses[:, i, j] = losses_of(model, moved.clamp(0, 1) if clip else moved, y, batch_size)
    return losses.cpu()


@torch.no_grad()
def losses_of(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Return (N,) cross-entropies."""
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([F.cross_entropy(model(part), labels, reduction="none") for part, labels in parts])


def gathered(parts: list[tuple[Tensor, Tensor | None]], seconds: float) -> Mistakes:
    fives = [top5 for _, top5 in parts if top5 is not None]
    return Mistakes(torch.cat([top1 for top1, _ in parts]), torch.cat(fives) if fives else None, seconds)


def seconds_at(device: torch.device) -> float:
    """Read the clock once the device has done what it was told so far: a GPU is told long before it is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def clean_row(clean: Mistakes) -> Row:
    """Return the rates of a model on clean images, as fractions."""
    return {
        "n": len(clean.top1),
        "error_top1": rate(clean.top1),
        "error_top5": rate(clean.top5),
        "clean_error_top1": rate(clean.top1),
        "max_perturbation": 0.0,
        "seconds": clean.seconds,
    }


def transfer_row(source_clean: Mistakes, source_adv: Mistakes, target_clean: Mistakes, target_adv: Mistakes) -> Row:
    """Return the rates of a target on a source's adversarial examples, as fractions.

    transfer_rate (Kurakin et al. 2017, section 4.4): among the examples that the source gets right clean and wrong
    adversarially, the share that fools the target too; transfer_n and transfer_n_top5 are how many those are.
    """
    counted1 = ~source_clean.top1 & source_adv.top1
    counted5 = None
    if source_clean.top5 is not None and source_adv.top5 is not None:
        counted5 = ~source_clean.top5 & source_adv.top5
    return {
        "n": len(target_adv.top1),
        "error_top1": rate(target_adv.top1),
        "error_top5": rate(target_adv.top5),
        "transfer_rate_top1": rate(target_adv.top1, counted1),
        "transfer_rate_top5": rate(target_adv.top5, counted5),
        "transfer_n": int(counted1.sum()),
        "transfer_n_top5": nan if counted5 is None else int(counted5.sum()),
        "clean_error_top1": rate(target_clean.top1),
        "seconds": target_adv.seconds,
    }


def rate(wrong: Tensor | None, among: Tensor | None = None) -> float:
    """Return the share of `wrong`, among all or among the marked ones; NaN when there is nothing to count.

    Counted in integers and divided on the host: not every device has float64, and float32 would round.
    """
    if wrong is None:
        return nan
    number = len(wrong) if among is None else int(among.sum())
    counted = int((wrong if among is None else wrong & among).sum())
    return counted / number if number else nan
