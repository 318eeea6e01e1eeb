"""Mistakes of a model on images."""

from collections.abc import Callable, Sequence
from math import nan
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.data.images import Batched
from epsball.runtime.device import seconds_at
from epsball.runtime.distributed import in_order


class Mistakes(NamedTuple):
    """Images that a model gets wrong."""

    top1: Tensor
    """(N,) booleans: the label is not the first guess"""
    top5: Tensor | None
    """(N,) booleans: it is not among the first five; None with five classes or fewer"""
    losses: Tensor
    """(N,) cross-entropies"""
    seconds: float = 0.0
    """of wall clock, to find them; of a batch not known"""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Mistakes":
        """Return what is made of each tensor."""
        top5 = None if self.top5 is None else change(self.top5)
        return self._replace(top1=change(self.top1), top5=top5, losses=change(self.losses))

    def first(self, number: int) -> "Mistakes":
        """Return those on the first `number` images."""
        return self.mapped(lambda found: found[:number])


@torch.no_grad()
def mistakes(model: nn.Module, x: Tensor, y: Tensor) -> Mistakes:
    """Return which images of a batch the model gets wrong, and each one's loss. An image of which a logit is NaN is
    wrong: torch sorts NaN first, and the class that it stands at would be a guess."""
    logits = model(x)
    losses = F.cross_entropy(logits.float(), y, reduction="none")
    unknown = logits.isnan().any(1)
    top1 = (logits.argmax(1) != y) | unknown
    if logits.shape[1] <= 5:
        return Mistakes(top1, None, losses)
    return Mistakes(top1, ~(logits.topk(5, dim=1).indices == y[:, None]).any(1) | unknown, losses)


def find_mistakes(model: nn.Module, test: Batched) -> Mistakes:
    """Find the model's mistakes on the unperturbed test images."""
    began = seconds_at(test.device)
    parts = [mistakes(model, x, y) for x, y in test.share()]
    return of_all(gathered(parts, 0.0), len(test))._replace(seconds=seconds_at(test.device) - began)


def gathered(parts: Sequence[Mistakes], seconds: float) -> Mistakes:
    """Join the mistakes of several batches."""
    fives = [part.top5 for part in parts if part.top5 is not None]
    top1, losses = torch.cat([part.top1 for part in parts]), torch.cat([part.losses for part in parts])
    return Mistakes(top1, torch.cat(fives) if fives else None, losses, seconds)


def of_all(own: Mistakes, number: int) -> Mistakes:
    """Join the mistakes that all processes found on `number` images, each on its share, in the order of the images."""
    return own.mapped(lambda found: in_order(found, number))


def rate(wrong: Tensor | None, among: Tensor | None = None) -> float:
    """Return the share of `wrong`, among all or among the marked ones; NaN when there is nothing to count.

    Counted in integers and divided on the host: not every device has float64, and float32 would round.
    """
    if wrong is None:
        return nan
    number = len(wrong) if among is None else int(among.sum())
    counted = int((wrong if among is None else wrong & among).sum())
    return counted / number if number else nan
