"""Shared by the tests: the config composed as run.py composes it, and an experiment that takes a second."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
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
def run_module() -> ModuleType:
    """run.py, imported."""
    if "run" not in sys.modules:
        spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
        assert spec and spec.loader
        sys.modules["run"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["run"])
    return sys.modules["run"]


@pytest.fixture(scope="session")
def compose(run_module: ModuleType) -> Callable[..., dict[str, Any]]:
    """`compose(*overrides)`: the plain config that run.py would hand to `plan.prepare`."""
    composed: Callable[..., dict[str, Any]] = run_module.composed
    return composed


@pytest.fixture(scope="session")
def tiny(compose: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """`tiny(*overrides)`: the config of an experiment with one small model, `target`."""
    return lambda *overrides: compose(*TINY, *overrides)
