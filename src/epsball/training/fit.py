"""Train by any trainer, in one loop: trainers differ in their objective, their optimiser and their data."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from epsball.attacks.attack import BrokenContract, craft
from epsball.build import listed
from epsball.data.images import Data, Images
from epsball.data.streamed import WorkersLost
from epsball.runtime.device import allow_tf32, autocast, borrowed_seed, derived_seed, random_state, set_random_state
from epsball.runtime.distributed import average, by_first, gather, is_first, largest, processes, rank
from epsball.runtime.graphs import GraphCache
from epsball.runtime.progress import Progress, Stop
from epsball.runtime.store import canonical
from epsball.training.adversarial import Origin
from epsball.training.objectives import Objective
from epsball.training.synchronised import synchronised
from epsball.training.track import Show
from epsball.training.trainer import Trainer, Watch

State = dict[str, Any]
Batches = Iterator[tuple[Tensor, Tensor]]
SCORED_IMAGES = 1000  # test images scored after each epoch, for the learning curve only
VALUES_AT_ONCE = 2**25  # pixels of the images that are scored together, channels counted: 125 images of 299x299
CRAFTED_ON_CUDA = 1000  # training images at a time whose examples on a frozen source are crafted before training

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """Training whose loss is no longer finite; the model is not worth keeping."""


@dataclass
class TrainingControl:
    """Means to follow, stop and continue a training."""

    title: str
    """of its progress"""
    stop: Stop
    """set when the training should save its state and end"""
    state: State | None
    """where an earlier process left off"""
    save: Callable[[State], None]
    """keeps a newer state"""
    seconds_between: float
    """of two states at least, unless `stop` is set; the last one is always saved: its model is still to be scored"""
    cuda_graphs: bool = True
    """whether CUDA may capture the steps"""
    pass_checkpoint: Callable[[State], None] | None = None
    """called with the last state, from which a longer training can go on"""
    follow: Callable[[int, int], None] | None = None
    """called after each step with the number of steps taken and that of all"""
    show: Show = lambda row: None
    """called with each row of the learning curve, those of earlier processes first"""


def fit(
    model: nn.Module, trainer: Trainer, sources: Sequence[nn.Module], data: Data, seed: int, control: TrainingControl
) -> list[dict[str, float]]:
    """Train `model` in place and return its learning curve, one row per epoch.

    Model, sources and data lie on one device. On the CPU the same seed and number of threads give the same bits, and so
    does a training that was stopped and goes on from the state it saved; on CUDA with deterministic kernels only.
    Raises Interrupted (after saving) when a stop is asked for, Diverged when an epoch's loss is not finite.
    """
    per_epoch = steps_per_epoch(len(data.train), trainer.batch_size)
    total = steps_of(trainer, len(data.train))
    borrowed = borrowed_seed(derived_seed(seed, "fit"), data.train.device)
    with borrowed, allow_tf32(trainer.precision), synchronised(model, trainer.batch_norm == "synchronised"):
        take_from_first(model)
        # examples that are crafted once are the same in all processes, whose seeds differ from here on
        shown = partial(show_crafting, len(data.train), control)
        state = TrainingState.begin(model, trainer, sources, data, seed, control.cuda_graphs, shown)
        if not is_first():
            torch.manual_seed(replica_seed(seed, "fit"))
        if control.state is not None:
            state.load(control.state)
        for row in state.curve:
            control.show(row)
        saved = time.monotonic()
        with Progress(control.title, total, "steps", state.step) as progress:
            indices = batch_indices(data.train, trainer.batch_size, seed, state.step, total)
            for index, *pixels in saved_if_lost(data.train.read(indices, seed, state.step), state, control):
                state.advance(index, state.step / per_epoch, *pixels)
                progress.step()
                if control.follow is not None:
                    control.follow(state.step, total)
                if state.step % per_epoch == 0:
                    show_epoch(state.close_epoch(state.step / per_epoch), progress, control)
                due = time.monotonic() - saved > control.seconds_between
                if state.step == total or any(largest(due, control.stop.signum or 0)):
                    control.save(state.state())
                    saved = time.monotonic()
                    stop_together(control.stop)
            if control.pass_checkpoint is not None:
                control.pass_checkpoint(state.state())
            if state.step > state.counted_from:  # the last epoch was cut short
                show_epoch(state.close_epoch(state.step / per_epoch), progress, control)
    take_from_first(model)  # the running statistics of local batch norm, each process's own so far
    state.optimizer.zero_grad(set_to_none=True)  # the last gradients are as large as the model
    model.eval()
    return state.curve


def show_crafting(images: int, control: TrainingControl, batches: Batches) -> Batches:
    """Yield the batches that a source's examples are crafted on before training: minutes for many steps of an ensemble,
    in which the user is told how far it is, and may stop it."""
    with Progress(f"{control.title}: examples of a source", images, "images") as progress:
        for x, y in batches:
            stop_together(control.stop)
            yield x, y
            progress.step(len(y))


def saved_if_lost(
    batches: Iterator[tuple[Tensor, ...]], state: "TrainingState", control: TrainingControl
) -> Iterator[tuple[Tensor, ...]]:
    """Yield what each step reads. A signal to all processes of a job may end the workers that decode images before this
    one has seen it: the training is saved and stops then, as after a step."""
    try:
        yield from batches
    except WorkersLost:
        if control.stop.signum is not None and processes() == 1:  # several save together, or not at all
            control.save(state.state())
        control.stop.check()
        raise


def stop_together(stop: Stop) -> None:
    """Raise Interrupted when any process was asked to stop, in all of them."""
    (signum,) = largest(stop.signum or 0)
    if signum:
        stop.signum = signum
        stop.check()


def replica_seed(seed: int, *purpose: object) -> int:
    """Return a seed that is this process's own; the first process's is the one that a single process has."""
    return derived_seed(seed, *purpose, *([rank()] if rank() else []))


def take_from_first(model: nn.Module) -> None:
    """Give the model the first process's parameters and buffers."""
    if processes() > 1:
        model.load_state_dict(by_first(lambda: {name: value.cpu() for name, value in model.state_dict().items()}))


def show_epoch(row: Mapping[str, float], progress: Progress, control: TrainingControl) -> None:
    """Show a row of the learning curve to whoever follows the training."""
    progress.say(describe(row))
    control.show(row)


def describe(row: Mapping[str, float]) -> str:
    """Say in words what a row of the learning curve holds."""
    shown = {
        "loss": "loss {:.4f}",
        "gal": "GAL {:.4f}",
        "clean_error": "clean error {:.2%}",
        "adversarial_error": "attacked {:.2%}",
    }
    return ", ".join(text.format(row[name]) for name, text in shown.items() if name in row)


@dataclass
class TrainingState:
    """A training under way: everything that its next step depends on."""

    model: nn.Module
    trainer: Trainer
    objective: Objective
    """the trainer's, with its source models"""
    optimizer: torch.optim.Optimizer
    data: Data
    loss_sum: Tensor
    """losses of the epoch's steps so far, on the device; (1 + terms,) where the objective has terms to show"""
    step: int
    """steps taken"""
    counted_from: int
    """the step at which `loss_sum` began"""
    curve: list[dict[str, float]]
    """a row per epoch"""
    graph_cache: GraphCache
    lr: float
    """learning rate of the last step"""
    seed: int
    """of the numbers that `watch` draws"""

    @classmethod
    def begin(
        cls,
        model: nn.Module,
        trainer: Trainer,
        sources: Sequence[nn.Module],
        data: Data,
        seed: int,
        cuda_graphs: bool = True,
        crafting: Callable[[Batches], Batches] = iter,
    ) -> "TrainingState":
        """Return the state before the first step. `cuda_graphs`: whether CUDA may capture the steps of one process;
        those of several exchange gradients, which no graph can. `crafting`: passes on the batches that examples are
        crafted on before training."""
        model.train()
        device = data.train.device
        crafted = max(trainer.batch_size, CRAFTED_ON_CUDA) if device.type == "cuda" else trainer.batch_size
        repeatable = (lambda: crafting(data.train.batches(crafted))) if repeats_images(trainer, data.train) else None
        per_epoch = steps_per_epoch(len(data.train), trainer.batch_size)
        with autocast(trainer.precision, device):  # the sources are frozen: it keeps no copies of their parameters
            objective = trainer.objective.prepare(sources, repeatable, trainer.epochs, seed, per_epoch)
        loss_sum, optimizer, lr = torch.zeros((), device=device), trainer.optimizer.make(model), trainer.optimizer.lr
        if device.type == "cuda":
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(lr, device=device)
        graph_cache = GraphCache(device, cuda_graphs and processes() == 1)
        return cls(model, trainer, objective, optimizer, data, loss_sum, 0, 0, [], graph_cache, lr, seed)

    def advance(self, index: Tensor, epoch: float, *pixels: Tensor) -> None:
        """Take one step on the training images at `index`, with what was read of them; `epoch` is how far training has
        come."""
        lr = self.trainer.optimizer.lr * self.trainer.schedule.factor(epoch, self.trainer.epochs)
        if lr != self.lr:
            self.set_learning_rate(lr)
        loss = self.graph_cache(self.objective.route(self.step), self.minimise, index, *pixels)
        self.loss_sum, self.step = self.loss_sum + loss, self.step + 1

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of all groups. On CUDA it is a tensor, written over: captured steps read it there."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        self.lr = lr

    def minimise(self, index: Tensor, *pixels: Tensor) -> Tensor:
        """Take the whole step, from images to updated parameters; return its loss.

        On CUDA it is captured as one graph: the host decides nothing in here but what the objective's route says.
        """
        original, y = self.data.train.take(index, *pixels)
        x = self.trainer.augment(original) if self.trainer.augment else original
        with autocast(self.trainer.precision, x.device):
            loss = self.objective(self.model, x, y, self.step, Origin(index, original))
        check_loss(self.objective, loss)
        if not self.model.training:
            raise BrokenContract(f"{type(self.objective).__name__} should leave the model in train mode")
        self.optimizer.zero_grad(set_to_none=True)
        parameters = [p for p in self.model.parameters() if p.requires_grad]  # not to the images, nor to frozen ones
        loss.reshape(-1)[0].backward(inputs=parameters)  # type: ignore[no-untyped-call]
        loss = loss.detach()
        average([*(p.grad for p in parameters if p.grad is not None), loss])
        if self.trainer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.clip_norm)
        self.optimizer.step()
        return loss

    def close_epoch(self, epoch: float) -> dict[str, float]:
        """Return a row of the learning curve; the only place where the host waits for the device."""
        loss, *terms = (self.loss_sum.reshape(-1) / (self.step - self.counted_from)).tolist()
        whole = all(torch.stack([p.isfinite().all() for p in self.model.parameters()]).tolist())
        if not (math.isfinite(loss) and whole):
            raise Diverged(f"training diverged: loss {loss} at step {self.step}, lr {self.lr:g}")
        row = {"epoch": epoch, "step": self.step, "lr": self.lr, "loss": loss, **self.scored()}
        watched = {} if self.trainer.watch is None else self.attacked(self.trainer.watch)
        if taken := [name for name in self.objective.terms if name in (*row, *watched)]:
            name = type(self.objective).__name__
            raise BrokenContract(f"{name}.terms should have names of their own: not {listed(taken)}")
        row |= dict(zip(self.objective.terms, terms, strict=True)) | watched
        self.curve.append(row)
        self.loss_sum, self.counted_from = torch.zeros_like(self.loss_sum), self.step
        return row

    def scored(self) -> dict[str, float]:
        """Return the error rate on the first test images, in eval mode, and of how many."""
        at_once = max(1, VALUES_AT_ONCE // math.prod(self.data.shape))
        batches = self.data.test.first(SCORED_IMAGES).batches(min(SCORED_IMAGES, at_once))
        self.model.eval()
        with torch.no_grad():
            wrong = torch.cat([self.model(x).argmax(1) != y for x, y in batches]).float()
        self.model.train()
        return {"clean_error": float(wrong.mean()), "clean_n": len(wrong)}

    def attacked(self, watch: Watch) -> dict[str, float]:
        """Return the error rate on attacked training images, in eval mode, and of how many. What it draws is its own:
        the training goes on as if it had not been."""
        x, y = next(iter(self.data.train.first(watch.images).batches(watch.images)))
        generator = torch.Generator(x.device).manual_seed(derived_seed(self.seed, "watch", self.step))
        self.model.eval()
        with torch.no_grad():
            wrong = (self.model(craft(watch.attack, self.model, x, y, generator)).argmax(1) != y).float().mean()
        self.model.train()
        return {"adversarial_error": float(wrong), "adversarial_n": len(x)}

    def state(self) -> State:
        """Return everything that `load` needs to go on bit for bit."""
        optimizer = self.optimizer.state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizer": {**optimizer, "param_groups": [{**g, "lr": self.lr} for g in optimizer["param_groups"]]},
            "rng": random_state(self.data.train.device),
            "loss_sum": self.loss_sum,
            "step": self.step,
            "counted_from": self.counted_from,
            "curve": list(self.curve),
            **({"replicas": gather(self.own_state())} if processes() > 1 else {}),
        }

    def own_state(self) -> State:
        """Return what is each process's own: random numbers, and running statistics of local batch norm."""
        buffers = {name: value.cpu() for name, value in self.model.named_buffers()}
        return {"rng": random_state(self.data.train.device), "buffers": buffers}

    def load(self, state: State) -> None:
        """Go on from a saved state."""
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.set_learning_rate(state["optimizer"]["param_groups"][0]["lr"])
        self.step, self.counted_from, self.curve = state["step"], state["counted_from"], list(state["curve"])
        self.loss_sum = state["loss_sum"].to(self.loss_sum.device)
        self.load_own(state.get("replicas", [{"rng": state["rng"], "buffers": {}}]))

    def load_own(self, states: Sequence[State]) -> None:
        """Go on with this process's own state, or, where other processes saved them, with new random numbers."""
        if len(states) == processes():
            self.model.load_state_dict(states[rank()]["buffers"], strict=False)
            set_random_state(states[rank()]["rng"], self.data.train.device)
        else:
            log.warning("the state is of %d processes, not of %d: random numbers are new", len(states), processes())
            torch.manual_seed(replica_seed(self.seed, "fit", self.step))


def mismatched_columns(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> set[str]:
    """Return the columns of a learning curve that were measured on other test images, or by another watch, than are
    asked about. Both arguments are a `ModelSpec.curve`."""
    scored, watched = ("clean_error", "clean_n"), ("adversarial_error", "adversarial_n")
    return {
        *(scored if recorded["test_checksum"] != asked["test_checksum"] else ()),
        *(watched if canonical(recorded["watch"]) != canonical(asked["watch"]) else ()),
    }


def check_loss(objective: Objective, loss: object) -> None:
    """BrokenContract unless an objective gave a loss to minimise, with its terms: of the losses of single images the
    first alone would be minimised. The host does not wait for the device."""
    name, shape = type(objective).__name__, (1 + len(objective.terms),) if objective.terms else ()
    given = f"a loss of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    if given != (wanted := f"a loss of shape {shape}"):
        raise BrokenContract(f"{name} should give {wanted}, gives {given}")
    if isinstance(loss, Tensor) and not loss.requires_grad:
        raise BrokenContract(f"{name} should give a loss with gradients: it is detached from the model")


def repeats_images(trainer: Trainer, train: Images) -> bool:
    """Whether a training crafts on the same images in every epoch."""
    return train.repeats and (trainer.augment is None or trainer.objective.takes_originals)


def steps_of(trainer: Trainer, images: int) -> int:
    """Count the steps of a whole training on so many images."""
    return max(1, round(trainer.epochs * steps_per_epoch(images, trainer.batch_size)))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the batches of an epoch. A last batch of one image a process is left out: it may have no variance for batch
    norm; or of less."""
    least = 2 * processes() if batch_size >= 2 * processes() else processes()
    rest = images % batch_size
    return images // batch_size + (rest >= least or images < least)


def batch_indices(train: Images, size: int, seed: int, start: int, total: int) -> Iterator[Tensor]:
    """Yield the places of this process's images of each step, from `start` on: one permutation an epoch, drawn from
    seed and epoch. Processes have equally many: of a short batch what is over is left out."""
    per_epoch = steps_per_epoch(len(train), size)
    order = torch.empty(0)
    for step in range(start, total):
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start:
            generator = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
            order = torch.randperm(len(train), generator=generator).to(train.index_device)
        batch = order[position * size : (position + 1) * size]
        yield batch[: len(batch) // processes() * processes()][rank() :: processes()]


def load_optimizer(optimizer: torch.optim.Optimizer, saved: State) -> None:
    """Load a saved state, of whichever device and memory layout.

    How the optimiser computes is of its own device: a step captured on CUDA counts and reads the learning rate there,
    whose value is left to `set_learning_rate`. Moments are laid out as their parameter is: torch's fused steps on a CPU
    pair the two by their order in memory.
    """
    groups = []
    for own, group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        groups.append({**group, **{key: own[key] for key in ("lr", "capturable", "fused") if key in own}})
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.dim() and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
