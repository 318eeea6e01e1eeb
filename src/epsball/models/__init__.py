"""Architectures by name: each entry is `name(shape, classes, *, <config fields>) -> nn.Module`.

A network takes float images in [0, 1], (N, C, H, W), normalises them itself and gives logits, (N, classes).
What else it may have: `heads(x)`, all its logits with their weights in the loss, those of its prediction first (see
`wrappers.heads`); `members`, an ensemble's; `fit_to`, which fits it without a trainer (`wrappers.FitsItself`), and
`differentiable = False`, by which it is a target only (both as `forest.RandomForest`); `has_weights = True`, with which
it is trained already (as timm's); `takes_channels_last = False`, with which its weights are never laid out so (as of a
user's network that calls `view`); `auxiliary = True`, while which alone `heads` gives auxiliary logits, in train mode,
so that crafting can do without them (as Inception's).
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from epsball.build import ConfigError, ShapeError, UnfitError, build, require
from epsball.models.conv import conv3, conv4
from epsball.models.forest import RandomForest
from epsball.models.inception import inception_v3
from epsball.models.layers import Shape
from epsball.models.mnist import madry_mnist, mnist_a, mnist_b, mnist_c, mnist_d
from epsball.models.module import module
from epsball.models.pretrained import timm
from epsball.models.resnet import resnet, wide_resnet
from epsball.models.wrappers import Ensemble, FitsItself, Rule, heads, is_differentiable, own_heads

__all__ = ["MODELS", "Ensemble", "FitsItself", "Shape", "heads", "is_differentiable", "own_heads"]


def ensemble(shape: Shape, classes: int, *, members: dict[str, dict[str, Any]], copies: int, rule: Rule) -> nn.Module:
    """Return `copies` of each member side by side, predicting together by `rule` (Kariyappa and Qureshi 2019).

    `members` maps a free name to the config of an arch; each copy has its own initialisation.
    """
    require(len(members) > 0, "members should name at least one arch, is empty")
    require(copies >= 1, f"copies should be at least 1, is {copies}")
    networks: list[nn.Module] = []
    for name, spec in members.items():
        try:
            networks += [build(MODELS, spec, shape, classes, where=f"members.{name}") for _ in range(copies)]
        except UnfitError as error:
            raise ShapeError(str(error)) from error
        except ConfigError as error:
            raise ValueError(str(error)) from error  # the caller's key is put before it
        fitted = isinstance(networks[-1], FitsItself)
        require(not fitted, f"members.{name} should be a network that a trainer trains, is {spec['name']}")
    return Ensemble(networks, rule)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mnist_a": mnist_a,
    "mnist_b": mnist_b,
    "mnist_c": mnist_c,
    "mnist_d": mnist_d,
    "madry_mnist": madry_mnist,
    "conv3": conv3,
    "conv4": conv4,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
    "inception_v3": inception_v3,
    "timm": timm,
    "module": module,
    "ensemble": ensemble,
    "random_forest": RandomForest,
}
