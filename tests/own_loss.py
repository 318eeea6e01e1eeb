"""A loss as users write it: TRADES (Zhang et al. 2019), in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def trades(model: nn.Module, x: Tensor, y: Tensor, eps: float, beta: float = 6.0, steps: int = 2) -> Tensor:
    """Return the cross-entropy on the images, and `beta` times the divergence of the worst found near them."""
    clean = model(x)
    target = clean.detach().softmax(1)
    x_adv = (x + 1e-3 * torch.randn_like(x)).clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.kl_div(model(x_adv).log_softmax(1), target, reduction="sum"), x_adv)
        x_adv = (x_adv.detach() + eps / 2 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    away = F.kl_div(model(x_adv).log_softmax(1), clean.softmax(1), reduction="batchmean")
    return F.cross_entropy(clean, y) + beta * away
