"""Gradient attacks of the four papers: one loop, settings first, model at call time.

Every attack maps images in [0, 1] to images in [0, 1] no further than eps (L-infinity, in units of the pixel
range) from where they began. It reads the model and never changes it: no parameter gradient, no change of mode.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epsball.attacks.balls import STEPS, norm
from epsball.attacks.losses import cross_entropy, entropy, log_cross_entropy, margin, weighted
from epsball.build import require
from epsball.models import Ensemble, heads
from epsball.runtime.graphs import run_captured

CAPTURED_STEPS = 5  # fewer are not worth a graph: its capture costs four calls, and an evaluation makes about ten


@dataclass(frozen=True)
class GradientAttack:
    """FGSM and everything that grew out of it (Goodfellow, Kurakin, Tramèr, Madry, Dong, Carlini-Wagner)."""

    eps: float
    """radius of the L-infinity ball, in [0, 1]"""
    steps: int | Literal["kurakin", "kurakin_up"]
    """kurakin: min(e + 4, 1.25 e) rounded down, e = 255 eps to the nearest whole one; kurakin_up: rounded up (Kurakin
    et al. 2017, section 2.2, does not say, and has whole e alone)"""
    step_size: float | None
    """in pixel units; null for a share of eps"""
    step_share: float | None
    """of this attack's own eps; where both are null, the steps share out evenly what a sign start leaves of eps"""
    step: Literal["sign", "l2", "linf"]
    """the gradient g becomes sign(g), g / |g|_2 or g / |g|_inf, per example"""
    loss: Literal["cross_entropy", "log_cross_entropy", "margin", "entropy"]
    """log_cross_entropy has the direction of cross_entropy's gradient, which rounds in float32 from a margin of 17 on;
    margin is Carlini and Wagner's hinge with kappa, entropy is Kurakin's (appendix A)"""
    kappa: float
    """how far on the wrong side a margin still counts; for loss margin alone"""
    label: Literal["true", "predicted", "least_likely", "random"]
    """the class the loss is about: true and predicted are moved away from, least_likely and random moved towards"""
    start: Literal["none", "uniform", "sign"]
    """uniform in +-start_share * eps, or sign noise of that size (RAND+FGSM, Tramèr section 4)"""
    start_share: float
    """in [0, 1]; 0 exactly when start is none"""
    clip_start: bool
    """whether a start is clipped to [0, 1] before the gradient is taken"""
    momentum: float
    """decay of accumulated L1-normalised gradients (MI-FGSM, Dong et al. 2018), 0 for none"""
    restarts: int
    """starts per example: the first whose example is misclassified counts, else the one with the highest loss
    (MadryLab/mnist_challenge#6)"""
    keep: Literal["last", "best"]
    """the last iterate, or the best one by loss"""

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: Generator | None = None,
        shrink: Tensor | None = None,
    ) -> Tensor:
        x = x.detach()
        scale = x.new_ones(()) if shrink is None else shrink.view(-1, 1, 1, 1)
        label = self.choose_label(model, x, y, generator)
        x_adv = self.ascend(model, x, self.draw_start(x, scale, generator), scale, label)
        return x_adv if self.restarts == 1 else self.restart(model, x, y, label, x_adv, scale, generator)

    def ascend(self, model: nn.Module, x: Tensor, start: Tensor, scale: Tensor, label: Tensor | None) -> Tensor:
        """Do what `take_all_steps` does, on CUDA as one graph."""
        tensors = (x, start, scale) if label is None else (x, start, scale, label)
        if self.number_of_steps < CAPTURED_STEPS:
            return self.take_all_steps(model, *tensors)
        return run_captured((self, id(model)), partial(self.take_all_steps, model), *tensors)

    def take_all_steps(
        self, model: nn.Module, x: Tensor, start: Tensor, scale: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """Take all steps from `start`; return the last iterate or the best."""
        state = self.begin(x, start, scale, label)
        self.advance(model, state, self.number_of_steps)
        if self.keep == "last":
            return state.x_adv
        with torch.no_grad():
            return better(state.best, (self.objective(model, state.x_adv, state.label)[0], state.x_adv))[1]

    def begin(self, x: Tensor, start: Tensor, scale: Tensor, label: Tensor | None) -> "AttackState":
        """Return the state before the first step."""
        low, high = (x - self.eps * scale).clamp(min=0), (x + self.eps * scale).clamp(max=1)
        spent = self.start_share if self.start == "sign" else 0.0
        even = (1 - spent) * self.eps / self.number_of_steps
        share = even if self.step_share is None else self.step_share * self.eps
        size = (share if self.step_size is None else self.step_size) * scale
        return AttackState(start, low, high, size, label, torch.zeros((), device=x.device), None)

    def advance(self, model: nn.Module, state: "AttackState", steps: int) -> list[Tensor]:
        """Step along the gradient and stay in the ball and the box, `steps` times: the one loop. Return what the attack
        increases, (N,) at each iterate that it steps from."""
        values = []
        for _ in range(steps):
            value, gradient, state.label = self.gradient(model, state.x_adv, state.label)
            values.append(value)
            if self.keep == "best":
                state.best = better(state.best, state.example(value))
            if self.momentum:
                gradient = state.velocity = self.momentum * state.velocity + gradient / norm(gradient, 1)
            state.x_adv = (state.x_adv + state.size * STEPS[self.step](gradient)).clamp(state.low, state.high)
        return values

    def gradient(self, model: nn.Module, x_adv: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the attack increases, per example, its gradient with respect to the images, and the label."""
        with torch.enable_grad():
            x_adv = x_adv.detach().requires_grad_()
            value, label = self.objective(model, x_adv, label)
            (gradient,) = torch.autograd.grad(value.sum(), x_adv)
        return value.detach(), gradient, label

    def objective(self, model: nn.Module, x_adv: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (N,) the quantity to increase, averaged over an ensemble's members, and the label it is about."""
        outputs = heads(model, x_adv)
        if label is None:
            label = self.label_from(outputs[0][0].detach())
        direction = -1.0 if self.targeted else 1.0
        if self.loss == "cross_entropy":
            return direction * cross_entropy(outputs, label, label_smoothing=0.0), label
        if self.loss == "entropy":
            return weighted(outputs, entropy), label
        if self.loss == "log_cross_entropy":
            return direction * log_cross_entropy(outputs, label), label
        target = label
        return weighted(outputs, lambda z: -F.relu(direction * margin(z, target) + self.kappa)), label

    def draw_start(self, x: Tensor, scale: Tensor, generator: Generator | None) -> Tensor:
        """Return where the steps begin: x, or a random point around it."""
        size = self.start_share * self.eps * scale
        if self.start == "uniform":
            noise = torch.rand(x.shape, generator=generator, device=x.device) * 2 - 1
        elif self.start == "sign":
            noise = torch.randn(x.shape, generator=generator, device=x.device).sign()
        else:
            return x
        start = x + size * noise
        return start.clamp(0, 1) if self.clip_start else start

    def choose_label(self, model: nn.Module, x: Tensor, y: Tensor, generator: Generator | None) -> Tensor | None:
        """Return (N,) the class the loss is about; None where the first gradient's own forward pass finds it."""
        if self.label == "true":
            return y
        if self.label != "random" and self.start == "none" and not isinstance(model, Ensemble):
            return None  # the first of its heads is its prediction
        with torch.no_grad():
            logits = model(x)
        if self.label == "random":  # any class but the true one
            other = torch.randint(logits.shape[1] - 1, y.shape, generator=generator, device=y.device)
            return other + (other >= y)
        return self.label_from(logits)

    def label_from(self, logits: Tensor) -> Tensor:
        return logits.argmax(1) if self.label == "predicted" else logits.argmin(1)

    @property
    def targeted(self) -> bool:
        return self.label in ("least_likely", "random")

    @property
    def number_of_steps(self) -> int:
        if isinstance(self.steps, int):
            return self.steps
        levels = round(255 * self.eps)
        rounded = math.ceil if self.steps == "kurakin_up" else math.floor
        return max(1, rounded(min(levels + 4, 1.25 * levels)))

    @property
    def reach(self) -> float:
        """Return how far all steps together can go, as a share of eps: below 1 they miss the edge of the ball. Without
        a step size of their own they go just as far as a start left them."""
        if self.eps == 0 or (self.step_size is None and self.step_share is None):
            return 1.0
        share = self.step_share if self.step_size is None else self.step_size / self.eps
        return self.number_of_steps * (share or 0.0)

    @property
    def deterministic(self) -> bool:
        """Whether the same model and images always give the same examples."""
        return self.start == "none" and self.label != "random"

    def restart(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        label: Tensor | None,
        x_adv: Tensor,
        scale: Tensor,
        generator: Generator | None,
    ) -> Tensor:
        """Start again from other points; return, per example, the worst case of all starts.

        Every start is drawn for all examples, so that random numbers do not depend on which are fooled.
        """
        assert label is not None  # a random start always chooses its label beforehand
        value, fooled = self.outcome(model, x_adv, y, label)
        for _ in range(1, self.restarts):
            start = self.draw_start(x, scale, generator)
            rows = worth_attacking(model, fooled)
            if isinstance(rows, Tensor) and len(rows) == 0:
                continue
            again = self.ascend(model, x[rows], start[rows], scale[rows] if scale.dim() else scale, label[rows])
            value_now, fooled_now = self.outcome(model, again, y[rows], label[rows])
            take = ~fooled[rows] & (fooled_now | (value_now > value[rows]))
            x_adv[rows] = torch.where(take.view(-1, 1, 1, 1), again, x_adv[rows])
            value[rows], fooled[rows] = torch.where(take, value_now, value[rows]), fooled[rows] | fooled_now
        return x_adv

    @torch.no_grad()
    def outcome(self, model: nn.Module, x_adv: Tensor, y: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N,) the quantity that the attack increases, and (N,) booleans: is the model fooled."""
        fooled = model(x_adv).argmax(1) != y
        return self.objective(model, x_adv, label)[0], fooled

    def advance_captured(self, model: nn.Module, state: "AttackState", steps: int) -> list[Tensor]:
        """Do what `advance` does, on CUDA as one graph. For `keep` last: the best iterates are not looked for."""
        if steps < CAPTURED_STEPS or state.label is None:
            return self.advance(model, state, steps)

        def moved(x_adv: Tensor, low: Tensor, high: Tensor, size: Tensor, label: Tensor, velocity: Tensor) -> Tensor:
            inner = AttackState(x_adv, low, high, size, label, velocity, None)
            values = self.advance(model, inner, steps)
            images = [inner.x_adv, inner.velocity] if self.momentum else [inner.x_adv]
            return torch.cat([*(part.flatten(1) for part in images), torch.stack(values, 1)], 1)

        tensors = (state.x_adv, state.low, state.high, state.size, state.label, state.velocity)
        found = run_captured((self, id(model), steps), moved, *tensors)
        shape, pixels = state.x_adv.shape, state.x_adv[0].numel()
        state.x_adv = found[:, :pixels].reshape(shape)
        if self.momentum:
            state.velocity = found[:, pixels : 2 * pixels].reshape(shape)
        return list(found[:, -steps:].unbind(1))

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps should be a float in [0, 1], is {self.eps}")
        require(not isinstance(self.steps, int) or self.steps >= 1, f"steps should be at least 1, is {self.steps}")
        require(
            self.step_size is None or self.step_size > 0 or self.step_size == self.eps == 0,
            f"step_size should be positive, is {self.step_size}",
        )
        require(self.step_share is None or self.step_share > 0, f"step_share should be positive, is {self.step_share}")
        require(self.step_size is None or self.step_share is None, "step_share should be null beside a step_size")
        require(0 <= self.start_share <= 1, f"start_share should be in [0, 1], is {self.start_share}")
        require(
            (self.start == "none") == (self.start_share == 0),
            "start_share should be 0 exactly when start is none",
        )
        require(self.kappa >= 0, f"kappa should be at least 0, is {self.kappa}")
        require(
            self.kappa == 0 or self.loss == "margin",
            f"kappa should be 0 where loss is {self.loss}, for it is of loss margin alone, is {self.kappa}",
        )
        unlabelled = f"label should be true where loss is entropy, which is about no class, is {self.label}"
        require(self.loss != "entropy" or self.label == "true", unlabelled)
        require(self.momentum >= 0, f"momentum should be at least 0, is {self.momentum}")
        require(self.restarts >= 1, f"restarts should be at least 1, is {self.restarts}")
        require(
            self.restarts == 1 or self.start != "none",
            "restarts should be 1 when start is none: all would be equal",
        )


@dataclass
class AttackState:
    """Attack on a batch, under way: its iterates, and what the next step needs.

    A tensor without dimensions is the same for all examples, any other has a row for each.
    """

    x_adv: Tensor
    """the iterates"""
    low: Tensor
    """least value of each pixel that ball and box allow"""
    high: Tensor
    """largest value of each pixel that ball and box allow"""
    size: Tensor
    """of a step, in pixel units"""
    label: Tensor | None
    """the class the loss is about; None until the first gradient has found it"""
    velocity: Tensor
    """accumulated gradients, for momentum"""
    best: tuple[Tensor, Tensor] | None
    """value and images of the best iterates, for keep=best"""

    def example(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return the iterates as examples, with their value. An unclipped start outside the box is none: its projection
        has another value, and counts as the worst of all."""
        outside = ((self.x_adv < self.low) | (self.x_adv > self.high)).flatten(1).any(1)
        return value.masked_fill(outside, -math.inf), self.x_adv.clamp(self.low, self.high)

    def only(self, rows: Tensor | slice) -> Self:
        """Return the state of the chosen examples alone. The best iterates are left behind."""
        x_adv, low, high, size, velocity = (t[rows] if t.dim() else t for t in self.tensors)
        return type(self)(x_adv, low, high, size, None if self.label is None else self.label[rows], velocity, None)

    @classmethod
    def joined(cls, states: Sequence[Self]) -> Self:
        """Return the state of all examples of states that have come equally far. The best iterates are left behind."""
        per_field = zip(*(state.tensors for state in states), strict=True)
        x_adv, low, high, size, velocity = (torch.cat(same) if same[0].dim() else same[0] for same in per_field)
        labels = [state.label for state in states if state.label is not None]
        return cls(x_adv, low, high, size, torch.cat(labels) if labels else None, velocity, None)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.x_adv, self.low, self.high, self.size, self.velocity


def worth_attacking(model: nn.Module, fooled: Tensor) -> Tensor | slice:
    """Return the rows that another restart attacks: on the CPU those that stand, elsewhere all.

    On a GPU the fooled go along and are left as they are: no shape depends on what the device finds, so that the host
    need not wait for it, and a training step with restarts can be captured. So they do where batch norm normalises by
    the batch, of which they are a part.
    """
    whole = fooled.device.type != "cpu" or any(isinstance(m, _BatchNorm) and m.training for m in model.modules())
    return slice(None) if whole else (~fooled).nonzero().squeeze(1)


def better(a: tuple[Tensor, Tensor] | None, b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return, per example, the (value, images) pair with the higher value, the second where its value is NaN."""
    if a is None:
        return b
    wins = ~(b[0] <= a[0])
    return torch.where(wins, b[0], a[0]), torch.where(wins.view(-1, 1, 1, 1), b[1], a[1])
