"""Layers whose input gradients are differentiated once more, as an objective of gradients (GAL) does, at less cost than
torch's own: docs/results/speed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
Arguments = tuple[list[int], list[int], list[int], bool, list[int], int]
"""stride, padding, dilation, transposed, output padding and groups, as aten takes them"""


class DoubleBackward(TorchFunctionMode):
    """A forward pass inside the block has the numbers that torch's has, and so have its derivatives. Gradients that are
    taken of it with create_graph=True are of the images alone: parameters have none, and torch says so where they are
    asked for. Without create_graph they have theirs. Where a layer's parameters are not parameters of the network but
    computed, and so may depend on the images, it stays torch's; so does all that is not in OWN."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        function: Callable[..., Any] = OWN.get(func, func)
        return function(*args, **(kwargs or {}))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """F.conv2d of a batch. Torch has the second derivative of the weights from a convolution with kernels as large as
    the images; it is an ordinary gradient of weights, whose input is the gradient that came back."""
    if padding == "same" and all(size % 2 for size in weight.shape[2:]):  # others are padded by more on one side
        padding = [size // 2 * each for size, each in zip(weight.shape[2:], pair(dilation), strict=True)]
    if isinstance(padding, str) or input.dim() != 4 or computed(weight, bias):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    arguments = pair(stride), pair(padding), pair(dilation), False, [0, 0], groups
    output: Tensor = Convolution.apply(*as_autocast(input, weight, bias), arguments)
    return output


class Convolution(torch.autograd.Function):
    """A convolution, its gradient, and where that is differentiated, the gradient of its images alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, arguments: Arguments) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.arguments, ctx.biased = arguments, bias is not None
        output: Tensor = aten.convolution(x, weight, bias, *arguments)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            return ConvolutionInputGradient.apply(gradients[0], x.detach(), weight, ctx.arguments), None, None, None
        sizes = [len(weight)] if ctx.biased else None
        wanted = [*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]]
        return *aten.convolution_backward(gradients[0], x, weight, sizes, *ctx.arguments, wanted), None


class ConvolutionInputGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, arguments: Arguments) -> Tensor:
        ctx.save_for_backward(gradient, weight)
        ctx.arguments = arguments
        of_input: Tensor
        only_input = [True, False, False]
        of_input, _, _ = aten.convolution_backward(gradient, x, weight, None, *arguments, only_input)
        return of_input

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *second: Tensor) -> tuple[Tensor, None, Tensor, None]:
        gradient, weight = ctx.saved_tensors
        only_weight = [False, True, False]
        _, of_weight, _ = aten.convolution_backward(gradient, second[0], weight, None, *ctx.arguments, only_weight)
        return aten.convolution(second[0], weight, None, *ctx.arguments), None, of_weight, None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.batch_norm by the batch's statistics (those that run: torch's own). Torch has the second derivative from some
    twenty passes over tensors as large as the input; here it is from four."""
    few = input.numel() <= input.shape[1]  # one value a channel: torch refuses it
    if not training or few or computed(weight, bias):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    output: Tensor = BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)
    return output


class BatchNorm(torch.autograd.Function):
    """Batch norm by the batch's statistics, its gradient, and where that is differentiated, the gradient of its images
    alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        output: Tensor
        output, mean, inverse_sd = aten.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, mean, inverse_sd)
        ctx.eps, ctx.biased = eps, bias is not None
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_sd = ctx.saved_tensors
        if torch.is_grad_enabled():
            of_input = BatchNormInputGradient.apply(gradients[0], x, weight, mean, inverse_sd, ctx.eps)
            return of_input, *[None] * 6
        of_input, of_weight, of_bias = batch_norm_backward(gradients[0], x, weight, mean, inverse_sd, ctx.eps)
        return of_input, None if weight is None else of_weight, of_bias if ctx.biased else None, *[None] * 4


class BatchNormInputGradient(torch.autograd.Function):
    """The gradient of a batch norm's input. Let a channel have n values x, over which all sums run, r = 1 / sd,
    u = (x - mean) r, w the weight. Of the gradient g of the output it is

        result = w r (g - sum(g) / n - u sum(g u) / n),

    linear in g and its own transpose. With the gradient s of the result, so, the derivative by g is the same of s, and

        sum(s result) = w r f,    f = sum(s g) - sum(s) sum(g) / n - sum(s u) sum(g u) / n,

    has by w the derivative r f, and by x a sum of s, g, x and 1, each times a number of the channel."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, inverse_sd: Tensor, eps: float
    ) -> Tensor:
        of_input, sum_gu, sum_g = batch_norm_backward(g, x, weight, mean, inverse_sd, eps)
        ctx.save_for_backward(g, x, weight, mean, inverse_sd, sum_gu, sum_g)
        ctx.eps = eps
        return of_input

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *second: Tensor) -> tuple[Tensor | None, ...]:
        g, x, weight, mean, r, sum_gu, sum_g = ctx.saved_tensors
        s = second[0]
        of_g, sum_su, sum_s = batch_norm_backward(s, x, weight, mean, r, ctx.eps)
        n = x.numel() / x.shape[1]
        f = (s * g).sum([0, *range(2, x.dim())], dtype=mean.dtype) - (sum_s * sum_g + sum_su * sum_gu) / n
        scale = (r if weight is None else weight * r) * -r / n
        s_times, g_times = scale * sum_gu, scale * sum_su
        x_times = scale * r * (f - 2 * sum_su * sum_gu / n)
        constant = -(s_times * sum_s + g_times * sum_g) / n - x_times * mean

        def of_channels(values: Tensor) -> Tensor:
            return values.to(x.dtype).view(-1, *[1] * (x.dim() - 2))

        of_x = torch.addcmul(of_channels(constant), of_channels(x_times), x)
        of_x.addcmul_(of_channels(s_times), s).addcmul_(of_channels(g_times), g)
        return of_g, of_x, None if weight is None else r * f, None, None, None


def batch_norm_backward(
    g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, inverse_sd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, weight and bias: of the last two sum(g u) and sum(g), which are there without a
    weight, too."""
    weight = torch.ones_like(mean) if weight is None else weight  # CUDA's kernel sums into a tensor like it
    all_three = [True, True, True]
    gradients: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
        g, x, weight, None, None, mean, inverse_sd, True, eps, all_three
    )
    return gradients


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """F.leaky_relu. Torch has a second derivative with respect to the input that is zeros, and adds them up."""
    if inplace or negative_slope < 0:
        return F.leaky_relu(input, negative_slope, inplace)
    output: Tensor = Rectifier.apply(input, negative_slope)
    return output


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """F.relu, whose second derivative is torch's zeros, too."""
    if inplace:
        return F.relu(input, inplace)
    output: Tensor = Rectifier.apply(input, 0.0)
    return output


class Rectifier(torch.autograd.Function):
    """ReLU (slope 0) or leaky ReLU; its gradient can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        output = F.leaky_relu(x, slope) if slope else F.relu(x)
        ctx.save_for_backward(output)
        ctx.slope = slope
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (output,) = ctx.saved_tensors
        return aten.leaky_relu_backward(gradients[0], output.detach(), ctx.slope, True), None


OWN: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.conv2d: conv2d,
    F.batch_norm: batch_norm,
    F.leaky_relu: leaky_relu,
    F.relu: relu,
}


def computed(*parameters: Tensor | None) -> bool:
    """Whether a layer's parameters come out of other tensors."""
    return not all(parameter is None or parameter.is_leaf for parameter in parameters)


def pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Cast to the precision that autocast, where it is on, computes convolutions in."""
    kind = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype) for tensor in tensors]
