"""Every file in conf/ composes and is built; precedence; the command lines that the documentation shows."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import ROOT
from torch import nn

from epsball import plan
from epsball.build import ConfigError, build, construct
from epsball.datasets import DATASETS
from epsball.models import MODELS
from epsball.train import Trainer

CONF = ROOT / "conf"
SCALES = ("smoke", "quick", "paper")
SHAPES = {(1, 28, 28): 10, (3, 32, 32): 10, (3, 299, 299): 1000}
Config = dict[str, Any]
Compose = Callable[..., Config]


def options(group: str) -> list[str]:
    """The options of a group: what its files are called on the command line."""
    return sorted(p.relative_to(CONF / group).with_suffix("").as_posix() for p in (CONF / group).rglob("*.yaml"))


def network(arch: Config) -> nn.Module:
    """The arch on the first image shape that it allows; no memory is touched."""
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
    """A model spec is whole, and so are those it is trained on: everything but its data is built."""
    assert set(spec) == {"dataset", "arch", "trainer", "seed"}, where
    build(DATASETS, spec["dataset"], where=f"{where}.dataset")
    assert type(spec["seed"]) is int
    trainer: Trainer = construct(Trainer, spec["trainer"], where=f"{where}.trainer")
    trainer.objective.check(network(spec["arch"]), len(trainer.sources))
    for name, source in trainer.sources.items():
        check_model(source, f"{where}.trainer.sources.{name}")


# ---- every file


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_a_file_starts_with_what_it_is(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ") and len(lines[0].split()) >= 4


def test_every_folder_of_conf_is_tested_here() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert folders == {"dataset", "arch", "trainer", "attack", "suite", "model", "models", "paper", "scale"}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("dataset"))
def test_dataset_files(compose: Compose, name: str, scale: str) -> None:
    config = compose(f"dataset={name}", f"scale={scale}")
    build(DATASETS, config["dataset"], where="dataset")
    assert isinstance(config["eps"], float) and 0 < config["eps"] < 1
    assert config["attack"]["pgd"]["eps"] == config["eps"]


@pytest.mark.parametrize("name", options("arch"))
def test_arch_files(compose: Compose, name: str) -> None:
    if name == "timm":
        pytest.importorskip("timm")
    assert sum(p.numel() for p in network(compose(f"arch={name}")["arch"]).parameters()) > 0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("trainer"))
def test_trainer_files(compose: Compose, name: str, scale: str) -> None:
    arch = "ensemble" if "diversity" in name else "mnist_d"
    config = compose(f"trainer={name}", f"arch={arch}", f"scale={scale}", "models=alone")
    assert config["trainer"]["name"] == name
    check_model(config["models"]["target"], "models.target")


@pytest.mark.parametrize("name", options("attack"))
def test_attack_files(compose: Compose, name: str) -> None:
    crafts = list(plan.attacks_of(compose(f"attack={name}", "eps=0.1").get("attack"), "attack"))
    assert [(craft.name, craft.attack.eps) for craft in crafts] == ([] if name == "none" else [(name, 0.1)])


@pytest.mark.parametrize("name", options("suite"))
def test_suite_files(compose: Compose, name: str) -> None:
    config = compose(f"suite={name}", "attack=none", "eps=0.1")
    crafts = plan.distinct(list(plan.attacks_of(config.get("suite"), "suite")))
    assert {craft.name for craft in crafts} == set(config.get("suite") or {})
    assert bool(crafts) == (name != "none")
    assert len({(craft.name, craft.attack.eps) for craft in crafts}) == len(crafts)


@pytest.mark.parametrize("name", options("model"))
def test_model_files(compose: Compose, name: str) -> None:
    config = compose(f"+model@models.X={name}", "models=none", "seed=3")
    check_model(config["models"]["X"], "models.X")
    assert config["models"]["X"]["seed"] == 3


@pytest.mark.parametrize("name", options("models"))
def test_models_files(compose: Compose, name: str) -> None:
    models = compose(f"models={name}", "trainer=madry").get("models") or {}
    assert bool(models) == (name != "none")
    for model, spec in models.items():
        check_model(spec, f"models.{model}")
    if models:
        assert models["target"]["trainer"]["name"] == "madry"


# ---- papers


def resized(node: Any) -> Any:
    """The config with few images, of whatever data: sizes are checked by the dataset's own tests."""
    if isinstance(node, dict):
        small = {"train_size": 20, "test_size": 10} if "train_size" in node else {}
        return {key: resized(value) for key, value in node.items()} | small
    return [resized(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("paper"))
def test_paper_files(compose: Compose, monkeypatch: pytest.MonkeyPatch, name: str, scale: str) -> None:
    monkeypatch.chdir(ROOT)  # datasets' roots are relative
    config = compose(f"paper={name}", f"scale={scale}", "device=cpu")
    assert config["scale"]["name"] == scale and config["experiment"] == name
    try:
        experiment = plan.prepare(resized(config))
    except ConfigError as error:
        if "dataset.root" not in str(error):
            raise
        pytest.skip(str(error))
    assert experiment.sources and experiment.targets and experiment.crafts
    attacks = {(craft.name, craft.attack.eps) for craft in experiment.crafts} | {("clean", 0.0)}
    for reference in experiment.references:
        assert any(reference.attack == a and abs(reference.eps - eps) < 1e-9 for a, eps in attacks), reference
        assert set(reference.percent) <= set(experiment.sources), reference
        for by_target in reference.percent.values():
            assert set(by_target) <= set(experiment.targets), reference
            assert all(0 <= percent <= 100 for percent in by_target.values())


@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_says_what_when_and_how_long(name: str) -> None:
    text = (CONF / "paper" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @")]
    for word in ("Reproduces:", "Command:", "Time:", "Paper:"):
        assert any(word in line for line in head), word
    assert f"paper={name}" in "".join(head)
    assert "hydra.mode" not in text and text.startswith("# @package _global_\n")


# ---- precedence: group file < paper file < scale < command line


@pytest.fixture
def with_paper(tmp_path: Path) -> str:
    """A folder with a paper file that sets what a group file sets too; the override that adds it."""
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "probe.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /trainer: madry\n"
        "  - override /arch: mnist_d\n"
        "experiment: probe\n"
        "trainer: {batch_size: 7, epochs: '${by_scale:30,20,10}'}\n"
    )
    return f"hydra.searchpath=[file://{tmp_path}]"


def test_a_group_file_gives_way_to_a_paper_file_that_to_the_scale_and_all_to_the_command_line(
    compose: Compose, with_paper: str
) -> None:
    def values(*overrides: str) -> tuple[Any, ...]:
        trainer = compose(with_paper, *overrides)["trainer"]
        return trainer["name"], trainer["batch_size"], trainer["epochs"]

    assert values("trainer=madry") == ("madry", 50, 2)  # the group's own, at the default scale quick
    assert values("paper=probe") == ("madry", 7, 20)
    assert values("paper=probe", "scale=smoke") == ("madry", 7, 10)
    assert values("paper=probe", "scale=smoke", "trainer.epochs=4", "trainer.batch_size=5") == ("madry", 5, 4)
    assert values("paper=probe", "trainer=standard") == ("standard", 7, 20)


def test_the_command_line_beats_what_a_paper_file_overrides(compose: Compose) -> None:
    assert compose("paper=demo")["scale"]["name"] == "smoke"
    assert compose("paper=demo", "scale=quick")["scale"]["name"] == "quick"
    assert compose("paper=tramer/table1")["dataset"]["name"] == "mnist"
    assert compose("paper=tramer/table1", "dataset=digits")["dataset"]["name"] == "digits"
    assert list(compose("paper=tramer/table1", "suite=tramer")["suite"]) == ["fgsm", "i_fgsm", "rand_fgsm"]
    assert compose("paper=tramer/table1")["experiment"] == "tramer/table1"
    assert compose("paper=tramer/table1", "experiment=mine")["experiment"] == "mine"


def test_one_field_of_one_model_can_be_set(compose: Compose) -> None:
    models = compose("paper=tramer/table1", "models.A_adv.trainer.epochs=12")["models"]
    assert models["A_adv"]["trainer"]["epochs"] == 12
    assert models["A"]["trainer"]["epochs"] == compose("paper=tramer/table1")["models"]["A"]["trainer"]["epochs"] != 12


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("eps=0.2", ("models", "target", "trainer", "objective", "attack", "eps"), 0.2),
        ("eps=${frac:8,255}", ("suite", "fgsm", "eps"), 8 / 255),
        ("trainer.epochs=9", ("models", "copy", "trainer", "epochs"), 9),
        ("arch=mnist_b", ("models", "natural", "arch", "name"), "mnist_b"),
        ("seed=4", ("models", "copy", "seed"), 1004),
        ("dataset.train_size=50", ("models", "holdout", "dataset", "train_size"), 50),
        ("attack.eps=0.05", ("attack", "pgd", "eps"), 0.05),
        ("attack.eps=0.05", ("suite", "fgsm", "eps"), 0.3),
    ],
)
def test_one_value_reaches_every_place_it_should(
    compose: Compose, override: str, keys: tuple[str, ...], value: object
) -> None:
    node: Any = compose(override)
    for key in keys:
        node = node[key]
    assert node == value


@pytest.mark.parametrize(("scale", "index"), [("paper", 0), ("quick", 1), ("smoke", 2)])
def test_by_scale_takes_paper_quick_smoke(compose: Compose, scale: str, index: int) -> None:
    config = compose("dataset=mnist", "trainer=madry", f"scale={scale}")
    assert config["dataset"]["train_size"] == (60000, 20000, 2000)[index]
    assert config["trainer"]["epochs"] == pytest.approx((100000 / 1100, 2, 1)[index])
    assert config["models"]["copy"]["trainer"]["epochs"] == config["trainer"]["epochs"]


def test_a_config_does_not_depend_on_the_order_of_its_overrides(compose: Compose) -> None:
    line = ["arch=mnist_d", "trainer=madry", "trainer.epochs=1", "suite=tramer", "eps=0.2", "seed=2", "models=alone"]
    line += ["dataset.train_size=20", "dataset.test_size=10"]
    first, second = plan.prepare(compose(*line)), plan.prepare(compose(*reversed(line)))
    assert first.config_hash == second.config_hash
    assert first.plans["target"].key == second.plans["target"].key
    shuffled = copy.deepcopy(first.config)
    shuffled = {key: shuffled[key] for key in reversed(shuffled)}
    assert plan.prepare(shuffled).config_hash == first.config_hash
    assert plan.prepare(compose(*line, "seed=3")).config_hash != first.config_hash


# ---- the documentation's command lines


@pytest.mark.parametrize(
    "line",
    [
        "",
        "dataset=mnist arch=mnist_a trainer=ensemble_adv suite=tramer",
        "trainer=madry trainer.epochs=3 attack.eps=0.2 seed=1",
        "arch=mnist_a trainer=standard seed=0",
        "arch=mnist_b trainer=fgsm_adv seed=1",
        "arch=mnist_b trainer=madry seed=2",
        "paper=tramer/table1 scale=quick",
        "trainer=diversity arch=ensemble eps=0.09 trainer.augment.flip=true",
        "arch=ensemble arch@arch.members.member=conv4 trainer=diversity",
        "dataset=mnist dataset.train_skip=5000 dataset.train_size=55000 trainer=madry",
    ],
)
def test_command_lines_of_the_documentation_compose(compose: Compose, line: str) -> None:
    config = compose(*line.split())
    for name, spec in (config.get("models") or {}).items():
        assert set(spec) == {"dataset", "arch", "trainer", "seed"}, name
        construct(Trainer, spec["trainer"], where=f"models.{name}.trainer")


def test_composing_leaves_hydra_as_it_was(compose: Compose) -> None:
    compose()
    assert not hydra.core.global_hydra.GlobalHydra.instance().is_initialized()
