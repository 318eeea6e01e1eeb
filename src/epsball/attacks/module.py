"""An attack of the user's own Python file."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn

from epsball.attacks.attack import Attack, BrokenContract, described
from epsball.build import ConfigError, bound, require
from epsball.data.examples import ROUNDING
from epsball.models.layers import Shape
from epsball.runtime.named_files import cause, check_arguments, found_in, imported, sha256_of

GIVEN = ("model", "x", "y", "eps")
TRIED = 8  # images; of two an attack that drops what is fooled may drop none, or both


@dataclass(frozen=True)
class ModuleAttack:
    """What `call(model, x, y, eps, **arguments)` of a Python file gives: adversarial examples of x, (N, C, H, W) in
    [0, 1], with labels y (N,), that have its shape and lie in [0, 1] and the eps-ball around it.

    `model` maps images in [0, 1] to logits (N, classes) and is left as it was, in its modes and gradients; x and y are
    the attack's own. `eps` is a float; of a trainer that draws one for each example, a tensor (N, 1, 1, 1). What it
    draws with torch is the same in every run of a seed.
    """

    eps: float
    """radius of the L-infinity ball, in [0, 1]"""
    file: str | None
    """the Python file"""
    call: str | None
    """the function in it, or what can be called like one"""
    arguments: dict[str, Any]
    """of the call, by name"""
    sha256: str = bound("")
    """of the file"""

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps should be a float in [0, 1], is {self.eps}")
        called = found_in(self.file, self.call, "attack.file=my/attack.py", "attacks")
        check_arguments(called, f"{self.call} of {self.file}", self.arguments, *GIVEN)
        object.__setattr__(self, "sha256", sha256_of(str(self.file)))

    def __hash__(self) -> int:
        return hash((self.eps, self.sha256, self.call))  # arguments may be lists

    @property
    def deterministic(self) -> bool:
        return False

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: Generator | None = None,
        shrink: Tensor | None = None,
    ) -> Tensor:
        """Raises RuntimeError, one line, where the user's code fails or gives something else."""
        called = getattr(imported(str(self.file), self.sha256), str(self.call))
        eps = self.eps if shrink is None else self.eps * shrink.view(-1, 1, 1, 1)
        drawing = drawing_from(generator, x.device)
        with left_as_it_was(model), contiguous_gradients(model), drawing, torch.enable_grad():
            try:
                x_adv = called(model, x.detach().clone(), y.clone(), eps, **self.arguments)
            except (Exception, SystemExit) as error:
                raise RuntimeError(f"{self.call} of {self.file} fails{cause(error, str(self.file))}") from error
        return self.checked(x_adv, x, eps)

    def checked(self, x_adv: object, x: Tensor, eps: float | Tensor) -> Tensor:
        """Return what the call gave, BrokenContract unless that is images in the ball. It waits for the device, so no
        CUDA graph is made of a step with such an attack: in one nothing can be seeded."""
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            raise BrokenContract(f"{self.call} of {self.file} should give {described(x)}, gives {described(x_adv)}")
        beyond, outside = ((x_adv - x).abs() - eps).amax(), (x_adv - 0.5).abs().amax() - 0.5
        if not bool((beyond <= ROUNDING) & (outside <= ROUNDING)):  # no number is neither
            where = f"{float(beyond):.4g} beyond it, {float(outside):.4g} outside [0, 1]"
            raise BrokenContract(f"{self.call} of {self.file} leaves the ball of eps {self.eps:.4g}: {where}")
        return x_adv.detach().to(x)


def try_attack(attack: Attack, shape: Shape, classes: int, where: str, shrinks: bool = False) -> None:
    """Let an attack of the user's own craft a few examples (C, H, W) on a small linear network, before anything is
    trained, each with a share of eps if it `shrinks`; once, however many models, seeds and parts of a run have it.

    ConfigError, which says `where` the attack stands, where it fails, or where they are no images in the eps-ball.
    """
    if isinstance(attack, ModuleAttack):
        try:
            try_once(attack, shape, classes, shrinks)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from error


@cache
def try_once(attack: ModuleAttack, shape: Shape, classes: int, shrinks: bool) -> None:
    network, x, y = trial(shape, classes)
    shrink = torch.linspace(1, 0.5, TRIED) if shrinks else None
    attack(network.eval(), x, y, torch.Generator().manual_seed(0), shrink)


def trial(shape: Shape, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small linear network, and a few images with labels, on which a user's own code is tried."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
        return network, torch.rand(TRIED, *shape), torch.arange(TRIED) % classes


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Give a model its modes, its parameters their gradients and what is in eval mode its buffers back: a training goes
    on from them."""
    modes = [(module, module.training) for module in model.modules()]
    fixed = [buffer for module, training in modes if not training for buffer in module.buffers(recurse=False)]
    kept = [buffer.clone() for buffer in fixed]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, value in zip(fixed, kept, strict=True):
            buffer.copy_(value)
        for parameter, required, gradient in parameters:
            parameter.requires_grad_(required).grad = gradient


@contextmanager
def contiguous_gradients(model: nn.Module) -> Iterator[None]:
    """Let the gradients of a model's images be contiguous inside the block, however its weights are laid out: code that
    others wrote calls `gradient.view(len(x), -1)`."""

    def passing(_model: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(ContiguousGradient.apply(each) if isinstance(each, Tensor) else each for each in given)

    hook = model.register_forward_pre_hook(passing)
    try:
        yield
    finally:
        hook.remove()


class ContiguousGradient(torch.autograd.Function):
    """A tensor as it is, whose gradient is contiguous."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].contiguous()


@contextmanager
def drawing_from(generator: Generator | None, device: torch.device) -> Iterator[None]:
    """Seed torch's own random numbers, from `generator` or, without one, from themselves; afterwards they go on as if
    nothing but that seed had been drawn of them."""
    drawn_on = torch.device("cpu") if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=drawn_on))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
