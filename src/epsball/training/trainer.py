"""Settings of a training: objective, optimiser, schedule, epochs."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from epsball.attacks import ATTACKS
from epsball.attacks.attack import Attack
from epsball.build import require
from epsball.data.images import Augment
from epsball.runtime.device import Precision
from epsball.training.adversarial import Adversarial
from epsball.training.diversity import Diversity
from epsball.training.objectives import OBJECTIVES, Objective

ROUNDING = 1e-9  # in epochs: how far step / steps_per_epoch may be off


@dataclass(frozen=True)
class Optimizer:
    """What all optimisers have."""

    lr: float
    weight_decay: float
    """factor of the L2 penalty's gradient"""
    decay_on: Literal["all", "weights"]
    """parameters that weight decay acts on: all, or convolution and dense kernels alone (Madry's cifar10_challenge)"""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr should be positive, is {self.lr}")
        require(self.weight_decay >= 0, f"weight_decay should be at least 0, is {self.weight_decay}")

    @abstractmethod
    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return torch's optimiser of the parameters of `model`."""

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the parameters with and without weight decay."""
        parameters = list(model.parameters())
        decayed = [p for p in parameters if self.decay_on == "all" or p.dim() > 1]
        rest = [p for p in parameters if self.decay_on != "all" and p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2014)."""

    betas: tuple[float, ...]
    """decay of the means of the gradient and of its square"""
    eps: float
    """added to the root of the squared gradient's mean"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.betas) == 2, f"betas should be two floats, is {list(self.betas)}")

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        betas, cuda = (self.betas[0], self.betas[1]), on_cuda(model)
        return torch.optim.Adam(self.groups(model), lr=self.lr, betas=betas, eps=self.eps, capturable=cuda, fused=True)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    momentum: float
    """decay of the accumulated gradients, 0 for none"""

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.groups(model), lr=self.lr, momentum=self.momentum, fused=on_cuda(model))


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp, Inception's optimiser (Szegedy et al. 2016; Kurakin, section 4)."""

    alpha: float
    """decay of the squared gradients' mean"""
    momentum: float
    """decay of the accumulated steps, 0 for none"""
    eps: float
    """added to the root of the squared gradients' mean"""

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        rest = {"alpha": self.alpha, "momentum": self.momentum, "eps": self.eps, "capturable": on_cuda(model)}
        return torch.optim.RMSprop(self.groups(model), lr=self.lr, **rest)  # type: ignore[arg-type]


class Schedule(Protocol):
    """How the learning rate changes in a training."""

    depends_on_epochs: ClassVar[bool]
    """whether the number of epochs changes its factors: then more epochs do not begin with the very steps of fewer"""

    def factor(self, epoch: float, epochs: float) -> float:
        """Return what the learning rate is multiplied by, `epoch` epochs into a training of `epochs`."""


@dataclass(frozen=True)
class Constant:
    """A learning rate that never changes."""

    depends_on_epochs: ClassVar[bool] = False

    def factor(self, epoch: float, epochs: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Step:
    """A learning rate that drops at milestones."""

    depends_on_epochs: ClassVar[bool] = True

    milestones: list[float]
    """shares of the whole training, in (0, 1)"""
    gamma: float
    """factor at each milestone"""

    def __post_init__(self) -> None:
        require(all(0 < m < 1 for m in self.milestones), f"milestones should be in (0, 1), is {self.milestones}")

    def factor(self, epoch: float, epochs: float) -> float:
        return self.gamma ** sum(epoch + ROUNDING >= m * epochs for m in self.milestones)


@dataclass(frozen=True)
class Exponential:
    """A learning rate that falls in stairs (Tramèr, section 5.2)."""

    depends_on_epochs: ClassVar[bool] = False

    gamma: float
    """factor of each stair"""
    every: float
    """epochs that a stair lasts"""

    def __post_init__(self) -> None:
        require(self.every > 0, f"every should be a positive number of epochs, is {self.every}")

    def factor(self, epoch: float, epochs: float) -> float:
        return self.gamma ** math.floor((epoch + ROUNDING) / self.every)


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"adam": Adam, "sgd": SGD, "rmsprop": RMSProp}
SCHEDULES: Mapping[str, Callable[..., Schedule]] = {"constant": Constant, "step": Step, "exponential": Exponential}


@dataclass(frozen=True)
class Watch:
    """An attack on a few training images after every epoch, for the learning curve alone: it shows at once where
    training against a weak attack fails against a stronger one (catastrophic overfitting). It changes no weight."""

    attack: Annotated[Attack, ATTACKS]
    images: int
    """of the training set, from the first"""

    def __post_init__(self) -> None:
        require(self.images >= 1, f"images should be at least 1, is {self.images}")


@dataclass(frozen=True)
class Trainer:
    """Settings of a training."""

    name: str
    """a label, which changes nothing"""
    objective: Annotated[Objective, OBJECTIVES]
    """the loss that each step minimises"""
    optimizer: Annotated[Optimizer, OPTIMIZERS]
    schedule: Annotated[Schedule, SCHEDULES]
    """of the learning rate"""
    epochs: float
    """may be a fraction: training is round(epochs * steps per epoch) steps"""
    batch_size: int
    """clean images per step"""
    augment: Annotated[Augment, Augment] | None
    """random changes of the training images, null for none"""
    clip_norm: float | None
    """largest L2 norm of a step's gradient, null for no clipping"""
    precision: Precision
    """of convolutions and matrix products in training, its crafting included; all else is fp32"""
    watch: Annotated[Watch, Watch] | None
    """measured after each epoch, null for nothing; it changes no weight, so that it is not part of the identity"""
    sources: dict[str, Any]
    """specs of the trained models that the objective crafts on"""
    batch_norm: Literal["local", "synchronised"]
    """statistics of batch norm where several processes share a batch: of each one's own part, as on Kurakin's machines,
    or of all of it, with which the model is one process's but for what each draws at random"""

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"epochs should be positive, is {self.epochs}")
        require(self.batch_size >= 1, f"batch_size should be at least 1, is {self.batch_size}")
        require(self.clip_norm is None or self.clip_norm > 0, f"clip_norm should be positive, is {self.clip_norm}")
        for name, count in self.replaced.items():
            require(count <= self.batch_size, f"{name} should be at most batch_size, {self.batch_size}, is {count}")

    @property
    def replaced(self) -> dict[str, int]:
        """Return how many images of a batch the objective replaces, if it does, by its key."""
        parts = crafting(self.objective).items()
        return {f"{key}.count": part.count for key, part in parts if part.count is not None}

    @property
    def attacks(self) -> dict[str, tuple[Attack, bool]]:
        """Return the attacks that it crafts with, by their keys, and whether examples have shares of eps."""
        parts = crafting(self.objective).items()
        own: dict[str, tuple[Attack, bool]] = {f"{key}.attack": (part.attack, part.shrinks) for key, part in parts}
        return own if self.watch is None else {**own, "watch.attack": (self.watch.attack, False)}

    def check_processes(self, number: int) -> None:
        """Raise ValueError unless `number` processes can share every batch equally."""
        for name, value in {"batch_size": self.batch_size, **self.replaced}.items():
            require(value % number == 0, f"{name} should be a multiple of the job's {number} processes, is {value}")

    @property
    def prolongs(self) -> bool:
        """Whether more epochs of this training begin with the very steps of fewer."""
        return not (self.schedule.depends_on_epochs or (self.sources and self.objective.depends_on_epochs))


def crafting(objective: Objective) -> dict[str, Adversarial]:
    """Return the part of an objective that crafts examples, if it has one, by its key of a trainer."""
    parts = {"objective.data": objective.data} if isinstance(objective, Diversity) else {"objective": objective}
    return {key: part for key, part in parts.items() if isinstance(part, Adversarial)}


def on_cuda(model: nn.Module) -> bool:
    """Whether the optimiser must do without the host in its steps, so that they can be captured."""
    return next(model.parameters()).is_cuda
