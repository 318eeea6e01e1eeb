"""Mistakes of a model on images."""

from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor, nn

from epsball.data.images import Split
from epsball.runtime.device import seconds_at
from epsball.runtime.progress import Stop


@dataclass(frozen=True)
class Mistakes:
    """Images that a model gets wrong."""

    top1: Tensor
    """(N,) booleans: the label is not the first guess"""
    top5: Tensor | None
    """(N,) booleans: it is not among the first five; None with five classes or fewer"""
    seconds: float
    """of wall clock, to find them"""


@torch.no_grad()
def mistakes(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return (N,) booleans: is the label not the first guess, not among the first five."""
    logits = model(x)
    top1 = logits.argmax(1) != y
    if logits.shape[1] <= 5:
        return top1, None
    return top1, ~(logits.topk(5, dim=1).indices == y[:, None]).any(1)


def find_mistakes(model: nn.Module, test: Split, batch_size: int, stop: Stop) -> Mistakes:
    """Find the model's mistakes on the unperturbed test images."""
    began = seconds_at(test.device)
    parts = []
    for x, y in test.batches(batch_size):
        stop.check()
        parts.append(mistakes(model, x, y))
    return gathered(parts, seconds_at(test.device) - began)


def gathered(parts: list[tuple[Tensor, Tensor | None]], seconds: float) -> Mistakes:
    """Join the mistakes of several batches."""
    fives = [top5 for _, top5 in parts if top5 is not None]
    return Mistakes(torch.cat([top1 for top1, _ in parts]), torch.cat(fives) if fives else None, seconds)


def rate(wrong: Tensor | None, among: Tensor | None = None) -> float:
    """Return the share of `wrong`, among all or among the marked ones; NaN when there is nothing to count.

    Counted in integers and divided on the host: not every device has float64, and float32 would round.
    """
    if wrong is None:
        return nan
    number = len(wrong) if among is None else int(among.sum())
    counted = int((wrong if among is None else wrong & among).sum())
    return counted / number if number else nan
