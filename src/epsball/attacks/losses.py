"""Losses of attacks and trainers, per example, and their gradient with respect to the images."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.models import heads

GradientsOf = Literal["cross_entropy", "log_cross_entropy"]
Heads = list[tuple[Tensor, float]]
LINEAR = -30.0  # where log_softplus is its argument: half of e^-30 away


def weighted(outputs: Heads, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return (N,) the weighted sum of a function of the logits over all heads."""
    return torch.stack([weight * function(at_least_fp32(logits)) for logits, weight in outputs]).sum(0)


def at_least_fp32(logits: Tensor) -> Tensor:
    """Return logits fit for a loss: none is taken in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cross_entropy(outputs: Heads, y: Tensor, label_smoothing: float) -> Tensor:
    """Return (N,) cross-entropy, for an ensemble the average of its members' (Kariyappa, section 4.1)."""
    return weighted(outputs, lambda z: F.cross_entropy(z, y, reduction="none", label_smoothing=label_smoothing))


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """Return (N,) logit of `label` minus the largest other logit (Carlini and Wagner 2017)."""
    own = logits.gather(1, label[:, None]).squeeze(1)
    other = logits.scatter(1, label[:, None], float("-inf")).amax(1)
    return own - other


def log_odds(logits: Tensor, label: Tensor) -> Tensor:
    """Return (N,) log-odds o = log((1 - p) / p) against `label`, of its probability p; cross-entropy is log(1 + e^o).

    So the gradient of o has the direction of the cross-entropy's, and keeps it where p rounds to 1: from there on (a
    margin of 17 in float32) the cross-entropy's lacks the part of the label's own logit, and at last is zero.
    """
    own = label[:, None] == torch.arange(logits.shape[1], device=logits.device)
    others = logits.masked_fill(own, float("-inf")).logsumexp(1)
    return others - logits.masked_fill(~own, 0.0).sum(1)


def log_cross_entropy(outputs: Heads, y: Tensor) -> Tensor:
    """Return (N,) the logarithm of `cross_entropy`, of one head or several, without label smoothing.

    Its gradient has the direction of the cross-entropy's, and keeps it however sure of the label the heads are: it is
    computed from their log-odds.
    """
    parts = [math.log(weight) + log_softplus(log_odds(at_least_fp32(z), y)) for z, weight in outputs if weight]
    return torch.stack(parts).logsumexp(0)


def log_softplus(x: Tensor) -> Tensor:
    """Return log(log(1 + e^x)): x itself, to 1e-13, where e^x is next to nothing and its logarithm would round."""
    return torch.where(x < LINEAR, x, F.softplus(x.clamp(min=LINEAR)).log())


def entropy(logits: Tensor) -> Tensor:
    """Return (N,) entropy of the predicted distribution, in nats."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, *, of: GradientsOf = "cross_entropy") -> Tensor:
    """Return the gradient of each image's own loss, for an ensemble the mean of its members', in the shape of x."""
    x = x.detach().requires_grad_()
    outputs = heads(model, x)
    own = cross_entropy(outputs, y, label_smoothing=0.0) if of == "cross_entropy" else log_cross_entropy(outputs, y)
    return torch.autograd.grad(own.sum(), x)[0]
