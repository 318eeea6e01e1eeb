"""What a user's file for attack=module holds."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rand_fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float | Tensor, share: float) -> Tensor:
    """FGSM after a uniform step of so much of eps."""
    start = (x + share * eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), y, reduction="sum"), start)
    return (start + (1 - share) * eps * gradient.sign()).clamp(0, 1)
