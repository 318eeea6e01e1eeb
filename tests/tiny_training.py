"""A training of a tiny network with everything random in it, in a blink, and a control that records it."""

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from epsball.build import construct
from epsball.data.images import Data, Split
from epsball.runtime.device import borrowed_seed
from epsball.runtime.progress import Stop
from epsball.training.fit import TrainingControl, fit
from epsball.training.trainer import Trainer

IMAGES, BATCH, STEPS = 20, 6, 10  # four steps an epoch, two and a half epochs
CPU = torch.device("cpu")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam", "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "decay_on": "all"},
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "decay_on": "weights"},
    "rmsprop": {
        **{"name": "rmsprop", "lr": 0.005, "alpha": 0.9, "momentum": 0.9, "eps": 1.0},
        **{"weight_decay": 1e-4, "decay_on": "weights"},
    },
}
PGD = {
    **{
        "name": "gradient",
        "eps": 0.1,
        "steps": 2,
        "step_size": 0.05,
        "step_share": None,
        "step": "sign",
        "loss": "cross_entropy",
    },
    **{"kappa": 0.0, "label": "true", "start": "uniform", "start_share": 1.0, "clip_start": True},
    **{"momentum": 0.0, "restarts": 1, "keep": "last"},
}
ADVERSARIAL = {
    **{"name": "adversarial", "attack": PGD, "crafted_on": "augmented", "crafted_once": False},
    **{"placement": "append", "count": None, "weight": 1.0, "passes": "one"},
    **{
        "eps_distribution": "truncated_normal",
        "eps_rise": {"steps": 4, "stairs": 2},
        "delay": 0.5,
        "crafting_mode": "train",
        "crafting_auxiliary": True,
        "crafting_statistics": "kept",
        "include_self": True,
    },
    **{"source_choice": "random", "label_smoothing": 0.1},
}
STANDARD = {"name": "standard", "label_smoothing": 0.0}


def trainer(**fields: Any) -> Trainer:
    """Return a trainer with everything random in it, but for `fields`."""
    spec: dict[str, Any] = {
        "name": "tiny",
        "objective": ADVERSARIAL,
        "optimizer": OPTIMIZERS["adam"],
        "schedule": {"name": "step", "milestones": [0.5, 0.75], "gamma": 0.1},
        "epochs": STEPS / 4,
        "batch_size": BATCH,
        "augment": {"shift": 1, "crop": 0.8, "flip": True},
        "clip_norm": 1.0,
        "precision": "fp32",
        "batch_norm": "local",
        "watch": {"attack": PGD, "images": 3},
        "sources": {},
    }
    made: Trainer = construct(Trainer, {**spec, **fields}, where="trainer")
    return made


def plain(**fields: Any) -> Trainer:
    """Return a trainer with nothing random in it but the order of the images."""
    return trainer(**{"objective": STANDARD, "augment": None, "clip_norm": None, **fields})


def network(seed: int = 0) -> nn.Module:
    """Return a network: convolution, batch norm, dropout, dense."""
    with borrowed_seed(seed, CPU):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 16, 3)
        )


def data(images: int = IMAGES) -> Data:
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(256, (images + 12, 1, 6, 6), generator=generator, dtype=torch.uint8)
    y = torch.randint(3, (images + 12,), generator=generator)
    splits = Split(x[:images], y[:images]), Split(x[images:], y[images:])
    return Data("tiny", *splits, ("a", "b", "c"), "made up", "0", "0")


class Recorder:
    """A training's control that saves every step; `interrupt_at` is the step after which a stop is asked for."""

    def __init__(self, state: dict[str, Any] | None = None, interrupt_at: int | None = None) -> None:
        self.saved: list[bytes] = []
        self.interrupt_at = interrupt_at
        self.control = TrainingControl("tiny", Stop(), state, self.save, seconds_between=-1.0)

    def save(self, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.saved.append(buffer.getvalue())
        if state["step"] == self.interrupt_at:
            self.control.stop.signum = 15

    @property
    def last(self) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(io.BytesIO(self.saved[-1]), weights_only=True)
        return state


def fitted(
    by: Trainer,
    seed: int = 0,
    model: nn.Module | None = None,
    on: Data | None = None,
    recorder: Recorder | None = None,
    sources: Sequence[nn.Module] = (),
) -> tuple[dict[str, Tensor], list[dict[str, float]], Recorder]:
    """Return weights, learning curve and saved states of a whole training."""
    model, recorder = model or network(), recorder or Recorder()
    curve = fit(model, by, sources, on or data(), seed, recorder.control)
    return model.state_dict(), curve, recorder


def identical(a: Any, b: Any) -> bool:
    """Compare bit for bit, through nested dicts and lists."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)
