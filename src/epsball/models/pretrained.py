"""Any network of timm, as ImageNet targets and sources; needs `pip install epsball[imagenet]`."""

import difflib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

from torch import nn

from epsball.build import require
from epsball.models.foreign import check_mean_std, load_checkpoint, normalised, try_one_image
from epsball.models.layers import Shape, check_input


def timm(
    shape: Shape,
    classes: int,
    *,
    model: str,
    pretrained: bool,
    checkpoint: str | None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
) -> nn.Module:
    """timm's `model` behind a mean and deviation, its own for null, with its published weights or those of a file:
    `has_weights`, so that it can be measured as it is, without a trainer, unless the published ones are of another
    number of classes, for which the last layer is a new one.

    Refuses a name that timm lacks and an image that the network does not take.
    """
    check_input(shape, classes, model, smallest=1)
    check_mean_std(mean, std, shape[0])
    library = _library()
    require(library.is_model(model), f"model is {model!r}, which timm does not have{_nearest(library, model)}")
    known = checkpoint is None or Path(checkpoint).is_file()
    require(known, f"checkpoint should be a file, is {checkpoint!r}")
    network, config = _create(library, model, pretrained, checkpoint, shape, classes)
    used = (mean, std) if mean is not None else _own_mean_std(config, shape[0])
    net = normalised(network, *used)
    published = config["num_classes"]
    net.has_weights = checkpoint is not None or (pretrained and published == classes)  # type: ignore[assignment]
    if pretrained and not net.has_weights:
        net.lacks = f"the published weights are of {published} classes, these images have {classes}"  # type: ignore[assignment]
    if checkpoint is not None:
        whose = "of the config" if mean is not None else f"timm's for {model}; arch.mean and arch.std set others"
        net.remark = f"images in [0, 1] less {_listed(used[0])}, over {_listed(used[1])}, {whose}"  # type: ignore[assignment]
    expected = f"{model} takes images of {config['input_size']} (C, H, W), these are {shape}"
    try_one_image(net, shape, classes, "model", expected)
    return net


def _own_mean_std(config: Mapping[str, Any], channels: int) -> tuple[list[float], list[float]]:
    """Return mean and deviation as timm describes the network; of other images than RGB one for all channels."""
    mean, std = list(config["mean"]), list(config["std"])
    return (mean, std) if len(mean) == channels else ([fmean(mean)], [fmean(std)])


def _listed(values: list[float] | None) -> str:
    return " ".join(f"{value:g}" for value in values or ())


def _library() -> ModuleType:
    try:
        import timm as library
    except ImportError as error:
        raise ValueError("name is 'timm', which is not installed: pip install epsball[imagenet]") from error
    logging.getLogger("timm").setLevel(logging.WARNING)  # it tells of every file that it reads, each time
    module: ModuleType = library
    return module


def _nearest(library: ModuleType, model: str) -> str:
    near = difflib.get_close_matches(model, library.list_models(), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(map(repr, near))}?)" if near else ""


def _create(
    library: ModuleType, model: str, pretrained: bool, checkpoint: str | None, shape: Shape, classes: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with the weights of the checkpoint, and timm's description of it; transformers are given the
    image size."""
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
    described = library.get_pretrained_cfg(model)
    if described is not None and described.fixed_input_size and described.input_size[1:] != shape[1:]:
        settings["img_size"] = shape[1:]
    arrays = checkpoint if checkpoint and checkpoint.endswith((".npz", ".npy")) else ""  # of JAX: timm renames them
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter")  # a network on meta
            published = pretrained and checkpoint is None
            network = library.create_model(model, pretrained=published, checkpoint_path=arrays, **settings)
    except Exception as error:  # no network, a damaged file: each model has its own ways to fail
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2]) or type(error).__name__
        what = f"checkpoint {arrays} cannot be read" if arrays else f"model {model!r} cannot be made so"
        raise ValueError(f"{what} by timm: {reason}") from error
    if checkpoint and not arrays:
        load_checkpoint(network, checkpoint)
    return network, network.pretrained_cfg
