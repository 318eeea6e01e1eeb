"""Every file in conf/attack, written out as its paper has it, and settings that no file has."""

from functools import cache
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from linear import CONF, seeded
from omegaconf import OmegaConf
from torch import Tensor, nn

from epsball.attacks.attack import Attack
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.module import ModuleAttack
from epsball.attacks.noise import NoiseAttack
from epsball.cli.compose import VERSION, register_with_hydra

EPS = 0.3
FILES = sorted(p.stem for p in (CONF / "attack").glob("*.yaml") if p.stem != "module")
"""all but the one that takes an attack out of a user's file, which says what it is"""
OWN = str(ROOT / "tests" / "own_attack.py")


def gradient(**changes: Any) -> GradientAttack:
    """FGSM at EPS, with some fields changed."""
    plain: dict[str, Any] = {
        "eps": EPS,
        "steps": 1,
        "step_size": None,
        "step_share": None,
        "step": "sign",
        "loss": "cross_entropy",
        "kappa": 0.0,
        "label": "true",
        "start": "none",
        "start_share": 0.0,
        "clip_start": True,
        "momentum": 0.0,
        "restarts": 1,
        "keep": "last",
    }
    return GradientAttack(**(plain | changes))


def pgd(steps: int, size: float, **changes: Any) -> GradientAttack:
    """A uniform start in the whole ball, then `steps` of `size` * eps."""
    return gradient(**({"steps": steps, "step_share": size, "start": "uniform", "start_share": 1.0} | changes))


SETTINGS: dict[str, Attack | None] = {  # by file name, as the papers have them
    "none": None,
    "fgsm": gradient(),
    "fgsm_pred": gradient(label="predicted"),
    "step_ll": gradient(label="least_likely"),
    "step_rnd": gradient(label="random"),
    "fast_grad_l2": gradient(step="l2"),
    "fast_grad_linf": gradient(step="linf"),
    "fast_entropy": gradient(loss="entropy"),
    "i_fgsm": gradient(steps=10),
    "mi_fgsm": gradient(steps=10, momentum=1.0),
    "iter_basic": gradient(steps="kurakin", step_size=1 / 255),
    "iter_ll": gradient(steps="kurakin", step_size=1 / 255, label="least_likely"),
    "rand_fgsm": gradient(start="sign", start_share=1 / 6),
    "rand_step_ll": gradient(start="sign", start_share=0.5, clip_start=False, label="least_likely"),
    "r_fgsm": gradient(start="uniform", start_share=1.0),
    "pgd": pgd(40, 1 / 30),
    "pgd_100": pgd(100, 1 / 30),
    "pgd_20": pgd(20, 1 / 4),
    "pgd_7": pgd(7, 1 / 4),
    "pgd_targeted": pgd(40, 1 / 30, label="random"),
    "cw": pgd(40, 1 / 30, loss="margin"),
    "cw_plus": pgd(40, 1 / 30, loss="margin", kappa=50.0),
    "pgd_cw": pgd(30, 1 / 10, loss="margin", kappa=50.0),
    "sign_noise": NoiseAttack(EPS, "sign"),
    "normal_noise": NoiseAttack(EPS, "truncated_normal"),
}
NAMED = {name: attack for name, attack in SETTINGS.items() if attack is not None}
EVERY: dict[str, Attack] = NAMED | {  # and settings that no file has
    "own": ModuleAttack(EPS, OWN, "rand_fgsm", {"share": 0.25}),
    "restarts": pgd(3, 0.5, restarts=4),
    "best": pgd(3, 0.5, keep="best"),
    "log_cross_entropy": pgd(3, 0.5, loss="log_cross_entropy", label="least_likely"),
    "unclipped": pgd(3, 0.5, clip_start=False, label="predicted"),
    "everything": pgd(3, 0.5, step="l2", loss="margin", momentum=0.5, restarts=3, keep="best", label="random"),
}
over_files = pytest.mark.parametrize("name", NAMED)
over_all = pytest.mark.parametrize("name", EVERY)
GREY = torch.full((4, 1, 32, 32), 0.5, dtype=torch.float64)


@cache
def composed(name: str, eps: float) -> Any:
    register_with_hydra()
    with initialize_config_dir(str(CONF), **VERSION):
        config = compose(overrides=["+scale=paper", f"+eps={eps!r}", f"+attack={name}"])
    return OmegaConf.to_container(config, resolve=True)


def attack_spec(name: str, eps: float) -> Any:
    """Return conf/attack/<name>.yaml at this eps and scale=paper, with what it inherits."""
    return dict(composed(name, eps).get("attack") or {})


@cache
def small_net() -> nn.Module:
    """Return a network with dropout, batch norm with statistics of its own, three classes of 1x4x4 images."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(16, 3))
    net(torch.rand(8, 1, 4, 4))
    return net.eval()


def small_batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return six images, some pixels on the edge of the box, and their labels."""
    x = torch.rand(6, 1, 4, 4, generator=seeded(1), dtype=dtype)
    x[0, 0, 0], x[1, 0, 0] = 0.0, 1.0
    return x, torch.tensor([0, 1, 2, 0, 1, 2])
