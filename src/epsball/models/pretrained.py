"""Any network of timm, as ImageNet targets and sources; needs `pip install epsball[imagenet]`."""

import difflib
import warnings
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import torch
from torch import nn

from epsball.build import ShapeError, require
from epsball.models.layers import MeanStd, Shape, check_input


def timm(shape: Shape, classes: int, *, model: str, pretrained: bool, checkpoint: str | None) -> nn.Module:
    """timm's `model` behind its own mean and deviation, with its published weights or those of a file: `has_weights`,
    so that it can be measured as it is, without a trainer, unless the published ones are of another number of classes,
    for which the last layer is a new one.

    Refuses a name that timm lacks and an image that the network does not take.
    """
    check_input(shape, classes, model, smallest=1)
    library = _library()
    require(library.is_model(model), f"model is {model!r}, which timm does not have{_nearest(library, model)}")
    known = checkpoint is None or Path(checkpoint).is_file()
    require(known, f"checkpoint should be a file, is {checkpoint!r}")
    network, config = _create(library, model, pretrained, checkpoint, shape, classes)
    mean, std = list(config["mean"]), list(config["std"])
    if len(mean) != shape[0]:
        mean, std = [fmean(mean)], [fmean(std)]
    net = nn.Sequential(MeanStd(mean, std), network)
    published = config["num_classes"]
    net.has_weights = checkpoint is not None or (pretrained and published == classes)  # type: ignore[assignment]
    if pretrained and not net.has_weights:
        net.lacks = f"the published weights are of {published} classes, these images have {classes}"  # type: ignore[assignment]
    _try_one_image(net, shape, f"{model} takes images of {config['input_size']} (C, H, W), these are {shape}")
    return net


def _library() -> ModuleType:
    try:
        import timm as library
    except ImportError as error:
        raise ValueError("name is 'timm', which is not installed: pip install epsball[imagenet]") from error
    module: ModuleType = library
    return module


def _nearest(library: ModuleType, model: str) -> str:
    near = difflib.get_close_matches(model, library.list_models(), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def _create(
    library: ModuleType, model: str, pretrained: bool, checkpoint: str | None, shape: Shape, classes: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network and timm's description of it; transformers are given the image size."""
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
    described = library.get_pretrained_cfg(model)
    if described is not None and described.fixed_input_size and described.input_size[1:] != shape[1:]:
        settings["img_size"] = shape[1:]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter")  # a network on meta
            network = library.create_model(model, pretrained=pretrained, checkpoint_path=checkpoint or "", **settings)
    except (OSError, RuntimeError, TypeError, AssertionError) as error:  # OSError: no network
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2]) or type(error).__name__
        raise ValueError(f"model {model!r} cannot be made so by timm: {reason}") from error
    return network, network.pretrained_cfg


def _try_one_image(net: nn.Module, shape: Shape, message: str) -> None:
    """Show the network one image in eval mode, which leaves no trace in it."""
    device = next(net.parameters()).device
    net.eval()
    try:
        with torch.no_grad():
            net(torch.zeros(1, *shape, device=device))
    except (RuntimeError, AssertionError) as error:
        raise ShapeError(message) from error
    finally:
        net.train()
