"""Whole experiments in process, on a network that trains in a blink: rows, reuse, interruption, seeds, parts, names."""

import errno
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from own_files import changed, random_images, write_npz

from epsball.build import ConfigError, build
from epsball.data.images import Batched
from epsball.experiment import record as experiment_record
from epsball.experiment import run as experiment_run
from epsball.experiment.joint import prepare_parts
from epsball.experiment.prepare import Experiment, prepare_experiment
from epsball.experiment.record import claim_directory, config_hash, git_commit
from epsball.experiment.report import Judged, PartResult, joined_rows, judge
from epsball.experiment.run import run_experiments
from epsball.experiment.setup import set_up
from epsball.experiment.statements import Statements
from epsball.measurements import gradient_norms, transfer_matrix
from epsball.measurements.transfer_matrix import transfer
from epsball.models import MODELS, predictions
from epsball.models.forest import RandomForest
from epsball.paper.claims import Claim, natural
from epsball.paper.expressions import Quantity
from epsball.paper.objective import Objective
from epsball.results.rows import COLUMNS, PAPER, as_dicts
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.store import CheckpointFolder, Store, fingerprint
from epsball.training import trained
from epsball.training.spec import identity_of_arch
from epsball.training.trained import TrainedModels

TEST_IMAGES = 40
KEY = ["source", "target", "attack", "eps"]
Config = dict[str, Any]
Compose = Callable[..., Config]

PGD = {
    **{
        "name": "gradient",
        "eps": 0.2,
        "steps": 2,
        "step_size": 0.1,
        "step_share": None,
        "step": "sign",
        "loss": "cross_entropy",
    },
    **{"kappa": 0.0, "label": "true", "start": "uniform", "start_share": 1.0, "clip_start": True},
    **{"momentum": 0.0, "restarts": 1, "keep": "last"},
}
MATRIX = {"name": "transfer_matrix", "cells": "all"}
NOTHING_JUDGED = Judged(pd.DataFrame(), pd.DataFrame(), pd.DataFrame())


def table(rows: dict[str, str], columns: dict[str, str], paper: dict[str, list[float]] | None) -> Config:
    kept = {"unit": "percent", "best": "none"}
    return {"title": "A table", "rows": rows, "columns": columns, "paper": paper, **kept}


def claim(*checks: str) -> Config:
    return {"says": "A claim", "paper": "no numbers", "checks": list(checks)}


@pytest.fixture(scope="module")
def base(tiny: Compose) -> Config:
    """Models A and B, FGSM at two eps and a PGD with a random start."""
    config = tiny("suite.fgsm.eps=[0.1,0.3]")
    spec = config["models"].pop("target")
    config["models"] = {"A": spec, "B": {**spec, "seed": 1}}
    config["suite"]["pgd"] = PGD
    return config


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here."""
    patch.setattr("epsball.output.matrix.draw_heatmap", lambda rows, path: path.write_bytes(b"png"))
    patch.setattr("epsball.output.matrix.draw_error_by_eps", lambda rows, path: False)


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def run(config: Config, outputs: Path, stop: Stop | None = None, name: str = "run") -> pd.DataFrame:
    """Run `config` with `outputs` as its root; the rows of its results.csv."""
    return read(run_parts([[config]], outputs, stop, name) / "results.csv")


def run_parts(parts: list[list[Config]], outputs: Path, stop: Stop | None = None, name: str = "run") -> Path:
    """Run parts, each a list of configs of one seed, with `outputs` as their root; the run directory."""
    prepared, label = prepare(parts, outputs), str(parts[0][0]["experiment"]) if len(parts) == 1 else "paper/all"
    directory = claim_directory(label, prepared, str(outputs / name), None)
    written = run_experiments(label, prepared, directory, [], stop or Stop())
    assert all(path.is_file() for path in written.files)
    return directory


def prepare(parts: list[list[Config]], outputs: Path) -> list[list[Experiment]]:
    return [[prepare_experiment({**config, "outputs": str(outputs)}) for config in seeds] for seeds in parts]


def test_models_that_are_equal_in_one_seed_alone_are_told_apart_in_all(tiny: Compose, tmp_path: Path) -> None:
    """`copy` is of seed 0 in every seed, so `target` itself in the first: its statements are about it in both."""
    configs = []
    for seed in (0, 1):
        config = {**tiny(f"seed={seed}", "suite=none", "trainer.epochs=1"), "outputs": str(tmp_path)}
        target = config["models"]["target"]
        claim = {"says": "x", "paper": "-", "checks": ["error(copy) <= error(target)"]}
        table = {"title": "T", "unit": "percent", "best": "none", "paper": None}
        table |= {"rows": {"copy": "copy"}, "columns": {"e": "error({row})"}}
        models = {"target": target, "copy": {**target, "seed": 0}}
        configs.append({**config, "models": models, "claims": {"c": claim}, "tables": {"t": table}})
    alone = prepare_experiment(configs[0])
    assert alone.aliases == {"target": "target", "copy": "target"}
    parts, _ = prepare_parts([configs], configs[0])
    assert [one.aliases for one in parts[0]] == [{"target": "target", "copy": "copy"}] * 2
    run_experiments("mine", parts, tmp_path / "run", [], Stop())
    rows = read(tmp_path / "run" / "results.csv").set_index(["seed", "target"])["error_top1"]
    assert rows[0, "copy"] == rows[0, "target"] == rows[1, "copy"] and len(rows) == 4
    (cell,) = as_dicts(read(tmp_path / "run" / "comparison.csv"))
    assert cell["ours"] == pytest.approx(100 * rows[0, "copy"]) and cell["seeds"] == 2
    (check,) = as_dicts(read(tmp_path / "run" / "claims.csv"))
    assert check["gap"] == pytest.approx((rows[1, "copy"] - rows[1, "target"]) / 2) and check["seeds"] == 2
    assert len(list((tmp_path / "models").glob("[!.]*"))) == 2  # equal ones are trained once


def test_a_statement_that_names_several_rows_stays_open_and_nothing_is_lost(
    tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two parts that each have a curve of `target` nobody can know which one is meant."""
    table = {"title": "T", "rows": {"a": "target"}, "unit": "value", "best": "none", "paper": None}
    claim = {"says": "x", "paper": "-", "images": "all"}
    whole = {
        "claims": {
            "open": {**claim, "checks": ["training_loss(target, epoch=1) < 9"]},
            "known": {**claim, "checks": ["training_loss(target, epoch=2) < 99"]},
        },
        "tables": {
            "unclear": {**table, "columns": {"loss": "training_loss({row}, epoch=1)"}},
            "clear": {**table, "columns": {"loss": "training_loss({row}, epoch=2)"}},
        },
        "figures": {
            "unclear": {
                **{"title": "F", "kind": "line", "x": "epoch", "lines": {"a": "target"}, "unit": "value"},
                "y": "training_loss({line}, epoch={x})",
            },
        },
        "conclusion": {"confirmed": "Fine", "refuted": "Not fine", "open": "Nobody knows"},
        "objective": "training_loss(target, epoch=1)",
    }
    words = ("measurement=training_curves", "suite=none")
    configs = [tiny(*words, f"trainer.epochs={epochs}", f"experiment=e{epochs}") for epochs in (1, 2)]
    parts, joint = prepare_parts([[{**config, "outputs": str(tmp_path)}] for config in configs], whole)
    top = tmp_path / "run"
    done = run_experiments("paper/all", parts, top, [], Stop(), joint)
    assert json.loads((top / "run.json").read_text())["status"] == "done" and done.objective is None
    assert done.unanswered.startswith("objective: training_loss(target) names several rows of a seed")
    assert read(top / "claims.csv").set_index("claim")["verdict"].to_dict() == {"open": "open", "known": "confirmed"}
    compared = read(top / "comparison.csv").set_index("table")["ours"]
    assert isnan(compared["unclear"]) and compared["clear"] > 0
    told = "training_loss(target) names several rows of a seed, which no column tells apart"
    unclear = ("claims.open", "tables.unclear", "figures.unclear")
    assert [f"{key} stays open" in caplog.text for key in unclear] == [True] * 3
    assert caplog.text.count(told) == 3 and "Nobody knows" in (top / "report.html").read_text()


def test_a_model_that_stands_in_a_grid_in_one_part_alone_has_one_row(caplog: pytest.LogCaptureFixture) -> None:
    """Joint statements name it, by its grid's value or without, and mean one row; a second measuring of it, of other
    last bits, is no other row. Rows of one identity that differ in their step or the like all stay."""
    row = {"dataset": "d", "seed": 0, "measurement": "clean", "source": "A", "target": "A", "attack": "clean"}
    row |= {"eps": 0.0, "n": 100, "error_top1": 0.1, "loss_mean": 0.5, "identity": "i", "source_model": "m"}
    curve = [{**row, "measurement": "c", "identity": "c", "error_top1": nan, "step": step} for step in (1.0, 2.0)]
    other = {**row, "source": "B", "target": "B", "identity": "j", "error_top1": 0.3}
    in_grid = pd.DataFrame([{**row, "width": 1.0}, {**other, "width": 2.0}, *({**one, "width": 1.0} for one in curve)])
    plain = pd.DataFrame([{**row, "loss_mean": 0.5000000001}, *curve])
    of = Claim(says="x", paper="-", checks=["error(A) < error(B)", "error(A, width=1) < error(B, width=2)"])
    for parts in ([in_grid, plain], [plain, in_grid]):
        joined = joined_rows([PartResult([], [], part, NOTHING_JUDGED, "") for part in parts])
        assert len(joined) == 4 and joined["width"].tolist().count(1.0) == 3
        assert judge(Statements(claims={"c": of}), joined).claims["check_verdict"].tolist() == ["confirmed"] * 2
        assert Objective("error(A)").value(as_dicts(joined)) == 0.1
    assert "several rows" not in caplog.text


def test_a_run_says_why_the_worst_of_several_stays_open(caplog: pytest.LogCaptureFixture) -> None:
    """Its rows were given without the images that were mistaken: in one line for each statement that asks."""
    row = {"dataset": "d", "seed": 0, "measurement": "m", "source": "A", "target": "A", "eps": 0.1, "n": 8}
    rows = pd.DataFrame([{**row, "attack": attack, "error_top1": 0.5} for attack in ("fgsm", "pgd")])
    of = Claim(says="x", paper="-", checks=["error(A | A, worst(fgsm, pgd)) > error(A | A, fgsm)"] * 2)
    found = judge(Statements(claims={"c": of}), rows).claims
    assert found["verdict"].tolist() == ["open"] * 2
    told = "claims.c: the worst of several is not known: which images error(A | A, fgsm) counts was not kept"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_published_weights_are_measured_as_they_are(
    tiny: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a trainer; a file of the same name with other weights is another model."""
    timm = pytest.importorskip("timm")
    config = {**tiny("suite=none", "dataset.test_size=20"), "outputs": str(tmp_path)}
    arch = {"name": "timm", "model": "resnet18", "pretrained": False, "checkpoint": str(tmp_path / "weights.pth")}
    config["models"]["target"] |= {"arch": arch, "trainer": None}
    keys = []
    caplog.set_level("INFO")
    for seed in (0, 1):
        torch.manual_seed(seed)
        published = timm.create_model("resnet18", num_classes=10, in_chans=1).eval()
        torch.save(published.state_dict(), arch["checkpoint"])
        experiment = prepare_experiment(config)
        keys.append(experiment.specs["target"].key)
        models = models_of(experiment)
        network = models.get("target", experiment.specs["target"], experiment.execution)
        ours, theirs = network[1].state_dict(), published.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        (folder,) = (tmp_path / "models").glob(f"timm-published-{keys[-1]}")
        assert "clean_error" in json.loads((folder / "spec.json").read_text())
    assert keys[0] != keys[1]
    every = (arch, {**arch, "mean": None, "std": None}, {**arch, "mean": [0.5]})
    alone, with_null, with_mean = (fingerprint(identity_of_arch(each)) for each in every)
    assert alone == with_null != with_mean
    assert "its weights as they are" in caplog.text and caplog.text.count("timm's for resnet18") == 2
    assert not any(word in caplog.text for word in ("Loaded", "training target", "trained in"))
    config["models"]["target"]["arch"] = {**arch, "checkpoint": None}
    with pytest.raises(
        ConfigError, match=r"models\.target\.trainer is missing: .* only a network with published weights"
    ):
        prepare_experiment(config)


def test_published_weights_of_other_classes_are_measured_only_once_trained(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last layer is a new one, of random numbers."""
    timm = pytest.importorskip("timm")
    published = timm.create_model("resnet18").state_dict()  # of ImageNet's classes
    for source in ("load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{source}", lambda *_, **__: dict(published))
    config = tiny("suite=none", "dataset.test_size=20")
    arch = {"name": "timm", "model": "resnet18", "pretrained": True, "checkpoint": None}
    assert build(MODELS, arch, (3, 32, 32), 1000, where="arch").has_weights
    config["models"]["target"]["arch"] = arch
    network = prepare_experiment(config).specs["target"].make_network()
    assert torch.equal(network[1].state_dict()["layer1.0.conv1.weight"], published["layer1.0.conv1.weight"])
    config["models"]["target"]["trainer"] = None
    said = "the published weights are of 1000 classes, these images have 10"
    with pytest.raises(ConfigError, match=rf"^models\.target\.trainer is missing: [^\n]*; {said}$"):
        prepare_experiment(config)


def models_of(experiment: Experiment) -> TrainedModels:
    return TrainedModels(Store(Path(experiment.settings.outputs), lambda: None), Stop(), [experiment.specs])


def row_key(experiment: Experiment, what: object, source: str, target: str) -> str:
    return set_up(experiment, models_of(experiment)).identity(what, source, target)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def record(outputs: Path, name: str = "run") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((outputs / name / "run.json").read_text())
    return found


@pytest.fixture(scope="module")
def done(base: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pd.DataFrame]]:
    """The outputs of `base`, and its rows."""
    outputs = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield outputs, run(base, outputs)


@pytest.fixture
def outputs(done: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """A copy of `done`'s outputs, to go on from."""
    return Path(shutil.copytree(done[0], tmp_path / "outputs"))


@pytest.fixture
def rows(done: tuple[Path, pd.DataFrame]) -> pd.DataFrame:
    return done[1]


def text(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False)


def count_calls(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> list[Any]:
    """A list that grows by the arguments of every call of `place.name` from now on."""
    calls: list[Any] = []
    original = getattr(place, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(place, name, counted)
    return calls


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))


# ---- rows


def test_one_row_per_target_and_per_source_target_attack_and_eps(rows: pd.DataFrame) -> None:
    known = tuple(c for c in COLUMNS if c not in PAPER)
    assert tuple(rows.columns) == (*known, "transfer_n_top5")
    clean, attacked = rows[rows["attack"] == "clean"], rows[rows["attack"] != "clean"]
    assert clean[KEY].values.tolist() == [["A", "A", "clean", 0.0], ["B", "B", "clean", 0.0]]
    expected = [(s, t, *c) for c in (("fgsm", 0.1), ("fgsm", 0.3), ("pgd", 0.2)) for s in "AB" for t in "AB"]
    assert list(attacked[KEY].itertuples(index=False, name=None)) == expected
    assert set(rows["n"]) == {TEST_IMAGES} and set(rows["dataset"]) == {"digits"} and set(rows["seed"]) == {0}


def test_rates_are_shares_of_the_images_they_count(rows: pd.DataFrame) -> None:
    for name in ("error_top1", "error_top5", "clean_error_top1"):
        counts = rows[name] * TEST_IMAGES
        assert np.allclose(counts, counts.round()) and rows[name].between(0, 1).all()
    assert (rows["error_top5"] <= rows["error_top1"]).all()
    assert (rows["error_top1_low"] <= rows["error_top1"]).all() and (
        rows["error_top1"] <= rows["error_top1_high"]
    ).all()
    for rate, n in (("transfer_rate_top1", "transfer_n"), ("transfer_rate_top5", "transfer_n_top5")):
        some = rows[rows[n] > 0]
        counts = some[rate] * some[n]
        assert len(some) and np.allclose(counts, counts.round())


def test_clean_rows(rows: pd.DataFrame) -> None:
    clean = rows[rows["attack"] == "clean"]
    assert (clean["error_top1"] == clean["clean_error_top1"]).all() and (clean["max_perturbation"] == 0).all()
    assert clean[["transfer_rate_top1", "transfer_rate_top5", "transfer_n"]].isna().all(axis=None)
    by_target = dict(zip(clean["target"], clean["error_top1"], strict=True))
    assert all(rows["clean_error_top1"] == rows["target"].map(by_target))
    assert by_target["A"] < 0.9  # it has learnt something


def test_white_box_rows_transfer_always_and_stay_in_their_ball(rows: pd.DataFrame) -> None:
    attacked = rows[rows["attack"] != "clean"]
    white = attacked[(attacked["source"] == attacked["target"]) & (attacked["transfer_n"] > 0)]
    assert len(white) >= 4 and (white["transfer_rate_top1"] == 1).all()
    assert np.allclose(attacked["max_perturbation"], attacked["eps"], atol=1e-6)
    for _, group in attacked.groupby(["source", "attack", "eps"]):
        assert group["max_perturbation"].nunique() == 1  # the same examples for every target
        assert group["transfer_n"].nunique() == 1


def test_run_json_says_what_was_done(done: tuple[Path, pd.DataFrame]) -> None:
    said = record(done[0])
    assert (said["status"], said["exit_reason"], said["experiment"], said["seed"]) == ("done", None, "transfer", 0)
    assert said["seeds"] == [0] and "parts" not in said
    assert set(said["models"]) == {"A", "B"} and not any(m["reused"] for m in said["models"].values())
    assert {path.name for path in (done[0] / "run").iterdir()} >= {
        *("run.json", "results.csv", "transfer_matrix.csv", "transfer_matrix.png", "report.md", "report.html")
    }
    assert not [path for path in (done[0] / "run").iterdir() if path.name in ("claims.csv", "comparison.csv")]


def test_a_model_folder_says_where_it_came_from(done: tuple[Path, pd.DataFrame], base: Config) -> None:
    planned = prepare_experiment(base).specs["A"]
    folder = done[0] / "models" / f"madry_mnist-standard-{planned.key}"
    spec = json.loads((folder / "spec.json").read_text())
    assert spec["fingerprint"] == planned.key and spec["seed"] == 0
    assert spec["parameters"] == sum(p.numel() for p in planned.make_network().parameters())
    curve = pd.read_csv(folder / "training.csv")
    assert list(curve["epoch"]) == [1, 2, 3, 4, 5, 6] and curve["loss"].iloc[-1] == spec["loss"]


# ---- the same again


def test_a_run_is_reproducible_from_nothing(
    base: Config, done: tuple[Path, pd.DataFrame], rows: pd.DataFrame, tmp_path: Path
) -> None:
    """To the byte, in every file of rows: what a row took stands in a file of its own."""
    torch.rand(3)
    run(base, tmp_path)
    for name in ("results.csv", "mistakes.csv", "transfer_matrix.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (done[0] / "run" / name).read_bytes()
    timings = read(tmp_path / "run" / "timings.csv")
    assert list(timings.columns) == ["dataset", "seed", "measurement", *KEY, "identity", "seconds"]
    assert timings["identity"].tolist() == rows["identity"].tolist() and (timings["seconds"] > 0).all()


def test_more_attacks_and_models_change_no_row(base: Config, rows: pd.DataFrame, tmp_path: Path) -> None:
    a, b = base["models"]["A"], base["models"]["B"]
    more = {**base, "models": {"C": {**a, "seed": 2}, "B": b, "A": a}}
    more["suite"] = {"noise": {"name": "noise", "eps": 0.2, "distribution": "sign"}, "pgd": PGD, **base["suite"]}
    found = run(more, tmp_path).set_index(KEY)
    assert len(found) == 3 + 4 * 9
    common = rows.set_index(KEY)
    pd.testing.assert_frame_equal(found.loc[common.index], common, check_exact=True)


def test_a_second_run_computes_nothing(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("measurements.transfer_matrix.transfer", "measurements.measurement.find_mistakes", "training.trained.fit")
    forbid(monkeypatch, *(f"epsball.{name}" for name in names))
    again = run(base, outputs, name="again")
    assert again.to_csv() == rows.to_csv()
    assert all(model["reused"] for model in record(outputs, "again")["models"].values())


def test_without_reuse_rows_are_measured_anew_on_the_same_models(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "epsball.training.trained.fit")
    calls = count_calls(monkeypatch, transfer_matrix, "transfer")
    again = run({**base, "reuse": False}, outputs, name="again")
    assert len(calls) == 6 and text(again) == text(rows)


def test_a_new_target_is_shown_finished_sources_and_nothing_else(
    base: Config, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, calls = count_calls(monkeypatch, trained, "fit"), count_calls(monkeypatch, transfer_matrix, "transfer")
    more = {**base, "models": {**base["models"], "C": {**base["models"]["A"], "seed": 2}}, "sources": ["A"]}
    run(more, outputs, name="again")
    assert len(fits) == 1 and len(calls) == 3  # C; three attacks
    assert all(list(targets) == ["C"] for _, _, targets, *_ in calls)


def test_each_example_is_crafted_once_and_judged_once_per_target(
    base: Config, tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted = count_calls(monkeypatch, transfer_matrix, "transfer")
    judged, judged_clean = (count_calls(monkeypatch, place, "mistakes") for place in (transfer_matrix, predictions))
    shutil.rmtree(outputs / "rows")
    run(base, outputs, name="again")
    sources = targets = 2
    attacks = 3
    assert len(crafted) == sources * attacks
    assert len(judged) == sources * attacks * targets and len(judged_clean) == targets  # one batch each


def test_rows_of_another_batch_size_are_the_same_rows(base: Config) -> None:
    """So that one of a GPU counts on a CPU: batches divide the draws of a random start otherwise, no more."""
    found = [prepare_experiment({**base, "batch_size": size}) for size in (16, 8)]
    assert len({row_key(experiment, "clean", "A", "A") for experiment in found}) == 1


# ---- interrupted


@pytest.mark.parametrize("finished", [1, 4])
def test_an_interrupted_matrix_goes_on_where_it_was(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    shutil.rmtree(outputs / "rows")
    stop, original = Stop(), transfer
    calls: list[str] = []

    def stopping(*arguments: Any, **more: Any) -> Any:
        found = original(*arguments, **more)
        calls.append(arguments[-1])
        if len(calls) == finished:
            stop.signum = 15
        return found

    monkeypatch.setattr(transfer_matrix, "transfer", stopping)
    with pytest.raises(Interrupted):
        run(base, outputs, stop, name="again")
    said = record(outputs, "again")
    assert (said["status"], said["exit_reason"]) == ("interrupted", "stopped by signal 15")
    assert not (outputs / "again" / "results.csv").exists()
    first = list(calls)
    assert len(first) == finished
    calls.clear()
    resumed = run(base, outputs, Stop(), name="again")
    assert len(calls) == 6 - finished and not set(calls) & set(first)
    assert text(resumed) == text(rows)
    assert record(outputs, "again")["status"] == "done"


def test_an_interrupted_training_goes_on_where_it_was(
    base: Config,
    rows: pd.DataFrame,
    done: tuple[Path, pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, original = Stop(), CheckpointFolder.save_state

    def stopping(slot: CheckpointFolder, state: dict[str, Any]) -> None:
        original(slot, state)
        stop.signum = 15

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save_state", stopping)
        with pytest.raises(Interrupted):
            run({**base, "checkpoint_seconds": 0.0}, tmp_path, stop)
    with caplog.at_level(logging.INFO):
        resumed = run(base, tmp_path)
    assert "A goes on from step 1" in caplog.messages
    assert not [message for message in caplog.messages if "damaged" in message or "changed since" in message]
    assert text(resumed) == text(rows)
    for straight in (done[0] / "models").rglob("model.safetensors"):
        again = tmp_path / straight.relative_to(done[0])
        assert again.read_bytes() == straight.read_bytes()


def test_a_damaged_row_is_measured_again(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, transfer_matrix, "transfer")
    experiment = prepare_experiment({**base, "outputs": str(outputs)})
    key = row_key(experiment, experiment.attacks[0].identity, "A", "B")
    row = outputs / "rows" / f"{key}.json"
    row.write_text(row.read_text()[:-5])
    assert text(run(base, outputs, name="again")) == text(rows)
    assert [list(targets) for _, _, targets, *_ in calls] == [["B"]]


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_a_damaged_spec_of_a_model_stops_no_run(base: Config, rows: pd.DataFrame, outputs: Path, content: str) -> None:
    """run.json tells of stored models before any is loaded, whole or not; the damaged one is trained again."""
    shutil.rmtree(outputs / "rows")
    (damaged, *_) = sorted((outputs / "models").glob("*/spec.json"))
    damaged.write_text(content)
    assert text(run(base, outputs, name="again")) == text(rows)
    assert list((outputs / "models").glob("*.damaged*"))


def test_a_failed_run_says_why(base: Config, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(outputs / "rows")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no luck"):
        patch.setattr(transfer_matrix, "transfer", fail)
        run(base, outputs, name="again")
    said = record(outputs, "again")
    assert (said["status"], said["exit_reason"]) == ("failed", "RuntimeError: no luck")
    assert "no luck" in (outputs / "again" / "traceback.txt").read_text()
    run(base, outputs, name="again")
    assert record(outputs, "again")["status"] == "done" and not (outputs / "again" / "traceback.txt").exists()


@pytest.mark.parametrize("error", [RuntimeError("no luck"), Interrupted(15)])
@pytest.mark.parametrize("unwritten", ["run.json", "traceback.txt"])
def test_a_full_disk_does_not_hide_why_a_run_ended(
    base: Config,
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    unwritten: str,
) -> None:
    shutil.rmtree(outputs / "rows")
    original, full = experiment_record.write_whole, []

    def fail(*_: object, **__: object) -> None:
        full.append(True)
        raise error

    def write(path: Path, content: str) -> None:
        if full and path.name == unwritten:
            raise OSError(errno.ENOSPC, "No space left on device (0 MiB free)", str(path))
        original(path, content)

    monkeypatch.setattr(transfer_matrix, "transfer", fail)
    monkeypatch.setattr(experiment_record, "write_whole", write)
    with pytest.raises(type(error)) as raised:
        run(base, outputs, name="again")
    assert raised.value is error
    failed = isinstance(error, RuntimeError)
    told = [one.getMessage() for one in caplog.records if "No space left" in one.getMessage()]
    assert len(told) == (failed or unwritten == "run.json")
    assert (outputs / "again" / "traceback.txt").exists() == (failed and unwritten == "run.json")
    ended = "running" if unwritten == "run.json" else "failed" if failed else "interrupted"
    assert record(outputs, "again")["status"] == ended


# ---- several seeds


@pytest.fixture(scope="module")
def seeds(base: Config) -> list[Config]:
    """`base` and the same of seed 1, whose A is seed 0's B."""
    spec = base["models"]["A"]
    other = {**base, "seed": 1, "models": {"A": {**spec, "seed": 1}, "B": {**spec, "seed": 2}}}
    return [base, other]


def test_several_seeds_are_the_rows_of_each_and_their_mean(
    seeds: list[Config], rows: pd.DataFrame, outputs: Path
) -> None:
    found = read(run_parts([seeds], outputs, name="both") / "results.csv")
    alone = run(seeds[1], outputs, name="alone")
    assert list(found["seed"]) == [0] * len(rows) + [1] * len(rows)
    assert text(found[: len(rows)]) == text(rows)
    assert text(found[len(rows) :]) == text(alone)
    matrix = read(outputs / "both" / "transfer_matrix.csv").set_index(["source", "attack", "eps"])
    assert list(matrix.columns) == ["A", "A sd", "B", "B sd"]
    for (source, target, attack, eps), group in found.groupby(KEY):
        line = matrix.loc[("-" if attack == "clean" else source, attack, eps)]
        assert line[target] == pytest.approx(100 * group["error_top1"].mean(), abs=0.051)
        assert line[f"{target} sd"] == pytest.approx(100 * group["error_top1"].std(), abs=0.051)
    assert list(read(outputs / "alone" / "transfer_matrix.csv").columns) == ["source", "attack", "eps", "A", "B"]
    assert record(outputs, "both")["seeds"] == [0, 1] and record(outputs, "both")["seed"] == 0
    assert " ± " in (outputs / "both" / "report.html").read_text()


def test_tables_and_claims_are_about_the_mean_of_the_seeds(
    seeds: list[Config], done: tuple[Path, pd.DataFrame], outputs: Path
) -> None:
    own = {
        "tables": {"t": table({"A": "A"}, {"e": "error({row})"}, {"A": [1]})},
        "claims": {"c": claim("error(A) < 1")},
    }
    directory = run_parts([[{**config, **own} for config in seeds]], outputs, name="both")
    found, compared, judged = (read(directory / f"{name}.csv") for name in ("results", "comparison", "claims"))
    errors = found[(found["attack"] == "clean") & (found["target"] == "A")]["error_top1"]
    assert list(compared["seeds"]) == [2] and list(compared["ours"]) == pytest.approx([100 * errors.mean()])
    assert list(compared["sd"]) == pytest.approx([100 * errors.std()])
    assert list(judged["left"]) == pytest.approx([errors.mean()]) and list(judged["holds"]) == [True]
    one = read(run_parts([[{**seeds[0], **own}]], outputs, name="one") / "comparison.csv")
    assert list(one["seeds"]) == [1] and one["sd"].isna().all()


def test_run_json_names_the_models_of_every_seed(seeds: list[Config], outputs: Path) -> None:
    run_parts([seeds], outputs, name="both")
    found = {name: model["fingerprint"] for name, model in record(outputs, "both")["models"].items()}
    (part,) = prepare([seeds], outputs)
    expected = {(seed, name): e.specs[name].key for seed, e in enumerate(part) for name in e.specs}
    assert found == {f"{name} of seed {seed}": key for (seed, name), key in expected.items()}
    assert len(set(found.values())) == 3


# ---- several parts


@pytest.fixture(scope="module")
def two_parts(base: Config) -> list[list[Config]]:
    """FGSM alone, with a table and a claim; then PGD alone, with a claim."""
    fgsm, pgd = ({name: base["suite"][name]} for name in ("fgsm", "pgd"))
    shown = table({"A": "A"}, {"B": "error(B | {row}, fgsm, eps=0.3)"}, {"A": [50.7]})
    first = {"experiment": "paper/first", "suite": fgsm, "tables": {"t": shown}}
    first["claims"] = {"c-1": claim("error(A) < 1", "error(B) <= error(B | B, fgsm, eps=0.3)")}
    second = {"experiment": "paper/second", "suite": pgd, "claims": {"c-2": claim("error(A | A, pgd) < 0")}}
    return [[{**base, **first}], [{**base, **second}]]


def test_every_part_has_a_whole_run_directory_and_the_run_a_report_of_all(
    two_parts: list[list[Config]], rows: pd.DataFrame, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = run_parts(two_parts, outputs, name="all")
    said = record(outputs, "all")
    assert (said["status"], said["experiment"]) == ("done", "paper/all")
    assert said["parts"] == ["paper/first", "paper/second"]
    assert not (top / "results.csv").exists()
    kept = rows.set_index(KEY)
    for name in ("first", "second"):
        own = json.loads((top / name / "run.json").read_text())
        assert (own["status"], own["experiment"]) == ("done", f"paper/{name}") and "parts" not in own
        assert {"transfer_matrix.csv", "transfer_matrix.png", "report.md", "report.html", "claims.csv"} <= {
            path.name for path in (top / name).iterdir()
        }
        found = read(top / name / "results.csv").set_index(KEY)
        measured = found.drop(columns=[*(set(PAPER) & set(found.columns))])
        assert len(found) == (10 if name == "first" else 6)
        pd.testing.assert_frame_equal(measured, kept.loc[measured.index], check_exact=True)
    alone = config_hash(prepare([two_parts[0]], outputs))
    assert json.loads((top / "first" / "run.json").read_text())["config_hash"] == alone
    judged, compared = read(top / "claims.csv"), read(top / "comparison.csv")
    assert list(judged["claim"]) == ["c-1", "c-1", "c-2"] and list(compared["table"]) == ["t"]
    assert list(judged["part"]) == ["paper/first", "paper/first", "paper/second"]
    assert list(judged["verdict"]) == ["confirmed", "confirmed", "refuted"]  # no error is below 0
    for name in ("claims", "comparison"):
        pd.testing.assert_frame_equal(
            (judged if name == "claims" else compared).query("part == 'paper/first'").drop(columns="part"),
            read(top / "first" / f"{name}.csv"),
            check_dtype=False,  # `seeds` of a part without tables is a gap
        )
    html, markdown = (top / "report.html").read_text(), (top / "report.md").read_text()
    for page in (html, markdown):
        assert all(text in page for text in ("Claims", "c-1", "c-2", "paper/first", "paper/second", "A table"))
    assert "(first/transfer_matrix.png)" in markdown
    printed = capsys.readouterr().out
    assert printed.count("c-1 ") == 2 and printed.count("c-2 ") == 2  # after its part, and at the end


def test_an_interrupted_run_keeps_what_earlier_parts_wrote_and_goes_on(
    two_parts: list[list[Config]], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(outputs / "rows")
    stop, original = Stop(), transfer
    titles: list[str] = []

    def stopping(*arguments: Any, **more: Any) -> Any:
        titles.append(arguments[-1])
        if titles[-1].startswith("pgd"):
            stop.signum = 2
            stop.check()
        return original(*arguments, **more)

    monkeypatch.setattr(transfer_matrix, "transfer", stopping)
    with pytest.raises(Interrupted):
        run_parts(two_parts, outputs, stop, name="all")
    top = outputs / "all"
    statuses = {name: record(outputs, f"all/{name}")["status"] for name in (".", "first", "second")}
    assert statuses == {".": "interrupted", "first": "done", "second": "interrupted"}
    assert record(outputs, "all")["exit_reason"] == "stopped by signal 2"
    assert not (top / "claims.csv").exists() and not (top / "second" / "results.csv").exists()
    kept = {name: (top / "first" / name).read_bytes() for name in ("results.csv", "claims.csv", "comparison.csv")}
    assert len(titles) == 5  # FGSM at two eps on two sources; PGD, not finished
    monkeypatch.setattr(transfer_matrix, "transfer", original)
    again = count_calls(monkeypatch, transfer_matrix, "transfer")
    run_parts(two_parts, outputs, name="all")
    assert len(again) == 2 and record(outputs, "all")["status"] == "done"
    assert {name: (top / "first" / name).read_bytes() for name in kept} == kept
    assert len(read(top / "second" / "results.csv")) == 6 and (top / "claims.csv").exists()


def test_a_failed_part_fails_the_run_and_says_why_in_both(
    two_parts: list[list[Config]], outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(outputs / "rows")
    monkeypatch.setattr(transfer_matrix, "transfer", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_parts(two_parts, outputs, name="all")
    for name in ("all", "all/first"):
        assert record(outputs, name)["exit_reason"] == "ZeroDivisionError: division by zero"
        assert "1 / 0" in (outputs / name / "traceback.txt").read_text()
    waiting = record(outputs, "all/second")  # a collector misses what it promises
    assert (waiting["status"], waiting["exit_reason"]) == ("interrupted", "its turn has not come") and waiting["cells"]
    assert [path.name for path in (outputs / "all" / "second").iterdir()] == ["run.json"]


def test_parts_with_several_seeds(two_parts: list[list[Config]], seeds: list[Config], outputs: Path) -> None:
    both = [[config, {**config, "seed": 1, "models": seeds[1]["models"]}] for (config,) in two_parts]
    top = run_parts(both, outputs, name="all")
    assert set(read(top / "comparison.csv")["seeds"]) == {2}
    assert [set(read(top / name / "results.csv")["seed"]) for name in ("first", "second")] == [{0, 1}] * 2


def test_a_part_lists_its_own_models(two_parts: list[list[Config]], base: Config, outputs: Path) -> None:
    (first,), (second,) = two_parts
    alone = {**second, "models": {"A": base["models"]["A"]}}
    run_parts([[first], [alone]], outputs, name="all")
    assert set(record(outputs, "all/first")["models"]) == {"A", "B"}
    assert set(record(outputs, "all/second")["models"]) == {"A"}


def test_parts_whose_names_end_alike_have_their_own_folders(two_parts: list[list[Config]], outputs: Path) -> None:
    (first,), (second,) = two_parts
    top = run_parts([[first], [{**second, "experiment": "other/first"}]], outputs, name="all")
    assert {path.parent for path in top.rglob("results.csv")} == {top / "first", top / "other" / "first"}
    assert "(other/first/transfer_matrix.png)" in (top / "report.md").read_text()


# ---- which cells, and gradients


def test_only_what_is_asked_about_is_crafted(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(outputs / "rows")
    calls = count_calls(monkeypatch, transfer_matrix, "transfer")
    asked = {"tables": {"t": table({"A": "A"}, {"B": "error(B | {row}, fgsm, eps=0.3)"}, None)}}
    asked["claims"] = {"c": claim("error(A | B, pgd) + transfer_rate(B | B, pgd) < error(A)")}
    found = run({**base, **asked, "measurement": {**MATRIX, "cells": "asked"}}, outputs, name="asked")
    pairs = [(title, list(targets)) for _, _, targets, *_, title in calls]
    assert pairs == [("fgsm eps 0.3 on A", ["B"]), ("pgd eps 0.2 on B", ["A", "B"])]
    assert [tuple(key) for key in found[KEY].values.tolist()] == [
        *[("A", "A", "clean", 0.0), ("B", "B", "clean", 0.0)],
        *[("A", "B", "fgsm", 0.3), ("B", "A", "pgd", 0.2), ("B", "B", "pgd", 0.2)],
    ]
    common = rows.set_index(KEY).loc[[tuple(key) for key in found[KEY].values.tolist()]]
    pd.testing.assert_frame_equal(found.set_index(KEY), common, check_exact=True)
    compared, judged = (read(outputs / "asked" / f"{name}.csv") for name in ("comparison", "claims"))
    assert compared["ours"].notna().all() and judged[["left", "right"]].notna().all(axis=None)
    assert "-" in (outputs / "asked" / "report.md").read_text()


def test_nothing_is_crafted_where_nothing_is_asked(
    base: Config, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "epsball.measurements.transfer_matrix.transfer")
    found = run({**base, "measurement": {**MATRIX, "cells": "asked"}}, outputs, name="asked")
    assert list(found["attack"]) == ["clean", "clean"]


def test_several_measurements_of_one_experiment_have_rows_of_their_own(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["gradient_l2_mean", "gradient_l2_sd", "gradient_zero_share"]
    models = {**base["models"], "forest": forest(base)}
    config = {**base, "models": models, "measurements": {"norms": {"name": "gradient_norms"}}}
    found = run(config, outputs, name="norms")
    assert list(dict.fromkeys(found["measurement"])) == ["clean", "transfer_matrix", "norms"]
    norms = found["measurement"] == "norms"
    assert found[norms][["target", "attack", "eps"]].values.tolist() == [["A", "clean", 0.0], ["B", "clean", 0.0]]
    assert found[names].notna().all(axis=1).equals(norms) and found[names].isna().all(axis=1).equals(~norms)
    assert (found.loc[norms, names[:2]] > 0).all(axis=None) and found.loc[norms, names[2]].between(0, 1).all()
    common = rows.set_index(KEY)
    mine = found[~norms].set_index(KEY).drop(columns=[*names]).loc[common.index]
    pd.testing.assert_frame_equal(mine, common, check_exact=True)

    experiment = prepare([[config]], outputs)[0][0]
    network = models_of(experiment).train(experiment.specs, experiment.execution)["B"]
    exact = gradient_norms.gradient_norms(network, Batched(experiment.data.test, 7, Stop())).double()
    row = found[norms & (found["target"] == "B")].iloc[0]
    assert len(exact) == TEST_IMAGES and row[names[0]] == pytest.approx(exact.mean().item(), rel=1e-5)
    assert row[names[1]] == pytest.approx(exact.std().item(), rel=1e-5)
    report = (outputs / "norms" / "report.md").read_text()
    assert "## Error, per cent" in report and "## L2 norm of the input gradient" in report
    forbid(monkeypatch, "epsball.measurements.gradient_norms.gradient_norms")
    assert run(config, outputs, name="again").to_csv() == found.to_csv()


def test_the_files_of_one_measurement_overwrite_no_other(base: Config, outputs: Path) -> None:
    others = {"few": {"name": "transfer_matrix", "cells": "asked"}, "worst": {"name": "worst_case"}}
    run({**base, "measurements": {**others, "norms": {"name": "gradient_norms"}}}, outputs, name="several")
    written = (outputs / "several").rglob("transfer_matrix.csv")
    sizes = {path.parent.relative_to(outputs / "several").as_posix(): len(read(path)) for path in written}
    assert sizes == {".": 1 + 2 * 3, "few": 1, "worst": 1 + 2 * 3}
    assert not (outputs / "several" / "norms").exists()  # it writes none


# ---- a model without gradients


def forest(base: Config, **changes: Any) -> Config:
    arch = {"name": "random_forest", "trees": 5}
    return {"dataset": base["models"]["A"]["dataset"], "arch": arch, "trainer": None, "seed": 0, **changes}


def test_a_forest_is_a_target_and_no_source(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**base, "models": {"forest": forest(base), **base["models"]}}
    experiment = prepare_experiment(config)
    assert (experiment.sources, experiment.targets) == (["A", "B"], ["forest", "A", "B"])
    planned = experiment.specs["forest"]
    assert planned.trainer is None and planned.trajectory is None and planned.epochs == 0 and not planned.differentiable
    found = run(config, outputs, name="again")
    shown = found[found["target"] == "forest"]
    assert shown[["source", "attack", "eps"]].values.tolist() == [
        ["forest", "clean", 0.0],
        *([s, *c] for c in (("fgsm", 0.1), ("fgsm", 0.3), ("pgd", 0.2)) for s in "AB"),
    ]
    assert "forest" not in set(found[found["attack"] != "clean"]["source"])
    common = rows.set_index(KEY)
    pd.testing.assert_frame_equal(found.set_index(KEY).loc[common.index], common)

    x, y = experiment.data.train.take(torch.arange(len(experiment.data.train)))
    own = RandomForest((1, 28, 28), 10, 5)
    own.fit_to(x, y, planned.model_seed)
    x, y = experiment.data.test.take(torch.arange(TEST_IMAGES))
    assert shown["error_top1"].iloc[0] == (own(x).argmax(1) != y).double().mean().item() < 0.8
    spec = json.loads((outputs / "models" / f"random_forest-fitted-{planned.key}" / "spec.json").read_text())
    assert spec["spec"]["trainer"] is None and spec["loss"] is None and spec["parameters"] == 0
    monkeypatch.setattr(RandomForest, "fit_to", None)  # it is in the store
    assert run(config, outputs, name="once_more").to_csv() == found.to_csv()
    assert record(outputs, "once_more")["models"]["forest"]["reused"]


def test_a_forest_alone_is_fitted_by_a_seed(base: Config) -> None:
    keys = {prepare_experiment({**base, "models": {"F": forest(base, seed=seed)}}).specs["F"].key for seed in (0, 1)}
    assert len(keys) == 2
    experiment = prepare_experiment({**base, "models": {"F": forest(base)}})
    assert (experiment.sources, experiment.targets) == ([], ["F"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ["F"]}, "sources names 'F', which has no gradient to attack: it can be a target alone"),
        ({"sources": ["A", "F"]}, "sources names 'F', which has no gradient to attack: it can be a target alone"),
        ({"measurement": {"name": "loss_surface"}}, "measurement.other names 'F': the sources are A, B"),
    ],
)
def test_a_forest_as_a_source_is_refused(base: Config, changes: Config, message: str) -> None:
    surface = {"model": "A", "other": "F", "extent": 0.3, "zoom": 0.03, "grid": 3, "points": 1, "averaged": 1}
    if "measurement" in changes:
        changes = {"measurement": {**changes["measurement"], **surface, "clip": False}}
    with pytest.raises(ConfigError) as error:
        prepare_experiment({**base, "models": {**base["models"], "F": forest(base)}, **changes})
    assert str(error.value) == message


def test_a_trainer_is_for_networks_and_for_all_of_them(base: Config) -> None:
    trainer = {**base["models"]["A"]["trainer"], "epochs": 1.0}
    wrong = {
        "models.A.trainer is missing": {"A": {**base["models"]["A"], "trainer": None}},
        "models.F.trainer should be null: RandomForest fits itself": {"F": forest(base, trainer=trainer)},
    }
    for message, models in wrong.items():
        with pytest.raises(ConfigError) as error:
            prepare_experiment({**base, "models": models})
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_forest_as_the_source_of_a_training_is_refused(tiny: Compose, base: Config) -> None:
    config = tiny("trainer=ensemble_adv")
    config["models"]["target"]["trainer"]["sources"]["A"] = forest(base)
    with pytest.raises(ConfigError, match="A"):
        prepare_experiment(config)


# ---- which models


def test_one_model_under_two_names_is_one_model(base: Config, outputs: Path, rows: pd.DataFrame) -> None:
    spec = base["models"]["A"]
    doubled = {**base, "models": {**base["models"], "A_again": dict(spec)}}
    experiment = prepare_experiment(doubled)
    assert (list(experiment.specs), experiment.sources, experiment.targets) == (["A", "B"], ["A", "B"], ["A", "B"])
    assert run(doubled, outputs, name="again").to_csv() == rows.to_csv()


def test_sources_and_targets_choose_rows_and_models(base: Config, tmp_path: Path, rows: pd.DataFrame) -> None:
    spec = base["models"]["A"]
    chosen = {**base, "models": {**base["models"], "C": {**spec, "seed": 2}}, "sources": ["A"], "targets": ["B"]}
    found = run(chosen, tmp_path)
    assert found[["source", "target"]].values.tolist() == [["B", "B"], *[["A", "B"]] * 3]
    assert len(list((tmp_path / "models").glob("madry_mnist-*"))) == 2  # C is not needed
    common = rows.set_index(KEY).loc[list(found[KEY].itertuples(index=False, name=None))]
    pd.testing.assert_frame_equal(found.set_index(KEY), common, check_exact=True)


def test_the_papers_numbers_stand_beside_ours(base: Config, outputs: Path) -> None:
    errors = {"A": "error(A | {row}, fgsm, eps=0.3)", "B": "error(B | {row}, fgsm, eps=0.3)"}
    own = {
        "errors": table({"A": "A"}, errors, {"A": [71.4, 50.7]}),
        "rates": table({"A": "A"}, {"B": "transfer_rate({row} | B, pgd)"}, {"A": [18]}),
    }
    found = run({**base, "tables": own}, outputs, name="again")
    assert tuple(found.columns) == (*COLUMNS, "transfer_n_top5")
    given = found[found["paper_value"].notna()]
    assert list(given["difference"]) == pytest.approx(
        [row[row["paper_metric"]] - row["paper_value"] for _, row in given.iterrows()], abs=1e-12
    )
    assert found["difference"].notna().sum() == 3
    compared = read(outputs / "again" / "comparison.csv")
    assert list(compared["table"]) == ["errors", "errors", "rates"] and list(compared["paper"]) == [71.4, 50.7, 18]
    assert list(compared["difference"] / 100) == pytest.approx(list(given["difference"]))
    assert not (outputs / "again" / "claims.csv").exists()
    report = (outputs / "again" / "report.md").read_text()
    assert "## A table" in report and "(71.4)" in report
    assert given[[*KEY, "paper_value", "paper_metric"]].values.tolist() == [
        ["A", "A", "fgsm", 0.3, 0.714, "error_top1"],
        ["A", "B", "fgsm", 0.3, 0.507, "error_top1"],
        ["B", "A", "pgd", 0.2, 0.18, "transfer_rate_top1"],
    ]


def test_the_papers_numbers_of_an_alias_are_kept(base: Config) -> None:
    """A model that is listed under another model's name keeps what the paper says of it."""
    spec = base["models"]["A"]
    own = table({"A2": "A2"}, {"B": "error(B | {row}, fgsm, eps=0.3)"}, {"A2": [50.7]})
    said = claim("error(B | A2, fgsm, eps=0.3) > error(A2)")
    doubled = {**base["models"], "A2": dict(spec)}
    experiment = prepare_experiment({**base, "models": doubled, "tables": {"t": own}, "claims": {"c": said}})
    cell, stated = Quantity("error_top1", "B", ("A",), ("fgsm",), (("eps", 0.3),)), experiment.statements
    assert stated.tables["t"].cell("A2", "B").alone == cell and stated.tables["t"].published("A2", "B") == 50.7
    assert stated.claims["c"].quantities == [cell, Quantity("error_top1", "A", ("A",), ("clean",))]


def test_ensemble_adversarial_training_shares_its_sources(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = count_calls(monkeypatch, trained, "fit")
    config = tiny("trainer=ensemble_adv", "trainer.epochs=1", "suite.fgsm.eps=0.1")
    member = tiny()["models"]["target"]
    ensemble = config["models"]["target"]
    for seed, name in enumerate(sorted(ensemble["trainer"]["sources"])):
        ensemble["trainer"]["sources"][name] = {**member, "seed": seed}
    other = {**ensemble, "seed": 5}
    config["models"] = {"A_ens": ensemble, "A": {**member, "seed": 0}, "A_ens_again": other}
    run(config, tmp_path)
    assert len(fits) == 5  # three sources, of which A is one, and the two ensemble-adversarial models
    assert [len(sources) for _, _, sources, *_ in fits] == [0, 0, 0, 3, 3]
    assert set(record(tmp_path)["models"]) >= {"A_ens", "A", "A_ens_again"}


def test_a_missing_source_of_a_trained_model_is_not_trained_again_in_workers(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("trainer=ensemble_adv", "trainer.epochs=1", "suite.fgsm.eps=0.1", "workers=2")
    ensemble = config["models"]["target"]
    ensemble["trainer"]["sources"] = {"S": tiny()["models"]["target"]}
    run({**config, "workers": 1}, tmp_path)
    called = count_calls(monkeypatch, experiment_run, "train_in_parallel")
    store, experiment = Store(tmp_path, lambda: None), prepare_experiment({**config, "outputs": str(tmp_path)})
    target = experiment.specs["target"]
    for lacking in (target.sources["S"], target):
        shutil.rmtree(store.path(lacking.key))
        shutil.rmtree(tmp_path / "rows")
        run(config, tmp_path)
    assert [[name for name, _ in wanted.values()] for wanted, *_ in called] == [[], ["target's source S", "target"]]


# ---- what names a model


@pytest.mark.parametrize(
    "override",
    [
        *("trainer.epochs=2", "trainer.optimizer.lr=0.02", "trainer.batch_size=32", "trainer.clip_norm=1.0"),
        *("trainer.augment={shift:1,crop:1.0,flip:false}", "trainer=madry", "arch.hidden=17"),
        *("arch.activation.name=elu", "seed=1", "dataset.train_size=63", "trainer.objective.label_smoothing=0.1"),
    ],
)
def test_what_changes_a_training_changes_its_fingerprint(tiny: Compose, override: str) -> None:
    other = prepare_experiment(tiny(override)).specs["target"]
    assert other.key != prepare_experiment(tiny()).specs["target"].key


@pytest.mark.parametrize(
    "override",
    [
        *("dataset.test_size=39", "device=auto", "outputs=elsewhere", "checkpoint_seconds=1", "threads=2"),
        *("batch_size=7", "reuse=false", "suite=one_step", "experiment=other", "trainer.epochs=6.0"),
    ],
)
def test_what_cannot_change_a_training_does_not(tiny: Compose, override: str) -> None:
    assert prepare_experiment(tiny(override)).specs["target"].key == prepare_experiment(tiny()).specs["target"].key


def test_the_same_images_elsewhere_train_the_same_model(tiny: Compose, tmp_path: Path) -> None:
    keys = []
    for root, images in (("here", {}), ("there", {}), ("changed", {"train": changed(random_images()["train"])})):
        write_npz(tmp_path / root, **images)
        config = tiny("dataset=npz", f"dataset.root={tmp_path / root}", "dataset.train_size=12", "dataset.test_size=9")
        keys.append(prepare_experiment(config).specs["target"].key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.skipif(not (ROOT / "data" / "MNIST").is_dir(), reason="MNIST is not here")
def test_the_leave_to_download_does_not_name_a_model(tiny: Compose) -> None:
    root = f"dataset.root={ROOT / 'data'}"
    with_leave, without = (
        prepare_experiment(tiny("dataset=mnist", root, f"dataset.download={leave}")).specs["target"].key
        for leave in ("true", "false")
    )
    assert with_leave == without


def test_an_ensembles_sources_name_it(tiny: Compose) -> None:
    def key(**fields: Any) -> str:
        config = tiny("trainer=ensemble_adv")
        sources = config["models"]["target"]["trainer"]["sources"]
        sources["A"] = {**sources["A"], **fields}
        return prepare_experiment(config).specs["target"].key

    assert key() == key()
    assert key(seed=9) != key()


def test_the_config_hash_names_what_can_change_a_result(tiny: Compose) -> None:
    plain = prepare_experiment(tiny()).config_hash
    for same in (
        "threads=2",
        "outputs=elsewhere",
        "checkpoint_seconds=1",
        "reuse=false",
        "missing=skip",
        "device=auto",
        "diagnostic=none",
    ):
        assert prepare_experiment(tiny(same)).config_hash == plain, same
    for other in ("seed=1", "dataset.test_size=39", "suite.fgsm.eps=0.2", "suite=one_step", "trainer.epochs=2"):
        assert prepare_experiment(tiny(other)).config_hash != plain, other
    said = "+claims.c={says: x, paper: y, checks: ['error(target) < 0.5']}"
    shown = (
        "+tables.t={title: t, rows: {a: target}, columns: {e: 'error({row})'}, paper: null, unit: value, best: none}"
    )
    for other in (
        "measurement=worst_case",
        "measurement.cells=asked",
        "+measurements.norms={name: gradient_norms}",
        said,
        shown,
    ):
        assert prepare_experiment(tiny(other)).config_hash != plain, other


def test_the_config_hash_of_several_seeds_and_parts_names_each(tiny: Compose) -> None:
    one, two = prepare_experiment(tiny()), prepare_experiment(tiny("seed=1"))
    assert config_hash([[one]]) == one.config_hash
    several = [[[one]], [[two]], [[one, two]], [[two, one]], [[one], [two], [one]]]
    assert len({config_hash(parts) for parts in several}) == len(several)


# ---- run directories


def test_runs_of_one_second_have_their_own_directories(base: Config, tmp_path: Path) -> None:
    parts = prepare([[base]], tmp_path)
    found = {claim_directory("transfer", parts, None, None) for _ in range(4)}
    assert len(found) == 4 and all(path.parent == tmp_path / "transfer" for path in found)
    job = tmp_path / "sweep" / "0"
    assert claim_directory("transfer", parts, None, job) == job
    assert claim_directory("transfer", parts, None, job) == tmp_path / "sweep" / "0-2"


def test_a_given_directory_is_taken_unless_it_holds_something_else(base: Config, outputs: Path) -> None:
    parts = prepare([[base]], outputs)
    new, own = str(outputs / "deep" / "new"), str(outputs / "run")
    assert claim_directory("transfer", parts, new, None) == Path(new)
    assert claim_directory("transfer", parts, new, None) == Path(new)  # empty still
    (Path(new) / ".hydra").mkdir()
    (Path(new) / "run.log").touch()
    (Path(new) / ".run.json.0123.part").touch()
    assert claim_directory("transfer", parts, new, None) == Path(new)  # of a run without its run.json yet
    (Path(new) / "results.csv").touch()
    with pytest.raises(ConfigError, match="name another directory"):
        claim_directory("transfer", parts, new, None)
    assert claim_directory("transfer", parts, own, None) == Path(own)  # its own run goes on
    another = {**base, "seed": 1}
    for other in ([[another]], [[base, another]], [[base], [another]]):
        for given in (own, str(outputs / "models")):
            with pytest.raises(ConfigError, match="name another directory"):
                claim_directory("transfer", prepare(other, outputs), given, None)


# ---- what prepare refuses


def test_a_model_that_is_left_out_is_none_of_the_sources_and_targets(base: Config) -> None:
    """A paper file names them; models.B=null on the command line is enough."""
    config = {**base, "models": {**base["models"], "B": None}, "sources": ["A", "B"], "targets": ["B", "A"]}
    experiment = prepare_experiment(config)
    assert (experiment.sources, experiment.targets) == (["A"], ["A"])
    with pytest.raises(ConfigError, match=r"^sources names 'B': the models are A"):
        prepare_experiment({**config, "sources": ["B"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ["a"]}, "sources names 'a'"),
        ({"targets": ["A", "X"]}, "targets names 'X'"),
        ({"modles": {}}, "modles is not a config key (did you mean 'models'?)"),
        ({"seed": -1}, "seed should be at least 0, is -1"),
        ({"seed": 1.5}, "seed should be an int, is 1.5"),
        ({"threads": 0}, "threads should be null or in [1, 1024], is 0"),
        ({"batch_size": 0}, "batch_size should be positive, is 0"),
        ({"device": "tpu"}, "device should be one of auto, cpu, cuda, mps, is 'tpu'"),
        ({"suite": {"clean": PGD}}, "suite.clean: the name clean is taken"),
        ({"suite": {"pgd": {**PGD, "eps": [0.1, 1.5]}}}, "suite.pgd.eps should be a float in [0, 1], is 1.5"),
        ({"attack": {"pgd": {**PGD, "steps": 3}}}, "attack pgd at eps 0.2 is set twice, differently"),
        ({"reference": [{"metric": "error"}]}, "reference is not a config key"),
        ({"measurement": "worst_case"}, "measurement should be"),
        ({"measurement": {"name": "worst"}}, "measurement.name is 'worst' (did you mean 'worst_case'?)"),
        ({"measurement": {"name": "transfer_matrix"}}, "measurement.cells is missing"),
        ({"measurement": None}, "measurement is missing: choose one of"),
        (
            {"measurements": {"few": MATRIX}, "claims": {"c": claim("error(A | B, pgd) < 1")}},
            "measurements: transfer_matrix, few all measure error(A | B, pgd): keep one of them",
        ),
        ({"measurements": {"norms": {"name": "norms"}}}, "measurements.norms.name is 'norms'"),
        ({"measurements": {"clean": {"name": "worst_case"}}}, "measurements.clean: the name clean is taken"),
        ({"measurements": {"transfer_matrix": MATRIX}}, "measurements.transfer_matrix: the name transfer_matrix is"),
        ({"measurement": {**MATRIX, "cells": "some"}}, "measurement.cells should be one of all, asked, is 'some'"),
        (
            {"measurement": {"name": "gradient_pictures", "images": 1}, "suite": {}},
            "measurement.name gradient_pictures needs an attack",
        ),
        ({"tables": {"t": {"title": "t"}}}, "tables.t.rows is missing"),
        ({"tables": {"t": table({"A": "A"}, {"e": "error({row})"}, {"A": [1, 2]})}}, "tables.t.paper.A should be 1"),
        ({"tables": {"t": table({"A": "A"}, {"e": "error({row})"}, {"a": [1]})}}, "tables.t.paper.a is no row"),
        ({"tables": {"t": table({"A": "C"}, {"e": "error({row})"}, None)}}, "tables.t asks about 'C'"),
        ({"claims": {"c": claim("error(A) < error(C)")}}, "claims.c asks about 'C'"),
        ({"claims": {"c": claim("error(A) = 1")}}, "claims.c.checks[0]: 'error(A) = 1' cannot be read"),
        ({"claims": {"c": claim("error(A | B, fgsm) < 1")}}, "claims.c asks about fgsm without saying which eps"),
        ({"claims": {"c": claim()}}, "claims.c.checks should be at least one comparison, is empty"),
        ({"models": {"A": {"arch": {}}}}, "models.A.dataset is missing"),
        (
            {"models": {"A": {"arch": {}, "sed": 3}}},
            "models.A.sed is not a field (did you mean 'seed'?): the fields are",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(base: Config, change: Config, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        prepare_experiment({**base, **change})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# ---- the worst case


def test_worst_case_rows_are_at_least_as_bad_as_each_attack(
    base: Config, outputs: Path, done: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = run({**base, "measurement": {"name": "worst_case"}}, outputs, name="worst")
    assert worst[KEY].values.tolist() == [
        *([model, model, "clean", 0.0] for model in ("A", "B")),
        *([model, model, "worst_case", eps] for model in ("A", "B") for eps in (0.1, 0.2, 0.3)),
    ]
    matrix = done[1][done[1]["source"] == done[1]["target"]]
    for row in worst.itertuples():
        same = matrix[(matrix["source"] == row.source) & (matrix["eps"] == row.eps)]
        assert row.error_top1 >= same["error_top1"].max() - 1e-12 and row.n == TEST_IMAGES
        assert row.error_top1 >= row.clean_error_top1

    forbid(monkeypatch, "epsball.measurements.worst_case.find_fooled")  # finished rows are reused
    again = run({**base, "measurement": {"name": "worst_case"}}, outputs, name="again")
    pd.testing.assert_frame_equal(worst, again)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: TF32 is a mode of its tensor cores")
def test_attacks_in_tf32_succeed_as_often_as_in_fp32(base: Config, tmp_path: Path) -> None:
    fp32, tf32 = (run({**base, "precision": p}, tmp_path / p) for p in ("fp32", "tf32"))
    assert ((fp32["error_top1"] >= tf32["error_top1_low"]) & (fp32["error_top1"] <= tf32["error_top1_high"])).all()


def test_claims_are_listed_by_their_numbers() -> None:
    names = ["tramer-10", "tramer-2", "kurakin-1", "tramer-1", "white box"]
    assert sorted(names, key=natural) == ["kurakin-1", "tramer-1", "tramer-2", "tramer-10", "white box"]


def test_models_of_one_seed_are_independent_unless_only_their_length_or_precision_differs(tiny: Compose) -> None:
    """A black-box source that began where its target did, or saw the images in the same order, is none."""
    plain, longer, other, seeded, tf32 = (
        prepare_experiment(tiny(*changes)).specs["target"]
        for changes in ([], ["trainer.epochs=9"], ["trainer=fgsm_adv"], ["seed=1"], ["precision=tf32"])
    )
    assert plain.model_seed == longer.model_seed == tf32.model_seed
    assert len({plain.model_seed, other.model_seed, seeded.model_seed}) == 3
    weights = [next(p.make_network().parameters()) for p in (plain, longer, other, seeded)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert plain.trajectory != tf32.trajectory


def test_a_commit_made_during_a_run_is_not_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["aaaaaaaaaaaa\n", "", "bbbbbbbbbbbb\n", ""])
    monkeypatch.setattr(experiment_record.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=next(answers)))
    git_commit.cache_clear()
    try:
        assert [git_commit(), git_commit()] == ["aaaaaaaaaaaa"] * 2
    finally:
        git_commit.cache_clear()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_asking_for_the_commit_leaves_the_repository_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself `git status` writes the index anew, under its lock: a commit of the user's would fail meanwhile."""
    (file := tmp_path / "code.py").touch()
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for words in (["init"], ["add", "code.py"], [*author, "commit", "-m", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    os.utime(file, (1e9, 1e9))  # of another time than the index says
    before = (tmp_path / ".git" / "index").read_bytes()
    monkeypatch.setattr(experiment_record, "__file__", str(file))
    git_commit.cache_clear()
    try:
        commit = git_commit()
    finally:
        git_commit.cache_clear()
    assert commit is not None and len(commit) == 12 and "+" not in commit
    assert (tmp_path / ".git" / "index").read_bytes() == before
