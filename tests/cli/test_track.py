"""Learning curves in TensorBoard and Weights & Biases: the rows of training.csv, which they change nothing of."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from commands import Ended, tiny_line

from epsball.training.track import tracked

Main = Callable[..., Ended]
LINE = tiny_line("models=alone", "trainer.epochs=2")


def curve(outputs: Path) -> pd.DataFrame:
    (file,) = outputs.glob("models/*/training.csv")
    return pd.read_csv(file)


def test_tensorboard_has_the_rows_of_the_learning_curve(main: Main, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, shown = tmp_path / "plain", tmp_path / "shown"
    for outputs, words in ((plain, []), (shown, ["track=tensorboard"])):
        assert main(*LINE, f"outputs={outputs}", *words).code == 0
    rows = curve(shown)
    pd.testing.assert_frame_equal(rows, curve(plain), check_exact=True)
    (folder,) = shown.glob("models/*/")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert len(rows) == 2 and set(events.Tags()["scalars"]) == set(rows.columns) - {"step"}
    for name in events.Tags()["scalars"]:
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (step, pytest.approx(value)) for step, value in zip(rows["step"], rows[name], strict=True)
        ]


def chunks(content: bytes) -> Iterator[bytes]:
    """Yield what is logged in a .wandb file, one block of LevelDB's log format, behind a header of its own."""
    place = 7
    while place < len(content):
        size = int.from_bytes(content[place + 4 : place + 6], "little")
        yield content[place + 7 : place + 7 + size]
        place += 7 + size


def test_weights_and_biases_has_the_model_as_a_run(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert main(*LINE, f"outputs={tmp_path}", "track=wandb").code == 0
    assert wandb.run is None
    rows = curve(tmp_path)
    (folder,) = tmp_path.glob("models/*/")
    (file,) = folder.rglob("*.wandb")
    records = [Record.FromString(data) for data in chunks(file.read_bytes())]
    (run,) = {(r.run.project, r.run.run_group, r.run.display_name) for r in records if r.HasField("run")}
    assert run == ("mine", folder.name.rpartition("-")[2], folder.name)
    losses = [item.value_json for r in records for item in r.history.item if "loss" in (item.key, *item.nested_key)]
    assert [float(loss) for loss in losses] == rows["loss"].tolist()
    assert [r.history.step.num for r in records if r.HasField("history")] == rows["step"].tolist()


def test_without_an_account_there_is_no_question_but_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a terminal Weights & Biases would ask which account to take, and wait."""
    wandb = pytest.importorskip("wandb")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()
    with caplog.at_level(logging.WARNING), tracked("wandb", tmp_path, "abc", {}) as show:
        show({"step": 1, "loss": 0.5})
    (line,) = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert line.endswith("is not tracked: no account: run `wandb login`, or set WANDB_MODE=offline")


def test_a_tracker_that_fails_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING), tracked("tensorboard", tmp_path / "file" / "model", "abc", {}) as show:
        show({"step": 1, "loss": 0.5})
    assert [line.getMessage().partition(":")[0] for line in caplog.records] == ["model is not tracked"]


def test_one_that_is_not_installed_is_told_before_training(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epsball.experiment.settings.find_spec", lambda name: None)
    ended = main(*LINE, f"outputs={tmp_path / 'o'}", "track=wandb")
    assert ended.code == 2 and not (tmp_path / "o" / "models").exists()
    assert ended.err.strip().endswith("track is 'wandb', which is not installed: pip install epsball[track]")
