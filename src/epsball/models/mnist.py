"""MNIST networks of Tramèr et al. (A to D) and of Madry et al., as in the authors' code."""

import math
from itertools import pairwise
from typing import Annotated

from torch import nn

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
    truncated_normal,
)

glorot = nn.init.xavier_uniform_  # Keras 1: the default of every layer
he = nn.init.kaiming_normal_  # Keras 1: he_normal, not truncated


def mnist_a(
    shape: Shape,
    classes: int,
    *,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return model A: two 5x5 convolutions and a hidden layer; images from 9x9 on (Tramèr et al. v2, table 6)."""
    check_input(shape, classes, "mnist_a", smallest=9)
    channels, height, width = shape
    net = nn.Sequential(
        *normalise(shape),
        nn.Conv2d(channels, 64, 5),
        activation(),
        nn.Conv2d(64, 64, 5),
        activation(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * (height - 8) * (width - 8), 128),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    )
    return initialise(net, glorot, bias=0)


def mnist_b(
    shape: Shape,
    classes: int,
    *,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return model B: dropout on the input, 8x8/2 "SAME", 6x6/2, 5x5; from 27x27 on (Tramèr et al. v2, table 6)."""
    check_input(shape, classes, "mnist_b", smallest=27)
    channels, height, width = (shape[0], *(_side_after_b(side) for side in shape[1:]))
    net = nn.Sequential(
        *normalise(shape),
        nn.Dropout(0.2),
        SameConv2d(channels, 64, 8, stride=2),
        activation(),
        nn.Conv2d(64, 128, 6, stride=2),
        activation(),
        nn.Conv2d(128, 128, 5),
        activation(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(128 * height * width, classes),
    )
    return initialise(net, glorot, bias=0)


def _side_after_b(side: int) -> int:
    """Return the side that model B leaves of an image: 28 -> 14 -> 5 -> 1."""
    return (math.ceil(side / 2) - 6) // 2 + 1 - 4


def mnist_c(
    shape: Shape,
    classes: int,
    *,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return model C: two 3x3 convolutions and a hidden layer; images from 5x5 on (Tramèr et al. v2, table 6)."""
    check_input(shape, classes, "mnist_c", smallest=5)
    channels, height, width = shape
    net = nn.Sequential(
        *normalise(shape),
        nn.Conv2d(channels, 128, 3),
        activation(),
        nn.Conv2d(128, 64, 3),
        activation(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * (height - 4) * (width - 4), 128),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(128, classes),
    )
    return initialise(net, glorot, bias=0)


def mnist_d(
    shape: Shape,
    classes: int,
    *,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return model D: four hidden layers of 300 with dropout, for any image (Tramèr et al. v2, table 6)."""
    check_input(shape, classes, "mnist_d", smallest=1)
    sizes = [math.prod(shape), 300, 300, 300, 300]
    hidden: list[nn.Module] = []
    for before, after in pairwise(sizes):
        hidden += [nn.Linear(before, after), activation(), nn.Dropout(0.5)]
    return nn.Sequential(
        *normalise(shape),
        nn.Flatten(),
        *initialise(nn.Sequential(*hidden), he, bias=0),
        initialise(nn.Linear(300, classes), glorot, bias=0),
    )


def madry_mnist(
    shape: Shape,
    classes: int,
    *,
    width: float,
    hidden: int,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return two 5x5 convolutions of 32 and 64 filters with max-pooling, and a `hidden` layer, all times `width`.

    For any image. Madry et al. 2017, section 5, and the authors' mnist_challenge; section 4 varies the width.
    """
    check_input(shape, classes, "madry_mnist", smallest=1)
    require(width > 0, f"width should be above 0, is {width}")
    require(hidden >= 1, f"hidden should be at least 1, is {hidden}")
    first, second, third = (scaled(size, width) for size in (32, 64, hidden))
    net = nn.Sequential(
        *normalise(shape),
        SameConv2d(shape[0], first, 5),
        activation(),
        nn.MaxPool2d(2, ceil_mode=True),
        SameConv2d(first, second, 5),
        activation(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(second * math.ceil(shape[1] / 4) * math.ceil(shape[2] / 4), third),
        activation(),
        nn.Linear(third, classes),
    )
    return initialise(net, truncated_normal(0.1), bias=0.1)
