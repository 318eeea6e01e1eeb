"""Networks made of networks: the ensemble, and the heads that a loss sees."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from epsball.build import ConfigError, build, require
from epsball.models.layers import Shape

Rule = Literal["mean_probability", "mean_logit", "vote"]


def ensemble(shape: Shape, classes: int, *, members: dict[str, dict[str, Any]], copies: int, rule: Rule) -> nn.Module:
    """`copies` of each member side by side, predicting together by `rule` (Kariyappa and Qureshi 2019).

    `members` maps a free name to the config of an arch; each copy has its own initialisation.
    """
    require(len(members) > 0, "members should name at least one arch, is empty")
    require(copies >= 1, f"copies should be at least 1, is {copies}")
    networks = [_member(shape, classes, name, spec) for name, spec in members.items() for _ in range(copies)]
    return Ensemble(networks, rule)


def _member(shape: Shape, classes: int, name: str, spec: dict[str, Any]) -> nn.Module:
    from epsball.models import MODELS  # the table holds this module's `ensemble`

    try:
        network: nn.Module = build(MODELS, spec, shape, classes, where=f"members.{name}")
    except ConfigError as error:
        raise ValueError(str(error)) from error  # the caller's key is put before it
    return network


class Ensemble(nn.Module):
    """`members`, and a prediction for all of them; `rule` says how it is made."""

    def __init__(self, members: list[nn.Module], rule: Rule) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.rule = rule

    def member(self, i: int) -> nn.Module:
        return self.members[i]

    def forward(self, x: Tensor) -> Tensor:
        """(N, classes), whose largest entry is the ensemble's prediction."""
        return RULES[self.rule](torch.stack([member(x) for member in self.members]))

    def heads(self, x: Tensor) -> list[tuple[Tensor, float]]:
        """Every member's logits; the loss is the members' mean."""
        share = 1 / len(self.members)
        return [(logits, share * weight) for member in self.members for logits, weight in heads(member, x)]


def heads(model: nn.Module, x: Tensor) -> list[tuple[Tensor, float]]:
    """All logits of `model` on `x` with their weights in the loss, from one pass; most networks have one."""
    own = getattr(model, "heads", None)
    return own(x) if own is not None else [(model(x), 1.0)]


def mean_probability(logits: Tensor) -> Tensor:
    """Log of the members' mean probability; `logits` is (members, N, classes)."""
    return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))


def mean_logit(logits: Tensor) -> Tensor:
    return logits.mean(dim=0)


def vote(logits: Tensor) -> Tensor:
    """Votes per class, plus half the mean probability: enough to break ties, too little to beat a vote."""
    votes = nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2]).sum(dim=0)
    return votes + logits.softmax(dim=2).mean(dim=0) / 2


RULES: dict[Rule, Callable[[Tensor], Tensor]] = {
    "mean_probability": mean_probability,
    "mean_logit": mean_logit,
    "vote": vote,
}
