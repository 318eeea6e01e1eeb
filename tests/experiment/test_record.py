"""What a run's record says of it to a collector: settings and cells."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_files import changed, random_images, write_npz

from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.record import flat_settings, for_collectors, words_of_settings
from epsball.experiment.run import run_experiments
from epsball.experiment.settings import COMPUTED, FILES
from epsball.runtime.progress import Stop

Tiny = Callable[..., dict[str, Any]]


def test_settings_are_flat_plain_and_hold_no_seed_no_path_and_no_machine(tiny: Tiny) -> None:
    settings = flat_settings(tiny("seed=3", "outputs=x", "models=companions", "suite=one_step"))
    assert json.loads(json.dumps(settings)) == settings
    assert settings["dataset"] == "digits" and settings["dataset.train_size"] == 64
    assert settings["arch"] == "madry_mnist" and settings["arch.width"] == 0.25
    assert settings["trainer"] == "standard" and settings["trainer.epochs"] == 6
    assert settings["suite"] == "fgsm,rand_fgsm" and settings["suite.fgsm"] == "gradient"
    assert settings["suite.fgsm.eps"] == settings["eps"] == 0.3
    assert settings["models"] == "target,copy,natural,holdout"
    assert settings["models.target.arch"] == "madry_mnist" and settings["measurement"] == "transfer_matrix"
    left_out = {"seed", "outputs", "device", "threads", "workers", "experiment", "name", "root", "claims"}
    assert not left_out & {part for key in settings for part in key.split(".")}


def test_settings_of_other_seeds_paths_and_machines_are_the_same(tiny: Tiny) -> None:
    """So that seeds of machines with other cores, memory and paths add up."""
    plain = tiny()
    for key in (*COMPUTED, *FILES, "seed", "reuse"):
        assert key in plain and flat_settings({**plain, key: "another"}) == flat_settings(plain)
    assert flat_settings(tiny("trainer.epochs=7")) != flat_settings(tiny())


def test_settings_tell_own_images_apart_wherever_they_lie(tiny: Tiny, tmp_path: Path) -> None:
    settings = []
    for root, images in (("here", {}), ("there", {}), ("changed", {"test": changed(random_images()["test"])})):
        write_npz(tmp_path / root, **images)
        sizes = ("dataset.train_size=12", "dataset.test_size=9")
        part = [prepare_experiment(tiny("dataset=npz", f"dataset.root={tmp_path / root}", *sizes))]
        settings.append(for_collectors(part)["settings"])
    here, there, other = settings
    assert here == there
    assert {key for key in here if here[key] != other[key]} == {
        "dataset.checksum",
        "models.target.dataset.checksum",
    }


def cells(config: dict[str, Any]) -> list[tuple[Any, ...]]:
    found = prepare_experiment(config).cells
    assert {cell[0] for cell in found} <= {"digits"}
    return [cell[1:] for cell in found]


def test_cells_of_a_transfer_matrix(tiny: Tiny) -> None:
    clean = ("clean", "target", "target", "clean", 0.0)
    attacked = [("transfer_matrix", "target", "target", name, 0.3) for name in ("fgsm", "rand_fgsm")]
    assert cells(tiny("suite=one_step")) == [clean, *attacked]
    assert cells(tiny("suite=fgsm", "suite.fgsm.eps=[0.1,0.2]")) == [
        clean,
        *(("transfer_matrix", "target", "target", "fgsm", eps) for eps in (0.1, 0.2)),
    ]


def test_cells_that_are_asked(tiny: Tiny) -> None:
    claim = "+claims.one={says: x, paper: y, checks: ['error(target | target, fgsm) > 0']}"
    asked = cells(tiny("suite=one_step", "measurement.cells=asked", claim))
    assert asked == [
        ("clean", "target", "target", "clean", 0.0),
        ("transfer_matrix", "target", "target", "fgsm", 0.3),
    ]


def test_cells_of_a_worst_case_beside_a_matrix(tiny: Tiny) -> None:
    beside = "+measurements.worst={name: worst_case}"
    assert cells(tiny("suite=fgsm", beside)) == [
        ("clean", "target", "target", "clean", 0.0),
        ("transfer_matrix", "target", "target", "fgsm", 0.3),
        ("worst", "target", "target", "worst_case", 0.3),
    ]


@pytest.mark.parametrize("name", ["gradient_norms", "gradient_pictures", "gaas"])
def test_other_measurements_promise_clean_errors_alone(tiny: Tiny, name: str) -> None:
    assert cells(tiny(f"measurement={name}")) == [("clean", "target", "target", "clean", 0.0)]


def test_words_that_change_a_papers_settings_are_told_from_those_that_do_not() -> None:
    kept = ["paper=madry/table1", "scale=quick", "seeds=3", "outputs=o", "device=cpu", "missing=skip", "rows=[a.csv]"]
    kept += [
        "measurement.images=500",
        "sources=[A]",
        "hydra.run.dir=r",
        "dataset.root=data",
        "claims.x=null",
        "~tables",
    ]
    changing = [
        "eps=0.2",
        "dataset.test_size=2000",
        "+models.A.trainer.epochs=3",
        "arch@models.B.arch=mnist_d",
        "~suite",
    ]
    assert words_of_settings([*kept, *changing]) == changing
    assert words_of_settings(changing) == [] == words_of_settings(kept)


def test_a_report_says_what_its_models_are_and_at_which_scale(tiny: Tiny, tmp_path: Path) -> None:
    folder, words = tmp_path / "run", ["paper=mine", "eps=0.2"]
    config = tiny(
        "models=companions", "models.copy=null", "models.holdout=null", "trainer.epochs=1", f"outputs={tmp_path}"
    )
    config["models"]["natural"] = config["models"]["target"]
    table = {"title": "T", "rows": {"A": "target"}, "columns": {"Clean": "error({row})"}, "unit": "percent"}
    config["tables"] = {"t": {**table, "paper": {"A": [50.0]}}}
    experiment = prepare_experiment(config)
    run_experiments("mine", [[experiment]], folder, words, Stop())
    report = (folder / "report.md").read_text()
    assert "- scale: quick\n- not as the paper's file: eps=0.2\n" in report
    (line,) = [line for line in report.partition("## Models")[2].splitlines() if line.startswith("| target")]
    spec = experiment.specs["target"]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert [*cells[:4], cells[6]] == ["target, natural", "madry_mnist-standard", "1", "0", spec.key]
    assert int(cells[4]) == sum(p.numel() for p in spec.make_network().parameters())
    (known,) = json.loads((folder / "run.json").read_text())["models"].values()
    assert cells[5] == f"{100 * known['clean_error']:.1f}"
