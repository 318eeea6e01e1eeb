"""Rows that the user gives: what stands there is not measured, seeds add up, and what is not of this run is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from own_files import random_images, write_npz

from epsball.build import ConfigError
from epsball.experiment.joint import prepare_parts
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.experiment.setup import check_given
from epsball.runtime.progress import Stop

Config = dict[str, Any]
Compose = Callable[..., Config]

CLAIM = {"says": "worse", "paper": "-", "checks": ["error(target | target, fgsm) > error(target)"]}


def run(parts: list[list[Config]], outputs: Path, name: str = "run", whole: Config | None = None) -> Path:
    """Run configs by part and seed; the run directory."""
    given = [[{**config, "outputs": str(outputs)} for config in seeds] for seeds in parts]
    prepared, joint = prepare_parts(given, whole or {})
    check_given(prepared, Stop())
    run_experiments("mine/all", prepared, outputs / name, [], Stop(), joint)
    return outputs / name


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=dict.fromkeys(("source_model", "target_model", "identity"), str))


def models(outputs: Path) -> list[str]:
    return sorted(path.parent.name for path in outputs.rglob("model.safetensors"))


@pytest.fixture(scope="module")
def seeds(tiny: Compose) -> list[Config]:
    """One experiment, a claim with it, in two seeds."""
    return [{**tiny(f"seed={seed}"), "claims": {"c": CLAIM}} for seed in (0, 1)]


@pytest.fixture(scope="module")
def first(seeds: list[Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the first seed."""
    return run([seeds[:1]], tmp_path_factory.mktemp("first"))


def test_what_stands_in_them_is_neither_trained_nor_measured(seeds: list[Config], first: Path, tmp_path: Path) -> None:
    again = run([[{**seeds[0], "rows": [str(first / "results.csv")]}]], tmp_path)
    assert models(tmp_path) == [] and not (tmp_path / "rows").exists()
    for file in ("results.csv", "mistakes.csv", "claims.csv", "transfer_matrix.csv", "transfer_matrix.png"):
        assert (again / file).read_bytes() == (first / file).read_bytes(), file
    assert "paired" in (again / "claims.csv").read_text() and read(again / "claims.csv")["paired"].tolist() == ["yes"]


def test_seeds_add_up_over_runs(seeds: list[Config], first: Path, tmp_path: Path) -> None:
    """The seed that is given is not trained; the other is, and both are judged together."""
    given = [{**config, "rows": [str(first / "results.csv")]} for config in seeds]
    both = run([given], tmp_path)
    assert len(models(tmp_path)) == 1
    found = read(both / "results.csv")
    assert (
        found["seed"].tolist() == [0, 0, 1, 1]
        and found[found["seed"] == 0]["identity"].tolist() == read(first / "results.csv")["identity"].tolist()
    )
    assert read(both / "claims.csv")["seeds"].tolist() == [2]
    straight = run([seeds], tmp_path / "straight")
    assert (both / "results.csv").read_bytes() == (straight / "results.csv").read_bytes()


def test_a_file_without_a_row_of_the_run_is_told(
    seeds: list[Config], first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of another seed, here: it is not damaged, and may have been named by mistake."""
    file, told = str(first / "results.csv"), []
    for own in ([seeds[1]], seeds):
        caplog.clear()
        with caplog.at_level("INFO", logger="epsball"):
            run([[{**config, "rows": [file], "missing": "skip"} for config in own]], tmp_path, name=f"of_{len(own)}")
        told.append(f"rows: none in {file} is of this run" in caplog.messages)
    assert told == [True, False]


def test_a_file_that_contradicts_an_earlier_one_is_told(
    seeds: list[Config], first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the same training elsewhere, say: not all cells of a table are then of one model."""
    rows = read(first / "results.csv").assign(error_top1=[0.5, 0.9])
    rows.to_csv(tmp_path / "elsewhere.csv", index=False)
    files = [str(tmp_path / "elsewhere.csv"), str(first / "results.csv")]
    with caplog.at_level("INFO", logger="epsball"):
        found = read(run([[{**seeds[0], "rows": files, "missing": "skip"}]], tmp_path) / "results.csv")
    told = f"rows: for 2 cells of this run {files[1]} has other numbers than {files[0]}, which comes first"
    assert told in caplog.messages
    assert found["error_top1"].tolist() == [0.5, 0.9]


def test_only_what_is_missing_is_measured(tiny: Compose, seeds: list[Config], first: Path, tmp_path: Path) -> None:
    more = {**tiny("suite.fgsm.eps=[0.1,0.3]"), "rows": [str(first / "results.csv")]}
    found = read(run([[more]], tmp_path) / "results.csv")
    assert found["eps"].tolist() == [0.0, 0.1, 0.3]
    assert len(list((tmp_path / "rows").iterdir())) == 1  # the row at 0.1
    assert read(first / "results.csv")["error_top1"].tolist() == found["error_top1"].tolist()[::2]


def test_without_mistakes_beside_them_rows_count_unpaired(seeds: list[Config], first: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes((first / "results.csv").read_bytes())
    again = run([[{**seeds[0], "rows": [str(tmp_path / "rows.csv")]}]], tmp_path)
    assert read(again / "claims.csv")["paired"].tolist() == ["no"] and not (again / "mistakes.csv").exists()


def test_given_rows_without_mistakes_get_those_that_the_store_has(
    seeds: list[Config], first: Path, tmp_path: Path
) -> None:
    """The verdict does not turn from paired to unpaired because rows that are there already are given, too."""
    (tmp_path / "rows.csv").write_bytes((first / "results.csv").read_bytes())
    given = {**seeds[0], "rows": [str(tmp_path / "rows.csv")]}
    again = run([[given]], first.parent, "again")
    for file in ("results.csv", "mistakes.csv", "claims.csv"):
        assert (again / file).read_bytes() == (first / file).read_bytes(), file
    unused = run([[{**given, "reuse": False}]], first.parent, "unused")
    assert read(unused / "claims.csv")["paired"].tolist() == ["no"]


@pytest.mark.parametrize("words", ["trainer.epochs=2", "suite.fgsm.step_share=0.5", "precision=tf32"])
def test_rows_of_other_settings_are_refused(tiny: Compose, first: Path, tmp_path: Path, words: str) -> None:
    config = {**tiny(words), "rows": [str(first / "results.csv")]}
    with pytest.raises(ConfigError) as caught:
        run([[config]], tmp_path)
    message = str(caught.value)
    assert str(first / "results.csv") in message and " line " in message and "\n" not in message
    assert "other models or with other settings" in message and list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused_before_a_directory_is_made(seeds: list[Config], first: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv"
    cut.write_text((first / "results.csv").read_text()[:-30])
    with pytest.raises(ConfigError, match=r"cut\.csv is cut off"):
        prepare_experiment({**seeds[0], "rows": [str(cut)]})
    assert list(tmp_path.iterdir()) == [cut]


def test_what_is_missing_can_be_left_out(seeds: list[Config], first: Path, tmp_path: Path) -> None:
    """A reader redraws what there is: nothing is trained, holes are holes, claims are judged on the rest."""
    given = [{**config, "rows": [str(first / "results.csv")], "missing": "skip"} for config in seeds]
    again = run([given], tmp_path)
    assert models(tmp_path) == [] and set(read(again / "results.csv")["seed"]) == {0}
    report = (again / "report.md").read_text()
    assert "\n- seed: 0\n- left out: seed 1: no row is there\n" in report
    assert (again / "claims.csv").read_bytes() == (first / "claims.csv").read_bytes()


def test_with_nothing_given_and_all_left_out_the_report_says_so(seeds: list[Config], tmp_path: Path) -> None:
    again = run([[{**seeds[0], "missing": "skip"}]], tmp_path)
    assert models(tmp_path) == [] and len(read(again / "results.csv")) == 0
    assert read(again / "claims.csv")["verdict"].tolist() == ["open"]


# ---- parts: their rows in one file, and what is stated of them together


def test_rows_of_all_parts_stand_in_one_file_from_which_each_is_redrawn(
    tiny: Compose, seeds: list[Config], tmp_path: Path
) -> None:
    parts = [[{**seeds[0], "experiment": "mine/one"}], [{**tiny("suite.fgsm.eps=[0.1,0.3]"), "experiment": "mine/two"}]]
    whole = run(parts, tmp_path / "first")
    rows = read(whole / "rows.csv")
    assert rows["eps"].tolist() == [0.0, 0.3, 0.1]  # each once, though both parts have the row at 0.3
    given = [[{**part[0], "rows": [str(whole / "rows.csv")]}] for part in parts]
    again = run(given, tmp_path / "second")
    assert models(tmp_path / "second") == []
    for file in ("rows.csv", "mistakes.csv", "claims.csv", "one/results.csv", "two/results.csv"):
        assert (again / file).read_bytes() == (whole / file).read_bytes(), file


def test_one_claim_draws_on_several_parts(tiny: Compose, tmp_path: Path) -> None:
    """The rates are those of two data sets."""
    small, large = (tiny("suite.fgsm.eps=0.1", f"dataset.test_size={size}") for size in (30, 40))
    small["models"] = {"A": small["models"]["target"]}
    parts = [[{**small, "experiment": "mine/one"}], [{**large, "experiment": "mine/two"}]]
    said = {**CLAIM, "checks": ["error(A | A, fgsm) + 1 > error(target | target, fgsm, dataset=digits)"]}
    whole = run(parts, tmp_path, whole={"claims": {"c": said}})
    (line,) = read(whole / "claims.csv").to_dict(orient="records")
    rates = [read(whole / part / "results.csv")["error_top1"].tolist()[1] for part in ("one", "two")]
    assert (line["left"], line["right"]) == pytest.approx((rates[0] + 1, rates[1])) and line["verdict"] == "confirmed"
    assert line["paired"] == "no"  # the images are others


@pytest.mark.parametrize("order", [1, -1])
def test_a_joint_claim_is_of_each_parts_own_model(tiny: Compose, tmp_path: Path, order: int) -> None:
    """`A2` is a model of its own in one part, and `A` again in the other: it is `A2` in both."""
    parts = []
    for name, seed, eps in (("one", 1, 0.1), ("two", 0, 0.2)):
        config = tiny(f"suite.fgsm.eps={eps}", "trainer.epochs=1")
        target = config["models"]["target"]
        models = {"A": target, "A2": {**target, "seed": seed}}
        parts.append([{**config, "experiment": f"mine/{name}", "models": models}])
    said = {**CLAIM, "checks": ["error(A2 | A2, fgsm, eps=0.1) >= error(A2 | A2, fgsm, eps=0.2)"]}
    whole = run(parts[::order], tmp_path, whole={"claims": {"c": said}})
    (line,) = read(whole / "claims.csv").to_dict(orient="records")
    rows = read(whole / "rows.csv").query("attack == 'fgsm' and target == 'A2' and source == 'A2'").set_index("eps")
    assert (line["left"], line["right"]) == pytest.approx((rows["error_top1"][0.1], rows["error_top1"][0.2]))


@pytest.mark.parametrize("alike", [True, False])
def test_images_of_two_roots_are_not_paired_though_they_are_as_many(tiny: Compose, tmp_path: Path, alike: bool) -> None:
    parts = []
    for part, target in (("one", "A"), ("two", "target")):
        write_npz(tmp_path / part, **({} if alike or part == "one" else {"test": random_images()["test"][::-1]}))
        words = ("dataset=npz", f"dataset.root={tmp_path / part}", "suite=none", "trainer.epochs=1")
        config = tiny(*words, "dataset.train_size=12", "dataset.test_size=12")
        parts.append([{**config, "experiment": f"mine/{part}", "models": {target: config["models"]["target"]}}])
    said = {**CLAIM, "checks": ["error(A) <= error(target)"]}
    whole = run(parts, tmp_path / "runs", whole={"claims": {"c": said}})
    (line,) = read(whole / "claims.csv").to_dict(orient="records")
    assert line["paired"] == ("yes" if alike else "no")
    assert "test_images" not in read(whole / "rows.csv")


def test_what_is_stated_of_all_parts_is_checked_before_anything_runs(seeds: list[Config], tmp_path: Path) -> None:
    wrong = {"claims": {"c": {**CLAIM, "checks": ["error(tagret) < 1"]}}}
    with pytest.raises(ConfigError, match=r"claims\.c asks about 'tagret' \(did you mean 'target'\?\)"):
        run([seeds[:1], [{**seeds[0], "experiment": "other"}]], tmp_path, whole=wrong)
    assert list(tmp_path.iterdir()) == []


def test_what_two_parts_have_of_other_models_of_one_name_cannot_be_asked_of_both(tiny: Compose) -> None:
    """Nobody can know which of two rows is meant; of equal models, and at another eps, there is one."""
    words = ["trainer.epochs=1"], ["trainer.epochs=2", "suite.fgsm.eps=[0.1,0.2]"], ["trainer.epochs=1"]
    first, other, same = ([{**tiny(*own), "experiment": f"mine/{i}"}] for i, own in enumerate(words))
    assert prepare_parts([first, same], {"claims": {"c": CLAIM}})[1].claims
    at_another = {"objective": "error(target | target, fgsm, eps=0.2)"}
    assert prepare_parts([first, other], at_another)[1].objective
    models, images = (
        [{**tiny(word), "experiment": "mine/1"}] for word in ("trainer.epochs=2", "+measurement.images.fgsm=5")
    )
    for unlike, stated, where in (
        (models, {"claims": {"c": CLAIM}}, r"claims\.c"),
        (models, {"objective": "error(target)"}, "objective"),
        (images, {"claims": {"c": CLAIM}}, r"claims\.c"),
    ):
        message = f"^{where} asks about .*, which mine/0 and mine/1 have of different models, attacks or images"
        with pytest.raises(ConfigError, match=message):
            prepare_parts([first, unlike], stated)


def test_the_worst_of_other_attacks_in_two_parts_cannot_be_asked_of_both(tiny: Compose) -> None:
    words = ["trainer.epochs=1", "measurement=worst_case"]
    more = "+attack@suite.pgd=pgd", "suite.pgd.eps=${suite.fgsm.eps}"
    first, same, other = ([{**tiny(*words, *own), "experiment": f"mine/{i}"}] for i, own in enumerate([(), (), more]))
    stated = {"objective": "error(target | target, worst_case)"}
    assert prepare_parts([first, same], stated)[1].objective
    with pytest.raises(ConfigError, match="which mine/0 and mine/2 have of different models, attacks or images"):
        prepare_parts([first, other], stated)


def test_what_two_parts_have_in_unlike_rows_is_told_before_anything_is_trained(tiny: Compose, tmp_path: Path) -> None:
    """Rows of other data or of another measurement: each with what would be right."""
    write_npz(tmp_path / "npz")
    unlike = {
        "measurement=transfer_matrix": ["~measurement", "+measurement@measurements.again=transfer_matrix"],
        "dataset=digits": ["dataset=npz", f"dataset.root={tmp_path}/npz", "dataset.train_size=12"],
    }
    unlike["dataset=digits"] += ["dataset.test_size=12", "suite.fgsm.eps=0.3"]
    for choice, words in unlike.items():
        first, other = ([{**tiny(*own), "experiment": f"mine/{i}"}] for i, own in enumerate(([], words)))
        with pytest.raises(ConfigError) as caught:
            prepare_parts([first, other], {"claims": {"c": CLAIM}})
        assert str(caught.value).startswith("claims.c asks about ") and choice in str(caught.value), str(caught.value)


def test_what_is_asked_of_all_parts_together_is_measured_where_no_part_asks(tiny: Compose) -> None:
    first, other = ([{**tiny("measurement.cells=asked"), "experiment": f"mine/{i}"}] for i in (0, 1))
    parts, joint = prepare_parts([first, other], {"objective": "error(target | target, fgsm)"})
    assert joint.objective and [len(experiment.expected.cells["transfer_matrix"]) for (experiment,) in parts] == [1, 1]
