"""Shared by the tests: the config composed as run.py composes it, and an experiment that takes a second."""

import os
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from epsball.cli.compose import composed

ROOT = Path(__file__).parents[1]
os.environ["EPSBALL_LOCAL"] = "none"  # no test depends on whose machine it runs on
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads weights: timm asks there
TINY = (
    *("models=alone", "attack=none", "suite=fgsm", "device=cpu", "threads=1"),
    *("dataset.train_size=64", "dataset.test_size=40", "arch=madry_mnist", "arch.width=0.25", "arch.hidden=256"),
    *("trainer=standard", "trainer.optimizer.lr=0.01", "trainer.batch_size=8", "trainer.epochs=6"),
)  # one small network on the first digits, trained in a blink


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The same bits whatever ran before; an experiment sets the number of threads for the whole process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """`compose(*overrides)`: the plain config that run.py would prepare; composed once, a copy for each test."""
    once = cache(composed)
    return lambda *overrides: deepcopy(once(*overrides))


@pytest.fixture(scope="session")
def tiny(compose: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`tiny(*overrides)`: the config of an experiment with one small model, `target`."""
    return lambda *overrides: compose(*TINY, *overrides)
