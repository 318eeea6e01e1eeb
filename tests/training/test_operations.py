"""Operations of training steps: passes of the papers' trainers counted by hand, and those of a matrix product."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsball.experiment.prepare import prepare_experiment
from epsball.training.operations import operations_of_pass, operations_of_steps, passes_of_step
from epsball.training.spec import ModelSpec

Specs = Callable[..., dict[str, ModelSpec]]
OWN = """
import torch
from torch import nn

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

class Asking(nn.Sequential):
    def forward(self, x):
        return super().forward(x * float(x.amax()))

def asking():
    return Asking(nn.Flatten(), nn.Linear(784, 10))

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Parameter(torch.ones(10))

    def forward(self, x):
        return x.flatten(1)[:, :10] * self.out

def asking_attack(model, x, y, eps):
    return x if float(x.amax()) < 1 else x - x.sign() * eps
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.fixture
def specs(compose: Callable[..., dict[str, Any]]) -> Specs:
    """`specs(*overrides)`: the models of a run on 64 digits, of 8 a step."""
    line = ("dataset.train_size=64", "trainer.batch_size=8", "device=cpu", "attack=none")
    return lambda *overrides: prepare_experiment(compose(*line, *overrides)).specs


def network(own: Path, call: str) -> tuple[str, ...]:
    return ("arch=module", f"arch.file={own}", f"arch.call={call}")


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("trainer=standard", 3),  # forward, and the gradients of activations and of weights
        ("trainer=fgsm_adv", 2 + 2 * 3),  # forward and backward to the images; then a step on twice as many
        ("trainer=fgsm_adv trainer.epochs=3 trainer.objective.delay=2.5", 2 + 2 * 3),  # clean ones first
        ("trainer=fgsm_adv attack@trainer.objective.attack=sign_noise", 2 * 3),
        ("trainer=madry trainer.objective.attack.steps=3", 3 * 2 + 3),
        (
            "trainer=kurakin trainer.objective.count=4",
            0.5 * 2 + 3,
        ),  # crafted on half of the images, and in place of them
        ("trainer=static_adv", 2 * 3),  # of a frozen source, made before training
        ("arch=ensemble trainer=standard", 3),
        ("arch=ensemble trainer=diversity", 2 * (2 + 4)),  # noisy images, too; gradients, and backward through them
    ],
)
def test_passes_of_a_step(specs: Specs, words: str, passes: float) -> None:
    found = passes_of_step(specs("models=alone", *words.split())["target"])
    assert found == pytest.approx(8 * passes, rel=0.01)


def test_operations_of_a_pass(specs: Specs, own: Path) -> None:
    """A network of one's own is on the CPU, one that asks what values are, too."""
    for call in ("linear", "asking"):
        assert operations_of_pass(specs("models=alone", *network(own, call))["target"]) == 2 * 784 * 10


def test_each_training_of_a_run(specs: Specs, own: Path) -> None:
    words = ("trainer=fgsm_adv", "models.natural.trainer.batch_size=16", *network(own, "linear"))
    found = operations_of_steps(specs(*words))
    assert found["target"] == found["copy"] == pytest.approx(8 * 8 * 2 * 784 * 10, rel=0.01)
    assert found["natural"] == pytest.approx(16 * 3 * 2 * 784 * 10, rel=0.01)
    assert found["holdout"] > 100 * found["natural"]  # of MNIST's B, and batches of 64


def test_a_network_without_products_counts_too(specs: Specs, own: Path) -> None:
    assert operations_of_steps(specs("trainer=standard", *network(own, "Scale")))["target"] == 1


def test_an_attack_that_asks_cannot_be_counted_so_all_count_alike(specs: Specs, own: Path) -> None:
    place = "trainer.objective.attack"
    attack = (f"attack@{place}=module", f"{place}.file={own}", f"{place}.call=asking_attack")
    assert set(operations_of_steps(specs("trainer=fgsm_adv", *attack)).values()) == {1.0}
