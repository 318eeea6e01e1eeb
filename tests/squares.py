"""Setups of linear models on 2 x 2 images, whose logits, gradients and FGSM examples are worked out by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from linear import linear, seeded, softmax_gradient
from torch import Tensor

from epsball.attacks import NamedAttack
from epsball.attacks.gradient import GradientAttack
from epsball.data.images import Split
from epsball.measurements.measurement import Row, Rows, Setup
from epsball.models.wrappers import Ensemble
from epsball.results.given import GivenRows
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store

EPS, BATCH, PIXELS, CLASSES = 0.2, 16, 4, 3
FGSM = GradientAttack(
    **{
        "eps": EPS,
        "steps": 1,
        "step_size": None,
        "step_share": None,
        "step": "sign",
        "loss": "cross_entropy",
        "kappa": 0.0,
    },
    **{"label": "true", "start": "none", "start_share": 0.0, "clip_start": True, "momentum": 0.0},
    **{"restarts": 1, "keep": "last"},
)
NOISE = 6 * torch.randn(2, CLASSES, PIXELS, generator=seeded())
NOISE -= NOISE.mean(2, keepdim=True)  # brightness decides nothing, so that all classes occur
WEIGHTS = {"A": NOISE[0], "B": 0.7 * NOISE[0] + 0.5 * NOISE[1]}  # alike enough for examples to transfer


def images(count: int = 50) -> Split:
    """Random 2 x 2 images that model A gets right but for a few, so that some examples of B fool it and some do not."""
    x = torch.randint(0, 256, (count, 1, 2, 2), generator=seeded(7), dtype=torch.uint8)
    x[0], x[1] = 0, 255  # corners of the pixel range
    y = (x.flatten(1).float() / 255 @ WEIGHTS["A"].T).argmax(1)
    y[::9] = (y[::9] + 1) % CLASSES
    return Split(x, y)


def make_setup(folder: Path, *attacks: NamedAttack, **changes: Any) -> Setup:
    """Return the setup of the models A and B, or of those given, every one source and target; FGSM where no attack is
    given. Rows are kept in `folder`."""
    models = changes.get("models") or {name: linear(weight) for name, weight in WEIGHTS.items()}
    fields = {
        **{"dataset": "squares", "models": models, "keys": {name: name[0].lower() * 12 for name in models}},
        **{"sources": list(models), "targets": list(models), "attacks": list(attacks) or [NamedAttack("fgsm", FGSM)]},
        **{"differentiable": [name for name, model in models.items() if getattr(model, "differentiable", True)]},
        **{"ensembles": [name for name, model in models.items() if isinstance(model, Ensemble)]},
        **{"asked": [], "test": images(), "test_checksum": "50 squares", "batch_size": BATCH, "tf32": False},
        **{"cuda_graphs": False, "seed": 0, "store": Store(folder, lambda: None), "reuse": True},
        **{"given": GivenRows(), "skips": False, "stop": Stop(), "clean": {}, "grid_values": {}},
        "curves": {name: {"watch": None, "test_checksum": "50 squares"} for name in models},
    }
    return Setup(**{**fields, **changes})


def logits(name: str, x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHTS[name].T


def losses(name: str, x: Tensor, y: Tensor) -> Tensor:
    """log sum exp(logits) - logit of the label."""
    z = logits(name, x)
    return z.logsumexp(1) - z[torch.arange(len(y)), y]


def signs(name: str, x: Tensor, y: Tensor) -> Tensor:
    return softmax_gradient(WEIGHTS[name], x, y).sign()


def example(name: str, x: Tensor, y: Tensor, eps: float = EPS) -> Tensor:
    """The FGSM example crafted on a model."""
    return (x + eps * signs(name, x, y)).clamp(0, 1)


def errors(name: str, x: Tensor, y: Tensor) -> Tensor:
    return logits(name, x).argmax(1) != y


def whole(test: Split) -> tuple[Tensor, Tensor]:
    return test.take(torch.arange(len(test)))


def frames(rows: Rows, seeds: Sequence[int] = (0,)) -> dict[str, pd.DataFrame]:
    """Rows as a run hands them to `present`, the same ones for every seed."""
    return {file: pd.DataFrame([{**row, "seed": seed} for seed in seeds for row in own]) for file, own in rows.items()}


def cells(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [(row["attack"], row["source"], row["target"]) for row in rows]


def assert_same(rows: Sequence[Row], others: Sequence[Row], *, but: Sequence[str] = ()) -> None:
    """Bit for bit, NaN being NaN."""
    one, other = (pd.DataFrame(each).drop(columns=list(but)) for each in (rows, others))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
