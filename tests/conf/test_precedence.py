"""Precedence: group file < paper file < scale < command line; and the command lines that the documentation shows."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
from configs import Compose, check_model
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra

from epsball.cli.compose import composed
from epsball.experiment.prepare import prepare_experiment


@pytest.fixture
def with_paper(tmp_path: Path) -> str:
    """Write a paper file that sets what a group file sets too; the override that adds it."""
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


def test_an_attack_of_a_folder_below_has_its_own_name(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "attack" / "mine").mkdir(parents=True)
    (tmp_path / "attack" / "mine" / "weak.yaml").write_text("defaults: [/attack/fgsm@_here_]\neps: 0.1\n")
    config = compose(f"hydra.searchpath=[file://{tmp_path}]", "attack=mine/weak", "suite=none")
    assert config["attack"]["weak"]["eps"] == 0.1
    assert [(each.name, each.attack.eps) for each in prepare_experiment(config).attacks] == [("weak", 0.1)]


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


def test_a_field_of_a_group_that_models_share_is_set_for_one(compose: Compose) -> None:
    plain, changed = compose()["models"], compose("models.copy.trainer.epochs=9")["models"]
    assert plain["copy"]["trainer"] == plain["target"]["trainer"]
    assert changed["copy"] == {**plain["copy"], "trainer": {**plain["copy"]["trainer"], "epochs": 9}}
    assert {**changed, "copy": None} == {**plain, "copy": None}


@pytest.mark.parametrize("added", ["+", "++"])
def test_a_field_is_added_to_one_model(compose: Compose, added: str) -> None:
    """Hydra's + put it in place of the group that the model shares with the others."""
    models = compose("arch=module", f"{added}models.target.arch.arguments.width=8")["models"]
    assert models["target"]["arch"] == {**models["copy"]["arch"], "arguments": {"width": 8}}
    assert models["copy"]["arch"]["arguments"] == {} and models["copy"]["arch"]["name"] == "module"


def test_a_model_can_be_left_out(compose: Compose) -> None:
    assert compose("models.copy=null")["models"] == {**compose()["models"], "copy": None}


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("eps=0.2", ("models", "target", "trainer", "objective", "attack", "eps"), 0.2),
        ("eps=${frac:8,255}", ("suite", "fgsm", "eps"), 8 / 255),
        ("trainer.epochs=9", ("models", "copy", "trainer", "epochs"), 9),
        ("models.copy.trainer.epochs=9", ("models", "copy", "trainer", "epochs"), 9),
        ("models.copy.arch.activation.name=elu", ("models", "copy", "arch", "activation", "name"), "elu"),
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


def test_a_group_with_other_fields_follows_the_group(compose: Compose) -> None:
    """A model's network is the run's but for what is said of it, a component of another name taking another's place."""
    words = ["paper=kurakin/table2", "arch=resnet20", "arch.width=0.5"]
    words += ["models.base.arch='${with:${arch},{depth:26,activation:{slope:0.2}}}'"]
    config = compose(*words, "models.adv.arch='${with:${arch},{activation:{name:elu}}}'")
    run, models = config["arch"], config["models"]
    assert models["base"]["arch"] == run | {"depth": 26, "activation": {"name": "leaky_relu", "slope": 0.2}}
    assert models["adv"]["arch"] == run | {"activation": {"name": "elu"}} and run["width"] == 0.5


def test_a_config_does_not_depend_on_the_order_of_its_overrides(compose: Compose) -> None:
    line = ["arch=mnist_d", "trainer=madry", "trainer.epochs=1", "suite=tramer", "eps=0.2", "seed=2", "models=alone"]
    line += ["dataset.train_size=20", "dataset.test_size=10"]
    first, second = prepare_experiment(compose(*line)), prepare_experiment(compose(*reversed(line)))
    assert first.config_hash == second.config_hash
    assert first.specs["target"].key == second.specs["target"].key
    shuffled = copy.deepcopy(first.config)
    shuffled = {key: shuffled[key] for key in reversed(shuffled)}
    assert prepare_experiment(shuffled).config_hash == first.config_hash
    assert prepare_experiment(compose(*line, "seed=3")).config_hash != first.config_hash


# ---- the documentation's command lines


@pytest.mark.parametrize(
    "line",
    [
        "",
        "dataset=mnist arch=mnist_a trainer=ensemble_adv suite=tramer",
        "arch=mnist_d trainer=madry eps=0.1 trainer.epochs=20 trainer.optimizer.lr=0.001 seed=1",
        "arch=mnist_a trainer=standard seed=0",
        "arch=mnist_b trainer=fgsm_adv seed=1",
        "arch=mnist_b trainer=madry seed=2",
        "paper=tramer/table1 scale=quick",
        "paper=tramer/table4 scale=quick",
        "paper=tramer/table4 scale=paper seeds=3",
        "paper=tramer/all scale=quick seeds=2",
        "measurement=worst_case suite=madry",
        "measurement=worst_case +measurement@measurements.norms=gradient_norms",
        "dataset=mnist arch=mnist_a trainer=fgsm_adv diagnostic=masking",
        "measurement=loss_surface measurement.other=natural suite=fgsm attack=none",
        "trainer=diversity arch=ensemble eps=0.09 trainer.augment.flip=true",
        "arch=ensemble arch@arch.members.member=conv4 trainer=diversity",
        "dataset=mnist dataset.train_skip=5000 dataset.train_size=55000 trainer=madry",
        "paper=tramer/table4 models.A_adv_12.seed=3 models.A_adv_ens.trainer.objective.source_choice=rotate",
    ],
)
def test_command_lines_of_the_documentation_compose(compose: Compose, line: str) -> None:
    config = compose(*line.split())
    for name, spec in (config.get("models") or {}).items():
        check_model(spec, f"models.{name}")


GRID_LINE = (
    "models=alone arch=madry_mnist arch.hidden=128 trainer=standard attack=none sources=[wide] targets=[wide] "
    "'grid.wide={model: target, values: {width: [0.125, 0.25, 0.5]}, keys: {width: arch.width}}'"
)


def test_the_grid_of_the_documentation(compose: Compose) -> None:
    """It works as typed, with the field of one model that the text sets."""
    text = " ".join((ROOT / "docs/settings.md").read_text().replace("\\\n", " ").split())
    assert f"python run.py {GRID_LINE}" in text and "models.wide_width_0_25.trainer.epochs=5" in text
    experiment = prepare_experiment(compose(*shlex.split(GRID_LINE), "models.wide_width_0_25.trainer.epochs=5"))
    names = ["wide_width_0_125", "wide_width_0_25", "wide_width_0_5"]
    assert experiment.grid_values == dict(zip(names, [{"width": width} for width in (0.125, 0.25, 0.5)], strict=True))
    assert experiment.sources == experiment.targets == list(experiment.specs) == names
    assert [spec.epochs for spec in experiment.specs.values()] == [3, 5, 3]


def test_composing_leaves_hydra_as_it_was() -> None:
    composed()
    assert not GlobalHydra.instance().is_initialized()
