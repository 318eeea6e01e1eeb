"""Parts that networks share: swappable parts (ACTIVATIONS, NORMALISATIONS), TensorFlow's padding, initialisers."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.build import ShapeError, require

Network = TypeVar("Network", bound=nn.Module)
Shape = tuple[int, int, int]  # channels, height, width
Activation = Callable[[], nn.Module]  # a fresh layer per call
Normalisation = Callable[[Shape], list[nn.Module]]  # the first layers of a network: one or none


def relu() -> Activation:
    return nn.ReLU


def leaky_relu(slope: float) -> Activation:
    require(0 <= slope < 1, f"slope should be in [0, 1), is {slope}")
    return lambda: nn.LeakyReLU(slope)


def elu() -> Activation:
    """Return ELU with alpha 1 (Clevert et al. 2015), the one of Kurakin's model C."""
    return nn.ELU


def tanh() -> Activation:
    return nn.Tanh


def relu6() -> Activation:
    return nn.ReLU6


def relu_decay(beta: float) -> Activation:
    require(beta >= 0, f"beta should be at least 0, is {beta}")
    return lambda: ReluDecay(beta)


ACTIVATIONS: dict[str, Callable[..., Activation]] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "tanh": tanh,
    "relu6": relu6,
    "relu_decay": relu_decay,
}


class ReluDecay(nn.Module):
    """relu(x) / (1 + beta relu(x)^2): falls again for large inputs (Kurakin et al. 2017, appendix D)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        positive = F.relu(x)
        return positive / (1 + self.beta * positive**2)


def none() -> Normalisation:
    return lambda _shape: []


def per_image() -> Normalisation:
    return lambda _shape: [PerImage()]


def symmetric() -> Normalisation:
    """Bring [0, 1] to [-1, 1], the range of TF-slim's Inception nets."""
    return lambda _shape: [MeanStd([0.5], [0.5])]


def mean_std(mean: list[float], std: list[float]) -> Normalisation:
    """Return (x - mean) / std in [0, 1] units; one value for all channels, or one per channel."""
    require(len(mean) == len(std), f"std should have {len(mean)} values, as mean does, has {len(std)}")
    require(all(s > 0 for s in std), f"std should be above 0, is {std}")

    def layers(shape: Shape) -> list[nn.Module]:
        wanted = f"1 or {shape[0]} values (the image has {shape[0]} channels)"
        require(len(mean) in (1, shape[0]), f"normalise.mean should have {wanted}, has {len(mean)}")
        return [MeanStd(mean, std)]

    return layers


NORMALISATIONS: dict[str, Callable[..., Normalisation]] = {
    "none": none,
    "per_image": per_image,
    "mean_std": mean_std,
    "symmetric": symmetric,
}


class MeanStd(nn.Module):
    """(x - mean) / std per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class PerImage(nn.Module):
    """`tf.image.per_image_standardization`: each image to mean 0 and deviation 1 over all its values.

    TensorFlow's floor for the deviation of a nearly constant image, 1/sqrt(values), is in 0..255 units.
    """

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=0, keepdim=True)
        floor = 1 / (255**2 * x[0].numel())
        return (x - mean) / variance.clamp(min=floor).sqrt()


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding "SAME": ceil(size / stride) outputs, an odd pixel at the end."""

    def forward(self, input: Tensor) -> Tensor:
        top, bottom = same_padding(input.shape[2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(input.shape[3], self.kernel_size[1], self.stride[1])
        if (top, left) == (bottom, right):
            return F.conv2d(input, self.weight, self.bias, self.stride, (top, left))
        padded = F.pad(input, (left, right, top, bottom))
        return F.conv2d(padded, self.weight, self.bias, self.stride)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the pixels that TensorFlow's "SAME" adds before and after one axis."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def initialise(net: Network, weight: Callable[[Tensor], Any], bias: float) -> Network:
    """Fill every convolution and linear layer of `net` by `weight`, and their biases with a constant; return it. On the
    meta device, where networks are checked, there is nothing to fill."""
    for layer in () if next(net.parameters()).is_meta else net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight(layer.weight)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, bias)
    return net


def truncated_normal(std: float) -> Callable[[Tensor], Tensor]:
    """Return TensorFlow's initialiser: values beyond two standard deviations are drawn again."""
    return lambda weight: nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def scaled(channels: int, width: float) -> int:
    """Return `channels` times the width factor, rounded, at least one."""
    return max(1, round(channels * width))


def check_input(shape: Shape, classes: int, arch: str, smallest: int) -> None:
    """Refuse an image that `arch`'s layers would shrink to nothing, and an empty class list."""
    channels, height, width = shape
    if channels < 1:
        raise ShapeError(f"{arch} takes images of at least 1 channel, these have {channels}")
    if min(height, width) < smallest:
        raise ShapeError(f"{arch} takes images from {smallest}x{smallest} on, these are {height}x{width}")
    require(classes >= 1, f"classes should be at least 1 for {arch}, is {classes}")
