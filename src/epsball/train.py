"""One training loop for every trainer: what differs between them is the objective, the optimiser and the data."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from epsball.build import require
from epsball.data import Augment, Data, Split
from epsball.device import (
    Precision,
    allow_tf32,
    autocast,
    borrowed_seed,
    derived_seed,
    random_state,
    set_random_state,
)
from epsball.graphs import GraphCache
from epsball.objectives import OBJECTIVES, Objective
from epsball.progress import Progress, Stop

State = dict[str, Any]
ROUNDING = 1e-9  # of an epoch: what step / steps per epoch may be off by
SCORED_IMAGES = 1000  # test images scored after each epoch, for the learning curve only
CRAFTED_ON_CUDA = 1000  # training images at a time whose examples on a frozen source are crafted before training


class Diverged(RuntimeError):
    """The loss is no longer finite; the model is not worth keeping."""


@dataclass(frozen=True)
class Adam:
    """Kingma and Ba 2014. betas and eps as in torch; decay_on: which parameters weight decay acts on."""

    lr: float
    betas: tuple[float, ...]
    eps: float
    weight_decay: float
    decay_on: Literal["all", "weights"]

    def __post_init__(self) -> None:
        check_rates(self.lr, self.weight_decay)
        require(len(self.betas) == 2, f"betas should be two floats, is {list(self.betas)}")

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_on)
        betas = self.betas[0], self.betas[1]
        return torch.optim.Adam(groups, lr=self.lr, betas=betas, eps=self.eps, capturable=on_cuda(model), fused=True)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum. decay_on weights: convolution and dense kernels only (Madry)."""

    lr: float
    momentum: float
    weight_decay: float
    decay_on: Literal["all", "weights"]

    def __post_init__(self) -> None:
        check_rates(self.lr, self.weight_decay)

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_on)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=on_cuda(model))


@dataclass(frozen=True)
class RMSProp:
    """Inception's optimiser (Szegedy et al. 2016; Kurakin, section 4). alpha: decay of the squared gradients' mean."""

    lr: float
    alpha: float
    momentum: float
    eps: float
    weight_decay: float
    decay_on: Literal["all", "weights"]

    def __post_init__(self) -> None:
        check_rates(self.lr, self.weight_decay)

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(model, self.weight_decay, self.decay_on)
        rest = {"alpha": self.alpha, "momentum": self.momentum, "eps": self.eps, "capturable": on_cuda(model)}
        return torch.optim.RMSprop(groups, lr=self.lr, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Constant:
    """The learning rate never changes."""

    def factor(self, epoch: float, epochs: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Step:
    """Multiply the learning rate by `gamma` at each of the milestones, given as shares of the whole training."""

    milestones: list[float]
    gamma: float

    def __post_init__(self) -> None:
        require(all(0 < m < 1 for m in self.milestones), f"milestones should be in (0, 1), is {self.milestones}")

    def factor(self, epoch: float, epochs: float) -> float:
        return self.gamma ** sum(epoch + ROUNDING >= m * epochs for m in self.milestones)


@dataclass(frozen=True)
class Exponential:
    """Multiply the learning rate by `gamma` every `every` epochs, in stairs (Tramèr, section 5.2)."""

    gamma: float
    every: float

    def __post_init__(self) -> None:
        require(self.every > 0, f"every should be a positive number of epochs, is {self.every}")

    def factor(self, epoch: float, epochs: float) -> float:
        return self.gamma ** math.floor((epoch + ROUNDING) / self.every)


OPTIMIZERS: Mapping[str, Callable[..., Adam | SGD | RMSProp]] = {"adam": Adam, "sgd": SGD, "rmsprop": RMSProp}
SCHEDULES: Mapping[str, Callable[..., Constant | Step | Exponential]] = {
    "constant": Constant,
    "step": Step,
    "exponential": Exponential,
}


@dataclass(frozen=True)
class Trainer:
    """How a model is trained.

    epochs may be a fraction: training is round(epochs * steps per epoch) steps. sources: specs of the trained models
    that the objective crafts on. clip_norm: largest L2 norm of a step's gradient, null for no clipping. precision: of
    convolutions and matrix products in training, its crafting included; all else is fp32.
    """

    name: str
    objective: Annotated[Objective, OBJECTIVES]
    optimizer: Annotated[Adam | SGD | RMSProp, OPTIMIZERS]
    schedule: Annotated[Constant | Step | Exponential, SCHEDULES]
    epochs: float
    batch_size: int
    augment: Annotated[Augment, Augment] | None
    clip_norm: float | None
    precision: Precision
    sources: dict[str, Any]

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"epochs should be positive, is {self.epochs}")
        require(self.batch_size >= 1, f"batch_size should be at least 1, is {self.batch_size}")
        require(self.clip_norm is None or self.clip_norm > 0, f"clip_norm should be positive, is {self.clip_norm}")

    @property
    def prolongs(self) -> bool:
        """Whether more epochs of this training begin with the very steps of fewer."""
        return not isinstance(self.schedule, Step) and not (self.sources and self.objective.depends_on_epochs)


@dataclass
class TrainingControl:
    """How a training is followed, stopped and continued: `state` is where an earlier one left off, `save` keeps a newer
    state, at most every `seconds_between` and when `stop` is set; `hand_on` is given the last one, from which a longer
    training can go on. `cuda_graphs`: whether CUDA may record the steps."""

    title: str
    stop: Stop
    state: State | None
    save: Callable[[State], None]
    seconds_between: float
    cuda_graphs: bool = True
    hand_on: Callable[[State], None] | None = None


def fit(
    model: nn.Module, trainer: Trainer, sources: Sequence[nn.Module], data: Data, seed: int, control: TrainingControl
) -> list[dict[str, float]]:
    """Train `model` in place and return its learning curve, one row per epoch.

    Model, sources and data lie on one device. On the CPU the same seed and number of threads give the same bits, and so
    does a training that was stopped and goes on from the state it saved; on CUDA with deterministic kernels only.
    Raises Interrupted (after saving) when a stop is asked for, Diverged when an epoch's loss is not finite.
    """
    per_epoch = steps_per_epoch(len(data.train), trainer.batch_size)
    total = max(1, round(trainer.epochs * per_epoch))
    with borrowed_seed(derived_seed(seed, "fit"), data.train.x.device), allow_tf32(trainer.precision):
        state = TrainingState.begin(model, trainer, sources, data, seed)
        state.graph_cache.active &= control.cuda_graphs
        if control.state is not None:
            state.load(control.state)
        saved = time.monotonic()
        with Progress(control.title, total, state.step) as progress:
            for index in batch_indices(data.train, trainer.batch_size, seed, state.step, total):
                state.advance(index, state.step / per_epoch)
                progress.step()
                if state.step % per_epoch == 0:
                    progress.say(describe(state.close_epoch(state.step / per_epoch)))
                due = time.monotonic() - saved > control.seconds_between
                if state.step < total and (due or control.stop.signum is not None):
                    control.save(state.state())
                    saved = time.monotonic()
                    control.stop.check()
            if control.hand_on is not None:
                control.hand_on(state.state())
            if state.step > state.counted_from:  # the last epoch was cut short
                progress.say(describe(state.close_epoch(state.step / per_epoch)))
    state.optimizer.zero_grad(set_to_none=True)  # the last gradients are as large as the model
    model.eval()
    return state.curve


def describe(row: Mapping[str, float]) -> str:
    """Say in words what a row of the learning curve holds."""
    return f"loss {row['loss']:.4f}, clean error {row['clean_error']:.4f}"


@dataclass
class TrainingState:
    """A training under way: everything that its next step depends on."""

    model: nn.Module
    trainer: Trainer
    objective: Objective
    optimizer: torch.optim.Optimizer
    data: Data
    loss_sum: Tensor
    step: int
    counted_from: int
    curve: list[dict[str, float]]
    graph_cache: GraphCache
    lr: float

    @classmethod
    def begin(
        cls, model: nn.Module, trainer: Trainer, sources: Sequence[nn.Module], data: Data, seed: int
    ) -> "TrainingState":
        model.train()
        device = data.train.x.device
        crafted = max(trainer.batch_size, CRAFTED_ON_CUDA) if device.type == "cuda" else trainer.batch_size
        repeatable = (lambda: data.train.batches(crafted)) if trainer.augment is None else None
        objective = trainer.objective.prepare(sources, repeatable, trainer.epochs, seed)
        loss_sum, optimizer, lr = torch.zeros((), device=device), trainer.optimizer.make(model), trainer.optimizer.lr
        if device.type == "cuda":
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(lr, device=device)
        return cls(model, trainer, objective, optimizer, data, loss_sum, 0, 0, [], GraphCache(device), lr)

    def advance(self, index: Tensor, epoch: float) -> None:
        """One step on the training images at `index`; `epoch` is how far training has come."""
        self.set_learning_rate(self.trainer.optimizer.lr * self.trainer.schedule.factor(epoch, self.trainer.epochs))
        loss = self.graph_cache(self.objective.route(self.step), self.minimise, index)
        self.loss_sum, self.step = self.loss_sum + loss, self.step + 1

    def set_learning_rate(self, lr: float) -> None:
        """Set it in all groups. On CUDA it is a tensor, written over, since a captured step reads it where it lies."""
        for group in self.optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] = lr
            elif lr != self.lr:
                group["lr"].fill_(lr)
        self.lr = lr

    def minimise(self, index: Tensor) -> Tensor:
        """The whole step, from images to updated parameters; returns its loss. On CUDA it is captured as one graph: the
        host decides nothing in here but what the objective's route says."""
        x, y = self.data.train.take(index)
        if self.trainer.augment:
            x = self.trainer.augment(x)
        with autocast(self.trainer.precision, x.device):
            loss = self.objective(self.model, x, y, self.step, index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.trainer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def close_epoch(self, epoch: float) -> dict[str, float]:
        """A row of the learning curve; the only place where the host waits for the device."""
        loss = self.loss_sum.item() / (self.step - self.counted_from)
        whole = all(torch.stack([p.isfinite().all() for p in self.model.parameters()]).tolist())
        if not (math.isfinite(loss) and whole):
            raise Diverged(f"training diverged: loss {loss} at step {self.step}, lr {self.lr:g}")
        row = {"epoch": epoch, "step": self.step, "lr": self.lr, "loss": loss, "clean_error": self.clean_error()}
        self.curve.append(row)
        self.loss_sum, self.counted_from = torch.zeros_like(self.loss_sum), self.step
        return row

    def clean_error(self) -> float:
        """Error rate on the first test images, in eval mode."""
        x, y = next(iter(self.data.test.batches(SCORED_IMAGES)))
        self.model.eval()
        with torch.no_grad():
            wrong = (self.model(x).argmax(1) != y).float().mean()
        self.model.train()
        return float(wrong)

    def state(self) -> State:
        """Everything `load` needs to go on bit for bit."""
        optimizer = self.optimizer.state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizer": {**optimizer, "param_groups": [{**g, "lr": self.lr} for g in optimizer["param_groups"]]},
            "rng": random_state(self.data.train.x.device),
            "loss_sum": self.loss_sum,
            "step": self.step,
            "counted_from": self.counted_from,
            "curve": list(self.curve),
        }

    def load(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.loss_sum = state["loss_sum"].to(self.loss_sum.device)
        self.step, self.counted_from, self.curve = state["step"], state["counted_from"], list(state["curve"])
        set_random_state(state["rng"], self.data.train.x.device)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches in an epoch. A last batch of one image is left out: batch norm may have no variance to divide by."""
    alone = images % batch_size == 1 and batch_size > 1 and images > 1
    return math.ceil((images - alone) / batch_size)


def batch_indices(train: Split, size: int, seed: int, start: int, total: int) -> Iterator[Tensor]:
    """Which images each step from `start` on trains on: one permutation an epoch, drawn from seed and epoch alone."""
    per_epoch = steps_per_epoch(len(train), size)
    order = torch.empty(0)
    for step in range(start, total):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start:
            generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
            order = torch.randperm(len(train), generator=generator).to(train.x.device)
        yield order[position * size : (position + 1) * size]


def parameter_groups(model: nn.Module, weight_decay: float, decay_on: str) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: decay on all, or on convolution and dense kernels alone."""
    parameters = list(model.parameters())
    decayed = [p for p in parameters if decay_on == "all" or p.dim() > 1]
    rest = [p for p in parameters if decay_on != "all" and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: State) -> None:
    """Load a saved state, of whichever device. How the optimiser computes is of its own device: a step captured on CUDA
    counts and reads the learning rate there."""
    groups = []
    for own, group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        groups.append({**group, **{key: own[key] for key in ("lr", "capturable", "fused") if key in own}})
    optimizer.load_state_dict({**saved, "param_groups": groups})


def on_cuda(model: nn.Module) -> bool:
    """Whether the optimiser must do without the host in its steps, so that they can be captured."""
    return next(model.parameters()).is_cuda


def check_rates(lr: float, weight_decay: float) -> None:
    require(lr > 0, f"lr should be positive, is {lr}")
    require(weight_decay >= 0, f"weight_decay should be at least 0, is {weight_decay}")
