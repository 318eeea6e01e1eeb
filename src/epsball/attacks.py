"""The gradient attacks of the four papers: one loop, settings first, model at call time.

Every attack maps images in [0, 1] to images in [0, 1] no further than eps (L-infinity, in units of the pixel
range) from where they began. It reads the model and never changes it: no parameter gradient, no change of mode.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from epsball.build import require
from epsball.device import launch
from epsball.models import heads

Heads = list[tuple[Tensor, float]]


class Attack(Protocol):
    """`attack(model, x, y) -> x_adv`, same shape as x (N, C, H, W), inside [0, 1] and the eps-ball around x.

    `shrink` (N,), in [0, 1], makes example i's whole attack that much smaller (per-example eps).
    """

    @property
    def eps(self) -> float: ...

    @property
    def deterministic(self) -> bool: ...

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        generator: Generator | None = None,
        shrink: Tensor | None = None,
    ) -> Tensor: ...

    def fools(
        self, model: nn.Module, x: Tensor, y: Tensor, lost: Tensor, generator: Generator | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class GradientAttack:
    """FGSM and everything that grew out of it (Goodfellow, Kurakin, Tramèr, Madry, Dong, Carlini-Wagner).

    eps: radius of the L-infinity ball, in [0, 1]. steps: gradient steps; "kurakin" is min(e + 4, 1.25 e) rounded
    down, e = 255 eps (Kurakin et al. 2017, section 2.2). step_size: in pixel units; null spends evenly what a sign
    start leaves of eps. step: what a step takes of the gradient g: sign(g), g / |g|_2 or g / |g|_inf, per example.
    loss: cross_entropy, margin (Carlini-Wagner hinge with kappa) or entropy (Kurakin, appendix A). label: whom the loss
    is about; true and predicted are moved away from, least_likely and random moved towards. start: none, uniform in
    +-start_share * eps, or sign noise of that size (RAND+FGSM, Tramèr section 4); clip_start clips it to [0, 1] before
    the gradient is taken. momentum: decay of accumulated L1-normalised gradients (MI-FGSM, Dong et al. 2018), 0 for
    none. restarts: per example, the first start that fools the model, else the one with the highest loss
    (MadryLab/mnist_challenge#6). keep: the last iterate, or the best one by loss.
    """

    eps: float
    steps: int | Literal["kurakin"]
    step_size: float | None
    step: Literal["sign", "l2", "linf"]
    loss: Literal["cross_entropy", "margin", "entropy"]
    kappa: float
    label: Literal["true", "predicted", "least_likely", "random"]
    start: Literal["none", "uniform", "sign"]
    start_share: float
    clip_start: bool
    momentum: float
    restarts: int
    keep: Literal["last", "best"]

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps should be a float in [0, 1], is {self.eps}")
        require(self.steps == "kurakin" or self.steps >= 1, f"steps should be at least 1, is {self.steps}")
        require(
            self.step_size is None or self.step_size > 0 or self.step_size == self.eps == 0,
            f"step_size should be positive, is {self.step_size}",
        )
        require(0 <= self.start_share <= 1, f"start_share should be in [0, 1], is {self.start_share}")
        require(
            (self.start == "none") == (self.start_share == 0),
            "start_share should be 0 exactly when start is none",
        )
        require(self.kappa >= 0, f"kappa should be at least 0, is {self.kappa}")
        require(self.momentum >= 0, f"momentum should be at least 0, is {self.momentum}")
        require(self.restarts >= 1, f"restarts should be at least 1, is {self.restarts}")
        require(
            self.restarts == 1 or self.start != "none",
            "restarts should be 1 when start is none: all would be equal",
        )

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
        known = () if label is None else (label,)
        start = self.draw_start(x, scale, generator)
        x_adv = launch((self, id(model)), partial(self.climb, model), x, start, scale, *known)
        return self.restart(model, x, y, label, x_adv, scale, generator) if self.restarts > 1 else x_adv

    def fools(self, model: nn.Module, x: Tensor, y: Tensor, lost: Tensor, generator: Generator | None = None) -> Tensor:
        """(N,) booleans: `lost`, and whether the model mistakes an iterate of any restart, looked at after 1, 2, 4, 8,
        ... steps and the last. For error rates only: images that are lost are dropped, so no examples come out."""
        x, scale, lost = x.detach(), x.new_ones(()), lost.clone()
        label = self.choose_label(model, x, y, generator)
        for _ in range(self.restarts):
            start = self.draw_start(x, scale, generator)  # for all, so that no image's draws depend on another's fate
            left = (~lost).nonzero().squeeze(1)
            if len(left) == 0:
                continue
            walk = self.begin(x[left], start[left], scale, None if label is None else label[left])
            for done, until in itertools.pairwise(doublings(self.number_of_steps)):
                self.advance(model, walk, until - done)
                with torch.no_grad():
                    stands = model(walk.x_adv).argmax(1) == y[left]
                lost[left[~stands]] = True
                left, walk = left[stands], walk.only(stands)
                if len(left) == 0:
                    break
        return lost

    @property
    def deterministic(self) -> bool:
        """Whether the same model and images always give the same examples."""
        return self.start == "none" and self.label != "random"

    @property
    def targeted(self) -> bool:
        return self.label in ("least_likely", "random")

    @property
    def number_of_steps(self) -> int:
        if self.steps == "kurakin":
            levels = round(255 * self.eps)
            return max(1, int(min(levels + 4, 1.25 * levels)))
        return self.steps

    def choose_label(self, model: nn.Module, x: Tensor, y: Tensor, generator: Generator | None) -> Tensor | None:
        """(N,) the class the loss is about; None when the first gradient's own forward pass will tell."""
        if self.label == "true":
            return y
        if self.label != "random" and self.start == "none" and not hasattr(model, "heads"):
            return None
        with torch.no_grad():
            logits = model(x)
        if self.label == "random":  # any class but the true one
            other = torch.randint(logits.shape[1] - 1, y.shape, generator=generator, device=y.device)
            return other + (other >= y)
        return self.label_from(logits)

    def label_from(self, logits: Tensor) -> Tensor:
        return logits.argmax(1) if self.label == "predicted" else logits.argmin(1)

    def draw_start(self, x: Tensor, scale: Tensor, generator: Generator | None) -> Tensor:
        """Where the climb begins: x, or a random point around it."""
        size = self.start_share * self.eps * scale
        if self.start == "uniform":
            noise = torch.rand(x.shape, generator=generator, device=x.device) * 2 - 1
        elif self.start == "sign":
            noise = torch.randn(x.shape, generator=generator, device=x.device).sign()
        else:
            return x
        start = x + size * noise
        return start.clamp(0, 1) if self.clip_start else start

    def climb(self, model: nn.Module, x: Tensor, start: Tensor, scale: Tensor, label: Tensor | None = None) -> Tensor:
        """From `start` all steps up, in the ball and the box around x; the last iterate or the best."""
        walk = self.begin(x, start, scale, label)
        self.advance(model, walk, self.number_of_steps)
        if self.keep == "last":
            return walk.x_adv
        with torch.no_grad():
            return better(walk.best, (self.objective(model, walk.x_adv, walk.label)[0], walk.x_adv))[1]

    def begin(self, x: Tensor, start: Tensor, scale: Tensor, label: Tensor | None) -> "Walk":
        low, high = (x - self.eps * scale).clamp(min=0), (x + self.eps * scale).clamp(max=1)
        spent = self.start_share if self.start == "sign" else 0.0
        even = (1 - spent) * self.eps / self.number_of_steps
        size = (even if self.step_size is None else self.step_size) * scale
        return Walk(start, low, high, size, label, torch.zeros((), device=x.device), None)

    def advance(self, model: nn.Module, walk: "Walk", steps: int) -> None:
        """The one loop: step along the gradient, stay in the ball and the box."""
        for _ in range(steps):
            value, gradient, walk.label = self.gradient(model, walk.x_adv, walk.label)
            if self.keep == "best" and (self.clip_start or walk.best is not None):  # an unclipped start is no example
                walk.best = better(walk.best, (value, walk.x_adv.clamp(walk.low, walk.high)))
            if self.momentum:
                gradient = walk.velocity = self.momentum * walk.velocity + gradient / norm(gradient, 1)
            walk.x_adv = (walk.x_adv + walk.size * STEPS[self.step](gradient)).clamp(walk.low, walk.high)

    def gradient(self, model: nn.Module, x_adv: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What the attack increases, per example, its gradient with respect to the images alone, and the label."""
        with torch.enable_grad():
            x_adv = x_adv.detach().requires_grad_()
            value, label = self.objective(model, x_adv, label)
            (gradient,) = torch.autograd.grad(value.sum(), x_adv)
        return value.detach(), gradient, label

    def objective(self, model: nn.Module, x_adv: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """(N,) the quantity to increase, averaged over an ensemble's members, and the label it is about."""
        outputs = heads(model, x_adv)
        if label is None:
            label = self.label_from(outputs[0][0].detach())
        direction = -1.0 if self.targeted else 1.0
        if self.loss == "cross_entropy":
            return direction * cross_entropy(outputs, label, label_smoothing=0.0), label
        if self.loss == "entropy":
            return weighted(outputs, entropy), label
        target = label
        return weighted(outputs, lambda z: -F.relu(direction * margin(z, target) + self.kappa)), label

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
        """Further starts for the examples that still stand; per example the worst case of all of them."""
        assert label is not None  # a random start always chooses its label beforehand
        with torch.no_grad():
            fooled, value = model(x_adv).argmax(1) != y, self.objective(model, x_adv, label)[0]
        for _ in range(1, self.restarts):
            start = self.draw_start(x, scale, generator)  # for all, so that no example's draws depend on another's fate
            left = (~fooled).nonzero().squeeze(1)
            if len(left) == 0:
                continue
            part = scale if scale.dim() == 0 else scale[left]
            again = self.climb(model, x[left], start[left], part, label[left])
            with torch.no_grad():
                fooled_now = model(again).argmax(1) != y[left]
                value_now = self.objective(model, again, label[left])[0]
            take = fooled_now | (value_now > value[left])
            x_adv[left[take]], value[left[take]], fooled[left[take]] = (
                again[take],
                value_now[take],
                fooled_now[take],
            )
        return x_adv


@dataclass
class Walk:
    """Where a climb stands: its iterates, what they must stay between, and what the next step needs."""

    x_adv: Tensor
    low: Tensor
    high: Tensor
    size: Tensor
    label: Tensor | None
    velocity: Tensor
    best: tuple[Tensor, Tensor] | None

    def only(self, chosen: Tensor) -> "Walk":
        """The walk of the chosen images alone. The best iterates are left behind."""
        size, velocity = (t if t.dim() == 0 else t[chosen] for t in (self.size, self.velocity))
        label = None if self.label is None else self.label[chosen]
        return Walk(self.x_adv[chosen], self.low[chosen], self.high[chosen], size, label, velocity, None)


@dataclass(frozen=True)
class NoiseAttack:
    """Random perturbations as a baseline (Kurakin et al. 2017, appendix A; Kariyappa's noisy data, section 4.1).

    distribution: eps * sign(N(0, 1)), or a normal with standard deviation eps / 2 truncated to [-eps, eps].
    """

    eps: float
    distribution: Literal["sign", "truncated_normal"]

    def __post_init__(self) -> None:
        require(0 <= self.eps <= 1, f"eps should be a float in [0, 1], is {self.eps}")

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
        x, scale = x.detach(), 1.0 if shrink is None else shrink.view(-1, 1, 1, 1)
        if self.distribution == "sign":
            noise = torch.randn(x.shape, generator=generator, device=x.device).sign()
        else:
            noise = truncated_normal(x.shape, x.device, generator)
        return (x + self.eps * scale * noise).clamp(0, 1)

    def fools(self, model: nn.Module, x: Tensor, y: Tensor, lost: Tensor, generator: Generator | None = None) -> Tensor:
        """(N,) booleans: `lost`, and whether the model mistakes the noisy image."""
        with torch.no_grad():
            wrong: Tensor = lost | (model(self(model, x, y, generator)).argmax(1) != y)
        return wrong


ATTACKS: Mapping[str, Callable[..., Attack]] = {"gradient": GradientAttack, "noise": NoiseAttack}


def weighted(outputs: Heads, function: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([weight * function(at_least_fp32(logits)) for logits, weight in outputs]).sum(0)


def at_least_fp32(logits: Tensor) -> Tensor:
    """Losses are not for half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def cross_entropy(outputs: Heads, y: Tensor, label_smoothing: float) -> Tensor:
    """(N,) cross-entropy, for an ensemble the average of its members' (Kariyappa, section 4.1)."""
    return weighted(outputs, lambda z: F.cross_entropy(z, y, reduction="none", label_smoothing=label_smoothing))


def margin(logits: Tensor, label: Tensor) -> Tensor:
    """(N,) logit of `label` minus the largest other logit (Carlini and Wagner 2017)."""
    own = logits.gather(1, label[:, None]).squeeze(1)
    other = logits.scatter(1, label[:, None], float("-inf")).amax(1)
    return own - other


def entropy(logits: Tensor) -> Tensor:
    """(N,) entropy of the predicted distribution, in nats."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def norm(g: Tensor, order: float) -> Tensor:
    """(N, 1, 1, 1) the norm of each example's gradient, never zero."""
    tiny = torch.finfo(g.dtype).tiny
    length: Tensor = torch.linalg.vector_norm(g, ord=order, dim=(1, 2, 3), keepdim=True)
    return length.clamp(min=tiny)


STEPS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "l2": lambda g: (unit := g / norm(g, float("inf"))) / norm(unit, 2),  # squares of small gradients underflow
    "linf": lambda g: g / norm(g, float("inf")),
}


def doublings(steps: int) -> list[int]:
    """0, 1, 2, 4, 8, ... and `steps`."""
    return [0, *(2**k for k in range(steps.bit_length()) if 2**k < steps), steps]


def better(a: tuple[Tensor, Tensor] | None, b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Per example, the (value, images) pair with the higher value."""
    if a is None:
        return b
    wins = b[0] > a[0]
    return torch.where(wins, b[0], a[0]), torch.where(wins.view(-1, 1, 1, 1), b[1], a[1])


def truncated_normal(shape: torch.Size, device: torch.device, generator: Generator | None = None) -> Tensor:
    """Normal noise of standard deviation 1/2, cut off at two of them, so in [-1, 1], as TensorFlow cuts it off."""
    return nn.init.trunc_normal_(torch.empty(shape, device=device), 0.0, 0.5, -1.0, 1.0, generator=generator)
