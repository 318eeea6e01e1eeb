"""Plain convolutional networks of Kariyappa and Qureshi 2019, table 1."""

from typing import Annotated, Literal

from torch import nn

from epsball.models.layers import ACTIVATIONS, NORMALISATIONS, Activation, Normalisation, Shape, check_input, initialise

Plan = tuple[int | Literal["pool"], ...]
Padding = Literal["same", "valid"]  # of the 3x3 convolutions: images keep their size, or lose a pixel on each side


def conv3(
    shape: Shape,
    classes: int,
    *,
    activation: Annotated[Activation, ACTIVATIONS],
    padding: Padding,
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return Conv-3, C32-C64-M-C128-M-FC1024 (Kariyappa and Qureshi 2019, table 1).

    Images from 4x4 on, 12x12 without padding.
    """
    check_input(shape, classes, "conv3", smallest=4 if padding == "same" else 12)
    return _conv_net((32, 64, "pool", 128, "pool"), shape, classes, activation, padding, normalise)


def conv4(
    shape: Shape,
    classes: int,
    *,
    activation: Annotated[Activation, ACTIVATIONS],
    padding: Padding,
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return Conv-4, C32-C64-C128-M-C128-M-FC1024 (Kariyappa and Qureshi 2019, table 1).

    Images from 4x4 on, 14x14 without padding.
    """
    check_input(shape, classes, "conv4", smallest=4 if padding == "same" else 14)
    return _conv_net((32, 64, 128, "pool", 128, "pool"), shape, classes, activation, padding, normalise)


def _conv_net(
    plan: Plan, shape: Shape, classes: int, activation: Activation, padding: Padding, normalise: Normalisation
) -> nn.Module:
    """Return 3x3 convolutions and 2x2 pools as planned, then 1024 hidden units; activation after each, He's init."""
    channels, height, width = shape
    layers = normalise(shape)
    for step in plan:
        if step == "pool":
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        else:
            layers += [nn.Conv2d(channels, step, 3, padding=padding), activation()]
            channels = step
            if padding == "valid":
                height, width = height - 2, width - 2
    hidden = nn.Linear(channels * height * width, 1024)
    net = nn.Sequential(*layers, nn.Flatten(), hidden, activation(), nn.Linear(1024, classes))
    return initialise(net, nn.init.kaiming_normal_, bias=0)
