"""Identities, pinned: code may move and be renamed, a model's fingerprint, a row's key and an attack's seed stay.

A change of one of these trains every stored model again: raise store.FORMAT for it, on purpose, and pin the new ones.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from epsball.experiment.prepare import Experiment, prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.experiment.setup import set_up
from epsball.measurements.measurement import Setup
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store
from epsball.training.spec import ModelSpec
from epsball.training.trained import TrainedModels

Config = dict[str, Any]

TINY_ERRORS = [0.425, 0.75, 1.0]  # clean, FGSM at 0.1, at 0.3


def setup_of(experiment: Experiment) -> Setup:
    store = Store(Path(experiment.settings.outputs), lambda: None)
    return set_up(experiment, TrainedModels(store, Stop(), [experiment.specs]))


def spec_of(config: Config) -> ModelSpec:
    return prepare_experiment(config).specs["target"]


def test_of_a_tiny_experiment(tiny: Callable[..., Config]) -> None:
    experiment = prepare_experiment(tiny())
    spec, setup, (attack,) = experiment.specs["target"], setup_of(experiment), experiment.attacks
    assert (spec.key, spec.trajectory, spec.model_seed) == ("279f1e459193", "060233606d53", 3981981574821367279)
    assert setup.identity(attack.identity, "target", "target") == "f1abf84ba984"
    assert setup.generator(attack, "target").initial_seed() == 7881621571989262255


def test_of_the_default_experiment(compose: Callable[..., Config]) -> None:
    specs = prepare_experiment(compose("device=cpu")).specs
    keys = {"target": "1b0428ec4b1d", "copy": "646afe78baa1", "natural": "36194a6ae339", "holdout": "52783808aa4e"}
    assert {name: spec.key for name, spec in specs.items()} == keys


@pytest.mark.parametrize("words", [("arch=ensemble", "trainer=diversity"), ("trainer=ensemble_adv",)])
def test_labels_are_in_no_identity(words: tuple[str, ...], compose: Callable[..., Config]) -> None:
    """What a config calls a model, a trainer, an ensemble's member, a source or the data set changes nothing."""
    config = compose("models=alone", "device=cpu", *words)
    other = deepcopy(config)
    target = other["models"]["target"]
    target["trainer"]["name"] = "another name"
    if "members" in target["arch"]:
        target["arch"]["members"] = {f"my_{name}": member for name, member in target["arch"]["members"].items()}
    sources = target["trainer"]["sources"]
    target["trainer"]["sources"] = {f"my_{name}": sources[name] for name in reversed(sources)}
    for source in target["trainer"]["sources"].values():
        source["trainer"]["name"] = "another name still"
    assert spec_of(other).key == spec_of(config).key and spec_of(other).model_seed == spec_of(config).model_seed


def test_the_name_of_an_attack_is_in_no_rows_key(tiny: Callable[..., Config]) -> None:
    config = tiny()
    (fields,) = config["suite"].values()
    mine = prepare_experiment({**config, "suite": {"mine": fields}})
    assert mine.attacks[0].name == "mine"
    assert setup_of(mine).identity(mine.attacks[0].identity, "target", "target") == "f1abf84ba984"


def test_precision_is_in_the_configs_hash(tiny: Callable[..., Config]) -> None:
    assert prepare_experiment(tiny("precision=tf32")).config_hash != prepare_experiment(tiny()).config_hash


def test_the_numbers_of_a_tiny_experiment(tiny: Callable[..., Config], tmp_path: Path) -> None:
    """To four images of the 40: another processor and another torch round otherwise (torch 2.11 finds 0.325, 0.75,
    0.975; Intel with AVX-512 0.4, 0.8, 1)."""
    experiment = prepare_experiment({**tiny("suite.fgsm.eps=[0.1,0.3]"), "outputs": str(tmp_path)})
    run_experiments("tiny", [[experiment]], tmp_path / "run", [], Stop())
    lines = [line.split(",") for line in (tmp_path / "run" / "results.csv").read_text().splitlines()]
    column = lines[0].index("error_top1")
    errors = [float(line[column]) for line in lines[1:]]
    assert errors == pytest.approx(TINY_ERRORS, abs=4 / 40 + 1e-9)


def test_a_field_that_came_later_is_in_no_identity_while_it_says_nothing(tiny: Callable[..., Config]) -> None:
    """Models and rows of before it are found: `step_share: null` is how attacks were."""
    config = tiny("trainer=fgsm_adv")
    attack = config["models"]["target"]["trainer"]["objective"]["attack"]
    assert attack["step_share"] is None
    key = spec_of(config).key
    attack["step_share"] = 0.5
    assert spec_of(config).key != key
