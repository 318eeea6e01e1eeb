"""Models whose attacks and losses can be worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CONF = Path(__file__).parents[1] / "conf"


def linear(weight: Tensor) -> nn.Sequential:
    """logits = weight @ pixels, in eval mode; `weight` is (classes, pixels)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight.clone())
    return nn.Sequential(nn.Flatten(), layer).eval()


def two_class(direction: Tensor) -> nn.Sequential:
    """Class 1 along `direction` (pixels,): its sign is where the worst input for label 0 lies."""
    return linear(torch.stack([torch.zeros_like(direction), direction]))


class Function(nn.Module):
    """A model whose logits are a function of the images."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Brightness(nn.Module):
    """A target without gradients: class 1 where the image is bright."""

    differentiable = False

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1, keepdim=True) > 0.5
        return torch.cat([~bright, bright, torch.zeros_like(bright)], 1).float()


def towards_1(x: Tensor) -> Tensor:
    """Three classes for images of one pixel: class 1's logit rises with it, and the loss of label 0 falls."""
    u = x.flatten(1)
    return torch.cat([4 + 0 * u, u, 3 - 3 * u], 1)


class Curve(nn.Module):
    """Two classes with logits (0, f(pixels)): what attacks of label 0 increase is a monotone function of f."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        value = self.f(x.flatten(1))
        return torch.stack([torch.zeros_like(value), value], 1)


def softmax_gradient(weight: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """Input gradient of a linear model's cross-entropy, (p - one_hot) @ weight, in the shape of x."""
    p = (x.flatten(1) @ weight.T).softmax(1)
    one_hot = torch.eye(len(weight), dtype=weight.dtype)[label]
    return ((p - one_hot) @ weight).view_as(x)


def batch_sizes(model: nn.Module) -> list[int]:
    """A list that grows by one batch size at every forward pass of `model` from now on."""
    seen: list[int] = []
    model.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    return seen


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class NoFloat64(TorchDispatchMode):
    """Inside the block no operation on tensors of the device may give float64, which MPS lacks."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for found in result if isinstance(result, (tuple, list)) else (result,):
            float64 = isinstance(found, Tensor) and found.dtype is torch.float64 and found.device.type == self.device
            assert not float64, f"{func} gives float64"
        return result


class CountingModel(nn.Module):
    """A model that counts how many images it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)
