"""Every trainer's whole step on the meta device, whose tensors have no values: what a CUDA graph captures reads none.

A step that asks for a value (`item`, `nonzero`, a tensor as a condition) raises there, and so it does for a tensor of
the host's among its operands, which a capture could not copy to the card.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from configs import needed
from conftest import ROOT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from epsball.build import build, construct
from epsball.data.images import Data, Split
from epsball.models import MODELS
from epsball.training.fit import TrainingState
from epsball.training.trainer import Trainer

Compose = Callable[..., dict[str, Any]]
META = torch.device("meta")
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
NETS: dict[str, tuple[tuple[int, int, int], list[str]]] = {
    "madry_cifar": (CIFAR, ["arch=resnet20"]),
    **dict.fromkeys(("kurakin", "kurakin_nat"), (CIFAR, ["arch=inception_v3_32"])),
    "diversity": (MNIST, ["arch=ensemble"]),
    "static_adv_diversity": (MNIST, ["arch=ensemble"]),
}  # a trainer's network, where it is not one with dropout
TRAINERS = sorted(path.stem for path in (ROOT / "conf" / "trainer").glob("*.yaml"))


class OnMetaAlone(TorchDispatchMode):
    """Inside, an operation that reads or makes a tensor of the host's raises; but not the optimiser's own, which counts
    its steps on the host everywhere but on a card."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.in_optimizer = False
        optimizer.register_step_pre_hook(lambda *_: setattr(self, "in_optimizer", True))
        optimizer.register_step_post_hook(lambda *_: setattr(self, "in_optimizer", False))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, made)):
            if isinstance(tensor, Tensor) and tensor.device != META and not self.in_optimizer:
                raise RuntimeError(f"{func} works on a tensor of the host's, {list(tensor.shape)}")
        return made


def begun(compose: Compose, name: str, *overrides: str) -> TrainingState:
    """A training on the meta device that has not made a step."""
    shape, arch = NETS.get(name, (MNIST, ["arch=mnist_d"]))
    config = compose("scale=paper", "dataset=mnist", f"trainer={name}", *needed(name), *arch, *overrides)
    trainer: Trainer = construct(Trainer, config["trainer"], where="trainer")
    specs = [config["arch"], *(source["arch"] for source in trainer.sources.values())]
    model, *sources = (build(MODELS, spec, shape, 10, where="arch").to(META) for spec in specs)
    images = torch.empty(256, *shape, dtype=torch.uint8, device=META)
    split = Split(images, torch.empty(256, dtype=torch.int64, device=META))
    data = Data("nothing", split, split, tuple(map(str, range(10))), "no pixels", "", "")
    frozen = [source.eval().requires_grad_(False) for source in sources]
    state = TrainingState.begin(model, trainer, frozen, data, seed=0)
    for group in state.optimizer.param_groups:
        group["fused"] = False  # torch's fused Adam has no meta kernel
    return state


def routes(state: TrainingState, steps: int) -> dict[Any, int]:
    """The first of these steps on each route that the training takes."""
    return {state.objective.route(step): step for step in reversed(range(steps))}


def minimised(state: TrainingState) -> Tensor:
    """The loss of one step, with its terms."""
    with OnMetaAlone(state.optimizer):
        return state.minimise(torch.empty(state.trainer.batch_size, dtype=torch.int64, device=META))


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_asks_the_device_for_nothing(name: str, compose: Compose) -> None:
    state = begun(compose, name, *(["trainer.objective.delay=0.375"] if name == "kurakin" else []))
    found = routes(state, 64)
    assert len(found) == {"ensemble_adv": 4, "kurakin": 2}.get(name, 1)
    for step in found.values():
        state.step = step
        loss = minimised(state)
        terms = len(state.objective.terms)
        assert loss.device == META and loss.shape == ((1 + terms,) if terms else ())
        assert all(p.grad is not None for p in state.model.parameters())


def test_cached_examples_and_attacks_that_keep_their_best_ask_for_nothing_either(compose: Compose) -> None:
    cached = begun(compose, "ensemble_adv", "trainer.objective.crafting_mode=eval", "trainer.epochs=12")
    assert len(cached.objective.cached) == 3  # type: ignore[attr-defined]
    for step in routes(cached, 64).values():
        cached.step = step
        minimised(cached)
    minimised(begun(compose, "madry", "trainer.objective.attack.keep=best", "trainer.objective.attack.momentum=0.9"))


class Asking(nn.Module):
    """A layer that looks at what passes through it."""

    def __init__(self, asks: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        self.asks(x)
        return x


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.mean().tolist(),
        lambda x: x.cpu(),
        lambda x: x + torch.tensor(0.5),
    ],
)
def test_a_step_that_asks_is_found_out(asks: Callable[[Tensor], object], compose: Compose) -> None:
    state = begun(compose, "standard")
    minimised(state)
    state.model = nn.Sequential(Asking(asks), state.model)
    with pytest.raises((RuntimeError, NotImplementedError)):
        minimised(state)
