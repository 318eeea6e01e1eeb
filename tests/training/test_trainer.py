"""Optimisers and schedules worked by hand, and settings that cannot train."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar

import pytest
import torch
from tiny_training import OPTIMIZERS as SETTINGS
from tiny_training import network, plain, trainer
from torch import nn

from epsball.build import ConfigError
from epsball.training.trainer import OPTIMIZERS, SCHEDULES, Constant, Exponential, Step

# ---- schedules


def test_a_constant_schedule() -> None:
    assert {Constant().factor(epoch, 3.0) for epoch in (0.0, 1.5, 2.99)} == {1.0}


def test_milestones_by_hand() -> None:
    step = Step([0.5, 0.75], 0.1)
    factors = [step.factor(epoch, 4.0) for epoch in (0.0, 1.99, 2.0, 2.99, 3.0, 3.99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_stairs_by_hand() -> None:
    stairs = Exponential(0.94, 2.0)
    factors = [stairs.factor(epoch, 187.0) for epoch in (0.0, 1.99, 2.0, 3.5, 4.0, 100.0)]
    assert factors == pytest.approx([1, 1, 0.94, 0.94, 0.94**2, 0.94**50])


def test_madrys_milestones_fall_on_their_steps() -> None:
    """80,000 steps of 391 an epoch: lr changes at 40,000 and 60,000 exactly (cifar10_challenge)."""
    step, epochs = Step([0.5, 0.75], 0.1), 80000 / 391
    changes = [i for i in range(1, 80000) if step.factor(i / 391, epochs) != step.factor((i - 1) / 391, epochs)]
    assert changes == [40000, 60000]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("per_epoch", [10, 30, 70])
def test_a_milestone_falls_on_its_step(share: float, per_epoch: int) -> None:
    epochs = 3
    step = Step([share], 0.1)
    first = next(i for i in range(epochs * per_epoch) if step.factor(i / per_epoch, epochs) < 1)
    assert first == round(share * epochs * per_epoch)


@pytest.mark.parametrize("every", [0.1, 0.3, 0.5, 2.0])
def test_a_stair_falls_on_its_step(every: float) -> None:
    stairs, per_epoch = Exponential(0.5, every), 10
    factors = [stairs.factor(step / per_epoch, 9.0) for step in range(90)]
    assert factors == [0.5 ** (step // round(every * per_epoch)) for step in range(90)]


class Line:
    """A schedule of the user's, which falls to 0 over the whole training."""

    depends_on_epochs: ClassVar[bool] = True

    def factor(self, epoch: float, epochs: float) -> float:
        return 1 - epoch / epochs


def test_a_longer_training_continues_a_shorter_one_if_the_schedule_lets_it() -> None:
    schedules = [Constant(), Exponential(0.5, 1.0), Step([0.5], 0.1), Line()]
    assert {type(schedule) for schedule in schedules} == {*SCHEDULES.values(), Line}
    for schedule in schedules:
        same = all(schedule.factor(epoch, 4.0) == schedule.factor(epoch, 8.0) for epoch in range(4))
        assert replace(plain(), schedule=schedule).prolongs == same


# ---- optimisers

# settings far from torch's defaults, and torch's own optimiser with them
TORCHS: dict[str, tuple[dict[str, Any], Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (
        {"name": "adam", "lr": 0.3, "betas": [0.5, 0.7], "eps": 0.2, "weight_decay": 0.4, "decay_on": "all"},
        torch.optim.Adam,
        {"lr": 0.3, "betas": (0.5, 0.7), "eps": 0.2, "weight_decay": 0.4},
    ),
    "sgd": (
        {"name": "sgd", "lr": 0.3, "momentum": 0.6, "weight_decay": 0.4, "decay_on": "all"},
        torch.optim.SGD,
        {"lr": 0.3, "momentum": 0.6, "weight_decay": 0.4},
    ),
    "rmsprop": (
        {
            **{"name": "rmsprop", "lr": 0.3, "alpha": 0.5, "momentum": 0.6, "eps": 0.2},
            **{"weight_decay": 0.4, "decay_on": "all"},
        },
        torch.optim.RMSprop,
        {"lr": 0.3, "alpha": 0.5, "momentum": 0.6, "eps": 0.2, "weight_decay": 0.4},
    ),
}


def test_every_optimiser_is_compared() -> None:
    assert set(TORCHS) == set(OPTIMIZERS)
    for name, (settings, _, theirs) in TORCHS.items():
        assert set(settings) == {*theirs, "name", "decay_on"} == {f.name for f in fields(OPTIMIZERS[name])} | {"name"}


@pytest.mark.parametrize("name", TORCHS)
def test_every_setting_reaches_torch(name: str) -> None:
    settings, torchs, theirs = TORCHS[name]
    ours, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(ours.state_dict())
    optimizers = plain(optimizer=settings).optimizer.make(ours), torchs(other.parameters(), **theirs)
    gradient = torch.Generator().manual_seed(0)
    for _ in range(4):
        for p, q in zip(ours.parameters(), other.parameters(), strict=True):
            p.grad = q.grad = torch.randn(p.shape, generator=gradient)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("decay_on", ["all", "weights"])
def test_weight_decay_acts_on_kernels_or_on_all(name: str, decay_on: str) -> None:
    model = network()
    nn.init.ones_(model[0].bias)
    nn.init.ones_(model[1].bias)
    optimizer = plain(optimizer={**SETTINGS[name], "weight_decay": 0.1, "decay_on": decay_on}).optimizer.make(model)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)  # whatever moves was moved by the decay
    optimizer.step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert moved == ({"0.weight", "5.weight"} if decay_on == "weights" else set(before))


def test_weight_decay_by_hand() -> None:
    model = network()
    before = model[0].weight.detach().clone()
    optimizer = plain(optimizer={**SETTINGS["sgd"], "lr": 0.5, "weight_decay": 0.1}).optimizer.make(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(model[0].weight, before * (1 - 0.5 * 0.1))


def test_every_parameter_is_in_one_group() -> None:
    model = network()
    for decay_on in ("all", "weights"):
        optimizer = plain(optimizer={**SETTINGS["sgd"], "decay_on": decay_on}).optimizer
        grouped = [p for group in optimizer.groups(model) for p in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0.0}, "trainer.epochs should be positive, is 0.0"),
        ({"batch_size": 0}, "trainer.batch_size should be at least 1, is 0"),
        ({"clip_norm": 0.0}, "trainer.clip_norm should be positive, is 0.0"),
        ({"optimizer": {**SETTINGS["sgd"], "lr": 0.0}}, "trainer.optimizer.lr should be positive, is 0.0"),
        (
            {"optimizer": {**SETTINGS["sgd"], "weight_decay": -1.0}},
            "trainer.optimizer.weight_decay should be at least 0, is -1.0",
        ),
        (
            {"optimizer": {**SETTINGS["adam"], "betas": [0.9]}},
            "trainer.optimizer.betas should be two floats, is [0.9]",
        ),
        (
            {"schedule": {"name": "step", "milestones": [60], "gamma": 0.1}},
            "trainer.schedule.milestones should be in (0, 1), is [60.0]",
        ),
        (
            {"schedule": {"name": "exponential", "gamma": 0.9, "every": 0.0}},
            "trainer.schedule.every should be a positive number of epochs, is 0.0",
        ),
    ],
)
def test_what_cannot_train_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        trainer(**fields)
    assert str(error.value) == message
