"""A network of the user's own Python file."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from epsball.build import listed, require
from epsball.models.foreign import (
    check_mean_std,
    gives_probabilities,
    load_checkpoint,
    normalised,
    takes_channels_last,
    try_one_image,
)
from epsball.models.layers import Shape
from epsball.runtime.named_files import cause, check_arguments, found_in


def module(
    shape: Shape,
    classes: int,
    *,
    file: str | None,
    call: str | None,
    arguments: dict[str, Any],
    checkpoint: str | None,
    mean: list[float] | None,
    std: list[float] | None,
) -> nn.Module:
    """What `call(**arguments)` of a Python file returns, behind mean and deviation where they are given: a network of
    (N, C, H, W) images in [0, 1], then normalised, that gives logits. With a checkpoint it `has_weights`, so that it
    can be measured as it is, without a trainer.

    It is made on the CPU even to be checked: code that was not written for the meta device may fail there.
    """
    maker = found_in(file, call, "arch.file=my/net.py", "makes the network")
    check_mean_std(mean, std, shape[0])
    with torch.device("cpu"):
        network = make(maker, arguments, f"{call} of {file}", str(file))
        if checkpoint is not None:
            load_checkpoint(network, checkpoint)
        net = normalised(network, mean, std)
        unfit = f"{call} of {file} does not take images of {shape} (C, H, W): ERROR"
        try_one_image(net, shape, classes, "call", unfit)
        if gives_probabilities(net, shape):
            advice = "take the softmax away, of which the loss and attacks take one more"
            net.remark = f"{call} of {file} gives probabilities, should give logits: {advice}"  # type: ignore[assignment]
        net.takes_channels_last = takes_channels_last(net, shape)  # type: ignore[assignment]
    net.has_weights = checkpoint is not None  # type: ignore[assignment]
    return net


def make(maker: Callable[..., object], arguments: dict[str, Any], called: str, file: str) -> nn.Module:
    """Call the user's class or function. ValueError, which begins with the field, unless it gives a network."""
    check_arguments(maker, called, arguments)
    try:
        network = maker(**arguments)
    except (Exception, SystemExit) as error:
        raise ValueError(f"call: {called} fails{cause(error, file)}") from error
    kind = type(network).__name__
    require(isinstance(network, nn.Module), f"call should give a torch.nn.Module, but {called} gives a {kind}")
    assert isinstance(network, nn.Module)
    require(any(True for _ in network.parameters()), f"call should give a network, but {called} has no parameters")
    other = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    require(not other, f"call should give a network of tensors, which alone are kept, but {called} has {listed(other)}")
    return network
