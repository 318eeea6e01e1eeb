"""Norms of a gradient and what a step takes of it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def norm(g: Tensor, order: float) -> Tensor:
    """Return (N, 1, 1, 1) the norm of each example's gradient, never zero."""
    tiny = torch.finfo(g.dtype).tiny
    length: Tensor = torch.linalg.vector_norm(g, ord=order, dim=(1, 2, 3), keepdim=True)
    return length.clamp(min=tiny)


def sign(g: Tensor) -> Tensor:
    """Return the sign of each component, NaN where it is not finite. torch's sign of NaN is 0: an attack that stands
    still would make a model look robust."""
    return torch.sign(g).add_(g, alpha=0)


STEPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sign": sign,
    "l2": lambda g: (unit := g / norm(g, float("inf"))) / norm(unit, 2),  # squares of small gradients underflow
    "linf": lambda g: g / norm(g, float("inf")),
}
