"""What is said before a run: models to train, attacks to craft, and what is there of both."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epsball.experiment.forecast import tell_workload
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store
from epsball.training.trained import TrainedModels

Config = dict[str, Any]


def told(config: Config, outputs: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[str], dict[str, int]]:
    """What is said of a run, and the steps that its trainings have left."""
    experiment = prepare_experiment({**config, "outputs": str(outputs)})
    models = TrainedModels(Store(outputs, lambda: None), Stop(), [experiment.specs])
    caplog.clear()
    with caplog.at_level(logging.INFO):
        forecast = tell_workload([[experiment]], models)
    names = {spec.key: name for name, spec in experiment.specs.items()}
    return caplog.messages, {names[key]: round(left / forecast.operations[key]) for key, left in forecast.left.items()}


def test_models_and_attacks_to_come_and_there(
    tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("suite=one_step", "trainer.epochs=2")
    spec = config["models"]["target"]
    first = {**config, "suite": {"fgsm": config["suite"]["fgsm"]}}
    assert told(first, tmp_path, caplog) == (
        ["models: 1 to train, 0 trained already", "attacks: 1 to craft, of a source at an eps; 0 rows reused"],
        {"target": 16},
    )
    experiment = prepare_experiment({**first, "outputs": str(tmp_path)})
    run_experiments("tiny", [[experiment]], tmp_path / "run", [], Stop())
    there = "attacks: 0 to craft, of a source at an eps; 1 rows reused"
    assert told(first, tmp_path, caplog) == (["models: none needed", there], {})
    longer = {**spec, "trainer": {**spec["trainer"], "epochs": 3}}
    both = {**config, "models": {"target": spec, "other": {**spec, "seed": 1}, "longer": longer}}
    said, left = told(both, tmp_path, caplog)
    assert said == [
        "models: 2 to train, 1 trained already",
        "attacks: 6 to craft, of a source at an eps; 1 rows reused",
    ]
    assert left == {"other": 16, "longer": 24}


def test_a_longer_training_has_the_steps_left_that_the_shorter_lacks(
    tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny("trainer.epochs=2")
    spec = config["models"]["target"]
    longer = {**spec, "trainer": {**spec["trainer"], "epochs": 3}}
    _, left = told({**config, "models": {"target": spec, "longer": longer}}, tmp_path, caplog)
    assert left == {"target": 16, "longer": 8}


def test_a_state_is_gone_on_from(tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny("trainer.epochs=2")
    spec = prepare_experiment(config).specs["target"]
    folder = Store(tmp_path, lambda: None).path(spec.key)
    folder.mkdir(parents=True)
    (folder / "last.pt").write_bytes(b"a state")
    said, _ = told(config, tmp_path, caplog)
    assert said[0] == "models: 1 to train (1 from a checkpoint), 0 trained already"


def test_worst_cases_and_loss_paths_are_counted(
    tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for words, count in (
        (("measurement=worst_case", "suite.fgsm.eps=[0.1,0.3]"), 2),
        (("measurement=loss_paths", "suite=madry", "measurement.restarts=2", "measurement.images=4"), 1),
    ):
        said, _ = told(tiny(*words), tmp_path, caplog)
        assert said[1] == f"attacks: {count} to craft, of a source at an eps; 0 rows reused"
