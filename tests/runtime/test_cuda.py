"""On a card: captured graphs against eager calls, precisions, memory, checkpoints, workers. A minute in all.

EPSBALL_TEST_DEVICE=cpu runs the same tests where there is no card: graphs are never captured there, all else holds.
"""

import copy
import gc
import io
import json
import logging
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import OWN_LOSS
from conftest import ROOT
from linear import two_class
from tiny_training import OPTIMIZERS, identical
from tiny_training import data as tiny_data
from tiny_training import network as tiny_network
from tiny_training import trainer as tiny_trainer
from torch import Tensor, nn

from epsball.attacks import ATTACKS
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.module import ModuleAttack
from epsball.build import build, construct
from epsball.data.datasets import DATASETS
from epsball.data.images import Batched, Data, Split
from epsball.measurements.worst_case import find_fooled
from epsball.models import MODELS
from epsball.runtime.device import Precision, allow_tf32, autocast, borrowed_seed
from epsball.runtime.graphs import EAGER_CALLS, GRAPHS_KEPT, GraphCache, current, graphs
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store
from epsball.training import double_backward
from epsball.training.double_backward import DoubleBackward
from epsball.training.fit import TrainingControl, TrainingState, batch_indices, fit
from epsball.training.trainer import Trainer

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms ask for, before CUDA begins
ON_CUDA = os.environ.get("EPSBALL_TEST_DEVICE", "cuda") == "cuda"
DEVICE = torch.device("cuda", 0) if ON_CUDA else torch.device("cpu")
CPU = torch.device("cpu")
BATCH = 8
STEPS = 180  # of an epoch: 1,437 digits
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")

pytestmark = pytest.mark.skipif(
    ON_CUDA and not torch.cuda.is_available(), reason="needs CUDA (EPSBALL_TEST_DEVICE=cpu runs what can do without)"
)
cuda_alone = pytest.mark.skipif(not ON_CUDA, reason="needs CUDA")

Compose = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """Bits are compared: cuDNN may not choose its algorithms by their speed, nor any that add in random order."""
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@contextmanager
def synchronisation_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_replayed(graph_cache: GraphCache, number: int) -> None:
    """Assert that so many graphs were captured, and replayed more often than captured; on a CPU none."""
    if ON_CUDA:
        assert len(graph_cache.graphs) == number and (graph_cache.replays > number or number == 0)
    else:
        assert not graph_cache.graphs and graph_cache.replays == 0


# ---- what is trained and attacked: tiny networks on the digits

DIGITS = ("dataset=digits", "scale=smoke", "models=alone")
MADRY = ("arch=madry_mnist", "arch.width=0.25", "arch.hidden=64")  # convolutions and pools
DROPOUT = ("arch=mnist_d",)
BATCH_NORM = ("arch=resnet20", "arch.depth=8")
ENSEMBLE = (
    *("arch=ensemble", "arch@arch.members.member=madry_mnist", "arch.copies=2"),
    *("arch.members.member.width=0.25", "arch.members.member.hidden=64"),
)
ENSEMBLE_NORM = ("arch=ensemble", "arch@arch.members.member=resnet20", "arch.copies=2", "arch.members.member.depth=8")
LEARNS = (*MADRY, "trainer.optimizer.lr=0.01", "trainer.batch_size=64")  # the digits, in fifty steps
FEW_STEPS = "trainer.objective.attack.steps=5"
TRAINERS: dict[str, tuple[str, ...]] = {
    "standard": DROPOUT,
    "standard_augmented": DROPOUT,
    "fgsm_adv": DROPOUT,
    "rand_fgsm_adv": DROPOUT,
    "ensemble_adv": (*DROPOUT, "trainer.objective.source_choice=rotate"),
    "madry": (*MADRY, FEW_STEPS),
    "madry_nat": MADRY,
    "madry_fgsm": MADRY,
    "madry_cifar": (*BATCH_NORM, FEW_STEPS),
    "madry_cifar_nat": BATCH_NORM,
    "madry_cifar_fgsm": BATCH_NORM,
    "kurakin": (*BATCH_NORM, f"trainer.objective.delay={(EAGER_CALLS + 1) / STEPS}"),
    "kurakin_nat": BATCH_NORM,
    "module": (*MADRY, *OWN_LOSS),
    "static_adv": MADRY,
    "diversity": ENSEMBLE,
    "static_adv_diversity": ENSEMBLE_NORM,
}
ROUTES = {"ensemble_adv": 4, "kurakin": 2}  # computations that a training's steps alternate between, where not one


@dataclass
class Training:
    """A trainer, and what it trains: network, sources and data on the device."""

    trainer: Trainer
    model: nn.Module
    sources: list[nn.Module]
    data: Data

    def begin(self, captured: bool) -> TrainingState:
        """Begin anew, with the same weights."""
        model = copy.deepcopy(self.model)
        return TrainingState.begin(model, self.trainer, self.sources, self.data, seed=0, cuda_graphs=captured)

    def batches(self, steps: int, start: int = 0) -> list[Tensor]:
        """Return the places of the images of each step from `start` on, all batches of one size."""
        size = self.trainer.batch_size
        return list(batch_indices(self.data.train, size, seed=0, start=start, total=steps))

    def run(
        self, captured: bool, steps: int, lr_changes_every: int | None = None
    ) -> tuple[TrainingState, dict[str, Any]]:
        """Train for some steps; return the training and its state with that of the random numbers. An epoch of the
        learning rate's schedule is `lr_changes_every` steps."""
        with borrowed_seed(1, DEVICE), allow_tf32(self.trainer.precision):
            state = self.begin(captured)
            for number, index in enumerate(self.batches(steps)):
                state.advance(index, float(number // lr_changes_every) if lr_changes_every else 0.0)
            return state, state.state()


@pytest.fixture(scope="module")
def digits(compose: Compose) -> Data:
    """Return the digits, every other pixel of them: 14 x 14."""
    loaded: Data = build(DATASETS, compose(*DIGITS)["dataset"], where="dataset").load()
    train, test = (Split(split.x[:, :, ::2, ::2].contiguous(), split.y) for split in (loaded.train, loaded.test))
    return replace(loaded, train=train, test=test).to(DEVICE)


@pytest.fixture(scope="module")
def training(compose: Compose, digits: Data) -> Callable[..., Training]:
    """`training(name, precision, *overrides)`: a trainer of conf/trainer on the digits."""

    @cache
    def composed(*overrides: str) -> dict[str, Any]:
        return compose(*DIGITS, f"trainer.batch_size={BATCH}", *overrides)

    def made(name: str, precision: Precision = "fp32", *overrides: str) -> Training:
        config = composed(f"trainer={name}", *TRAINERS[name], *overrides)
        trainer: Trainer = construct(Trainer, {**config["trainer"], "precision": precision}, where="trainer")
        with borrowed_seed(0, CPU):
            model, *sources = (built(config["arch"]) for _ in range(1 + len(trainer.sources)))
        return Training(trainer, model, [source.eval().requires_grad_(False) for source in sources], digits)

    return made


def built(arch: dict[str, Any]) -> nn.Module:
    network: nn.Module = build(MODELS, arch, (1, 14, 14), 10, where="arch")
    return network.to(DEVICE)


def tiny_training(**fields: Any) -> Training:
    """Return a training of everything random that the CPU's tests train, batches all of one size."""
    return Training(tiny_trainer(batch_size=5, **fields), tiny_network().to(DEVICE), [], tiny_data().to(DEVICE))


@pytest.fixture(scope="module")
def madry_net(compose: Compose) -> nn.Module:
    with borrowed_seed(0, CPU):
        return built(compose(*MADRY)["arch"]).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def trained_net(training: Callable[..., Training]) -> nn.Module:
    """Return a network that knows the digits: 100 steps of Adam."""
    made = training("standard", "fp32", *LEARNS)
    return made.run(captured=False, steps=100)[0].model.eval().requires_grad_(False)


def batches_of(split: Split, number: int) -> list[tuple[Tensor, Tensor]]:
    return [split.take(torch.arange(BATCH * i, BATCH * (i + 1), device=DEVICE)) for i in range(number)]


# ---- attacks


@pytest.fixture(scope="module")
def attack(compose: Compose) -> Callable[..., GradientAttack]:
    """`attack(name, **fields)`: an attack of conf/attack, of six steps."""

    @cache
    def composed(name: str) -> dict[str, Any]:
        return compose(f"attack={name}")["attack"][name]  # type: ignore[no-any-return]

    def made(name: str, **fields: Any) -> GradientAttack:
        found: GradientAttack = build(ATTACKS, composed(name), where="attack")
        if "step_size" in fields:
            found = replace(found, step_share=None)
        return replace(found, **{"steps": 6, **fields})

    return made


@pytest.mark.parametrize("shrunk", [False, True], ids=["", "shrink"])
@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("name", ["i_fgsm", "mi_fgsm", "iter_ll", "pgd", "cw", "pgd_targeted"])
def test_a_captured_attack_makes_the_eager_ones_examples(
    name: str, keep: str, shrunk: bool, attack: Callable[..., GradientAttack], madry_net: nn.Module, digits: Data
) -> None:
    one = attack(name, keep=keep)
    shrink = torch.linspace(0, 1, BATCH, device=DEVICE) if shrunk else None

    def examples() -> list[Tensor]:
        generator = torch.Generator(DEVICE).manual_seed(3)
        return [one(madry_net, x, y, generator, shrink) for x, y in batches_of(digits.train, EAGER_CALLS + 4)]

    eager = examples()
    with graphs(DEVICE):
        captured, graph_cache = examples(), current.get()
    assert graph_cache is not None
    assert_replayed(graph_cache, 1)
    assert identical(eager, captured)
    assert not any(torch.equal(x_adv, x) for x_adv, (x, _) in zip(eager, batches_of(digits.train, 9), strict=False))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_captured_steps_and_the_values_on_their_way_are_the_eager_ones(
    momentum: float, attack: Callable[..., GradientAttack], madry_net: nn.Module, digits: Data
) -> None:
    one = attack("pgd", momentum=momentum)

    def found() -> list[Tensor]:
        every: list[Tensor] = []
        for x, y in batches_of(digits.train, EAGER_CALLS + 4):
            state = one.begin(x, x, x.new_ones(()), y)
            every += [*one.advance_captured(madry_net, state, 6), state.x_adv, state.velocity]
        return every

    eager = found()
    with graphs(DEVICE):
        captured, graph_cache = found(), current.get()
    assert graph_cache is not None
    assert_replayed(graph_cache, 1)
    assert identical(eager, captured)


@pytest.mark.parametrize("own_generator", [True, False])
def test_every_replay_starts_somewhere_else_and_where_the_eager_attack_does(
    own_generator: bool, attack: Callable[..., GradientAttack], madry_net: nn.Module, digits: Data
) -> None:
    one = attack("pgd", step_size=0.001)  # examples stay near their starts
    ((x, y),) = batches_of(digits.train, 1)

    def examples() -> list[Tensor]:
        with borrowed_seed(4, DEVICE):
            generator = torch.Generator(DEVICE).manual_seed(3) if own_generator else None
            return [one(madry_net, x, y, generator) for _ in range(EAGER_CALLS + 4)]

    eager = examples()
    with graphs(DEVICE):
        captured, graph_cache = examples(), current.get()
    assert graph_cache is not None
    assert_replayed(graph_cache, 1)
    assert identical(eager, captured)
    assert len({tuple(x_adv.flatten().tolist()) for x_adv in captured}) == len(captured)


def test_a_graph_sees_new_weights_and_another_model_has_its_own(
    attack: Callable[..., GradientAttack], madry_net: nn.Module, digits: Data
) -> None:
    one, first, second = attack("i_fgsm"), copy.deepcopy(madry_net), copy.deepcopy(madry_net)
    ((x, y),) = batches_of(digits.train, 1)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.neg_()
    expected = [one(model, x, y) for model in (first, second)]
    with graphs(DEVICE):
        for _ in range(EAGER_CALLS + 2):
            assert identical([one(model, x, y) for model in (first, second)], expected)
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.neg_()
        assert torch.equal(one(first, x, y), expected[1])
        graph_cache = current.get()
    assert graph_cache is not None
    assert_replayed(graph_cache, 2)


# ---- training steps


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TRAINERS)
def test_captured_steps_train_the_eager_ones_bits(
    name: str, precision: Precision, training: Callable[..., Training]
) -> None:
    """Parameters, buffers, the optimiser's state and the random numbers' are all equal."""
    made, routes = training(name, precision), ROUTES.get(name, 1)
    steps = routes * (EAGER_CALLS + 2)
    (_, eager), (captured, finished) = made.run(False, steps), made.run(True, steps)
    assert_replayed(captured.graph_cache, routes)
    assert identical(eager, finished)
    assert not identical(captured.model.state_dict(), made.model.state_dict())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_input_gradients_are_differentiated_as_torch_does(
    precision: Precision, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    body = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 8, 3, 2),
        nn.BatchNorm2d(8),
    ]
    network = nn.Sequential(*body, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).to(DEVICE)
    x = torch.randn(64, 3, 12, 12, device=DEVICE)
    network(x)
    if channels_last:
        network.to(memory_format=torch.channels_last)

    def step() -> tuple[Tensor, Tensor]:
        model, images = copy.deepcopy(network), x.clone().requires_grad_()
        with allow_tf32(precision), autocast(precision, DEVICE), DoubleBackward():
            output = model(images).float()
            (gradient,) = torch.autograd.grad(output.logsumexp(1).sum(), images, create_graph=True)
            loss = (gradient.flatten(1).norm(dim=1) + output[:, 0]).sum()
            found = torch.autograd.grad(loss, list(model.parameters()))
        return gradient.detach(), torch.cat([each.flatten() for each in found])

    ours = step()
    monkeypatch.setattr(double_backward, "OWN", {})
    for found, expected in zip(ours, step(), strict=True):
        assert (found - expected).norm() < (1e-4 if precision == "fp32" else 0.1) * expected.norm()


def test_every_trainer_is_tested(compose: Compose) -> None:
    assert set(TRAINERS) == {path.stem for path in (ROOT / "conf" / "trainer").glob("*.yaml")}


@cuda_alone
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("name", TRAINERS)
def test_steps_do_not_wait_for_the_card(name: str, captured: bool, training: Callable[..., Training]) -> None:
    made, routes = training(name), ROUTES.get(name, 1)
    warm = routes * (EAGER_CALLS + 1)
    with borrowed_seed(1, DEVICE):
        state, batches = made.begin(captured), made.batches(warm + 2 * routes)
        for index in batches[:warm]:
            state.advance(index, 0.0)
        with synchronisation_is_an_error():
            for index in batches[warm:]:
                state.advance(index, 0.0)
    assert state.graph_cache.replays >= 2 * routes if captured else state.graph_cache.replays == 0


@cuda_alone
def test_the_check_for_synchronisation_can_fail() -> None:
    with pytest.raises(RuntimeError, match="synchronizing"), synchronisation_is_an_error():
        torch.ones(3, device=DEVICE).sum().item()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fifty_steps_learn_the_digits_as_well_as_on_the_cpu(
    precision: Precision, training: Callable[..., Training]
) -> None:
    """Within two points of error; nothing is random here but the order of the images, which is drawn on the CPU."""
    made = training("standard", precision, *LEARNS)
    there, _ = made.run(True, 50)
    assert_replayed(there.graph_cache, 1)
    alone = copy.deepcopy(made.model).to(CPU)
    reference = TrainingState.begin(alone, replace(made.trainer, precision="fp32"), [], made.data.to(CPU), seed=0)
    for index in made.batches(50):
        reference.advance(index.to(CPU), 0.0)
    errors = [state.scored()["clean_error"] for state in (there, reference)]
    assert max(errors) < 0.2 and abs(errors[0] - errors[1]) <= 0.02


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_learning_rate_is_stale(optimizer: str) -> None:
    """The captured step reads the learning rate from the card: one graph for all of them."""
    made = tiny_training(
        optimizer=OPTIMIZERS[optimizer], schedule={"name": "exponential", "gamma": 0.9, "every": 1.0}, epochs=100.0
    )
    (_, eager), (captured, finished) = (made.run(graphs, 20, lr_changes_every=2) for graphs in (False, True))
    assert_replayed(captured.graph_cache, 1)
    assert identical(eager, finished)
    assert captured.lr == pytest.approx(made.trainer.optimizer.lr * 0.9**9)
    constant, _ = made.run(True, 20)
    assert not identical(constant.model.state_dict(), captured.model.state_dict())


def test_more_functions_than_graphs_are_kept_stay_right_and_are_not_captured_again_and_again() -> None:
    graph_cache, captures, x = GraphCache(DEVICE), [0], torch.arange(4.0, device=DEVICE)

    def function(number: int, x: Tensor) -> Tensor:
        captures[0] += ON_CUDA and torch.cuda.is_current_stream_capturing()
        return x + number

    keys, rounds = GRAPHS_KEPT + 4, EAGER_CALLS + 6
    for _ in range(rounds):
        for number in range(keys):
            assert torch.equal(graph_cache(number, partial(function, number), x), x + number)
    assert len(graph_cache.graphs) == (GRAPHS_KEPT if ON_CUDA else 0)
    assert captures[0] == (keys if ON_CUDA else 0) and graph_cache.replays >= captures[0]


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("name", TRAINERS)
def test_every_weight_has_a_gradient_in_bf16(name: str, captured: bool, training: Callable[..., Training]) -> None:
    """Crafting runs without gradients inside the step's autocast block, which keeps its copies of the weights."""
    state, _ = training(name, "bf16").run(captured, 2 * EAGER_CALLS + 2)
    without = [key for key, p in state.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_short_last_batch_has_a_graph_of_its_own() -> None:
    made = tiny_training(epochs=100.0, schedule={"name": "constant"})
    made.trainer = replace(made.trainer, batch_size=6)  # of 20 images: 6, 6, 6, 2
    steps = 5 + 4 * (EAGER_CALLS + 2)
    assert [len(index) for index in made.batches(4)] == [6, 6, 6, 2]
    (_, eager), (captured, finished) = made.run(False, steps), made.run(True, steps)
    assert_replayed(captured.graph_cache, 2)
    assert identical(eager, finished)


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
def test_channels_last_trains_and_attacks_in_the_same_bits(
    captured: bool, training: Callable[..., Training], attack: Callable[..., GradientAttack], digits: Data
) -> None:
    made = training("standard", "fp32", *BATCH_NORM)
    plain, _ = made.run(captured, 6)
    made.model = made.model.to(memory_format=torch.channels_last)
    (_, eager), (other, finished) = made.run(False, 6), made.run(captured, 6)
    assert_replayed(other.graph_cache, int(captured))
    assert identical(eager, finished)
    for key, tensor in plain.model.state_dict().items():
        assert torch.allclose(tensor.float(), other.model.state_dict()[key].float(), rtol=0.05, atol=0.02), key
    ((x, y),) = batches_of(digits.test, 1)
    model = other.model.eval().requires_grad_(False)
    expected = attack("i_fgsm")(model, x, y)
    with graphs(DEVICE, captured):
        assert all(torch.equal(attack("i_fgsm")(model, x, y), expected) for _ in range(EAGER_CALLS + 2))


# ---- stopped and continued


def saved(state: dict[str, Any], onto: torch.device) -> dict[str, Any]:
    """Return a state as the store writes and reads it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    loaded: dict[str, Any] = torch.load(io.BytesIO(buffer.getvalue()), map_location=onto, weights_only=True)
    return loaded


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [2, 4, 9])
def test_a_captured_training_goes_on_bit_for_bit(optimizer: str, at: int) -> None:
    """Stopped before the first capture, at it, and after replays; what goes on counts its eager calls anew. The
    learning rate has fallen after the first step, and never again."""
    schedule = {"name": "step", "milestones": [0.01], "gamma": 0.1}
    made, steps = tiny_training(optimizer=OPTIMIZERS[optimizer], epochs=100.0, schedule=schedule), 16
    made.trainer = replace(made.trainer, objective=replace(made.trainer.objective, delay=0))
    with borrowed_seed(1, DEVICE):
        straight, batches = made.begin(captured=True), made.batches(steps)
        for number, index in enumerate(batches):
            straight.advance(index, float(number))
            if number + 1 == at:
                stopped = saved(straight.state(), DEVICE)
        finished = straight.state()
    assert_replayed(straight.graph_cache, 1)
    with borrowed_seed(99, DEVICE):
        again = made.begin(captured=True)
        again.load(stopped)
        for number, index in enumerate(batches[at:], at):
            again.advance(index, float(number))
        assert_replayed(again.graph_cache, 1)
        assert identical(finished, again.state())
    assert again.lr == OPTIMIZERS[optimizer]["lr"] * 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_goes_to_the_cpu_and_back(optimizer: str) -> None:
    made = tiny_training(optimizer=OPTIMIZERS[optimizer], epochs=100.0, schedule={"name": "constant"})
    away = Training(made.trainer, copy.deepcopy(made.model).to(CPU), [], made.data.to(CPU))
    first, finished = made.run(captured=True, steps=6)
    with borrowed_seed(2, DEVICE):
        on_cpu = away.begin(captured=True)
        on_cpu.load(saved(finished, CPU))
        assert identical(on_cpu.model.state_dict(), saved(first.model.state_dict(), CPU))
        for index in away.batches(9, start=6):
            on_cpu.advance(index, 0.0)
        back = made.begin(captured=True)
        back.load(saved(on_cpu.state(), DEVICE))
        assert identical(saved(back.model.state_dict(), CPU), on_cpu.model.state_dict()) and back.step == 9
        for index in made.batches(16, start=9):
            back.advance(index, 0.0)
    assert_replayed(back.graph_cache, 1)
    assert all(p.isfinite().all() and p.device == DEVICE for p in back.model.parameters())


def test_the_store_keeps_what_the_device_trained(tmp_path: Path) -> None:
    """Weights come back on the device, and a training's state goes on there."""
    made, store = tiny_training(epochs=2.0, schedule={"name": "constant"}), Store(tmp_path, lambda: None)
    straight, _ = made.run(captured=True, steps=8)

    def train(folder: Any) -> tuple[dict[str, Tensor], dict[str, Any], str]:
        with borrowed_seed(1, DEVICE):
            begun = made.begin(captured=True)
            for index in made.batches(5):
                begun.advance(index, 0.0)
            folder.save_state(begun.state())
            state = made.begin(captured=True)
            state.load(folder.last_state())
            for index in made.batches(8, start=5):
                state.advance(index, 0.0)
        return state.model.state_dict(), {"seed": 0}, "step\n"

    trained = store.load_or_train("tiny", "0" * 12, DEVICE, train)
    found = store.find("0" * 12, DEVICE)
    assert found is not None and found.reused and not trained.reused
    assert all(tensor.device == DEVICE for tensor in found.weights.values())
    assert identical(found.weights, dict(straight.model.state_dict())) and identical(found.weights, trained.weights)


# ---- what cannot be captured

CANNOT = """
import sys
import torch
from epsball.runtime.graphs import CaptureFailed, GraphCache

def function(x):
    if torch.cuda.is_current_stream_capturing():  # the check before a capture sees nothing of it
        {what}
    return x + 1

cache, x = GraphCache(torch.device("cuda", 0)), torch.ones(3, device="cuda")
try:
    for _ in range(9):
        cache("key", function, x)
except CaptureFailed as error:
    print(error)
    sys.exit(7)
"""


@cuda_alone
@pytest.mark.parametrize(
    ("what", "first_error"),
    [("raise RuntimeError('no such kernel')", "no such kernel"), ("x.sum().item()", "captur")],
)
def test_a_capture_that_fails_ends_the_run_with_what_to_do(what: str, first_error: str) -> None:
    """In a process of its own: the card's context is not usable after it."""
    run = subprocess.run([sys.executable, "-c", CANNOT.format(what=what)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 7, run.stderr
    assert "run with cuda_graphs=false" in run.stdout and first_error in run.stdout.lower()


@cuda_alone
def test_a_thread_that_pins_memory_ends_no_capture() -> None:
    """As a streamed data set's does, for the next batches: it asks CUDA for memory at any time."""
    graph_cache, ended, kept = GraphCache(DEVICE), threading.Event(), list[Tensor]()

    def pin() -> None:
        while not ended.is_set() and len(kept) < 5000:
            kept.append(torch.empty(2**14, pin_memory=True))

    thread = threading.Thread(target=pin)
    thread.start()
    try:
        x = torch.ones(1000, device=DEVICE)
        for key in range(GRAPHS_KEPT // 2):
            for _ in range(EAGER_CALLS + 2):
                found = graph_cache(key, lambda t, times=key: sum((t * i for i in range(1, 50)), t * times), x)
                assert torch.equal(found, x * (key + 1225))
    finally:
        ended.set()
        thread.join()
    assert_replayed(graph_cache, GRAPHS_KEPT // 2)
    assert len(kept) > 1


@cuda_alone
def test_a_function_that_waits_for_the_card_is_never_captured(caplog: pytest.LogCaptureFixture) -> None:
    graph_cache, captured, x = GraphCache(DEVICE), [], torch.arange(3.0, device=DEVICE)
    caplog.set_level(logging.INFO)

    def waits(x: Tensor) -> Tensor:
        captured.append(torch.cuda.is_current_stream_capturing())
        return x + x.sum().item()

    for _ in range(EAGER_CALLS + 4):
        assert torch.equal(graph_cache("waits", waits, x), x + 3)
    assert captured == [False] * (EAGER_CALLS + 4) and not graph_cache.graphs and graph_cache.replays == 0
    assert torch.cuda.get_sync_debug_mode() == 0 and "waits for the device" in caplog.text


@cuda_alone
def test_a_function_that_draws_on_the_host_is_never_captured(caplog: pytest.LogCaptureFixture) -> None:
    """As a user's network that leaves out layers at random: a replay would repeat the draw of the capture."""
    graph_cache, x = GraphCache(DEVICE), torch.arange(3.0, device=DEVICE)
    caplog.set_level(logging.INFO)
    for name, draw in {"torch": lambda: float(torch.rand(1)), "python": random.random, "numpy": np.random.rand}.items():
        found = [graph_cache(name, lambda x, draw=draw: x + draw(), x) for _ in range(EAGER_CALLS + 4)]
        assert len({float(each[0]) for each in found}) == len(found), name
    assert not graph_cache.graphs and caplog.text.count("draws random numbers on the host") == 3
    for _ in range(EAGER_CALLS + 2):
        assert torch.equal(graph_cache("does not", torch.neg, x), -x)
    assert_replayed(graph_cache, 1)


def test_an_attack_of_the_users_own_draws_on_the_device_and_is_never_captured(tmp_path: Path) -> None:
    """Seeding it inside a graph would fail; the device's own random numbers go on as if it had not drawn."""
    own = tmp_path / "attack.py"
    own.write_text("import torch\ndef noise(model, x, y, eps): return (x + eps * torch.rand_like(x)).clamp(0, 1)\n")
    attack = ModuleAttack(0.1, str(own), "noise", {})
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(DEVICE).eval()
    x, y = torch.full((4, 1, 8, 8), 0.5, device=DEVICE), torch.zeros(4, dtype=torch.long, device=DEVICE)
    state = torch.cuda.get_rng_state(DEVICE) if ON_CUDA else None
    first, again, other = (attack(net, x, y, torch.Generator(DEVICE).manual_seed(seed)) for seed in (1, 1, 2))
    assert first.device == DEVICE and torch.equal(first, again) and not torch.equal(first, other)
    graph_cache = GraphCache(DEVICE)
    drawn = [graph_cache("own", partial(attack, net), x, y) for _ in range(EAGER_CALLS + 2)]
    assert graph_cache.replays == 0 and len({float(x_adv.sum()) for x_adv in drawn}) == len(drawn)
    assert state is None or torch.equal(torch.cuda.get_rng_state(DEVICE), state)


# ---- precision, memory


@cuda_alone
def test_tf32_rounds_and_fp32_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    image, kernel = torch.randn(8, 32, 16, 16, generator=generator), torch.randn(32, 32, 3, 3, generator=generator)
    matrix, exact = torch.randn(512, 512, generator=generator), {}
    for precision in ("fp32", "tf32"):
        with allow_tf32(precision):  # type: ignore[arg-type]
            product = (matrix.to(DEVICE) @ matrix.to(DEVICE)).cpu()
            convolved = nn.functional.conv2d(image.to(DEVICE), kernel.to(DEVICE)).cpu()
        wanted = (matrix.double() @ matrix.double(), nn.functional.conv2d(image.double(), kernel.double()))
        found = zip((product, convolved), wanted, strict=True)
        exact[precision] = [float((got - want).abs().max() / want.abs().max()) for got, want in found]
    assert max(exact["fp32"]) < 1e-5 and exact["tf32"][0] > 1e-4  # cuDNN may take an exact kernel for so small an image


def test_rates_in_tf32_are_those_in_fp32(
    trained_net: nn.Module, attack: Callable[..., GradientAttack], digits: Data
) -> None:
    """Clean and under PGD, to two points."""
    x, y = digits.test.take(torch.arange(len(digits.test), device=DEVICE))
    rates = {}
    for precision in ("fp32", "tf32"):
        with allow_tf32(precision), torch.no_grad():  # type: ignore[arg-type]
            x_adv = attack("pgd", eps=0.1, step_size=0.02)(trained_net, x, y, torch.Generator(DEVICE).manual_seed(0))
            rates[precision] = [float((trained_net(each).argmax(1) != y).double().mean()) for each in (x, x_adv)]
    assert rates["fp32"] == pytest.approx(rates["tf32"], abs=0.02)
    assert rates["fp32"][0] < 0.1 < rates["fp32"][1]


@cuda_alone
def test_memory_comes_back(attack: Callable[..., GradientAttack], madry_net: nn.Module, digits: Data) -> None:
    """After a block of graphs, and after a training whose network is kept; libraries' own workspaces stay."""
    ((x, y),) = batches_of(digits.train, 1)
    made = tiny_training(epochs=5.0, schedule={"name": "constant"})
    weights, used = copy.deepcopy(made.model.state_dict()), []
    for _ in range(4):
        with graphs(DEVICE):
            for _ in range(EAGER_CALLS + 2):
                attack("pgd")(madry_net, x, y)
        control = TrainingControl("tiny", Stop(), None, lambda state: None, float("inf"))
        fit(made.model, made.trainer, [], made.data, 0, control)
        made.model.load_state_dict(weights)
        gc.collect()
        torch.cuda.synchronize()
        used.append(torch.cuda.memory_allocated())
    assert used[1] == used[2] == used[3]
    assert all(parameter.grad is None for parameter in made.model.parameters())


# ---- error rates, workers


def test_the_worst_case_and_restarts_lose_the_images_that_they_must(attack: Callable[..., GradientAttack]) -> None:
    """Of a linear model: those nearer to the boundary than eps * |w|_1. No rounding decides: none lies close to it."""
    generator, eps = torch.Generator().manual_seed(0), 0.05
    w = torch.randn(16, generator=generator)
    w -= w.mean()  # grey images lie on the boundary
    images = torch.randint(77, 178, (400, 1, 4, 4), generator=generator, dtype=torch.uint8)
    distance = images.flatten(1).double() / 255 @ w.double()
    reach = eps * float(w.double().abs().sum())
    clear = (distance.abs() - reach).abs() > 0.01 * reach
    images, distance = images[clear], distance[clear]
    lost = distance.abs() < reach
    assert 50 < lost.sum() < len(lost) - 50
    model, test = two_class(w).to(DEVICE), Split(images, (distance > 0).long()).to(DEVICE)
    pgd = attack("pgd", eps=eps, step_size=eps / 2, restarts=3)
    attacks = {"pgd": pgd, "i_fgsm": attack("i_fgsm", eps=eps)}
    generators = {name: torch.Generator(DEVICE).manual_seed(0) for name in attacks}
    found, _ = find_fooled(model, attacks, Batched(test, 64, Stop()), generators, "worst case")
    assert torch.equal(found.cpu(), lost)
    x, y = test.take(torch.arange(len(test), device=DEVICE))
    assert torch.equal((model(pgd(model, x, y, generators["pgd"])).argmax(1) != y).cpu(), lost)


def test_the_worst_case_of_a_network_is_the_cpus(
    trained_net: nn.Module, attack: Callable[..., GradientAttack], digits: Data
) -> None:
    """Image by image, but for a few in a hundred that a random start or the last bit decides."""
    lost = []
    for device in (DEVICE, CPU):
        model, test = copy.deepcopy(trained_net).to(device), digits.test.to(device)
        attacks = {"mi_fgsm": attack("mi_fgsm", eps=0.1), "pgd": attack("pgd", eps=0.1, step_size=0.02, restarts=3)}
        generators = {name: torch.Generator(device).manual_seed(0) for name in attacks}
        lost.append(find_fooled(model, attacks, Batched(test, 100, Stop()), generators, "worst case")[0].cpu())
    assert 0.1 < lost[0].double().mean() < 0.9
    assert (lost[0] != lost[1]).double().mean() <= 0.03


def test_two_workers_train_what_one_trains(tmp_path: Path) -> None:
    """Two seeds' models, side by side in processes of their own on the one device, or one after the other."""

    def command(workers: int) -> list[str]:
        models = ("models=alone", "attack=none", "suite=fgsm", "trainer=standard", "trainer.epochs=2", *MADRY)
        captured = "true" if ON_CUDA else "null"
        device = (f"device={DEVICE.type}", f"cuda_graphs={captured}", "deterministic=true", "threads=1")
        folder = tmp_path / str(workers)
        where = (f"outputs={folder}", f"hydra.run.dir={folder / 'run'}")
        return [sys.executable, str(ROOT / "run.py"), *models, *device, "seeds=2", f"workers={workers}", *where]

    runs = [subprocess.Popen(command(workers), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for workers in (1, 2)]
    output = [run.communicate(timeout=300)[0].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], output
    weights = [weights_in(tmp_path / str(workers)) for workers in (1, 2)]
    assert weights[0] == weights[1] and len(weights[0]) == 2
    specs = [json.loads(path.read_text()) for path in (tmp_path / "2").rglob("spec.json")]
    assert {spec["device"].split()[0] for spec in specs} == {DEVICE.type}


def weights_in(folder: Path) -> dict[str, bytes]:
    """Return the weights of each model in a store, by its folder's name."""
    return {path.parent.name: path.read_bytes() for path in folder.rglob("model.safetensors")}
