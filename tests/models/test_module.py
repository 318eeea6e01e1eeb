"""A network of the user's own file: the same numbers as in plain torch, and one line for all that is wrong with it."""

import inspect
import os
import re
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epsball.build import ConfigError, build
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.models import MODELS, heads, own_heads
from epsball.runtime.named_files import found_in
from epsball.runtime.progress import Stop
from epsball.training.trained import place_network

NET = """
from functools import partial; import torch
from torch import nn

SCALE = torch.ones(1)  # made while the file is imported


class Net(nn.Module):
    def __init__(self, width=6, classes=10):
        super().__init__()
        self.first, self.out = nn.Linear(784, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.out(self.first(x.flatten(1) * SCALE.item()).relu())


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x


def empty():
    return nn.Flatten()


def nothing():
    return None


def broken():
    return Net().absent


class InPlace(Net):
    def forward(self, x):
        x -= 0.5
        return super().forward(x)


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Viewing(nn.Module):
    def __init__(self, view=True):
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2 * 24 * 24, 10)
        self.view = view

    def forward(self, x):
        filtered = self.second(self.first(x))
        return self.out(filtered.view(len(x), -1) if self.view else filtered.flatten(1))


class Counting(Net):
    def get_extra_state(self):
        return {"seen": 0}

    def set_extra_state(self, state):
        pass


READY = Net()
Narrow = partial(Net, width=2)
"""
Config = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def spec(path: Path, **fields: object) -> Config:
    own = {"name": "module", "file": str(path), "call": "Net", "arguments": {}}
    return {**own, "checkpoint": None, "mean": None, "std": None, **fields}


def with_arch(config: Config, arch: Config, trainer: Config | None) -> Config:
    changed = deepcopy(config)
    changed["models"]["target"] |= {"arch": arch, "trainer": trainer}
    return changed


def trained_in_torch(seed: int, x: Tensor, y: Tensor) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(784, 6), nn.ReLU(), nn.Linear(6, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net((x.flatten(1) - 0.3) / 0.4), y).backward()
        optimizer.step()
    return net


def data_of(config: Config) -> tuple[Any, Any]:
    data = prepare_experiment(config).data
    return data.train, data.test


def fgsm(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """FGSM's examples, computed by hand."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net((x.flatten(1) - 0.3) / 0.4), y, reduction="sum"), x)
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


def error_of(net: nn.Module, x: Tensor, y: Tensor) -> float:
    return (net((x.flatten(1) - 0.3) / 0.4).argmax(1) != y).float().mean().item()


def test_errors_are_those_of_plain_torch(tiny: Callable[..., Config], file: Path, tmp_path: Path) -> None:
    """Weights trained elsewhere, with a mean and a deviation; white-box FGSM, and transfer from a second network."""
    config = {**tiny("suite.fgsm.eps=0.1", "dataset.train_size=400", "dataset.test_size=200"), "outputs": str(tmp_path)}
    train, test = (split.take(torch.arange(len(split))) for split in data_of(config))
    names = {"0.weight": "first.weight", "0.bias": "first.bias", "2.weight": "out.weight", "2.bias": "out.bias"}
    nets = [trained_in_torch(seed, *train) for seed in (0, 1)]
    for seed, net in enumerate(nets):
        state = {names[name]: value for name, value in net.state_dict().items()}
        torch.save({"model_state_dict": state}, tmp_path / f"{seed}.pt")
    arches = [spec(file, checkpoint=str(tmp_path / f"{seed}.pt"), mean=[0.3], std=[0.4]) for seed in (0, 1)]
    config = with_arch(config, arches[0], None)
    config["models"]["other"] = {**config["models"]["target"], "arch": arches[1]}
    experiment = prepare_experiment(config)
    run_experiments("own", [[experiment]], tmp_path / "run", [], Stop())
    rows = pd.read_csv(tmp_path / "run" / "results.csv").set_index(["source", "target", "attack"])["error_top1"]
    for source, target in (("target", "target"), ("other", "target"), ("target", "other")):
        crafted, shown = (nets[name == "other"] for name in (source, target))
        expected = error_of(shown, fgsm(crafted, *test, 0.1), test[1])
        assert rows[source, target, "fgsm"] == pytest.approx(expected, abs=1e-6)
    assert rows["target", "target", "clean"] == pytest.approx(error_of(nets[0], *test), abs=1e-6)
    assert 0 < rows["target", "target", "clean"] < 0.5 < rows["target", "target", "fgsm"], "something was measured"


def test_contents_of_both_files_are_its_identity(tiny: Callable[..., Config], file: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    torch.save(build(MODELS, spec(file), (1, 28, 28), 10, where="arch")[0].state_dict(), weights)

    def made(**fields: object) -> Any:
        return prepare_experiment(with_arch(tiny(), spec(file, checkpoint=str(weights), **fields), None)).specs[
            "target"
        ]

    first, moved = made(), file.rename(tmp_path / "moved.py")
    file.write_text(moved.read_text())
    assert made().key == first.key == made(file=str(moved)).key != made(mean=[0.0], std=[1.0]).key
    file.write_text(NET.replace(".relu()", ".tanh()"))
    os.utime(file, ns=(1, 1))
    with pytest.raises(ConfigError, match=r"^arch: a file of module-published has changed since the run began"):
        first.make_network()
    second = made()
    torch.save({name: value + 1 for name, value in torch.load(weights).items()}, weights)
    os.utime(weights, ns=(1, 1))
    assert len({first.key, second.key, made().key}) == 3
    x = torch.rand(2, 1, 28, 28)
    net = made().make_network()
    assert torch.equal(net(x), net[0].out(net[0].first(x.flatten(1)).tanh())), "the new file is what is run"


@pytest.mark.parametrize(
    ("given", "other"),
    [
        *(({"padding": "same"}, {}), ({"batch_norm": "local"}, {}), ({"images": {}}, {}), ({"mean": None}, {})),
        *(({"deep": {"export": False}}, {"deep": {}}), ({"first": {"name": "a"}}, {"second": {"name": "a"}})),
    ],
)
def test_arguments_count_whatever_they_are_called(
    tiny: Callable[..., Config], file: Path, given: dict[str, Any], other: dict[str, Any]
) -> None:
    """Fields of ours that came later, and labels, are in no identity at the values that change nothing."""
    file.write_text(f"{NET}\n\ndef named(**names):\n    return Net(len(str(names)))\n")

    def key(arguments: dict[str, Any]) -> str:
        config = with_arch(tiny(), spec(file, call="named", arguments=arguments), tiny()["trainer"])
        return prepare_experiment(config).specs["target"].key

    assert key(given) != key(other)


def test_a_trainer_trains_it_and_goes_on_from_its_weights(
    tiny: Callable[..., Config], file: Path, tmp_path: Path
) -> None:
    trainer = tiny()["trainer"]
    started = prepare_experiment(with_arch(tiny(), spec(file, arguments={"width": 9}), trainer)).specs["target"]
    assert started.label == "module-standard" and started.make_network()[0].first.out_features == 9
    with pytest.raises(ConfigError, match=r"trainer is missing: .* weights, or those of a file, may have none"):
        prepare_experiment(with_arch(tiny(), spec(file), None))
    ensemble = {"name": "ensemble", "members": {"a": spec(file)}, "copies": 2, "rule": "mean_logit"}
    torch.manual_seed(0)
    members = build(MODELS, ensemble, (1, 28, 28), 10, where="arch").members
    assert not torch.equal(members[0][0].out.weight, members[1][0].out.weight)


def test_an_ensemble_of_weights_of_files_is_measured_as_it_is(
    tiny: Callable[..., Config], file: Path, tmp_path: Path
) -> None:
    nets = [trained_in_torch(seed, torch.rand(9, 1, 28, 28), torch.arange(9)) for seed in (0, 1)]
    for seed, net in enumerate(nets):
        values = dict(
            zip(("first.weight", "first.bias", "out.weight", "out.bias"), net.state_dict().values(), strict=True)
        )
        torch.save(values, tmp_path / f"{seed}.pt")
    members = {f"m{seed}": spec(file, checkpoint=str(tmp_path / f"{seed}.pt")) for seed in (0, 1)}
    arch = {"name": "ensemble", "members": members, "copies": 1, "rule": "mean_logit"}
    made = prepare_experiment(with_arch(tiny(), arch, None)).specs["target"]
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        expected = torch.stack([net(x.flatten(1)) for net in nets]).mean(0)
        torch.testing.assert_close(made.make_network()(x), expected)
    assert made.as_it_is and made.members == 2
    arch["members"] = {**members, "m1": spec(file)}
    with pytest.raises(ConfigError, match=r"trainer is missing: .* weights, or those of a file, may have none"):
        prepare_experiment(with_arch(tiny(), arch, None))


def test_a_trainer_of_a_network_without_a_weight_to_train_is_refused(tiny: Callable[..., Config], file: Path) -> None:
    file.write_text(f"{NET}\n\ndef frozen():\n    return Net().requires_grad_(False)\n")
    with pytest.raises(ConfigError, match=r"^trainer should be null: every weight of the network is frozen"):
        prepare_experiment(with_arch(tiny(), spec(file, call="frozen"), tiny()["trainer"]))


HEADS = """

class Heads(Net):
    def heads(self, x):
        first = self.first(x.flatten(1))
        return [(self.out(first.relu()), 1.0), *([(first[:, :10], 0.4)] if self.training else [])]


class Wrong(Net):
    def heads(self, x):
        return self(x)


class Rounded(Net):
    differentiable = False

    def forward(self, x):
        return super().forward(x).detach()
"""


@pytest.mark.parametrize("mean", [None, [0.3]])
def test_its_own_heads_are_those_of_the_loss(file: Path, mean: list[float] | None) -> None:
    """They lay hidden behind the normalisation: an auxiliary head was never trained, and nothing said so."""
    file.write_text(NET + HEADS)
    fields = {"call": "Heads", "arguments": {"width": 10}, "mean": mean, "std": mean and [0.4]}
    net, x = build(MODELS, spec(file, **fields), (1, 28, 28), 10, where="arch"), torch.rand(3, 1, 28, 28)
    seen, own = (x - 0.3) / 0.4 if mean else x, net[-1]
    (logits, weight), (auxiliary, auxiliary_weight) = heads(net.train(), x)
    assert (weight, auxiliary_weight) == (1.0, 0.4) and torch.equal(logits, net(x))
    torch.testing.assert_close(auxiliary, own.first(seen.flatten(1)))
    assert len(heads(net.eval(), x)) == 1
    file.write_text(NET + HEADS.replace("heads(", "others("))
    plain = build(MODELS, spec(file, **fields), (1, 28, 28), 10, where="arch")
    assert own_heads(plain) is None and list(plain.state_dict()) == list(net.state_dict())


def test_heads_that_are_none_are_told_before_training(file: Path) -> None:
    file.write_text(NET + HEADS)
    wanted = (
        r"arch\.call has a method heads\(x\), which should give a list of logits of shape \(1, 10\) with their weights"
    )
    with pytest.raises(ConfigError, match=wanted):
        build(MODELS, spec(file, call="Wrong"), (1, 28, 28), 10, where="arch")


def test_one_without_gradients_is_a_target_alone(tiny: Callable[..., Config], file: Path) -> None:
    file.write_text(NET + HEADS)
    config = with_arch(tiny(), spec(file, call="Rounded", mean=[0.3], std=[0.4]), tiny()["trainer"])
    assert not prepare_experiment(config).specs["target"].differentiable


def test_one_without_gradients_is_not_trained_along_them(tiny: Callable[..., Config], file: Path) -> None:
    """Nor is an ensemble of which it is a member: its gradient would be the other members' alone."""
    file.write_text(NET + HEADS)
    arch, by = spec(file, call="Rounded"), tiny("trainer=fgsm_adv")["trainer"]
    attack = "should be one that follows no gradient: the network has none, differentiable is False"
    mixed = {"name": "ensemble", "copies": 1, "rule": "vote", "members": {"a": arch, "b": spec(file, call="Narrow")}}
    for each in (arch, mixed):
        with pytest.raises(ConfigError, match=rf"trainer\.objective\.attack {attack}"):
            prepare_experiment(with_arch(tiny(), each, by))
    noise = tiny("trainer=fgsm_adv", "attack@trainer.objective.attack=normal_noise")["trainer"]
    assert not prepare_experiment(with_arch(tiny(), mixed, noise)).specs["target"].differentiable
    watch = {"attack": by["objective"]["attack"], "images": 3}
    with pytest.raises(ConfigError, match=rf"trainer\.watch\.attack {attack}"):
        prepare_experiment(with_arch(tiny(), arch, {**noise, "watch": watch}))
    diverse = tiny("trainer=diversity")["trainer"]
    with pytest.raises(ConfigError, match=r"trainer\.objective\.name is diversity, which needs gradients"):
        prepare_experiment(with_arch(tiny(), mixed, diverse))


def test_a_call_may_be_whatever_can_be_called(file: Path) -> None:
    net = build(MODELS, spec(file, call="Narrow", arguments={"classes": 10}), (1, 28, 28), 10, where="arch")
    assert net[0].out.in_features == 2
    with pytest.raises(ConfigError, match=r"arch\.arguments should be those of Narrow of .*net\.py\(\*, width=2, "):
        build(MODELS, spec(file, call="Narrow", arguments={"deep": 1}), (1, 28, 28), 10, where="arch")


WRONG: dict[str, tuple[Config, str]] = {
    "no file": ({"file": None}, "arch.file should be a Python file, as in arch.file=my/net.py, is null"),
    "no such file": ({"file": "/no/net.py"}, "arch.file should be a Python file, but there is no /no/net.py"),
    "no name": (
        {"call": None},
        "arch.call should name what makes the network in FILE, is null: it has Net, Pair,",
    ),
    "no such name": ({"call": "Nett"}, "FILE, is 'Nett' (did you mean 'Net'?): it has Net, Pair, empty"),
    "a network": ({"call": "READY"}, "arch.call should name what makes the network in FILE, is 'READY': it has Net,"),
    "no function": ({"call": "SCALE"}, "arch.call should name what makes the network in FILE, is 'SCALE'"),
    "wrong argument": (
        {"arguments": {"widht": 3}},
        "arch.arguments should be those of Net of FILE(width=6, classes=10): got an unexpected keyword argument",
    ),
    "wrong value": ({"arguments": {"width": "x"}}, "arch.call: Net of FILE fails in line 11: TypeError: "),
    "its own error": ({"call": "broken"}, "arch.call: broken of FILE fails in line 31: AttributeError: "),
    "no module": ({"call": "nothing"}, "arch.call should give a torch.nn.Module, but nothing of FILE gives a NoneType"),
    "no parameters": ({"call": "empty"}, "arch.call should give a network, but empty of FILE has no parameters"),
    "classes": (
        {"arguments": {"classes": 7}},
        "arch.call should give logits of shape (1, 10) for an image of (1, 28, 28), gives (1, 7)",
    ),
    "two outputs": ({"call": "Pair"}, "for an image of (1, 28, 28), gives a tuple"),
    "other images": ({"call": "InPlace"}, "arch.call should leave the images as they are, but changes them in place"),
    "a state that is no tensor": (  # it was trained to the end and could not be written
        {"call": "Counting"},
        "arch.call should give a network of tensors, which alone are kept, but Counting of FILE has _extra_state",
    ),
    "no deviation": ({"mean": [0.5]}, "arch.std should be set beside mean"),
    "three channels": ({"mean": [0.5] * 3, "std": [1.0] * 3}, "arch.mean should have 1 or 1 values"),
    "no weights": ({"checkpoint": "/no/w.pt"}, "arch.checkpoint should be a file, is '/no/w.pt'"),
    "a field": ({"width": 3}, "arch.width is not a field"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_in_one_line(wrong: str, file: Path) -> None:
    fields, answer = WRONG[wrong]
    with torch.device("meta"), pytest.raises(ConfigError, match=re.escape(answer.replace("FILE", str(file)))) as told:
        build(MODELS, spec(file, **fields), (1, 28, 28), 10, where="arch")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (
            "import no_such_module",
            "cannot be imported in line 1: ModuleNotFoundError: No module named",
        ),
        ("\ndef Net(:", "cannot be imported: SyntaxError: "),
        ("\nraise SystemExit(2)", "cannot be imported in line 2: SystemExit: 2"),
        ("\n\n1 / 0", "cannot be imported in line 3: ZeroDivisionError: "),
    ],
)
def test_a_file_that_cannot_be_imported(text: str, answer: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"arch.file: {file} {answer}")):
        build(MODELS, spec(file), (1, 28, 28), 10, where="arch")


def test_the_file_is_a_module_with_its_source(file: Path) -> None:
    """Python 3.15 warns of one without a loader, in each traceback through it."""
    found = found_in(str(file), "Net", "an example", "makes the network")
    module = sys.modules[found.__module__]
    assert module.__spec__ and module.__spec__.loader is module.__loader__ is not None and module.__file__ == str(file)
    assert inspect.getsource(found).startswith("class Net(nn.Module):")


def test_a_network_may_change_what_it_is_given_where_that_is_no_image(file: Path) -> None:
    net = build(MODELS, spec(file, call="InPlace", mean=[0.0], std=[1.0]), (1, 28, 28), 10, where="arch")
    net(x := torch.ones(2, 1, 28, 28))
    assert (x == 1).all()


def test_images_that_it_does_not_take(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^arch: Net of .* does not take images of \(1, 9, 9\) .*: RuntimeError: "):
        build(MODELS, spec(file), (1, 9, 9), 10, where="arch")


@pytest.mark.parametrize("view", [True, False])
def test_channels_last_is_for_networks_that_take_it(
    view: bool, tiny: Callable[..., Config], file: Path, tmp_path: Path
) -> None:
    """Convolutions' outputs are not contiguous then, so that `view` fails."""
    arch = spec(file, call="Viewing", arguments={"view": view})
    trained = {**tiny("channels_last=true", "dataset.train_size=40", "dataset.test_size=20"), "outputs": str(tmp_path)}
    experiment = prepare_experiment(with_arch(trained, arch, trained["models"]["target"]["trainer"]))
    network = place_network(experiment.specs["target"], experiment.execution)
    weights = dict(network.named_parameters())["0.second.weight"]
    assert weights.is_contiguous(memory_format=torch.channels_last) == (not view) == network.takes_channels_last
    pair = {"name": "ensemble", "members": {"own": arch}, "copies": 2, "rule": "vote"}
    assert build(MODELS, pair, (1, 28, 28), 10, where="arch").takes_channels_last == (not view)
    run_experiments("own", [[experiment]], tmp_path / "run", [], Stop())
    assert (tmp_path / "run" / "results.csv").exists()


@pytest.mark.parametrize(("call", "told"), [("Softmax", True), ("Net", False)])
def test_probabilities_in_place_of_logits_are_told(
    compose: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str, told: bool
) -> None:
    """Losses take a softmax of them once more, whose gradients are small: a common cause of masked gradients."""
    file = tmp_path / "own_net.py"
    file.write_text(NET)
    with caplog.at_level("INFO"):
        prepare_experiment(
            compose("arch=module", f"arch.file={file}", f"arch.call={call}", "models=alone", "device=cpu")
        )
    lines = [line.getMessage() for line in caplog.records if "probabilities" in line.getMessage()]
    advice = "take the softmax away, of which the loss and attacks take one more"
    assert lines == [f"models.target: {call} of {file} gives probabilities, should give logits: {advice}"] * told
