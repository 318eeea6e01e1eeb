"""Whole experiments in process, on a network that trains in a blink: rows, reuse, interruption, identity."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from epsball import evaluate, experiments, plan, tables, workshop
from epsball.build import ConfigError
from epsball.progress import Interrupted, Stop
from epsball.store import Slot

ROOT = Path(__file__).parents[1]
TEST_IMAGES = 40
KEY = ["source", "target", "attack", "eps"]
Config = dict[str, Any]
Compose = Callable[..., Config]

PGD = {
    **{"name": "gradient", "eps": 0.2, "steps": 2, "step_size": 0.1, "step": "sign", "loss": "cross_entropy"},
    **{"kappa": 0.0, "label": "true", "start": "uniform", "start_share": 1.0, "clip_start": True},
    **{"momentum": 0.0, "restarts": 1, "keep": "last"},
}


@pytest.fixture(scope="module")
def base(tiny: Compose) -> Config:
    """Models A and B, FGSM at two eps and a PGD with a random start."""
    config = tiny("suite.fgsm.eps=[0.1,0.3]")
    spec = config["models"].pop("target")
    config["models"] = {"A": spec, "B": {**spec, "seed": 1}}
    config["suite"]["pgd"] = PGD
    return config


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else here."""
    monkeypatch.setattr("epsball.figures.transfer_heatmap", lambda rows, path: path.write_bytes(b"png"))


def run(config: Config, outputs: Path, stop: Stop | None = None, name: str = "run") -> pd.DataFrame:
    """Run `config` with `outputs` as its root; the rows of its results.csv."""
    experiment = plan.prepare({**config, "outputs": str(outputs)})
    directory = experiments.claim_directory(experiment, str(outputs / name), None)
    experiments.run(experiment, directory, [], stop or Stop())
    return pd.read_csv(directory / "results.csv", keep_default_na=False, na_values=[""])


def record(outputs: Path, name: str = "run") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((outputs / name / "run.json").read_text())
    return found


@pytest.fixture(scope="module")
def done(base: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pd.DataFrame]]:
    """The outputs of `base`, and its rows."""
    outputs = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("epsball.figures.transfer_heatmap", lambda rows, path: path.write_bytes(b"png"))
        yield outputs, run(base, outputs)


@pytest.fixture
def outputs(done: tuple[Path, pd.DataFrame], tmp_path: Path) -> Path:
    """A copy of `done`'s outputs, to go on from."""
    return Path(shutil.copytree(done[0], tmp_path / "outputs"))


@pytest.fixture
def rows(done: tuple[Path, pd.DataFrame]) -> pd.DataFrame:
    return done[1]


def without_seconds(frame: pd.DataFrame) -> str:
    return frame.drop(columns="seconds").to_csv(index=False)


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
    assert tuple(rows.columns) == tuple(c for c in tables.COLUMNS if c not in tables.PAPER)
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
    some = rows[rows["transfer_n"] > 0]
    counts = some["transfer_rate_top1"] * some["transfer_n"]
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
    assert set(said["models"]) == {"A", "B"} and not any(m["reused"] for m in said["models"].values())
    assert {path.name for path in (done[0] / "run").iterdir()} >= {
        *("run.json", "results.csv", "transfer_matrix.csv", "transfer_matrix.png", "report.md")
    }


def test_a_model_folder_says_where_it_came_from(done: tuple[Path, pd.DataFrame], base: Config) -> None:
    planned = plan.prepare(base).plans["A"]
    folder = done[0] / "models" / f"madry_mnist-standard-{planned.key}"
    spec = json.loads((folder / "spec.json").read_text())
    assert spec["fingerprint"] == planned.key and spec["seed"] == 0
    assert spec["parameters"] == sum(p.numel() for p in planned.network.parameters())
    curve = pd.read_csv(folder / "training.csv")
    assert list(curve["epoch"]) == [1, 2, 3, 4, 5, 6] and curve["loss"].iloc[-1] == spec["loss"]


# ---- the same again


def test_a_run_is_reproducible_from_nothing(base: Config, rows: pd.DataFrame, tmp_path: Path) -> None:
    torch.rand(3)
    assert without_seconds(run(base, tmp_path)) == without_seconds(rows)


def test_more_attacks_and_models_change_no_row(base: Config, rows: pd.DataFrame, tmp_path: Path) -> None:
    a, b = base["models"]["A"], base["models"]["B"]
    more = {**base, "models": {"C": {**a, "seed": 2}, "B": b, "A": a}}
    more["suite"] = {"noise": {"name": "noise", "eps": 0.2, "distribution": "sign"}, "pgd": PGD, **base["suite"]}
    found = run(more, tmp_path).drop(columns="seconds").set_index(KEY)
    assert len(found) == 3 + 4 * 9
    common = rows.drop(columns="seconds").set_index(KEY)
    pd.testing.assert_frame_equal(found.loc[common.index], common, check_exact=True)


def test_a_second_run_computes_nothing(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("evaluate.transfer", "evaluate.clean_verdict", "workshop.fit")
    forbid(monkeypatch, *(f"epsball.{name}" for name in names))
    again = run(base, outputs, name="again")
    assert again.to_csv() == rows.to_csv()
    assert all(model["reused"] for model in record(outputs, "again")["models"].values())


def test_without_reuse_rows_are_measured_anew_on_the_same_models(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "epsball.workshop.fit")
    calls = count_calls(monkeypatch, evaluate, "transfer")
    again = run({**base, "reuse": False}, outputs, name="again")
    assert len(calls) == 6 and without_seconds(again) == without_seconds(rows)


def test_a_new_target_is_shown_finished_sources_and_nothing_else(
    base: Config, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, calls = count_calls(monkeypatch, workshop, "fit"), count_calls(monkeypatch, evaluate, "transfer")
    more = {**base, "models": {**base["models"], "C": {**base["models"]["A"], "seed": 2}}, "sources": ["A"]}
    run(more, outputs, name="again")
    assert len(fits) == 1 and len(calls) == 3  # C; three attacks
    assert all(list(targets) == ["C"] for _, _, targets, *_ in calls)


def test_each_example_is_crafted_once_and_judged_once_per_target(
    base: Config, tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted, judged = count_calls(monkeypatch, evaluate, "transfer"), count_calls(monkeypatch, evaluate, "judge")
    shutil.rmtree(outputs / "rows")
    run(base, outputs, name="again")
    sources = targets = 2
    attacks = 3
    assert len(crafted) == sources * attacks
    assert len(judged) == targets + sources * attacks * targets  # one batch each


def test_rows_of_another_batch_size_are_other_rows(base: Config) -> None:
    """A random start is drawn batch by batch."""
    experiment = plan.prepare({**base, "batch_size": 16})
    other = plan.prepare({**base, "batch_size": 8})
    keys = {experiments.Run(e, Path(), [], Stop()).row_key("clean", "A", "A") for e in (experiment, other)}
    assert len(keys) == 2


# ---- interrupted


@pytest.mark.parametrize("finished", [1, 4])
def test_an_interrupted_matrix_goes_on_where_it_was(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    shutil.rmtree(outputs / "rows")
    stop, original = Stop(), evaluate.transfer
    calls: list[str] = []

    def stopping(*arguments: Any) -> Any:
        found = original(*arguments)
        calls.append(arguments[-1])
        if len(calls) == finished:
            stop.signum = 15
        return found

    monkeypatch.setattr(evaluate, "transfer", stopping)
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
    assert without_seconds(resumed) == without_seconds(rows)
    assert record(outputs, "again")["status"] == "done"


def test_an_interrupted_training_goes_on_where_it_was(
    base: Config,
    rows: pd.DataFrame,
    done: tuple[Path, pd.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, original = Stop(), Slot.save_state

    def stopping(slot: Slot, state: dict[str, Any]) -> None:
        original(slot, state)
        stop.signum = 15

    with monkeypatch.context() as patch:
        patch.setattr(Slot, "save_state", stopping)
        with pytest.raises(Interrupted):
            run({**base, "checkpoint_seconds": -1.0}, tmp_path, stop)
    with caplog.at_level(logging.INFO):
        resumed = run(base, tmp_path)
    assert "A goes on from step 1" in caplog.messages
    assert not [message for message in caplog.messages if "damaged" in message or "changed since" in message]
    assert without_seconds(resumed) == without_seconds(rows)
    for straight in (done[0] / "models").rglob("model.safetensors"):
        again = tmp_path / straight.relative_to(done[0])
        assert again.read_bytes() == straight.read_bytes()


def test_a_damaged_row_is_measured_again(
    base: Config, rows: pd.DataFrame, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, evaluate, "transfer")
    experiment = plan.prepare({**base, "outputs": str(outputs)})
    key = experiments.Run(experiment, outputs, [], Stop()).row_key(experiment.crafts[0].identity, "A", "B")
    row = outputs / "rows" / f"{key}.json"
    row.write_text(row.read_text()[:-5])
    assert without_seconds(run(base, outputs, name="again")) == without_seconds(rows)
    assert [list(targets) for _, _, targets, *_ in calls] == [["B"]]


def test_a_failed_run_says_why(base: Config, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(outputs / "rows")

    def fail(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr(evaluate, "transfer", fail)
    with pytest.raises(RuntimeError, match="no luck"):
        run(base, outputs, name="again")
    said = record(outputs, "again")
    assert (said["status"], said["exit_reason"]) == ("failed", "RuntimeError: no luck")
    assert "no luck" in (outputs / "again" / "traceback.txt").read_text()


# ---- which models


def test_one_model_under_two_names_is_one_model(base: Config, outputs: Path, rows: pd.DataFrame) -> None:
    spec = base["models"]["A"]
    twins = {**base, "models": {**base["models"], "A_again": dict(spec)}}
    experiment = plan.prepare(twins)
    assert (list(experiment.plans), experiment.sources, experiment.targets) == (["A", "B"], ["A", "B"], ["A", "B"])
    assert run(twins, outputs, name="again").to_csv() == rows.to_csv()


def test_sources_and_targets_choose_rows_and_models(base: Config, tmp_path: Path, rows: pd.DataFrame) -> None:
    spec = base["models"]["A"]
    chosen = {**base, "models": {**base["models"], "C": {**spec, "seed": 2}}, "sources": ["A"], "targets": ["B"]}
    found = run(chosen, tmp_path)
    assert found[["source", "target"]].values.tolist() == [["B", "B"], *[["A", "B"]] * 3]
    assert len(list((tmp_path / "models").glob("madry_mnist-*"))) == 2  # C is not needed
    common = rows.set_index(KEY).drop(columns="seconds").loc[list(found[KEY].itertuples(index=False, name=None))]
    pd.testing.assert_frame_equal(found.set_index(KEY).drop(columns="seconds"), common, check_exact=True)


def test_the_papers_numbers_stand_beside_ours(base: Config, outputs: Path) -> None:
    reference = [
        {"metric": "error_top1", "attack": "fgsm", "eps": 0.3, "percent": {"A": {"A": 71.4, "B": 50.7}}},
        {"metric": "transfer_rate_top1", "attack": "pgd", "eps": 0.2, "percent": {"B": {"A": 18}}},
    ]
    found = run({**base, "reference": reference}, outputs, name="again")
    assert tuple(found.columns) == tables.COLUMNS
    given = found[found["paper_value"].notna()][[*KEY, "paper_value", "paper_metric"]]
    assert given.values.tolist() == [
        ["A", "A", "fgsm", 0.3, 0.714, "error_top1"],
        ["A", "B", "fgsm", 0.3, 0.507, "error_top1"],
        ["B", "A", "pgd", 0.2, 0.18, "transfer_rate_top1"],
    ]


def test_the_papers_numbers_of_a_twin_are_kept(base: Config) -> None:
    """A model that is listed under another model's name keeps what the paper says of it."""
    spec = base["models"]["A"]
    reference = [{"metric": "error_top1", "attack": "fgsm", "eps": 0.3, "percent": {"A2": {"B": 50.7}}}]
    experiment = plan.prepare({**base, "models": {**base["models"], "A2": dict(spec)}, "reference": reference})
    assert experiment.published("A", "B", "fgsm", 0.3) == {"paper_value": 0.507, "paper_metric": "error_top1"}


def test_ensemble_adversarial_training_shares_its_sources(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = count_calls(monkeypatch, workshop, "fit")
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
    other = plan.prepare(tiny(override)).plans["target"]
    assert other.key != plan.prepare(tiny()).plans["target"].key


@pytest.mark.parametrize(
    "override",
    [
        *("dataset.test_size=39", "device=auto", "outputs=elsewhere", "checkpoint_seconds=1", "threads=2"),
        *("batch_size=7", "reuse=false", "suite=one_step", "experiment=other", "trainer.epochs=6.0"),
    ],
)
def test_what_cannot_change_a_training_does_not(tiny: Compose, override: str) -> None:
    assert plan.prepare(tiny(override)).plans["target"].key == plan.prepare(tiny()).plans["target"].key


def test_the_same_images_elsewhere_train_the_same_model(tiny: Compose, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = {name: generator.integers(0, 256, (12, 8, 8), dtype=np.uint8) for name in ("train", "test")}
    keys = []
    for root in ("here", "there", "changed"):
        (tmp_path / root).mkdir()
        if root == "changed":
            images["train"][0, 0, 0] ^= 1
        for name, x in images.items():
            np.savez(tmp_path / root / f"{name}.npz", x=x, y=np.arange(12) % 3)
        config = tiny("dataset=npz", f"dataset.root={tmp_path / root}", "dataset.train_size=12", "dataset.test_size=9")
        keys.append(plan.prepare(config).plans["target"].key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.skipif(not (ROOT / "data" / "MNIST").is_dir(), reason="MNIST is not here")
def test_the_leave_to_download_does_not_name_a_model(tiny: Compose) -> None:
    root = f"dataset.root={ROOT / 'data'}"
    with_leave, without = (
        plan.prepare(tiny("dataset=mnist", root, f"dataset.download={leave}")).plans["target"].key
        for leave in ("true", "false")
    )
    assert with_leave == without


def test_an_ensembles_sources_name_it(tiny: Compose) -> None:
    def key(**fields: Any) -> str:
        config = tiny("trainer=ensemble_adv")
        sources = config["models"]["target"]["trainer"]["sources"]
        sources["A"] = {**sources["A"], **fields}
        return plan.prepare(config).plans["target"].key

    assert key() == key()
    assert key(seed=9) != key()


def test_the_config_hash_names_what_can_change_a_result(tiny: Compose) -> None:
    plain = plan.prepare(tiny()).config_hash
    for same in ("threads=2", "outputs=elsewhere", "checkpoint_seconds=1", "reuse=false", "device=auto"):
        assert plan.prepare(tiny(same)).config_hash == plain, same
    for other in ("seed=1", "dataset.test_size=39", "suite.fgsm.eps=0.2", "suite=one_step", "trainer.epochs=2"):
        assert plan.prepare(tiny(other)).config_hash != plain, other


# ---- run directories


def test_runs_of_one_second_have_their_own_directories(base: Config, tmp_path: Path) -> None:
    experiment = plan.prepare({**base, "outputs": str(tmp_path)})
    found = {experiments.claim_directory(experiment, None, None) for _ in range(4)}
    assert len(found) == 4 and all(path.parent == tmp_path / "transfer" for path in found)
    job = tmp_path / "sweep" / "0"
    assert experiments.claim_directory(experiment, None, job) == job
    assert experiments.claim_directory(experiment, None, job) == tmp_path / "sweep" / "0-2"


def test_a_given_directory_is_taken_unless_it_holds_something_else(base: Config, outputs: Path) -> None:
    experiment = plan.prepare({**base, "outputs": str(outputs)})
    new, own = str(outputs / "deep" / "new"), str(outputs / "run")
    assert experiments.claim_directory(experiment, new, None) == Path(new)
    assert experiments.claim_directory(experiment, new, None) == Path(new)  # empty still
    assert experiments.claim_directory(experiment, own, None) == Path(own)  # its own run goes on
    other = plan.prepare({**base, "outputs": str(outputs), "seed": 1})
    with pytest.raises(ConfigError, match="name another directory"):
        experiments.claim_directory(other, own, None)
    with pytest.raises(ConfigError, match="name another directory"):
        experiments.claim_directory(other, str(outputs / "models"), None)


# ---- what prepare refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": ["a"]}, "sources names 'a'"),
        ({"targets": ["A", "X"]}, "targets names 'X'"),
        ({"modles": {}}, "modles is not a config key (did you mean 'models'?)"),
        ({"seed": -1}, "seed should be at least 0, is -1"),
        ({"seed": 1.5}, "seed should be an int, is 1.5"),
        ({"threads": 0}, "threads should be positive, is 0"),
        ({"batch_size": 0}, "batch_size should be positive, is 0"),
        ({"device": "tpu"}, "device should be one of auto, cpu, cuda, mps, is 'tpu'"),
        ({"suite": {"clean": PGD}}, "suite.clean: the name clean is taken"),
        ({"suite": {"pgd": {**PGD, "eps": [0.1, 1.5]}}}, "suite.pgd.eps should be a float in [0, 1], is 1.5"),
        ({"attack": {"pgd": {**PGD, "steps": 3}}}, "attack pgd at eps 0.2 is set twice, differently"),
        ({"reference": [{"metric": "error"}]}, "reference[0]."),
        ({"models": {"A": {"arch": {}}}}, "models.A.dataset is missing"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(base: Config, change: Config, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan.prepare({**base, **change})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# ---- the worst case


def test_worst_case_rows_are_at_least_as_bad_as_each_attack(
    base: Config, outputs: Path, done: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = run({**base, "task": "worst_case"}, outputs, name="worst")
    assert worst[KEY].values.tolist() == [
        [model, model, attack, eps]
        for model in ("A", "B")
        for attack, eps in (("clean", 0.0), ("worst_case", 0.1), ("worst_case", 0.2), ("worst_case", 0.3))
    ]
    matrix = done[1][done[1]["source"] == done[1]["target"]]
    for row in worst.itertuples():
        same = matrix[(matrix["source"] == row.source) & (matrix["eps"] == row.eps)]
        assert row.error_top1 >= same["error_top1"].max() - 1e-12 and row.n == TEST_IMAGES
        assert row.error_top1 >= row.clean_error_top1

    monkeypatch.setattr(evaluate, "worst_case", None)  # finished rows are reused
    again = run({**base, "task": "worst_case"}, outputs, name="again")
    pd.testing.assert_frame_equal(worst.drop(columns="seconds"), again.drop(columns="seconds"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: TF32 is a mode of its tensor cores")
def test_attacks_in_tf32_succeed_as_often_as_in_fp32(base: Config, tmp_path: Path) -> None:
    fp32, tf32 = (run({**base, "precision": p}, tmp_path / p) for p in ("fp32", "tf32"))
    assert ((fp32["error_top1"] >= tf32["error_top1_low"]) & (fp32["error_top1"] <= tf32["error_top1_high"])).all()
