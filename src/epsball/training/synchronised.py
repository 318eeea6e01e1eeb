"""Batch norm over the batches of all processes of a job together, on any device (torch's own refuses the CPU)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epsball.runtime.distributed import add_up, processes


class TotalOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors; its gradient is the sum of theirs, which can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return add_up(own)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0])


def total(own: Tensor) -> Tensor:
    """Return the sum of all processes' tensors, differentiably: a loss of any process reaches all of them."""
    added: Tensor = TotalOverProcesses.apply(own)
    return added


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm by mean and variance of the processes' batches together, which are equally large."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any images: the class that it stands in for would have checked them."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide, dims = x.float(), [0, *range(2, x.dim())]
        count = processes() * (x.numel() // x.shape[1])
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = total(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = total(centred.square().sum(dims)) / count
        if self.track_running_stats:
            self.update_running(mean.detach(), variance.detach() * count / (count - 1))
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this batch, as every batch norm of torch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance, factor)


@contextmanager
def synchronised(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let all batch norms of a model be synchronised inside the block, if that is `wanted` and there are several
    processes. They stay the same modules, with their parameters, buffers and names."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kinds = [type(norm) for norm in norms]
    if wanted and processes() > 1:
        for norm in norms:
            norm.__class__ = SynchronisedBatchNorm
    try:
        yield
    finally:
        for norm, kind in zip(norms, kinds, strict=True):
            norm.__class__ = kind


def check_synchronised(model: nn.Module) -> None:
    """Raise ValueError where a batch norm of the model is more than that: it would be without the rest, in training
    alone. Most networks of timm have their activations in it."""
    kinds = {type(module) for module in model.modules() if isinstance(module, _BatchNorm)}
    for kind in kinds - {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}:
        raise ValueError(f"batch_norm should be local where several processes train a network with {kind.__name__}")


def has_batch_norm(model: nn.Module) -> bool:
    """Whether what a model learns depends on how a batch is shared out."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
