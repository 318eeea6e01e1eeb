"""Inception v3 with a free width, depth and activation (Kurakin et al. 2017), on torchvision's blocks."""

from collections.abc import Callable
from itertools import count
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from epsball.build import require
from epsball.models.layers import (
    ACTIVATIONS,
    NORMALISATIONS,
    Activation,
    Normalisation,
    Shape,
    check_input,
    initialise,
    truncated_normal,
)

Conv = Callable[..., nn.Module]
Stem = Literal[299, 32]
FIRST_STEP = {299: {"stride": 2}, 32: {"padding": 1}}


def inception_v3(
    shape: Shape,
    classes: int,
    *,
    width: float,
    stem: Stem,
    extra_blocks: int,
    aux: bool,
    aux_weight: float,
    dropout: float,
    batch_norm_momentum: float,
    activation: Annotated[Activation, ACTIVATIONS],
    normalise: Annotated[Normalisation, NORMALISATIONS],
) -> nn.Module:
    """Return Inception v3 (Szegedy et al. 2015) with the changes of Kurakin et al. 2017.

    `width` is their rho (section 4.3): every filter count times it, in steps of 1/16. `extra_blocks` are added
    at the end of the 17x17 grid, before the auxiliary head (their "deeper" model has 2; where is unstated).
    `stem` 299 is the published one (images from 75x75 on, 299x299 for `aux`); 32 keeps its convolutions
    but not its strides and pools (images from 7x7 on). `batch_norm_momentum` is what a batch's statistics weigh in
    the running ones: 0.0003 is TF-slim's decay of 0.9997. In train mode `heads` also gives the auxiliary
    logits, weighted `aux_weight`.
    """
    check_input(shape, classes, "inception_v3 with aux" if aux else "inception_v3", _smallest(stem, aux))
    nearest = max(1, round(16 * width)) / 16
    require(width == nearest, f"width should be a multiple of 1/16 (the nearest is {nearest}), is {width}")
    require(extra_blocks >= 0, f"extra_blocks should be at least 0, is {extra_blocks}")
    require(0 <= dropout < 1, f"dropout should be in [0, 1), is {dropout}")
    require(aux_weight >= 0, f"aux_weight should be at least 0, is {aux_weight}")
    require(0 < batch_norm_momentum <= 1, f"batch_norm_momentum should be in (0, 1], is {batch_norm_momentum}")
    conv = _scaled_conv(width, activation, batch_norm_momentum)
    stride = FIRST_STEP[stem]
    first = ConvBlock(shape[0], filters(32, width), activation, batch_norm_momentum, kernel_size=3, **stride)
    trunk = [*normalise(shape), *_stem(first, stem, conv), *_blocks(extra_blocks, conv)]
    head = [*_last_blocks(conv), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    head.append(nn.Linear(filters(2048, width), classes))
    net = InceptionV3(nn.Sequential(*trunk), nn.Sequential(*head), aux_weight)
    initialise(net, truncated_normal(0.1), bias=0)
    if aux:
        net.aux = _auxiliary(classes, width, conv)
    return net


class InceptionV3(nn.Module):
    """A trunk up to the 17x17 grid, the head, and perhaps an auxiliary head on the same trunk."""

    aux: nn.Module | None
    auxiliary: bool
    """whether `heads` gives the auxiliary logits in train mode"""

    def __init__(self, trunk: nn.Module, head: nn.Module, aux_weight: float) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.aux = None
        self.auxiliary = True
        self.aux_weight = aux_weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(x))
        return logits

    def heads(self, x: Tensor) -> list[tuple[Tensor, float]]:
        """Return logits with their weights in the loss, from one pass; the auxiliary ones in train mode only."""
        features = self.trunk(x)
        found = [(self.head(features), 1.0)]
        if self.aux is not None and self.training and self.auxiliary:
            found.append((self.aux(features), self.aux_weight))
        return found


class ConvBlock(nn.Module):
    """Convolution, batch norm, activation: torchvision's BasicConv2d, whose activation is always ReLU."""

    def __init__(self, before: int, after: int, activation: Activation, momentum: float, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(after, eps=0.001, momentum=momentum)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.bn(self.conv(x)))
        return out


def filters(published: int, width: float) -> int:
    """Return a filter count times `width`. Exact, so that sums of branches fit: all are multiples of 16."""
    return published // 16 * round(16 * width)


def _scaled_conv(width: float, activation: Activation, momentum: float) -> Conv:
    """Return what torchvision's blocks call to make a convolution, given published filter counts."""

    def conv(before: int, after: int, **kwargs: Any) -> nn.Module:
        return ConvBlock(filters(before, width), filters(after, width), activation, momentum, **kwargs)

    return conv


def _stem(first: nn.Module, stem: Stem, conv: Conv) -> list[nn.Module]:
    """Return five convolutions: 299 pixels become 35, or with stem 32 keep their number."""
    if stem == 32:
        same = [conv(32, 32, kernel_size=3, padding=1), conv(32, 64, kernel_size=3, padding=1)]
        return [first, *same, conv(64, 80, kernel_size=1), conv(80, 192, kernel_size=3, padding=1)]
    return [
        first,
        conv(32, 32, kernel_size=3),
        conv(32, 64, kernel_size=3, padding=1),
        nn.MaxPool2d(3, stride=2),
        conv(64, 80, kernel_size=1),
        conv(80, 192, kernel_size=3),
        nn.MaxPool2d(3, stride=2),
    ]


def _blocks(extra: int, conv: Conv) -> list[nn.Module]:
    """Return the blocks up to the end of the 17x17 grid."""
    from torchvision.models.inception import InceptionA, InceptionB, InceptionC

    return [
        InceptionA(192, 32, conv),
        InceptionA(256, 64, conv),
        InceptionA(288, 64, conv),
        InceptionB(288, conv),
        InceptionC(768, 128, conv),
        InceptionC(768, 160, conv),
        InceptionC(768, 160, conv),
        InceptionC(768, 192, conv),
        *(InceptionC(768, 192, conv) for _ in range(extra)),
    ]


def _last_blocks(conv: Conv) -> list[nn.Module]:
    """Return the blocks of the 8x8 grid."""
    from torchvision.models.inception import InceptionD, InceptionE

    return [InceptionD(768, conv), InceptionE(1280, conv), InceptionE(2048, conv)]


def _auxiliary(classes: int, width: float, conv: Conv) -> nn.Module:
    """Return the auxiliary head, with TF-slim's smaller deviations for its last two layers."""
    from torchvision.models.inception import InceptionAux

    aux: nn.Module = InceptionAux(768, classes, conv)
    aux.fc = nn.Linear(filters(768, width), classes)  # torchvision's own does not scale
    initialise(aux, truncated_normal(0.1), bias=0)
    initialise(aux.get_submodule("conv1"), truncated_normal(0.01), bias=0)
    initialise(aux.get_submodule("fc"), truncated_normal(0.001), bias=0)
    return aux


def _smallest(stem: Stem, aux: bool) -> int:
    """Return the smallest image side that leaves the last stage its 3 pixels, or the auxiliary head its 17."""
    needed = 17 if aux else 3
    return next(side for side in count(1) if _grid(side, stem) >= needed)


def _grid(side: int, stem: Stem) -> int:
    """299 -> 149 -> 147 -> 73 -> 71 -> 35 -> 17; with stem 32 only the last step."""
    if stem == 299:
        side = _halved(_halved(_halved(side) - 2) - 2)
    return _halved(side)


def _halved(side: int) -> int:
    """Return a 3x3 window in steps of 2, without padding."""
    return (side - 3) // 2 + 1
