"""Rows of a training.csv: read as it stands, asked about like any other row."""

import csv
import io
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
import pytest

from epsball.experiment.joint import prepare_parts
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.measurements.training_curves import epoch_row
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.store import CheckpointFolder, Store
from epsball.training.trained import TrainedModels

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
    shown = (tmp_path / "run" / "report.md").read_text().partition("## Training")[2].split("## ")[0]
    last = found.iloc[-1]
    line = f"| target | 3 | {last['training_loss']:.4g} | {last['training_clean_error'] * 100:.1f} | 0.01 |"
    assert line in " ".join(shown.split())


def curves_of(config: Config, outputs: Path, directory: str) -> pd.DataFrame:
    """The rows of a run in a folder of its own."""
    experiment = prepare_experiment({**config, "outputs": str(outputs)})
    run_experiments("mine", [[experiment]], outputs / directory, [], Stop())
    return pd.read_csv(outputs / directory / "results.csv")


def test_a_clean_error_of_other_test_images_is_left_out(
    tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model was scored on 30 when it was trained; spec.json of an earlier version does not say on which."""
    words = ("measurement=training_curves", "dataset.test_size=30")
    first = curves_of(tiny(*words), tmp_path, "first")
    assert set(first["n"]) == {30} and first["training_clean_error"].notna().all()
    assert "delete" not in caplog.text
    second = curves_of(tiny(words[0], "dataset.test_size=50"), tmp_path, "second")
    assert set(second["n"]) == {50} and "training_clean_error" not in second
    assert second["training_loss"].tolist() == first["training_loss"].tolist()
    (folder,) = tmp_path.glob("models/*-*")
    said = "target lacks training_clean_error of some or all epochs: it was trained with other test images or another"
    assert caplog.text.count(f"{said} watch; delete {folder} to train it again") == 1
    forget_curve(folder)
    third = curves_of(tiny(words[0], "dataset.test_size=50"), tmp_path, "third")
    assert third["training_clean_error"].tolist() == first["training_clean_error"].tolist() and set(third["n"]) == {30}


def test_parts_of_one_run_that_share_a_model_have_each_its_own_test_images_and_watch(
    tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is trained for the first of them; the second is told what it lacks."""
    lines = [("dataset.test_size=30",), ("dataset.test_size=50", *watch(0.01))]
    configs = [
        [{**tiny("measurement=training_curves", f"experiment=e{number}", *line), "outputs": str(tmp_path)}]
        for number, line in enumerate(lines)
    ]
    parts, joint = prepare_parts(configs, {"experiment": "paper/all"})
    specs = [part[0].specs["target"] for part in parts]
    assert specs[0].key == specs[1].key and [len(spec.data.test) for spec in specs] == [30, 50]
    assert [spec.trainer.watch is None for spec in specs if spec.trainer] == [True, False]
    run_experiments("paper/all", parts, tmp_path / "run", [], Stop(), joint)
    first, second = (pd.read_csv(tmp_path / "run" / f"e{number}" / "results.csv") for number in (0, 1))
    assert first["training_clean_error"].notna().all() and "training_clean_error" not in second
    assert second["training_loss"].tolist() == first["training_loss"].tolist()
    assert "target lacks training_clean_error and training_adversarial_error of some or all epochs:" in caplog.text
    assert len(list(tmp_path.glob("models/*-*"))) == 1
    models = [json.loads((tmp_path / "run" / f"e{number}" / "run.json").read_text())["models"] for number in (0, 1)]
    assert [model["target"]["clean_n"] for model in models] == [30, None]


def forget_curve(folder: Path) -> None:
    """Make of a stored model one of before spec.json said what training.csv is of."""
    spec = json.loads((folder / "spec.json").read_text())
    del spec["curve"]
    content = json.dumps(spec).encode()
    (folder / "spec.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "spec.json": sha256(content).hexdigest()}))


def test_a_watched_attack_is_in_the_rows(tiny: Callable[..., Config], tmp_path: Path) -> None:
    watch = ("+attack@trainer.watch.attack=pgd_7", "++trainer.watch.images=5")
    experiment = prepare_experiment({**tiny("measurement=training_curves", *watch), "outputs": str(tmp_path)})
    run_experiments("mine", [[experiment]], tmp_path / "run", [], Stop())
    found = pd.read_csv(tmp_path / "run" / "results.csv")
    assert set(found["training_adversarial_n"]) == {5}
    assert set(found["training_adversarial_error"] * 5) <= set(range(6))
    assert "training_adversarial_error" in (tmp_path / "run" / "report.md").read_text()


def watch(eps: float) -> tuple[str, ...]:
    return ("+attack@trainer.watch.attack=pgd_7", "++trainer.watch.images=5", f"++trainer.watch.attack.eps={eps}")


def test_an_error_under_another_watched_attack_is_left_out(
    tiny: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curves = "measurement=training_curves"
    first = curves_of(tiny(curves, *watch(0.01)), tmp_path, "first")
    assert first["training_adversarial_error"].notna().all()
    assert "training_adversarial_error" not in curves_of(tiny(curves), tmp_path, "unwatched")
    assert "delete" not in caplog.text
    other = curves_of(tiny(curves, *watch(0.5)), tmp_path, "other")
    assert "training_adversarial_error" not in other and "training_adversarial_n" not in other
    assert other["training_clean_error"].tolist() == first["training_clean_error"].tolist()
    assert "target lacks training_adversarial_error of" in caplog.text
    again = curves_of(tiny(curves, *watch(0.01)), tmp_path, "again")
    assert again["training_adversarial_error"].tolist() == first["training_adversarial_error"].tolist()
    (folder,) = tmp_path.glob("models/*-*")
    rmtree(folder)
    assert set(curves_of(tiny(curves, *watch(0.5)), tmp_path, "anew")["training_adversarial_n"]) == {5}


@pytest.mark.parametrize("way", ["resumed", "continued"])
def test_epochs_of_before_that_had_another_watch_and_other_test_images_have_no_such_errors(
    way: str,
    tiny: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a training that was stopped after two epochs, or of a shorter one that it goes on from."""
    curves, stop, original = "measurement=training_curves", Stop(), CheckpointFolder.save_state

    def stopping(folder: CheckpointFolder, state: dict[str, Any]) -> None:
        original(folder, state)
        stop.signum = 15 if state["step"] == 16 else None

    before = (curves, "checkpoint_seconds=0", "dataset.test_size=30", *watch(0.01))
    config = {**tiny(curves, *watch(0.5)), "outputs": str(tmp_path)}
    if way == "continued":
        shorter = prepare_experiment({**tiny(*before, "trainer.epochs=2"), "outputs": str(tmp_path)})
        models = TrainedModels(Store(tmp_path, stop.check), stop, [shorter.specs, prepare_experiment(config).specs])
        models.train(shorter.specs, shorter.execution)
    else:
        experiment = prepare_experiment({**tiny(*before), "outputs": str(tmp_path)})
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(CheckpointFolder, "save_state", stopping)
            run_experiments("mine", [[experiment]], tmp_path / "stopped", [], stop)
    found = curves_of(config, tmp_path, "on")
    assert found["epoch"].tolist() == [1, 2, 3, 4, 5, 6] and found["training_loss"].notna().all()
    for column in ("training_clean_error", "training_adversarial_error", "training_adversarial_n"):
        assert found[column].isna().tolist() == [True, True, False, False, False, False]
    assert set(found["n"][2:]) == {40}
    said = "target lacks training_clean_error and training_adversarial_error of some or all epochs: it was"
    assert said in caplog.text
    for folder in tmp_path.glob("models/*-*"):
        rmtree(folder)
    anew = curves_of(config, tmp_path, "anew")
    assert anew["training_clean_error"].notna().all() and set(anew["training_adversarial_n"]) == {5}


def test_watched_rows_of_before_the_watch_was_in_their_identity_count(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Published ones are such."""
    curves = "measurement=training_curves"
    plain = curves_of(tiny(curves), tmp_path, "plain")
    (identity,) = set(plain["identity"].dropna()) - set(plain[plain["measurement"] == "clean"]["identity"])
    file = tmp_path / "rows" / f"{identity}.json"
    rows = [
        {**row, "training_adversarial_error": 0.4, "training_adversarial_n": 5} for row in json.loads(file.read_text())
    ]
    file.write_text(json.dumps(rows))
    found = curves_of(tiny(curves, *watch(0.01)), tmp_path, "watched")
    assert set(found["training_adversarial_error"]) == {0.4} and set(found["identity"]) == {identity}


DIVERSITY = (
    *("models=alone", "attack=none", "suite=fgsm", "device=cpu", "threads=1", "measurement=training_curves"),
    *("dataset.train_size=24", "dataset.test_size=10", "arch=ensemble", "arch@arch.members.member=madry_mnist"),
    *("arch.copies=2", "arch.members.member.width=0.25", "arch.members.member.hidden=32"),
    *("trainer=diversity", "trainer.batch_size=8", "trainer.epochs=2"),
)


def test_the_gradient_alignment_loss_is_in_the_rows(compose: Callable[..., Config], tmp_path: Path) -> None:
    """Beside a model without: its rows have none."""
    config = compose(*DIVERSITY, f"outputs={tmp_path}")
    target = config["models"]["target"]
    standard = {**target["trainer"], "objective": {"name": "standard", "label_smoothing": 0.0}}
    config["models"]["plain"] = {**target, "trainer": standard}
    run_experiments("mine", [[prepare_experiment(config)]], tmp_path / "run", [], Stop())
    found = pd.read_csv(tmp_path / "run" / "results.csv")
    (text,) = (path.read_text() for path in tmp_path.glob("models/*/training.csv") if ",gal" in path.read_text())
    lines = list(csv.DictReader(text.splitlines()))
    own = found[found["target"] == "target"]
    assert own["training_gal"].tolist() == pytest.approx([float(line["gal"]) for line in lines])
    assert own["training_gal"].nunique() == 2 and own["training_gal"].between(-1, 1).all()  # one pair: its cosine
    others = found[found["target"] == "plain"]
    assert len(others) == 2 and others["training_gal"].isna().all() and others["training_loss"].notna().all()
    assert "training_gal" in (tmp_path / "run" / "report.md").read_text()


def test_an_empty_place_in_training_csv_is_no_number() -> None:
    """A training went on from a state of before the gradient alignment loss, or the number of images, was written."""
    curve = [{"epoch": 1.0, "step": 4, "loss": 2.5}, {"epoch": 2.0, "step": 8, "loss": 1.5, "gal": 0.5, "clean_n": 9}]
    lines = csv.DictReader(io.StringIO(pd.DataFrame(curve).to_csv(index=False)))
    first, second = (epoch_row(line, scored=30) for line in lines)
    assert first == {"n": 30, "epoch": 1.0, "step": 4, "training_loss": 2.5}
    assert second == {"n": 9, "epoch": 2.0, "step": 8, "training_loss": 1.5, "training_gal": 0.5}


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
