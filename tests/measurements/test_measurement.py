"""What all measurements share: what they work with, rows that are kept, contracts; and that a new one is one class."""

import pickle
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from math import isnan, prod
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from linear import linear
from squares import EPS, FGSM, WEIGHTS, assert_same, cells, errors, example, images, make_setup, whole

from epsball.attacks import NamedAttack
from epsball.attacks.noise import NoiseAttack
from epsball.build import ConfigError, build
from epsball.data.examples import Examples, challenge_bytes
from epsball.data.images import Split
from epsball.experiment.components import check_measurements
from epsball.experiment.expected import fits, rows_of
from epsball.experiment.prepare import Experiment, prepare_experiment
from epsball.experiment.report import as_frames, of_measurement
from epsball.experiment.run import measure, run_experiments
from epsball.experiment.setup import set_up
from epsball.measurements import MEASUREMENTS
from epsball.measurements.coherence import Coherence
from epsball.measurements.gaas import Gaas
from epsball.measurements.gradient_norms import GradientNorms
from epsball.measurements.gradient_pictures import GradientPictures
from epsball.measurements.loss_paths import LossPaths
from epsball.measurements.loss_surface import LossSurface
from epsball.measurements.measurement import Measurement, Rows, Setup, Workload, clean_rates, clean_rows
from epsball.measurements.rounding import Rounding
from epsball.measurements.score_examples import ScoreExamples
from epsball.measurements.training_curves import TrainingCurves
from epsball.measurements.transfer_matrix import TransferMatrix
from epsball.measurements.worst_case import WorstCase
from epsball.models.predictions import Mistakes
from epsball.models.wrappers import Ensemble
from epsball.output.pages import Section
from epsball.paper.expressions import Quantity
from epsball.results.distributions import Bins
from epsball.results.given import GivenRows, read_given
from epsball.results.metrics import ERROR_METRICS, METRICS, Metric
from epsball.results.paired import packed_bits
from epsball.results.rows import FURTHER
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.store import Store
from epsball.training.trained import TrainedModels

Config = dict[str, Any]
Measure = Callable[[Measurement, Setup], Rows]

SURFACE = LossSurface("A", "B", extent=0.2, zoom=0.02, grid=4, points=2, averaged=5, clip=False)
EXAMPLES = Examples(example("A", *whole(images())), EPS, 50, "e" * 12)
EVERY: dict[str, Measurement] = {
    "transfer_matrix": TransferMatrix(cells="all"),
    "worst_case": WorstCase(),
    "gradient_norms": GradientNorms(bins=None),
    "coherence": Coherence(images=None, bins=None),
    "rounding": Rounding(images=None, bins=None),
    "gradient_pictures": GradientPictures(images=1),
    "loss_surface": SURFACE,
    "gaas": Gaas(images=None, eps=[0.1, EPS], directions=[1, 4], gradients_of="log_cross_entropy"),
    "training_curves": TrainingCurves(),
    "score_examples": ScoreExamples("attack.npy", EPS, None, EXAMPLES),
    "loss_paths": LossPaths("fgsm", None, images=20, restarts=2, steps=[1], drawn=1, paths=True),
}


def setup_for(name: str, folder: Path) -> Setup:
    """What a measurement can be done with: FGSM, but from random starts where it asks for these, and of ensembles."""
    return make_setup(folder, NamedAttack("fgsm", UNIFORM if name == "loss_paths" else FGSM), **models_for(name))


def models_for(name: str) -> Config:
    """Return ensembles A and B where a measurement asks for these; elsewhere the setup's own models."""
    pairs = {"A": ("A", "B"), "B": ("B", "B")}
    made = {model: Ensemble([linear(WEIGHTS[each]) for each in pair], "mean_logit") for model, pair in pairs.items()}
    return {"models": {model: own.eval() for model, own in made.items()}} if name == "coherence" else {}


KEPT = [name for name in EVERY if name != "gradient_pictures"]  # whose rows are kept for later runs


# ---- identities, pinned: see tests/experiment/test_identities.py for what to do when one of these changes
# (rows': new with issue 12, when device and batch size left them, and which images were mistaken came to the rows)


def test_a_rows_key_and_an_attacks_random_numbers_are_pinned(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    (attack,) = setup.attacks
    assert setup.identity(attack.identity, "A", "B") == "e3502cd1d500"
    assert setup.identity("clean", "A", "A") == "665162f7c6e8"
    assert setup.generator(attack, "A").initial_seed() == 8863095960725126997


def test_the_name_of_an_attack_is_in_neither(tmp_path: Path) -> None:
    setup, other = make_setup(tmp_path), make_setup(tmp_path, NamedAttack("mine", FGSM))
    one, two = setup.attacks[0], other.attacks[0]
    assert setup.identity(one.identity, "A", "B") == other.identity(two.identity, "A", "B")
    assert setup.generator(one, "A").initial_seed() == other.generator(two, "A").initial_seed()


CHANGES: dict[str, dict[str, Any]] = {
    "test_checksum": {"test_checksum": "60 squares"},
    "seed": {"seed": 1},
    "tf32": {"tf32": True},
    "source": {"keys": {"A": "c" * 12, "B": "b" * 12}},
    "target": {"keys": {"A": "a" * 12, "B": "c" * 12}},
    "source and target": {"keys": {"A": "b" * 12, "B": "a" * 12}},
}


def test_whatever_numbers_depend_on_changes_the_rows_key(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    what = setup.attacks[0].identity
    keys = {name: replace(setup, **change).identity(what, "A", "B") for name, change in CHANGES.items()}
    assert len({setup.identity(what, "A", "B"), *keys.values()}) == len(CHANGES) + 1, keys
    others: Config = {"dataset": "circles", "cuda_graphs": True, "reuse": False, "targets": ["B"], "sources": ["A"]}
    others |= {"batch_size": 17}  # another partition of a random start's draws, another machine: the same measurement
    others |= {"test": Split(torch.empty(1, 1, 2, 2, device="meta"), torch.empty(1, device="meta"))}
    for field, value in others.items():  # which change no number
        assert replace(setup, **{field: value}).identity(what, "A", "B") == setup.identity(what, "A", "B"), field


UNIFORM = replace(FGSM, start="uniform", start_share=1.0)
ATTACK_CHANGES: dict[str, Any] = {
    "eps": replace(FGSM, eps=0.25),
    "steps": replace(FGSM, steps=2),
    "step_size": replace(FGSM, step_size=0.2),
    "step_share": replace(FGSM, step_share=0.7),
    "step": replace(FGSM, step="l2"),
    "loss": replace(FGSM, loss="margin"),
    "kappa": replace(FGSM, loss="margin", kappa=1.0),
    "label": replace(FGSM, label="predicted"),
    "start": UNIFORM,
    "start_share": replace(UNIFORM, start_share=0.5),
    "clip_start": replace(FGSM, clip_start=False),
    "momentum": replace(FGSM, momentum=1.0),
    "restarts": replace(UNIFORM, restarts=2),
    "keep": replace(FGSM, keep="best"),
}


def test_every_setting_of_an_attack_changes_the_rows_key_and_the_random_numbers(tmp_path: Path) -> None:
    assert ATTACK_CHANGES.keys() == {field.name for field in fields(FGSM)}
    noise = [NoiseAttack(0.2, "sign"), NoiseAttack(0.2, "truncated_normal"), NoiseAttack(0.1, "sign")]
    attacks = [NamedAttack("fgsm", attack) for attack in [FGSM, *ATTACK_CHANGES.values(), *noise]]
    setup = make_setup(tmp_path)
    assert len({setup.identity(attack.identity, "A", "B") for attack in attacks}) == len(attacks)
    assert len({setup.generator(attack, "A").initial_seed() for attack in attacks}) == len(attacks)


def test_no_two_attacks_sources_or_seeds_share_random_numbers(tmp_path: Path) -> None:
    attacks = [NamedAttack("noise", NoiseAttack(eps, "sign")) for eps in (0.1, 0.2)]
    setups = [make_setup(tmp_path, *attacks, seed=seed) for seed in (0, 1)]
    drawn = [torch.rand(4, generator=s.generator(a, m)).tolist() for s in setups for a in attacks for m in "AB"]
    assert len({tuple(numbers) for numbers in drawn}) == 2 * 2 * 2
    again = [torch.rand(4, generator=s.generator(a, m)).tolist() for s in setups for a in attacks for m in "AB"]
    assert again == drawn  # each from its beginning, whatever was drawn before


def test_random_numbers_depend_on_nothing_else(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    (attack,) = setup.attacks
    other = replace(setup, batch_size=7, test_checksum="60 squares", dataset="circles", targets=["B"], tf32=True)
    assert other.generator(attack, "A").initial_seed() == setup.generator(attack, "A").initial_seed()


# ---- columns of grids


def test_a_row_carries_the_grid_values_of_its_target_or_else_of_its_source(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, grid_values={"A": {"width": 2, "act": "elu"}})
    both = replace(setup, grid_values={**setup.grid_values, "B": {"width": 4}})

    def columns(setup: Setup, source: str, target: str) -> dict[str, Any]:
        row = setup.row({"n": 3}, source, target, "fgsm", 0.1)
        known = ("dataset", "seed", "source", "target", "attack", "eps", "n", "source_model", "target_model")
        return {column: value for column, value in row.items() if column not in known}

    assert columns(setup, "B", "A") == columns(setup, "A", "B") == {"width": 2, "act": "elu"}
    assert columns(setup, "B", "B") == {} and columns(both, "A", "B") == {"width": 4}


def test_grid_values_are_not_in_a_rows_key(tmp_path: Path) -> None:
    """A grid's model and the same model listed share their rows."""
    setup = make_setup(tmp_path)
    assert replace(setup, grid_values={"A": {"width": 2}}).identity("fgsm", "A", "B") == setup.identity(
        "fgsm", "A", "B"
    )


# ---- rows that are kept


def test_kept_numbers_are_found_by_a_later_run_at_their_place_alone(tmp_path: Path) -> None:
    setup, numbers = make_setup(tmp_path), [{"n": 3, "error_top1": 1 / 3, "seconds": 0.1}, {"n": 4}]
    assert setup.find("clean", "A", "B") is None
    found = [{**row, "identity": setup.identity("clean", "A", "B")} for row in numbers]
    assert setup.keep("clean", "A", "B", numbers) == found
    later = make_setup(tmp_path)
    assert later.find("clean", "A", "B") == found
    assert [later.find("clean", *pair) for pair in ("AA", "BA", "BB")] == [None] * 3
    assert later.find("gradients", "A", "B") is None and replace(later, seed=1).find("clean", "A", "B") is None
    assert make_setup(tmp_path / "elsewhere").find("clean", "A", "B") is None


def test_without_reuse_nothing_is_found_and_all_is_kept(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, reuse=False)
    kept = setup.keep("clean", "A", "A", [{"n": 1}])
    assert setup.find("clean", "A", "A") is None and replace(setup, reuse=True).find("clean", "A", "A") == kept


def test_rows_that_the_user_gave_come_before_kept_ones(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    setup.keep("clean", "A", "A", [{"n": 1}])
    identity = setup.identity("clean", "A", "A")
    given = replace(setup, given=GivenRows(rows={identity: [{"n": 2}]}), reuse=False)
    assert given.find("clean", "A", "A") == [{"n": 2, "identity": identity}]
    assert given.given.asked == {identity}


def test_a_row_says_where_it_stands_before_its_numbers(tmp_path: Path) -> None:
    row = make_setup(tmp_path, seed=3).row({"n": 5, "error_top1": 0.5}, "A", "B", "fgsm", 0.2)
    assert list(row.items()) == [
        *(("dataset", "squares"), ("seed", 3), ("source", "A"), ("target", "B")),
        *(("attack", "fgsm"), ("eps", 0.2), ("n", 5), ("error_top1", 0.5)),
        *(("source_model", "a" * 12), ("target_model", "b" * 12)),
    ]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_is_not_measured_again(
    name: str, measured: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = measured(EVERY[name], setup_for(name, tmp_path))
    works = ("transfer_matrix.transfer", "gradient_norms.gradient_norms", "worst_case.find_fooled")
    works += ("loss_surface.losses_on_grid", "training_curves.epoch_row", "score_examples.score", "loss_paths.follow")
    works += ("coherence.alignment", "rounding.roundings", "gaas.count_adversarial")
    for work in (*works, "measurement.find_mistakes"):
        monkeypatch.setattr(f"epsball.measurements.{work}", lambda *_, work=work, **__: pytest.fail(f"{work} called"))
    assert_same(measured(EVERY[name], setup_for(name, tmp_path))["results"], first["results"])


@pytest.mark.parametrize("name", EVERY)
def test_the_models_that_it_needs_are_those_of_unfinished_rows(name: str, measured: Measure, tmp_path: Path) -> None:
    setup = setup_for(name, tmp_path)
    assert EVERY[name].workload(setup).models == {"A", "B"}
    measured(EVERY[name], setup)
    assert EVERY[name].workload(setup).models == (set() if name in KEPT else {"A", "B"})


@pytest.mark.parametrize("name", EVERY)
def test_what_is_skipped_needs_no_model_and_makes_no_row(name: str, measured: Measure, tmp_path: Path) -> None:
    setup = replace(setup_for(name, tmp_path), models={}, skips=True)
    rows = measured(EVERY[name], setup)
    assert rows["results"] == [] and all(found == [] for found in rows.values())
    assert not list(tmp_path.rglob("*.json"))
    frames = as_frames(rows)
    EVERY[name].present(frames, tmp_path)
    EVERY[name].say(frames)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_finished_is_shown_without_models(name: str, measured: Measure, tmp_path: Path) -> None:
    setup = setup_for(name, tmp_path)
    first = measured(EVERY[name], setup)
    again = measured(EVERY[name], replace(setup, models={}, skips=True))
    assert_same(again["results"], first["results"])


@pytest.mark.parametrize("name", KEPT)
def test_each_row_is_kept_once(name: str, measured: Measure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[str] = []
    keep_rows = Store.keep_rows
    monkeypatch.setattr(Store, "keep_rows", lambda store, key, rows: (kept.append(key), keep_rows(store, key, rows)))
    rows = measured(EVERY[name], setup_for(name, tmp_path))["results"]
    assert len(kept) == len(set(kept)) and {row["identity"] for row in rows} <= set(kept)


@pytest.mark.parametrize("name", EVERY)
def test_rows_of_a_cell_differ_in_the_columns_that_it_names(name: str, measured: Measure, tmp_path: Path) -> None:
    """A statement about a metric is checked by them before anything is measured (experiment/expected.py)."""
    measurement, setup = EVERY[name], setup_for(name, tmp_path)
    if any(each.name == "bins" for each in fields(measurement)):
        measurement = replace(measurement, bins=Bins(0, 4, 3, False))
    rows = measured(measurement, setup)["results"]
    cells = {(row["target"], row["source"], row["attack"]) for row in rows}
    seen, error_cells = set(), list(measurement.error_cells(setup))
    for metric, (target, source, attack) in product(METRICS.values(), cells):
        quantity = Quantity(metric.name, target, (source,), (attack,))
        further = list(rows_of(measurement, quantity, error_cells))
        own = [row for row in rows if quantity.is_about(row) and not isnan(metric.value_in(row))]
        if not further or not own:  # an attack of its own makes, and a metric that a model may lack
            continue
        seen.add(metric.name)
        places = [{column: row[column] for column in (*FURTHER, "eps") if column in row} for row in own]
        assert [sum(fits(each, place) for each in further) for place in places] == [1] * len(own), (quantity, places)
        if not any(values is None for each in further for values in each.values()):
            assert len(own) == sum(prod(len(values or ()) for values in each.values()) for each in further), quantity
    assert seen or name in ("loss_surface", "gradient_pictures", "training_curves")  # whose models have no curves here


# ---- clean images


def marked(top1: str, top5: str | None = None) -> Mistakes:
    """`x` is wrong, `.` is right."""
    five = None if top5 is None else torch.tensor([c == "x" for c in top5])
    return Mistakes(torch.tensor([c == "x" for c in top1]), five, torch.arange(len(top1)) + 1.0, 2.5)


def test_clean_rates_by_hand() -> None:
    assert clean_rates(marked("x..x.", "....x")) == {
        "n": 5,
        "error_top1": 0.4,
        "error_top5": 0.2,
        "loss_mean": 3.0,
        "loss_sd": pytest.approx(2.5**0.5),
        "mistakes_top1": packed_bits([True, False, False, True, False]),
        "mistakes_top5": packed_bits([False] * 4 + [True]),
        "clean_error_top1": 0.4,
        "max_perturbation": 0.0,
        "seconds": 2.5,
    }


def test_the_clean_row_is_the_models_own(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    rows = clean_rows(setup, ["A", "B"])
    assert cells(rows) == [("clean", "A", "A"), ("clean", "B", "B")] and [row["eps"] for row in rows] == [0.0, 0.0]
    assert [row["error_top1"] for row in rows] == [float(errors(name, x, y).double().mean()) for name in "AB"]
    assert rows[0]["error_top1"] != rows[1]["error_top1"]


def test_clean_mistakes_are_those_of_a_fingerprint_whatever_the_models_name(tmp_path: Path) -> None:
    """Seeds and parts of a run share them: the same name may be another model, another name the same."""
    setup = make_setup(tmp_path)
    x, y = whole(setup.test)
    assert torch.equal(setup.clean_mistakes("A").top1, errors("A", x, y))
    models = {"B": linear(WEIGHTS["A"]), "A": linear(WEIGHTS["B"])}
    swapped = make_setup(tmp_path, models=models, keys={"B": setup.keys["A"], "A": "d" * 12}, clean=setup.clean)
    assert swapped.clean_mistakes("B") is setup.clean_mistakes("A")
    assert torch.equal(swapped.clean_mistakes("A").top1, errors("B", x, y))


# ---- any measurement


def test_every_measurement_is_tested_here() -> None:
    assert {name: type(measurement) for name, measurement in EVERY.items()} == dict(MEASUREMENTS)


@pytest.mark.parametrize("name", EVERY)
def test_it_stops_when_asked_to_and_leaves_models_as_they_were(name: str, tmp_path: Path) -> None:
    setup = setup_for(name, tmp_path / "measured")
    before = {model: own.state_dict() for model, own in setup.models.items()}
    before = {model: {key: value.clone() for key, value in state.items()} for model, state in before.items()}
    rows = EVERY[name].measure(setup)
    assert "results" in rows
    for model, own in setup.models.items():
        assert all(torch.equal(value, before[model][key]) for key, value in own.state_dict().items())
        assert all(parameter.grad is None for parameter in own.parameters()) and not own.training
    stopped = setup_for(name, tmp_path / "stopped")
    stopped.stop.signum = 15
    with pytest.raises(Interrupted):
        EVERY[name].measure(stopped)


@pytest.mark.parametrize("name", EVERY)
def test_a_measurement_that_can_be_done_is_not_refused(name: str) -> None:
    EVERY[name].check(["A", "B"], ["A", "B"], [NamedAttack("fgsm", UNIFORM)])
    EVERY[name].check_members({"A": 2, "B": 5} if name == "coherence" else {"A": 1, "B": 2})


@pytest.mark.parametrize("name", EVERY)
def test_the_cells_that_it_promises_are_those_it_measures(name: str, tmp_path: Path) -> None:
    first = UNIFORM if name == "loss_paths" else FGSM
    attacks = [NamedAttack("fgsm", first), NamedAttack("fgsm", replace(first, eps=0.1)), NamedAttack("other", FGSM)]
    attacks = attacks[: 1 if name == "loss_surface" else 3]
    setup = make_setup(tmp_path, *attacks, sources=["A", "B"], targets=["B"], **models_for(name))
    rows = [row for row in EVERY[name].measure(setup)["results"] if "error_top1" in row]
    found = [(row["source"], row["target"], row["attack"], row["eps"]) for row in rows]
    assert list(EVERY[name].error_cells(setup)) == list(dict.fromkeys(found))
    every = len(setup.test)
    assert all(row["n"] == min(EVERY[name].images_of(row["attack"]) or every, every) for row in rows)
    assert bool(found) == (name in ("transfer_matrix", "worst_case", "loss_paths", "score_examples"))


@pytest.mark.parametrize("name", EVERY)
def test_its_rows_have_the_metrics_that_it_says(name: str, tmp_path: Path) -> None:
    bins = Bins(low=0.0, high=1.0, number=2, log=False)
    measurement: Any = EVERY[name]
    if "bins" in {field.name for field in fields(measurement)}:
        measurement = replace(measurement, bins=bins)
    rows = measurement.measure(setup_for(name, tmp_path))["results"]
    found = {metric.name for metric in METRICS.values() if any(not isnan(metric.value_in(row)) for row in rows)}
    assert found <= {*ERROR_METRICS, *measurement.metrics}
    not_here = {
        "transfer_rate_top5",
        "loss_share",
        "certain_rounded_signs",
    }  # of ten classes, with bins, of sure models
    if name != "training_curves":  # these models have none
        assert {*measurement.metrics} - found <= not_here


def test_some_measurement_has_every_metric() -> None:
    assert {*ERROR_METRICS, *(name for kind in MEASUREMENTS.values() for name in kind.metrics)} == set(METRICS)


def test_one_that_cannot_be_done_is_refused_where_the_config_names_it() -> None:
    arguments = {"mine": SURFACE}, ["A"], ["A", "B"], [NamedAttack("fgsm", FGSM)], {"A": 1, "B": 1}
    places = {"measurement": {}, "measurements.mine": {"measurements": {"mine": {"name": "loss_surface"}}}}
    for where, config in places.items():
        with pytest.raises(ConfigError) as caught:
            check_measurements(arguments[0], config, *arguments[1:])
        assert str(caught.value) == f"{where}.other names 'B': the sources are A"


# ---- shown from rows alone: those of a finished run, read from its files, without a model


SHOWN: dict[str, Config] = {
    "transfer_matrix": {"cells": "all"},
    "worst_case": {},
    "gradient_norms": {"bins": None},
    "coherence": {"images": 10, "bins": {"low": -1, "high": 1, "number": 3, "log": False}},
    "rounding": {"images": 10, "bins": {"low": -20, "high": 60, "number": 4, "log": False}},
    "gaas": {"images": 20, "eps": [0.1, 0.3], "directions": [4, 36], "gradients_of": "cross_entropy"},
    "training_curves": {},
    "gradient_pictures": {"images": 1},
    "score_examples": {"file": "attack.npy", "eps": 0.3, "pixel_max": None},
    "loss_surface": {
        **{"model": "target", "other": "target", "extent": 0.3, "zoom": 0.03, "grid": 3},
        **{"points": 1, "averaged": 2, "clip": True},
    },
    "loss_paths": {
        **{"attack": "pgd", "sources": None, "images": 10, "restarts": 2, "steps": [1, 3]},
        **{"drawn": 1, "paths": True, "bins": {"low": 0, "high": 9, "number": 3, "log": False}},
    },
}
PGD = {"name": "gradient", **asdict(UNIFORM), "steps": 3}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root for the model that all runs here share."""
    return tmp_path_factory.mktemp("outputs")


def run(config: Config, outputs: Path, folder: Path) -> Experiment:
    """Run a config, its files in `folder`."""
    experiment = prepare_experiment({**config, "outputs": str(outputs)})
    run_experiments("mine", [[experiment]], folder, [], Stop())
    return experiment


def read_rows(file: Path) -> pd.DataFrame:
    return pd.read_csv(file)


def rows_again(experiment: Experiment) -> Rows:
    """Measure once more on the run's models."""
    models = TrainedModels(Store(Path(experiment.settings.outputs), lambda: None), Stop(), [experiment.specs])
    networks = models.train(experiment.specs, experiment.execution)
    return measure(experiment, replace(set_up(experiment, models), models=networks))


def make_ensemble(config: Config) -> None:
    target = config["models"]["target"]
    target["arch"] = {"name": "ensemble", "members": {"one": target["arch"]}, "copies": 2, "rule": "mean_logit"}


def test_a_setup_names_its_ensembles(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    for expected in ([], ["target"]):
        experiment = prepare_experiment({**config, "outputs": str(tmp_path)})
        models = TrainedModels(Store(tmp_path, lambda: None), Stop(), [experiment.specs])
        assert set_up(experiment, models).ensembles == expected
        make_ensemble(config)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_shown_again_from_the_rows_of_a_finished_run(
    name: str, tiny: Callable[..., Config], outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, again = tmp_path / "finished", tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(tmp_path)
    x, _ = whole(prepare_experiment(tiny()).data.test)
    Path("attack.npy").write_bytes(challenge_bytes(x))
    shown_by = {**tiny(), "measurement": {"name": name, **SHOWN[name]}}
    if name == "coherence":
        make_ensemble(shown_by)
    experiment = run({**shown_by, **({"suite": {"pgd": PGD}} if name == "loss_paths" else {})}, outputs, finished)
    shown = {"results": read_rows(finished / "results.csv")}
    given = read_given([str(finished / "results.csv")])
    assert set(given.rows) == set(shown["results"]["identity"])  # none is called damaged
    if name == "loss_surface":
        shown["surface"] = read_rows(finished / "surface.csv")
    if name == "gradient_pictures":  # which no file of a run holds
        shown["pictures"] = pickle.loads(pickle.dumps(as_frames(rows_again(experiment))["pictures"]))
    own = {file: of_measurement(frame, name) for file, frame in shown.items()}
    measurement = experiment.measurements[name]
    sections = measurement.present(own, again)
    report, written = (finished / "report.md").read_text(), sorted(path.name for path in again.iterdir())
    assert sections and all(f"## {section.title}\n" in report for section in sections)
    assert {section.image.name for section in sections if section.image} <= set(written)
    without = ("gradient_norms", "coherence", "rounding", "gaas", "training_curves", "loss_paths")
    assert bool(written) == (name not in without)
    for file in written:
        assert (again / file).read_bytes() == (finished / file).read_bytes(), file
    assert measurement.say(own)


# ---- a new measurement: one class, a line of the table, a few words of YAML


@dataclass(frozen=True)
class Incomplete(Measurement):
    """A measurement that says neither which clean rows it needs nor what it has not finished."""

    def measure(self, setup: Setup) -> Rows:
        return {"results": []}

    def present(self, frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Section]:
        return []

    def say(self, frames: Mapping[str, pd.DataFrame]) -> str:
        return ""


def test_a_measurement_that_lacks_a_part_is_told_before_anything_is_trained() -> None:
    with pytest.raises(TypeError, match=r"abstract class Incomplete .*workload"):
        build({"incomplete": Incomplete}, {"name": "incomplete"}, where="measurement")


@dataclass(frozen=True)
class Confidence(Measurement):
    """Mean of the largest probability that each target gives a test image."""

    metrics: ClassVar[Collection[str]] = ("margin_mean",)  # one that there is: a new one is a line of its own

    digits: int
    """of the numbers shown"""

    def workload(self, setup: Setup) -> Workload:
        return Workload(frozenset(name for name in setup.targets if setup.find("confidence", name, name) is None))

    def measure(self, setup: Setup) -> Rows:
        rows = []
        for name in setup.targets:
            numbers = setup.find("confidence", name, name)
            if numbers is None and not setup.skips:
                found = [setup.models[name](x).softmax(1).amax(1) for x, _ in setup.test.batches(setup.batch_size)]
                numbers = setup.keep("confidence", name, name, [{"margin_mean": float(torch.cat(found).mean())}])
            rows += [setup.row(row, name, name, "clean", 0.0) for row in numbers or ()]
        return {"results": rows}

    def present(self, frames: Mapping[str, pd.DataFrame], folder: Path) -> list[Section]:
        return [Section("Confidence", table=self.table(frames))]

    def say(self, frames: Mapping[str, pd.DataFrame]) -> str:
        return f"confidence of {len(self.table(frames))} models\n"

    def table(self, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        rows = frames["results"]
        own = rows[rows["measurement"] != "clean"]
        return own.groupby("target", sort=False)["margin_mean"].mean().round(self.digits).astype(str).reset_index()


def test_a_new_measurement_is_one_class_and_a_line_of_the_table(
    tiny: Callable[..., Config],
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "+measurements.sure={name: confidence, digits: 3}"
    with pytest.raises(ConfigError, match=r"measurements\.sure"):
        prepare_experiment(tiny(words))
    monkeypatch.setitem(MEASUREMENTS, "confidence", Confidence)  # type: ignore[arg-type]
    experiment = run(tiny(words), outputs, tmp_path / "run")
    found = read_rows(tmp_path / "run" / "results.csv")
    assert found["measurement"].tolist() == ["clean", "transfer_matrix", "sure"]
    (plain,) = rows_again(run(tiny(), outputs, tmp_path / "plain"))["results"][1:]
    assert found["error_top1"].tolist()[1] == plain["error_top1"]  # the matrix is what it was

    models = TrainedModels(Store(outputs, lambda: None), Stop(), [experiment.specs])
    (network,) = models.train(experiment.specs, experiment.execution).values()
    x, _ = whole(experiment.data.test)
    exact = float(network(x).softmax(1).amax(1).mean())
    assert 0.1 < exact <= 1 and found["margin_mean"].tolist()[2] == pytest.approx(exact, rel=1e-5)
    assert found["margin_mean"].isna().tolist() == [True, True, False]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "## Confidence" in report and f"{exact:.3f}".rstrip("0") in report and "## Error, per cent" in report
    assert "confidence of 1 models" in capsys.readouterr().out
    assert experiment.config_hash != prepare_experiment(tiny()).config_hash


class Unlisted(Confidence):
    """One with columns that no list has: rows that are given would lose them."""

    metrics: ClassVar[Collection[str]] = ("margin_mean", "sureness")


class Further(Confidence):
    def further(self, metric: str, white_box: bool) -> Sequence[Mapping[str, Collection[float | str] | None]]:
        return [{"unlisted": [0.0, 0.1]}]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unlisted, "Unlisted has the metric sureness, which results/metrics.py should list"),
        (Further, "Further has the column unlisted, which results/rows.py should list"),
    ],
)
def test_a_column_that_no_list_has_is_refused_before_anything_is_trained(
    kind: type[Measurement], message: str, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASUREMENTS, "confidence", kind)  # type: ignore[arg-type]
    spec = {"name": "confidence", "digits": 3}
    for place, config in (
        ("measurements.sure", {"measurements": {"sure": spec}}),
        ("measurement", {"measurement": spec}),
    ):
        with pytest.raises(ConfigError) as caught:
            prepare_experiment(tiny() | config)
        assert str(caught.value) == f"{place}: {message}"


def test_a_metric_that_no_measurement_names_is_told(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "sureness", Metric("sureness", "value", None, "n"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="asks about sureness, which no measurement of this run has, nor any other"):
        prepare_experiment(tiny('objective="sureness(target)"'))
