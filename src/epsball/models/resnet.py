"""Residual networks for small images: He et al. 2016, and the wide one of Madry et al. 2017."""

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from epsball.build import require
from epsball.models.layers import (
    ACTIVATIONS,
    NORMALISATIONS,
    Activation,
    Normalisation,
    SameConv2d,
    Shape,
    check_input,
    initialise,
    scaled,
)


def resnet(
    shape: Shape,
    classes: int,
    *,
    depth: int,
    width: float,
    shortcut: Literal["pad", "project"],
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return a ResNet for CIFAR: `depth` = 6n + 2 layers, three stages of n blocks with 16, 32 and 64 times `width`.

    Images from 8x8 on. `shortcut` where the size changes: "pad" with zero channels (option A) or
    "project" by a 1x1 convolution (option B). He et al. 2016, section 4.2; He's initialisation.
    """
    check_input(shape, classes, "resnet", smallest=8)
    require(depth >= 8 and depth % 6 == 2, f"depth should be 6n + 2 (8, 14, 20, 26, ...), is {depth}")
    require(width > 0, f"width should be above 0, is {width}")
    channels = scaled(16, width)
    layers: list[nn.Module] = [_conv3x3(shape[0], channels, 1), nn.BatchNorm2d(channels), activation()]
    for stage, filters in enumerate((16, 32, 64)):
        for unit in range((depth - 2) // 6):
            stride = 2 if stage > 0 and unit == 0 else 1
            layers.append(BasicBlock(channels, scaled(filters, width), stride, shortcut, activation))
            channels = scaled(filters, width)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return initialise(nn.Sequential(*normalise(shape), *layers, *head), nn.init.kaiming_normal_, bias=0)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the activation comes after the sum."""

    def __init__(self, before: int, after: int, stride: int, shortcut: str, activation: Activation) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _conv3x3(before, after, stride),
            nn.BatchNorm2d(after),
            activation(),
            _conv3x3(after, after, 1),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 and shortcut == "pad":
            self.shortcut = nn.Sequential(Subsample(stride), PadChannels(after - before))
        elif stride != 1:
            projection = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(after))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return out


def _conv3x3(before: int, after: int, stride: int) -> nn.Module:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


class Subsample(nn.Module):
    """Every `stride`-th pixel."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]


class PadChannels(nn.Module):
    """`extra` channels of zeros, half before and half after."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


def wide_resnet(
    shape: Shape,
    classes: int,
    *,
    width: float,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return Madry's pre-activation ResNet: 16 filters, then three stages of five units with 16, 32, 64 times `width`.

    Images from 4x4 on. Madry et al. 2017, section 5; layers, initialisation and padding are those of the
    authors' cifar10_challenge (its "w32-10" has width 10).
    """
    check_input(shape, classes, "wide_resnet", smallest=4)
    require(width >= 1, f"width should be at least 1, is {width}")
    layers: list[nn.Module] = [SameConv2d(shape[0], 16, 3, bias=False)]
    channels = 16
    for stage, filters in enumerate((16, 32, 64)):
        for unit in range(5):
            stride = 2 if stage > 0 and unit == 0 else 1
            block = PreActivationBlock(channels, scaled(filters, width), stride, activation)
            block.activate_shortcut = stage == 0 and unit == 0
            layers.append(block)
            channels = scaled(filters, width)
    body = initialise(nn.Sequential(*layers), _normal_by_outputs, bias=0)
    head = initialise(nn.Linear(channels, classes), _unit_scaling, bias=0)
    pool = [_batch_norm(channels), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*normalise(shape), *body, *pool, head)


class PreActivationBlock(nn.Module):
    """Normalise, activate, convolve, twice; the shortcut is average-pooled and zero-padded where sizes change.

    The first block of the network activates its shortcut too (`activate_shortcut`).
    """

    activate_shortcut = False

    def __init__(self, before: int, after: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.activate = nn.Sequential(_batch_norm(before), activation())
        self.residual = nn.Sequential(
            SameConv2d(before, after, 3, stride, bias=False),
            _batch_norm(after),
            activation(),
            SameConv2d(after, after, 3, bias=False),
        )
        pool = nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity()
        self.shortcut = nn.Sequential(pool, PadChannels(after - before))

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activate(x)
        out: Tensor = self.residual(activated) + self.shortcut(activated if self.activate_shortcut else x)
        return out


def _batch_norm(channels: int) -> nn.Module:
    """Return tf.contrib's: decay .9 as the authors set it, epsilon 1e-3 by default."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


def _normal_by_outputs(weight: Tensor) -> Tensor:
    """Draw from N(0, 2 / (kernel area x output channels))."""
    return nn.init.kaiming_normal_(weight, mode="fan_out")


def _unit_scaling(weight: Tensor) -> Tensor:
    """Draw as tf.uniform_unit_scaling_initializer: the deviation is 1/sqrt(inputs)."""
    bound = math.sqrt(3 / weight.shape[1])
    return nn.init.uniform_(weight, -bound, bound)
