"""Rows of a training.csv: read as it stands, asked about like any other row."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.runtime.progress import Stop

Config = dict[str, Any]


def test_rows_are_the_epochs_of_training_csv(tiny: Callable[..., Config], tmp_path: Path) -> None:
    words = ("measurement=training_curves", "trainer.epochs=3")
    experiment = prepare_experiment({**tiny(*words), "outputs": str(tmp_path)})
    run_experiments("mine", [[experiment]], tmp_path / "run", [], Stop())
    found = pd.read_csv(tmp_path / "run" / "results.csv")
    (file,) = tmp_path.glob("models/*/training.csv")
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert found["epoch"].tolist() == [1.0, 2.0, 3.0] and set(found["measurement"]) == {"training_curves"}
    for column, name in {"loss": "training_loss", "clean_error": "training_clean_error", "lr": "learning_rate"}.items():
        assert found[name].tolist() == pytest.approx([float(line[column]) for line in lines])
    assert found["training_loss"].nunique() == 3
    assert "## Training" in (tmp_path / "run" / "report.md").read_text()


def test_a_watched_attack_is_in_the_rows(tiny: Callable[..., Config], tmp_path: Path) -> None:
    watch = ("+attack@trainer.watch.attack=pgd_7", "++trainer.watch.images=5")
    experiment = prepare_experiment({**tiny("measurement=training_curves", *watch), "outputs": str(tmp_path)})
    run_experiments("mine", [[experiment]], tmp_path / "run", [], Stop())
    found = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(found["training_adversarial_n"]) == {5}
    assert set(found["training_adversarial_error"] * 5) <= set(range(6))
    assert "training_adversarial_error" in (tmp_path / "run" / "report.md").read_text()


def test_a_claim_asks_about_an_epoch(tiny: Callable[..., Config], tmp_path: Path) -> None:
    claim = {"says": "the loss falls", "paper": "-", "images": "all"}
    claim["checks"] = ["training_loss(target, epoch=2) < training_loss(target, epoch=1)"]  # type: ignore[assignment]
    words = ("measurement=training_curves", "trainer.epochs=2")
    config = {**tiny(*words), "outputs": str(tmp_path), "claims": {"falls": claim}}
    run_experiments("mine", [[prepare_experiment(config)]], tmp_path / "run", [], Stop())
    (judged,) = pd.read_csv(tmp_path / "run" / "claims.csv").to_dict(orient="records")
    losses = pd.read_csv(tmp_path / "run" / "results.csv")["training_loss"]
    assert (judged["left"], judged["right"]) == pytest.approx((losses[1], losses[0]))
    assert judged["verdict"] == ("confirmed" if losses[1] < losses[0] else "refuted") and not judged["percent"]
