"""An attack of the user's own file: the same numbers as the built-in one, a model left as it was, and one line for all
that is wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Generator, nn

from epsball.attacks import ATTACKS, NamedAttack
from epsball.attacks.attack import BrokenContract
from epsball.attacks.module import ModuleAttack, try_attack
from epsball.build import ConfigError, build
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.runtime.progress import Stop

ATTACK = """
import torch
import torch.nn.functional as F


def fgsm(model, x, y, eps, share=1.0):
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return (x + share * eps * gradient.sign()).clamp(0, 1)


def corner(model, x, y, eps):
    return (x + eps * torch.rand_like(x).sub(0.5).sign()).clamp(0, 1)


def careless(model, x, y, eps):
    "What code that was written for a script of its own does."
    torch.manual_seed(0)
    model.train()
    model.requires_grad_(False)[1].weight.requires_grad_()
    F.cross_entropy(model(x), y).backward()
    y += 1
    return x.add_(eps).clamp_(0, 1)


def far(model, x, y, eps):
    return x + 2 * eps


def unknown(model, x, y, eps):
    return x * float("nan")


def flat(model, x, y, eps):
    return x.flatten(1)


def logits(model, x, y, eps):
    return [model(x)]


def broken(model, x, y, eps):
    return model.features(x)


def viewing(model, x, y, eps):
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    steepest = gradient.abs().view(len(x), -1).amax(1).view(-1, 1, 1, 1)
    return (x + eps * gradient / steepest).clamp(0, 1)


def bright(model, x, y, eps):
    return x + eps
"""
Config = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "attack.py"
    path.write_text(ATTACK)
    return path


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)).eval()


def spec(path: Path, **fields: object) -> Config:
    return {"name": "module", "eps": 0.1, "file": str(path), "call": "fgsm", "arguments": {}, **fields}


def made(path: Path, **fields: object) -> ModuleAttack:
    found = build(ATTACKS, spec(path, **fields), where="attack")
    assert isinstance(found, ModuleAttack)
    return found


def images(number: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(number, 1, 8, 8, generator=Generator().manual_seed(0)), torch.arange(number) % 10


def test_its_rows_are_those_of_the_same_attack_built_in(
    tiny: Callable[..., Config], file: Path, tmp_path: Path
) -> None:
    words = ("attack=none", "suite=fgsm", "suite.fgsm.eps=[0.1,0.2]", "+attack@suite.own=module")
    own = (f"suite.own.file={file}", "suite.own.call=fgsm", "suite.own.eps=[0.1,0.2]")
    half = ("+attack@suite.half=module", f"suite.half.file={file}", "suite.half.call=fgsm", "suite.half.eps=0.2")
    config = tiny(*words, *own, *half, "+suite.half.arguments.share=0.5")
    run_experiments("own", [[prepare_experiment({**config, "outputs": str(tmp_path)})]], tmp_path / "run", [], Stop())
    rows = pd.read_csv(tmp_path / "run" / "results.csv").set_index(["attack", "eps"])
    marks = pd.read_csv(tmp_path / "run" / "mistakes.csv").set_index("identity")["mistakes_top1"]
    mistakes = {cell: marks[identity] for cell, identity in rows["identity"].items()}
    assert mistakes["own", 0.1] == mistakes["fgsm", 0.1] == mistakes["half", 0.2] != mistakes["clean", 0.0]
    assert mistakes["own", 0.2] == mistakes["fgsm", 0.2] != mistakes["own", 0.1]
    assert len(set(rows["identity"])) == len(rows) == 6


def test_running_statistics_in_train_mode_are_of_the_crafting_too(file: Path, model: nn.Module) -> None:
    """Where a trainer says so, as for every other attack: crafting_statistics."""
    before = model[2].running_mean.clone()
    made(file)(model.train(), *images())
    assert model.training and not torch.equal(model[2].running_mean, before)


def test_model_and_images_are_left_as_they_were(file: Path, model: nn.Module) -> None:
    """A training goes on from them, and other attacks are of the same images."""
    x, y = images()
    before, weights = (x.clone(), y.clone()), {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [torch.rand_like(parameter) for parameter in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    with torch.no_grad():
        x_adv = made(file, call="careless")(model, x, y, Generator().manual_seed(1))
    assert torch.equal(x_adv, (before[0] + 0.1).clamp(0, 1)) and not x_adv.requires_grad
    assert torch.equal(x, before[0]) and torch.equal(y, before[1]) and torch.equal(torch.get_rng_state(), drawn)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)
    assert all(parameter.grad is not None for parameter in model.parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert not changed, "running statistics"


def test_gradients_can_be_viewed_whatever_the_layout_of_the_weights(file: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    attack = made(file, call="viewing")
    expected = attack(network, x, y)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(attack(network, x, y), expected)
    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).sum(), images)
    assert not gradient.is_contiguous(), "else nobody has to see to it"


def test_what_it_draws_is_the_generators(file: Path, model: nn.Module) -> None:
    attack, (x, y) = made(file, call="corner"), images()
    first, again, other = (attack(model, x, y, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(3)
    first, second = attack(model, x, y), attack(model, x, y)
    torch.manual_seed(3)
    assert torch.equal(attack(model, x, y), first) and not torch.equal(first, second)


def test_eps_of_each_example_reaches_it(file: Path, model: nn.Module) -> None:
    (x, y), shrink = images(), torch.tensor([0.0, 0.25, 0.5, 1.0])
    largest = (made(file)(model, x, y, shrink=shrink) - x).abs().amax((1, 2, 3))
    torch.testing.assert_close(largest, 0.1 * shrink)


def test_the_files_content_is_its_identity(file: Path) -> None:
    def identity(path: Path, **fields: object) -> Config:
        return NamedAttack("any", made(path, **fields)).identity

    first, moved = identity(file), file.rename(file.with_name("moved.py"))
    assert identity(moved) == first and str(moved) not in str(first)
    assert identity(moved, arguments={"share": 0.5}) != first != identity(moved, eps=0.2)
    file.write_text(ATTACK + "\n")
    assert identity(file) != first


def test_a_file_among_its_arguments_counts_by_content_as_a_trainers_does(file: Path) -> None:
    """Else rows of another surrogate's weights would be reused."""
    file.write_text("def surrogate(model, x, y, eps, checkpoint):\n    return x\n")
    weights = file.with_name("s.pt")
    weights.write_text("first")
    named = NamedAttack("any", made(file, call="surrogate", arguments={"checkpoint": str(weights)}))
    first = named.identity
    assert str(weights) not in str(first)
    weights.write_text("second")
    assert named.identity != first


def test_a_model_trained_on_it_has_the_content_in_its_identity(tiny: Callable[..., Config], file: Path) -> None:
    words = ("trainer=fgsm_adv", "attack@trainer.objective.attack=module", "trainer.objective.attack.call=corner")

    def key(path: Path) -> str:
        return prepare_experiment(tiny(*words, f"trainer.objective.attack.file={path}")).specs["target"].key

    first, moved = key(file), file.rename(file.with_name("moved.py"))
    file.write_text(ATTACK + "\n")
    assert key(moved) == first != key(file)


def test_a_ball_of_no_size_can_be_tried(file: Path) -> None:
    try_attack(made(file, eps=0.0), (1, 8, 8), 10, where="attack")


def test_it_is_tried_with_an_eps_of_each_example_where_a_trainer_draws_one(
    tiny: Callable[..., Config], file: Path
) -> None:
    """torchattacks' Square takes a number only, which a training on it would find out after hours of clean steps."""
    file.write_text("def scalar(model, x, y, eps):\n    return x + float(eps) * 0\n")
    place = "trainer.objective.attack"
    words = ("trainer=kurakin", "trainer.objective.count=4", f"attack@{place}=module", f"{place}.call=scalar")
    drawn = (*words, f"{place}.file={file}")
    with pytest.raises(ConfigError, match=r"trainer\.objective\.attack: scalar of .* fails"):
        prepare_experiment(tiny(*drawn))
    prepare_experiment(tiny(*drawn, "trainer.objective.eps_distribution=fixed"))


def test_it_is_tried_once_for_all_models_and_seeds(tiny: Callable[..., Config], file: Path) -> None:
    calls = file.with_name("calls")
    calls.touch()
    file.write_text(
        "from pathlib import Path\n\ndef count(model, x, y, eps):\n"
        f"    calls = Path({str(calls)!r})\n    calls.write_text(calls.read_text() + '.')\n    return x\n"
    )
    place = "trainer.objective.attack"
    words = ("trainer=fgsm_adv", f"attack@{place}=module", f"{place}.call=count", f"{place}.file={file}")
    for seed in (0, 1):
        prepare_experiment(tiny(*words, f"seed={seed}"))
    assert calls.read_text() == "."
    prepare_experiment(tiny(*words, "trainer.objective.attack.eps=0.2"))
    assert calls.read_text() == ".."


WRONG = {
    "far of FILE leaves the ball of eps 0.1: 0.1 beyond it, 0.1": {"call": "far"},
    "unknown of FILE leaves the ball of eps 0.1: nan beyond it": {"call": "unknown"},
    "flat of FILE should give float32 images (8, 1, 28, 28) on cpu, gives float32 images (8, 784) on cpu": {
        "call": "flat"
    },
    "logits of FILE should give float32 images (8, 1, 28, 28) on cpu, gives a list": {"call": "logits"},
    "broken of FILE fails in line 43: AttributeError: 'Sequential' object has no": {"call": "broken"},
    "call should name what attacks in FILE, is 'fgms' (did you mean 'fgsm'?): it has fgsm": {"call": "fgms"},
    "call should name what attacks in FILE, is null: it has fgsm, corner": {"call": None},
    "arguments should be those of fgsm of FILE(model, x, y, eps, share=1.0) beside": {"arguments": {"shares": 1}},
    "arguments should be those of corner of FILE(model, x, y, eps) beside": {"call": "corner", "arguments": {"eps": 1}},
    "file should be a Python file, as in attack.file=my/attack.py, is null": {"file": None},
    "file should be a Python file, but there is no absent.py": {"file": "absent.py"},
    "eps should be a float in [0, 1], is 2.0": {"eps": 2.0},
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_told_before_anything_is_trained(line: str, tiny: Callable[..., Config], file: Path) -> None:
    own = spec(file, **WRONG[line])
    in_suite = {**tiny("attack=none"), "suite": {"own": own}}
    as_trainer = tiny("trainer=fgsm_adv")
    as_trainer["models"]["target"]["trainer"]["objective"]["attack"] = own
    watched = tiny()
    watched["models"]["target"]["trainer"]["watch"] = {"attack": own, "images": 4}
    for config in (in_suite, as_trainer, watched):
        with pytest.raises(ConfigError) as caught:
            prepare_experiment(config)
        told = str(caught.value)
        assert line.replace("FILE", str(file)) in told and "\n" not in told, told
        assert told.startswith(("attack own: ", "suite.own.", "models.target.trainer.", "trainer.")), told


def test_an_attack_that_would_end_the_run_is_told(file: Path, model: nn.Module) -> None:
    file.write_text("import sys\n\ndef one(model, x, y, eps):\n    sys.exit()\n")
    with pytest.raises(RuntimeError, match=r"^one of .*attack\.py fails in line 4: SystemExit: "):
        made(file, call="one")(model, *images(1))


def test_a_file_that_cannot_be_imported_is_told(file: Path) -> None:
    file.write_text("import torch\nimport absent_library\n")
    with pytest.raises(ConfigError, match=r"^attack\.file: .* cannot be imported in line 2: ModuleNotFoundError: No "):
        made(file)


def test_what_fails_on_a_models_own_images_says_where(file: Path, model: nn.Module) -> None:
    """Long after the try-out: on a last batch of one image, say."""
    file.write_text("def one(model, x, y, eps):\n    return x if len(x) > 1 else x / [0]\n")
    attack, (x, y) = made(file, call="one"), images(1)
    with pytest.raises(RuntimeError, match=r"^one of .*attack\.py fails in line 2: TypeError: "):
        attack(model, x, y)


def test_examples_in_the_ball_but_outside_the_box_are_told(file: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 10))
    with pytest.raises(BrokenContract, match=r"0 beyond it, 0\.25 outside \[0, 1\]"):
        made(file, call="bright", eps=0.25)(model, torch.ones(2, 2, 8, 8), torch.zeros(2, dtype=torch.long))
