"""Files of weights, right and damaged; the layout that a network takes."""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from epsball.models.foreign import load_checkpoint, takes_channels_last

WEIGHTS = {"weight": torch.ones(2, 3), "bias": torch.tensor([1.0, 2.0])}
WRAPPED: dict[str, Any] = {
    "alone": WEIGHTS,
    "parallel": {f"module.{name}": value for name, value in WEIGHTS.items()},
    "compiled": {"state_dict": {f"_orig_mod.module.{name}": value for name, value in WEIGHTS.items()}, "epoch": 3},
    "averaged": {"model_ema": {"n_averaged": torch.tensor(5), **{f"module.{k}": v for k, v in WEIGHTS.items()}}},
    "timm's": {"state_dict": {}, "state_dict_ema": WEIGHTS, "args": argparse.Namespace(lr=0.1)},
    **{key: {key: WEIGHTS, "optimizer": {"state": {}}} for key in ("state_dict", "model", "model_state_dict", "net")},
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_read_out_of_what_training_scripts_write(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    net = nn.Linear(3, 2)
    load_checkpoint(net, str(tmp_path / "w.pt"))
    assert torch.equal(net.weight, WEIGHTS["weight"]) and torch.equal(net.bias, WEIGHTS["bias"])


class Named(nn.Module):
    """A network whose own names begin as DataParallel's do."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)


@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod.module."])
def test_a_network_may_have_a_layer_called_module(wrapped: str, tmp_path: Path) -> None:
    torch.save({f"{wrapped}module.{name}": value for name, value in WEIGHTS.items()}, tmp_path / "w.pt")
    net = Named()
    load_checkpoint(net, str(tmp_path / "w.pt"))
    assert torch.equal(net.module.weight, WEIGHTS["weight"])


def test_safetensors_are_read_and_a_network_without_memory_is_compared(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    net = nn.Linear(3, 2)
    load_checkpoint(net, str(tmp_path / "w.safetensors"))
    assert torch.equal(net.bias, WEIGHTS["bias"])
    with torch.device("meta"):
        load_checkpoint(nn.Linear(3, 2), str(tmp_path / "w.safetensors"))
        with pytest.raises(ValueError, match="weight is of shape"):
            load_checkpoint(nn.Linear(3, 1), str(tmp_path / "w.safetensors"))


def written(content: object) -> Callable[[Path], None]:
    return lambda file: torch.save(content, file)


def halved(file: Path) -> None:
    torch.save(WEIGHTS, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scripted(file: Path) -> None:
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):  # the first in torch 2.11; still what many files are
            warnings.simplefilter("ignore", kind)
        torch.jit.script(nn.Linear(3, 2)).save(str(file))


def renamed(**names: str) -> dict[str, Tensor]:
    return {names.get(name, name): value for name, value in WEIGHTS.items()}


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda file: file.write_bytes(b""), "w.pt cannot be read (EOFError: "),
    "a text": (lambda file: file.write_text("no weights"), "w.pt "),
    "half a file": (halved, "w.pt cannot be read (RuntimeError: PytorchStreamReader failed"),
    "a network": (
        written(nn.Linear(3, 2)),
        "w.pt holds torch.nn.modules.linear.Linear, which is no tensor",
    ),
    "a compiled network": (scripted, "w.pt is a TorchScript archive, a network with its code"),
    "a list": (written([1, 2]), "model, model_state_dict, net; {} holds a list"),
    "another nest": (written({"weights": WEIGHTS, "epoch": 3}), "holds the keys weights, epoch"),
    "another shape": (
        written({**WEIGHTS, "bias": torch.ones(3)}),
        "bias is of shape (3,), should be of (2,)",
    ),
    "no numbers": (written({**WEIGHTS, "bias": torch.tensor([1.0, torch.nan])}), "{} has nan in bias"),
    "less": (written({"weight": WEIGHTS["weight"]}), "does not: it lacks bias"),
    "more": (written({**WEIGHTS, "scale": torch.ones(1)}), "does not: it has scale, which the network has not"),
    "other names": (
        written(renamed(weight="w", bias="b")),
        "it lacks weight and has w, which the network has not (4 such differences)",
    ),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_file_that_does_not_fit_is_told_in_one_line(damaged: str, tmp_path: Path) -> None:
    write, answer = DAMAGED[damaged]
    file = tmp_path / "w.pt"
    write(file)
    with pytest.raises(ValueError, match=r"^checkpoint should ") as caught:
        load_checkpoint(nn.Linear(3, 2), str(file))
    assert "\n" not in str(caught.value)
    assert answer.replace("{}", str(file)) in str(caught.value) and str(file) in str(caught.value)


def test_a_network_is_asked_for_its_layout_on_a_copy() -> None:
    of_volumes = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, (1, 3, 3)), nn.Flatten())
    of_images = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).to(memory_format=torch.channels_last)
    assert not takes_channels_last(of_volumes, (1, 8, 8)), "torch has no such layout of their weights"
    assert takes_channels_last(of_images, (3, 8, 8))
    assert of_images[0].weight.is_contiguous(memory_format=torch.channels_last) and of_images.training
