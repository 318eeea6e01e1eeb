"""A loss of the user's own file: what it gives is what a step minimises, and one line for all that is wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_training import OPTIMIZERS, STANDARD, fitted, identical, plain

from epsball.build import ConfigError, build
from epsball.experiment.prepare import prepare_experiment
from epsball.training.objectives import OBJECTIVES, Objective

Config = dict[str, Any]
LOSS = """
import torch
import torch.nn.functional as F


def smoothed(model, x, y, smoothing=0.0):
    return F.cross_entropy(model(x), y, label_smoothing=smoothing)


def noisy(model, x, y):
    return F.cross_entropy(model(x + 0.1 * torch.randn_like(x)), y)


def of_images(model, x, y):
    return F.cross_entropy(model(x), y, reduction="none")


def detached(model, x, y):
    return F.cross_entropy(model(x), y).detach()


def number(model, x, y):
    return 1.0


def evaluating(model, x, y):
    return F.cross_entropy(model.eval()(x), y)


def broken(model, x, y):
    return model(x)[:, 99].sum()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "loss.py"
    path.write_text(LOSS)
    return path


def spec(file: Path, call: str, **arguments: Any) -> Config:
    return {"name": "module", "file": str(file), "call": call, "arguments": arguments}


def test_it_is_what_a_step_minimises(file: Path) -> None:
    """Plain SGD: Adam makes much of what rounding leaves of gradients that are zero."""
    own, curve, _ = fitted(plain(objective=spec(file, "smoothed", smoothing=0.1), optimizer=OPTIMIZERS["sgd"]))
    ours, expected, _ = fitted(plain(objective={**STANDARD, "label_smoothing": 0.1}, optimizer=OPTIMIZERS["sgd"]))
    for name, value in ours.items():
        torch.testing.assert_close(own[name], value, rtol=1e-4, atol=1e-6)
    assert [row["loss"] for row in curve] == pytest.approx([row["loss"] for row in expected])


def test_what_it_draws_is_the_trainings(file: Path) -> None:
    (first, *_), (again, *_), (other, *_) = (
        fitted(plain(objective=spec(file, "noisy")), seed=seed) for seed in (0, 0, 1)
    )
    assert identical(first, again) and not identical(first, other)


def test_the_value(file: Path) -> None:
    objective: Objective = build(OBJECTIVES, spec(file, "smoothed"), where="objective")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(objective(model, x, y, 0), F.cross_entropy(model(x), y))


WRONG = {
    "trainer.objective.file should be a Python file, as in trainer.objective.file=my/loss.py, is null": {"file": None},
    "trainer.objective.call should name what gives the loss in FILE, is 'smoothe' (did you mean 'smoothed'?)": {
        "call": "smoothe"
    },
    "trainer.objective.arguments should be those of smoothed of FILE(model, x, y, smoothing=0.0)": {
        "call": "smoothed",
        "arguments": {"smoothness": 1},
    },
    "trainer.objective: of_images of FILE should give a scalar loss with gradients, gives one of shape (8,)": {
        "call": "of_images"
    },
    "trainer.objective: detached of FILE should give a scalar loss with gradients, gives one of shape () without": {
        "call": "detached"
    },
    "trainer.objective: number of FILE should give a scalar loss with gradients, gives a float": {"call": "number"},
    "trainer.objective: evaluating of FILE should leave the model in train mode": {"call": "evaluating"},
    "trainer.objective: broken of FILE fails in line 31: IndexError: index 99 is out of bounds": {"call": "broken"},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_one_line_before_training(tiny: Callable[..., Config], file: Path, message: str) -> None:
    config = tiny("trainer=module", f"trainer.objective.file={file}", "models=alone")
    config["models"]["target"]["trainer"]["objective"] |= WRONG[message]
    with pytest.raises(ConfigError) as caught:
        prepare_experiment(config)
    said = str(caught.value).replace(str(file), "FILE").replace("models.target.", "")
    assert said.startswith(message) and "\n" not in said


def test_the_files_content_is_part_of_the_fingerprint(tiny: Callable[..., Config], file: Path) -> None:
    def key(path: Path, *words: str) -> str:
        line = ("trainer=module", f"trainer.objective.file={path}", "trainer.objective.call=smoothed", *words)
        return prepare_experiment(tiny(*line)).specs["target"].key

    first, moved = key(file), file.rename(file.with_name("moved.py"))
    assert key(moved) == first != key(moved, "+trainer.objective.arguments.smoothing=0.1")
    moved.write_text(LOSS + "\n")
    assert key(moved) != first
