"""What networks that were not written for this project need: a normalisation before them, weights of a file, a look at
what they make of one image.
"""

import argparse
import copy
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from epsball.build import ShapeError, listed, one_line, require
from epsball.models.layers import MeanStd, Shape
from epsball.models.wrappers import heads, is_differentiable, own_heads

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict", "net")
"""keys under which training scripts keep the weights, the first ones before the others: timm's, then common ones"""
WRAPPER = re.compile(r"^(_orig_mod|module)\.")
"""what torch.compile, or DataParallel, puts before every name"""
AVERAGED = "n_averaged"
"""what torch's AveragedModel keeps beside the weights: of how many they are the mean"""
SAVED = "as torch.save(net.state_dict(), FILE) or safetensors write it"


def load_checkpoint(network: nn.Module, file: str) -> None:
    """Put the weights of a file into a network, without what wraps their names where the network's own are other ones;
    on the meta device they are compared alone.

    Nothing but tensors is unpickled. ValueError, which begins with `checkpoint`: one line that names the file and the
    first thing that does not fit.
    """
    weights = read_weights(file)
    while weights.keys() != network.state_dict().keys() and any(map(WRAPPER.match, weights)):
        weights = {WRAPPER.sub("", name): value for name, value in weights.items() if name != AVERAGED}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter")
            network.load_state_dict(weights)
    except RuntimeError as error:
        text = first_mismatch(network.state_dict(), weights) or one_line(error)
        raise ValueError(f"checkpoint should fit the network, but {file} does not: {text}") from None


def read_weights(file: str) -> dict[str, Any]:
    """Return the weights of a file by name."""
    require(Path(file).is_file(), f"checkpoint should be a file, is {file!r}")
    try:
        with torch.device("cpu"):  # networks are checked on meta
            content = load_tensors(file)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"checkpoint should be a file of weights, {SAVED}; {file} {why_unreadable(error)}") from None
    found = content if isinstance(content, Mapping) else {}
    for key in NESTED:
        if isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not any(isinstance(value, Tensor) for value in found.values()):
        holds = f"the keys {', '.join(map(str, list(found)[:5]))}" if found else f"a {type(content).__name__}"
        nested = f"alone or under {', '.join(NESTED[2:])}"
        raise ValueError(f"checkpoint should be a file of weights, {SAVED}, {nested}; {file} holds {holds}")
    unknown = [name for name, value in found.items() if isinstance(value, Tensor) and bool(value.isnan().any())]
    require(not unknown, f"checkpoint should be a file of weights, but {file} has nan in {listed(unknown[:3])}")
    return {str(name): value for name, value in found.items()}


def load_tensors(file: str) -> object:
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(file)
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):  # timm's scripts' settings
        warnings.filterwarnings("ignore", ".*TorchScript")  # whose error follows
        return torch.load(file, map_location="cpu", weights_only=True)


def why_unreadable(error: Exception) -> str:
    """Say what is wrong with a file of weights; torch's own words advise to unpickle whatever is in it."""
    if "TorchScript" in str(error):
        return "is a TorchScript archive, a network with its code: torch.jit.load reads it"
    if isinstance(error, pickle.UnpicklingError):
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        return f"holds {unsafe[1]}, which is no tensor, and is not unpickled" if unsafe else "is no such file"
    return f"cannot be read ({type(error).__name__}: {one_line(error)[:120]})"


def first_mismatch(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Say where weights of a file first differ from a network's in name or shape, and in how many places."""
    lacking = [f"it lacks {name}" for name in own if name not in given]
    unknown = [f"it has {name}, which the network has not" for name in given if name not in own]
    unlike = [
        f"{name} is of shape {tuple(given[name].shape)}, should be of {tuple(value.shape)}"
        for name, value in own.items()
        if isinstance(given.get(name), Tensor) and given[name].shape != value.shape
    ]
    every = [*unlike, *lacking, *unknown]
    more = f" ({len(every)} such differences)" if len(every) > 1 else ""
    both = f"{lacking[0]} and has {unknown[0][7:]}" if lacking and unknown and not unlike else ""
    return f"{both or every[0]}{more}" if every else ""


def check_mean_std(mean: list[float] | None, std: list[float] | None, channels: int) -> None:
    """ValueError unless both are null, or have a value for all channels or one for each."""
    require((mean is None) == (std is None), "std should be set beside mean, and null beside a null one")
    if mean is not None and std is not None:
        require(len(mean) == len(std), f"std should have {len(mean)} values, as mean does, has {len(std)}")
        wanted = f"1 or {channels} values (the image has {channels} channels)"
        require(len(mean) in (1, channels), f"mean should have {wanted}, has {len(mean)}")
        require(all(s > 0 for s in std), f"std should be above 0, is {std}")


def normalised(network: nn.Module, mean: list[float] | None, std: list[float] | None) -> nn.Sequential:
    """Return the network behind (x - mean) / std, in [0, 1] units; as it is where they are null. Its heads are those of
    the network, and so is whether it is differentiable."""
    before = [] if mean is None or std is None else [MeanStd(mean, std)]
    net = (nn.Sequential if own_heads(network) is None else SeveralHeads)(*before, network)
    net.differentiable = is_differentiable(network)  # type: ignore[assignment]
    return net


class SeveralHeads(nn.Sequential):
    """A network of several heads, the last of the layers, behind the others."""

    def heads(self, x: Tensor) -> list[tuple[Tensor, float]]:
        """Return the network's own."""
        *before, network = self
        for layer in before:
            x = layer(x)
        return heads(network, x)


def try_one_image(net: nn.Module, shape: Shape, classes: int, field: str, message: str) -> None:
    """Show the network one image in eval mode, which leaves no trace in it.

    ShapeError with `message` where it fails, in which the word ERROR stands for what it says. ValueError, which begins
    with the `field`, where it gives no logits, heads that are none, or changes the image: other models are shown the
    same ones.
    """
    image = torch.zeros(1, *shape, device=next(net.parameters()).device)
    net.eval()
    try:
        with torch.no_grad():
            logits = net(image)
            every = heads(net, image) if own_heads(net) else []
    except Exception as error:
        said = f"{type(error).__name__}: {one_line(error)}"
        raise ShapeError(message.replace("ERROR", said)) from error
    finally:
        net.train()
    given = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    fits = given == (1, classes)
    require(fits, f"{field} should give logits of shape (1, {classes}) for an image of {shape}, gives {given}")
    wanted = f"a list of logits of shape (1, {classes}) with their weights in the loss, [(logits, 1.0), ...]"
    pairs = isinstance(every, list) and all(is_head(each, classes) for each in every)
    require(pairs, f"{field} has a method heads(x), which should give {wanted}, those of its prediction first")
    kept = image._version == 0  # on meta, too, which has no pixels to compare
    require(kept, f"{field} should leave the images as they are, but changes them in place, as `x -= 0.5` does")


def takes_channels_last(net: nn.Module, shape: Shape) -> bool:
    """Whether a copy of a network, which takes an image, takes it with its weights laid out so, too: `view` of what a
    convolution gives fails then."""
    try:
        with torch.no_grad():
            copy.deepcopy(net).eval().to(memory_format=torch.channels_last)(torch.zeros(1, *shape))
    except Exception:
        return False
    return True


def gives_probabilities(net: nn.Module, shape: Shape) -> bool:
    """Whether what a network, which takes an image, gives for one looks like probabilities, as after a softmax."""
    net.eval()
    with torch.no_grad():
        given = net(torch.full((1, *shape), 0.5))
    net.train()
    return bool((given >= 0).all()) and abs(float(given.sum()) - 1) < 1e-3


def is_head(pair: object, classes: int) -> bool:
    """Whether it is logits of one image with their weight."""
    if not (isinstance(pair, tuple) and len(pair) == 2):
        return False
    logits, weight = pair
    return isinstance(logits, Tensor) and tuple(logits.shape) == (1, classes) and isinstance(weight, int | float)
