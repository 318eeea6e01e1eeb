"""Networks that are more than a function of images: ensembles, those of several heads, those that fit themselves."""

import math
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Rule = Literal["mean_probability", "mean_logit", "vote"]


@runtime_checkable
class FitsItself(Protocol):
    """A network that is fitted to all images at once, without a trainer."""

    def fit_to(self, x: Tensor, y: Tensor, seed: int) -> None: ...


class Ensemble(nn.Module):
    """`members`, and a prediction for all of them; `rule` says how it is made."""

    def __init__(self, members: list[nn.Module], rule: Rule) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.rule = rule
        self.has_weights = all(getattr(member, "has_weights", False) for member in members)
        self.takes_channels_last = all(getattr(member, "takes_channels_last", True) for member in members)
        self.differentiable = all(map(is_differentiable, members))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes), whose largest entry is the ensemble's prediction."""
        return RULES[self.rule](torch.stack([member(x) for member in self.members]))

    def heads(self, x: Tensor) -> list[tuple[Tensor, float]]:
        """Return every member's logits; the loss is the members' mean."""
        share = 1 / len(self.members)
        return [(logits, share * weight) for member in self.members for logits, weight in heads(member, x)]


def heads(model: nn.Module, x: Tensor) -> list[tuple[Tensor, float]]:
    """Return all logits of `model` on `x` with their weights in the loss, from one pass; most networks have one. The
    first are its prediction, but of an ensemble. TypeError where it gives anything else, as many do in train mode."""
    if own := own_heads(model):
        return own(x)
    logits = model(x)
    if not isinstance(logits, Tensor):
        said = f"{type(model).__name__} gives a {type(logits).__name__} in {'train' if model.training else 'eval'} mode"
        raise TypeError(
            f"{said}: its forward should give logits alone, heads(x) several with their weights, the prediction first"
        )
    return [(logits, 1.0)]


def own_heads(model: nn.Module) -> Callable[[Tensor], list[tuple[Tensor, float]]] | None:
    """Return the method `heads` of a model that has one. A layer of that name, as in torchvision's ViT, is none."""
    own = getattr(model, "heads", None)
    return own if callable(own) and not isinstance(own, nn.Module) else None


def is_differentiable(model: nn.Module) -> bool:
    """Whether its loss has gradients with respect to the images, which attacks may follow."""
    return bool(getattr(model, "differentiable", True))


def mean_probability(logits: Tensor) -> Tensor:
    """Return the log of the members' mean probability; `logits` is (members, N, classes)."""
    return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))


def mean_logit(logits: Tensor) -> Tensor:
    return logits.mean(dim=0)


def vote(logits: Tensor) -> Tensor:
    """Return the votes per class, plus half the mean probability: enough to break ties, too little to beat a vote."""
    votes = nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
    return votes + logits.softmax(dim=2).mean(dim=0) / 2


RULES: dict[Rule, Callable[[Tensor], Tensor]] = {
    "mean_probability": mean_probability,
    "mean_logit": mean_logit,
    "vote": vote,
}
