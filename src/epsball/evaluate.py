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
class Verdict:
    """Which images a model gets wrong: (N,) booleans by its first guess and by its first five, and seconds taken.

    wrong5 is None with five classes or fewer."""

    wrong1: Tensor
    wrong5: Tensor | None
    seconds: float


@torch.no_grad()
def judge(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """(N,) booleans: is the label not the first guess, not among the first five."""
    logits = model(x)
    wrong1 = logits.argmax(1) != y
    if logits.shape[1] <= 5:
        return wrong1, None
    return wrong1, ~(logits.topk(5, dim=1).indices == y[:, None]).any(1)


def clean_verdict(model: nn.Module, test: Split, batch_size: int, stop: Stop) -> Verdict:
    """The model's verdict on the unperturbed test images."""
    began = time.perf_counter()
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(judge(model, x, y))
    return gathered(parts, time.perf_counter() - began)


def transfer(
    source: nn.Module,
    attack: Attack,
    targets: Mapping[str, nn.Module],
    test: Split,
    batch_size: int,
    generator: Generator,
    stop: Stop,
    title: str,
) -> tuple[Verdict, dict[str, Verdict], float]:
    """Verdicts of the source and of every target on examples crafted once on the source, and the largest perturbation.

    All lie on one device; models are in eval mode. Raises Violation when an example is outside the pixel range or
    further than eps from its image.
    """
    began = time.perf_counter()
    judges = {**targets, "": source} if all(t is not source for t in targets.values()) else dict(targets)
    parts: dict[str, list[tuple[Tensor, Tensor | None]]] = {name: [] for name in judges}
    largest = outside = torch.zeros((), device=test.x.device)
    with Progress(title, len(test)) as progress:
        for x, y in test.batches(batch_size):
            stop.check()
            x_adv = attack(source, x, y, generator)
            largest = torch.maximum(largest, (x_adv - x).abs().amax())
            outside = torch.maximum(outside, (x_adv - 0.5).abs().amax() - 0.5)
            for name, model in judges.items():
                parts[name].append(judge(model, x_adv, y))
            progress.step(len(x))
    if not (float(largest) <= attack.eps + TOLERANCE and float(outside) <= TOLERANCE):
        where = f"{float(largest):.6f} from its image, {float(outside):.6f} outside [0, 1]"
        raise Violation(f"{title}: eps is {attack.eps:.6f}, an example lies {where}")
    verdicts = {name: gathered(part, time.perf_counter() - began) for name, part in parts.items()}
    own = next(verdicts[name] for name, model in judges.items() if model is source)
    return own, {name: verdicts[name] for name in targets}, float(largest)


def worst_case(
    model: nn.Module,
    attacks: Mapping[str, Attack],
    test: Split,
    batch_size: int,
    generators: Mapping[str, Generator],
    stop: Stop,
    title: str,
) -> tuple[Tensor, float]:
    """(N,) booleans: which images the model gets wrong, clean or under any of the attacks on itself; and seconds.

    An image that is lost is shown to no further attack, restart or step (`Attack.fools`).
    """
    began, parts = time.perf_counter(), []
    with Progress(title, len(test)) as progress:
        for x, y in test.batches(batch_size):
            lost, _ = judge(model, x, y)
            for name, attack in attacks.items():
                stop.check()
                lost = attack.fools(model, x, y, lost, generators[name])
            parts.append(lost)
            progress.step(len(x))
    return torch.cat(parts), time.perf_counter() - began


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each image's own cross-entropy, in the shape of x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


def gradient_norms(model: nn.Module, test: Split, batch_size: int, stop: Stop) -> Tensor:
    """(N,) L2 norms of the loss's gradient for each test image (Tramèr et al. 2017, appendix D)."""
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(input_gradient(model, x, y).flatten(1).norm(dim=1))
    return torch.cat(parts)


def gradient_row(norms: Tensor) -> Row:
    """Mean, standard deviation and share of zeros of the gradients' norms."""
    norms = norms.double()
    mean, sd = float(norms.mean()), float(norms.std())
    return {"gradient_l2_mean": mean, "gradient_l2_sd": sd, "gradient_zero_share": float((norms == 0).double().mean())}


def pictures(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, generator: Generator) -> list[dict[str, Any]]:
    """Each image with its signed gradient and its example, as arrays (C, H, W), and what the model takes them for."""
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
    """Places of the first test images, `most` at most, that the target gets right and whose example crafted on the
    source fools it."""
    found: list[Tensor] = []
    for number, (x, y) in enumerate(test.batches(batch_size)):
        stop.check()
        right = ~judge(target, x, y)[0]
        fooled = judge(target, attack(source, x, y, generator), y)[0]
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
    """(N, S, S) losses of the model on x + steps[i] sign(g1) + steps[j] sign(g2), g1 and g2 gradients of `along`."""
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
    """(N,) cross-entropies."""
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([F.cross_entropy(model(part), labels, reduction="none") for part, labels in parts])


def gathered(parts: list[tuple[Tensor, Tensor | None]], seconds: float) -> Verdict:
    fives = [wrong5 for _, wrong5 in parts if wrong5 is not None]
    return Verdict(torch.cat([wrong1 for wrong1, _ in parts]), torch.cat(fives) if fives else None, seconds)


def clean_row(verdict: Verdict) -> Row:
    """The rates of a model on clean images, as fractions."""
    return {
        "n": len(verdict.wrong1),
        "error_top1": rate(verdict.wrong1),
        "error_top5": rate(verdict.wrong5),
        "clean_error_top1": rate(verdict.wrong1),
        "max_perturbation": 0.0,
        "seconds": verdict.seconds,
    }


def worst_case_row(clean: Verdict, lost: Tensor, seconds: float) -> Row:
    """The error of a model under the strongest of several attacks, per image, as a fraction."""
    return {"n": len(lost), "error_top1": rate(lost), "clean_error_top1": rate(clean.wrong1), "seconds": seconds}


def transfer_row(source_clean: Verdict, source_adv: Verdict, target_clean: Verdict, target_adv: Verdict) -> Row:
    """The rates of a target on a source's adversarial examples, as fractions.

    transfer_rate (Kurakin et al. 2017, section 4.4): among the examples that the source gets right clean and wrong
    adversarially, the share that fools the target too; transfer_n and transfer_n_top5 are how many those are.
    """
    counted1 = ~source_clean.wrong1 & source_adv.wrong1
    counted5 = None
    if source_clean.wrong5 is not None and source_adv.wrong5 is not None:
        counted5 = ~source_clean.wrong5 & source_adv.wrong5
    return {
        "n": len(target_adv.wrong1),
        "error_top1": rate(target_adv.wrong1),
        "error_top5": rate(target_adv.wrong5),
        "transfer_rate_top1": rate(target_adv.wrong1, counted1),
        "transfer_rate_top5": rate(target_adv.wrong5, counted5),
        "transfer_n": int(counted1.sum()),
        "transfer_n_top5": nan if counted5 is None else int(counted5.sum()),
        "clean_error_top1": rate(target_clean.wrong1),
        "seconds": target_adv.seconds,
    }


def rate(wrong: Tensor | None, among: Tensor | None = None) -> float:
    """The share of `wrong`, among all or among the marked ones; NaN when there is nothing to count."""
    if wrong is None:
        return nan
    counted = wrong if among is None else wrong[among]
    return float(counted.double().mean()) if len(counted) else nan
