"""Follow an attack from several starts of each image: what its iterates do to models, and where they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from epsball.attacks.gradient import AttackState, GradientAttack
from epsball.attacks.losses import input_gradient
from epsball.data.images import Batched
from epsball.measurements.maxima import cosines, mean_angle, mean_distance
from epsball.measurements.violations import Reach
from epsball.models import own_heads
from epsball.models.predictions import Mistakes, gathered, mistakes
from epsball.runtime.device import seconds_at
from epsball.runtime.progress import Progress, Stop


@dataclass(frozen=True)
class Plan:
    """An attack whose iterates are followed."""

    attack: GradientAttack
    """its `restarts` are the starts of each image"""
    steps: Sequence[int]
    """numbers of steps after which models are shown the iterates, rising"""
    paths: bool
    """whether the loss of every iterate is kept"""
    title: str

    @property
    def looks(self) -> list[int]:
        """Return the numbers of steps after which models are shown the iterates: the attack's last, too."""
        return sorted({*self.steps, self.attack.number_of_steps})


class Look(NamedTuple):
    """Iterates after some steps. All tensors have a line for each image and a column for each start."""

    value: Tensor
    """what the attack increases on its source"""
    reach: Tensor
    """the largest change of a pixel"""
    shown: dict[str, Mistakes]
    """by model"""


@dataclass(frozen=True)
class Followed:
    """What was seen of N images with R starts each; of a whole attack on the host, of a batch on its device."""

    source: str
    looks: dict[int, Look]
    """by the number of steps"""
    paths: Tensor | None
    """(N, R, steps + 1) losses of all iterates on the source, the start's first"""
    geometry: dict[str, Tensor]
    """(N,) by the name of the metric that they are averaged to"""
    seconds: float

    @property
    def last(self) -> Look:
        """Return the look after all steps."""
        return self.looks[max(self.looks)]

    @property
    def losses(self) -> Tensor:
        """Return the (N, R) final losses on the source."""
        return self.last.shown[self.source].losses

    def reading(self, target: str, steps: int, restarts: int, worst_for: str | None = None) -> tuple[Mistakes, float]:
        """Return a target's mistakes on one example of each image, of its first start or of the worst of all, and the
        largest change of a pixel.

        The worst is the first that fools the model that it is worst for, else the one with the highest loss on it: as
        GradientAttack chooses for the source.
        """
        look = self.looks[steps]
        if restarts == 1:
            first = torch.zeros(len(look.reach), dtype=torch.int64)
            return chosen(look.shown[target], first), float(look.reach[:, 0].max())
        judge = look.shown[target if worst_for == "target" else self.source]
        place = first_or_highest(judge.top1, judge.losses if worst_for == "target" else look.value)
        return chosen(look.shown[target], place), float(look.reach.max())


def first_or_highest(marked: Tensor, value: Tensor) -> Tensor:
    """Return, (N,), the column of the first marked entry of each line, else of its highest value."""
    return torch.where(marked.any(1), marked.int().argmax(1), value.argmax(1))


def chosen(every: Mistakes, place: Tensor) -> Mistakes:
    """Return what stands in one column of each line, (N,) `place`."""
    return every.mapped(lambda found: found.gather(1, place[:, None])[:, 0])


def follow(plan: Plan, models: Mapping[str, nn.Module], source: str, test: Batched, generator: Generator) -> Followed:
    """Attack test images on a source, all starts of an image in one batch, `test.size` examples at a time.

    Of each batch of images the generator gives the labels, then one start after another, as the attack itself draws
    them. Raises Violation when an iterate that is looked at is outside the pixel range or the eps-ball.
    """
    began = seconds_at(test.device)
    follower = Follower(plan, models, source, test.stop, Reach(plan.title, plan.attack.eps))
    parts = []
    with Progress(plan.title, len(test), "images") as progress:
        for x, y in replace(test, size=max(1, test.size // plan.attack.restarts)):
            parts.append(follower.follow(x, y, generator))
            progress.step(len(x))
    follower.reach.checked()
    return joined(parts, seconds_at(test.device) - began)


def joined(parts: Sequence[Followed], seconds: float) -> Followed:
    """Put what was seen of several batches together, on the host: only now does it wait for the device."""
    looks = {}
    for steps in parts[0].looks:
        same = [part.looks[steps] for part in parts]
        shown = {name: gathered([look.shown[name] for look in same], 0.0).mapped(Tensor.cpu) for name in same[0].shown}
        value, reach = (torch.cat([getattr(look, name) for look in same]).cpu() for name in ("value", "reach"))
        looks[steps] = Look(value, reach, shown)
    paths = [part.paths for part in parts if part.paths is not None]
    geometry = {name: torch.cat([part.geometry[name] for part in parts]).cpu() for name in parts[0].geometry}
    geometry = {name: values.double() for name, values in geometry.items()}
    return Followed(parts[0].source, looks, torch.cat(paths).cpu() if paths else None, geometry, seconds)


@dataclass(frozen=True)
class Follower:
    """Follows the attack on one batch of images after another."""

    plan: Plan
    models: Mapping[str, nn.Module]
    source: str
    stop: Stop
    reach: Reach
    """of all examples that were looked at"""

    def follow(self, x: Tensor, y: Tensor, generator: Generator) -> Followed:
        """Attack the images from all starts."""
        state, start, many, labels = self.begin(x, y, generator)
        shape, looks, losses, done = (len(x), self.plan.attack.restarts, -1), dict[int, Look](), list[Tensor](), 0
        for until in self.plan.looks:
            self.stop.check()
            losses += self.advance(state, labels, until - done)
            looks[until], done = self.look(state, many, labels), until
        last, paths = looks[done].shown[self.source].losses, None
        if self.plan.paths:
            paths = torch.cat([torch.stack(losses, 1).view(shape), last[:, :, None]], 2)
        starts, maxima, moved = (part.reshape(shape) for part in (start, state.x_adv, state.x_adv - many))
        # of the log: the same direction, and not rounded where the model is sure of the label
        gradients = input_gradient(self.models[self.source], x, y, of="log_cross_entropy")
        geometry = geometry_of(starts, maxima, moved, gradients.flatten(1))
        return Followed(self.source, looks, paths, geometry, 0.0)

    def begin(self, x: Tensor, y: Tensor, generator: Generator) -> tuple[AttackState, Tensor, Tensor, Tensor]:
        """Draw the starts; return the attack before its first step, the starts, and images and labels as
        often."""
        attack, one = self.plan.attack, x.new_ones(())
        label = attack.choose_label(self.models[self.source], x, y, generator)
        start = torch.stack([attack.draw_start(x, one, generator) for _ in range(attack.restarts)], 1).flatten(0, 1)
        many, labels = (part.repeat_interleave(attack.restarts, 0) for part in (x, y))
        about = None if label is None else label.repeat_interleave(attack.restarts)
        return attack.begin(many, start, one, about), start, many, labels

    def advance(self, state: AttackState, labels: Tensor, steps: int) -> list[Tensor]:
        """Take some steps; return, where paths are kept, the loss of each iterate that they start from."""
        attack, source = self.plan.attack, self.models[self.source]
        if not self.plan.paths or increases_loss(attack, source):
            return attack.advance_captured(source, state, steps)
        losses = []
        for _ in range(steps):
            losses.append(mistakes(source, state.x_adv, labels).losses)
            attack.advance(source, state, 1)
        return losses

    def look(self, state: AttackState, many: Tensor, labels: Tensor) -> Look:
        """Show the iterates to all models."""
        attack, source = self.plan.attack, self.models[self.source]
        self.reach.add(state.x_adv, many)

        def by_image(found: Tensor) -> Tensor:
            return found.view(-1, attack.restarts)

        shown = {name: mistakes(model, state.x_adv, labels).mapped(by_image) for name, model in self.models.items()}
        value = shown[self.source].losses
        if not increases_loss(attack, source):
            with torch.no_grad():
                value = by_image(attack.objective(source, state.x_adv, state.label)[0])
        reach = (state.x_adv - many).abs().flatten(1).amax(1)
        return Look(value, by_image(reach), shown)


def increases_loss(attack: GradientAttack, model: nn.Module) -> bool:
    """Whether what the attack increases is the loss that rows have: of the true label, and of the model as a whole."""
    return attack.loss == "cross_entropy" and attack.label == "true" and own_heads(model) is None


def geometry_of(starts: Tensor, maxima: Tensor, perturbations: Tensor, gradients: Tensor) -> dict[str, Tensor]:
    """Return (K,) numbers of each image, by their metric: of its R starts, maxima and perturbations, (K, R, pixels),
    and of its gradient, (K, pixels)."""
    along = cosines(perturbations, gradients)
    return {
        "maxima_distance": mean_distance(maxima),
        "starts_distance": mean_distance(starts),
        "maxima_angle": mean_angle(perturbations),
        "gradient_cosine": along.nanmean(1),
        "negative_gradient_share": (along < 0).float().mean(1),
    }
