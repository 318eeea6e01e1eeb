"""Read conf/ for tests: the options of a group, and a model's spec built without its data."""

from collections.abc import Callable
from typing import Any

import torch
from conftest import ROOT
from torch import nn

from epsball.build import ConfigError, build, construct
from epsball.data.datasets import DATASETS
from epsball.models import MODELS
from epsball.training.spec import check_trainer
from epsball.training.trainer import Trainer

CONF = ROOT / "conf"
SCALES = ("smoke", "quick", "paper")
SHAPES = {(1, 28, 28): 10, (3, 32, 32): 10, (3, 299, 299): 1000}
Config = dict[str, Any]
Compose = Callable[..., Config]
OWN_LOSS = (
    *(f"trainer.objective.file={ROOT / 'tests' / 'own_loss.py'}", "trainer.objective.call=trades"),
    "+trainer.objective.arguments.eps=0.1",
)


def needed(trainer: str) -> tuple[str, ...]:
    """Return the words without which a trainer is not whole: the user's file of trainer=module."""
    return OWN_LOSS if trainer == "module" else ()


def options(group: str) -> list[str]:
    """Return the options of a group: what its files are called on the command line."""
    return sorted(p.relative_to(CONF / group).with_suffix("").as_posix() for p in (CONF / group).rglob("*.yaml"))


def text_of(name: str, folder: str = "paper") -> str:
    return (CONF / folder / f"{name}.yaml").read_text()


def network(arch: Config) -> nn.Module:
    """Return the arch on the first image shape that it allows; no memory is touched."""
    refusals = []
    for shape, classes in SHAPES.items():
        try:
            with torch.device("meta"):
                built: nn.Module = build(MODELS, arch, shape, classes, where="arch")
            return built
        except ConfigError as error:
            refusals.append(f"{shape}: {error}")
    raise AssertionError("; ".join(refusals))


def check_model(spec: Config, where: str) -> None:
    """Fail unless a model's spec is whole, and those it is trained on: everything but its data is built."""
    assert set(spec) - {"optional"} == {"dataset", "arch", "trainer", "seed"}, where
    build(DATASETS, spec["dataset"], where=f"{where}.dataset")
    assert type(spec["seed"]) is int
    given = spec["trainer"]
    trainer: Trainer | None = None if given is None else construct(Trainer, given, where=f"{where}.trainer")
    sources = trainer.sources if trainer else {}
    check_trainer(trainer, network(spec["arch"]), len(sources), where, f"{where}.trainer")
    for name, source in sources.items():
        check_model(source, f"{where}.trainer.sources.{name}")
