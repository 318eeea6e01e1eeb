"""A network of the user's own Python file."""

import inspect
import sys
import traceback
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from epsball.build import did_you_mean, listed, require
from epsball.models.foreign import check_mean_std, load_checkpoint, normalised, try_one_image
from epsball.models.layers import Shape


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
    require(bool(file), "file should be a Python file, as in arch.file=my/net.py, is null")
    check_mean_std(mean, std, shape[0])
    with torch.device("cpu"):
        network = make(found(str(file), call), arguments, f"{call} of {file}", str(file))
        if checkpoint is not None:
            load_checkpoint(network, checkpoint)
        net = normalised(network, mean, std)
        unfit = f"{call} of {file} does not take images of {shape} (C, H, W): ERROR"
        try_one_image(net, shape, classes, "call", unfit)
    net.has_weights = checkpoint is not None  # type: ignore[assignment]
    return net


def make(maker: Callable[..., object], arguments: dict[str, Any], called: str, file: str) -> nn.Module:
    """Call the user's class or function. ValueError, which begins with the field, unless it gives a network."""
    try:
        inspect.signature(maker).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"arguments should be those of {called}{inspect.signature(maker)}: {error}") from None
    try:
        network = maker(**arguments)
    except Exception as error:
        raise ValueError(f"call: {called} fails{told(error, file)}") from error
    kind = type(network).__name__
    require(isinstance(network, nn.Module), f"call should give a torch.nn.Module, but {called} gives a {kind}")
    assert isinstance(network, nn.Module)
    require(any(True for _ in network.parameters()), f"call should give a network, but {called} has no parameters")
    return network


def found(file: str, call: str | None) -> Callable[..., object]:
    """Return what a Python file calls so. ValueError, which begins with the field, where there is no such thing."""
    require(Path(file).is_file(), f"file should be a Python file, but there is no {file}")
    content = imported(file, sha256(Path(file).read_bytes()).hexdigest()[:12])
    makers = {name: each for name, each in vars(content).items() if callable(each) and not isinstance(each, nn.Module)}
    if call not in makers:  # a network that is there already would be all models of the run
        own = [name for name, each in makers.items() if getattr(each, "__module__", "") == content.__name__]
        near = did_you_mean(call, own) if call else ""
        raise ValueError(f"call should name what makes the network in {file}, is {call!r}{near}: it has {listed(own)}")
    result: Callable[..., object] = makers[call]
    return result


@cache
def imported(file: str, digest: str) -> ModuleType:
    """Import a Python file, once for as long as its content stays the same. It stands alone: its folder is not searched
    for what it imports, for that would be in no model's identity."""
    content = ModuleType(f"epsball_own_{digest}")
    content.__file__ = file
    sys.modules[content.__name__] = content  # a dataclass in it looks itself up there
    try:
        with torch.random.fork_rng(devices=[]):  # what it draws while it is imported does not change initial weights
            torch.manual_seed(0)
            exec(compile(Path(file).read_bytes(), file, "exec"), vars(content))
    except Exception as error:
        del sys.modules[content.__name__]
        raise ValueError(f"file: {file} cannot be imported{told(error, file)}") from error
    return content


def told(error: Exception, file: str) -> str:
    """Return ` in line 3: TypeError: ...`, the last line of the user's file that an error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" in line {lines[-1]}" if lines else ""
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())}"
