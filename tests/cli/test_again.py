"""again=RUN_DIRECTORY: a run repeated, or gone on with, from what it left."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import Ended, run_jsons, start, tiny_line, wait_until
from own_files import changed, random_images, write_npz

from epsball.cli.again import changes
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.runtime.processes import this_process
from epsball.runtime.progress import Stop

Main = Callable[..., Ended]


def results(directory: Path) -> pd.DataFrame:
    return pd.read_csv(directory / "results.csv").drop(columns="seconds", errors="ignore")


@pytest.fixture
def done(main: Main, tmp_path: Path) -> Path:
    """A finished run."""
    assert main(*tiny_line("seed=3", f"hydra.run.dir={tmp_path / 'first'}")).code == 0
    return tmp_path / "first"


def test_a_finished_run_is_repeated_in_a_directory_of_its_own(main: Main, done: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    ended = main(f"again={done}")
    assert ended.code == 0, ended.err
    (new,) = run_jsons(tmp_path / "outputs")
    pd.testing.assert_frame_equal(results(new), results(done), check_exact=True)
    overrides = [json.loads((path / "run.json").read_text())["overrides"] for path in (done, new)]
    assert sorted(overrides[0]) == sorted(overrides[1])
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before
    assert f"again: {done}, done, begun 2" in ended.err and "since then" not in ended.err


def test_ones_own_words_win_and_what_changed_is_told(main: Main, done: Path, tmp_path: Path) -> None:
    said = json.loads((done / "run.json").read_text())
    said |= {"git_commit": "abc", "versions": {**said["versions"], "torch": "1.0"}}
    (done / "run.json").write_text(json.dumps(said))
    ended = main(f"again={done}", "seed=4", "trainer.epochs=1")
    assert ended.code == 0, ended.err
    (new,) = run_jsons(tmp_path / "outputs")
    assert set(results(new)["seed"]) == {4}
    told = [line.removeprefix("since then: ") for line in ended.err.splitlines() if line.startswith("since then: ")]
    assert sorted(told)[-1].startswith("versions") and {"trainer.epochs is 1, was 6", "seed is 4, was 3"} < set(told)
    assert any(line.startswith("commit is ") and line.endswith(", was abc") for line in told)
    assert any(line.startswith("versions.torch is ") and line.endswith(", was 1.0") for line in told)
    assert len(told) == 4


def test_what_changed_is_told_of_a_run_in_a_directory_that_is_named(main: Main, done: Path, tmp_path: Path) -> None:
    ended = main(f"again={done}", "seed=4", f"hydra.run.dir={tmp_path / 'second'}")
    assert ended.code == 0, ended.err
    assert f"again: {done}, done, begun 2" in ended.err and "since then: seed is 4, was 3" in ended.err
    assert set(results(tmp_path / "second")["seed"]) == {4}


def test_another_folder_is_told_for_relative_paths_mean_other_files_there(
    main: Main, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path.cwd()
    monkeypatch.chdir(tmp_path)
    ended = main(f"again={done}", "missing=skip")
    assert ended.code == 0 and f"since then: folder is {tmp_path}, was {before}" in ended.err, ended.err


def test_a_stopped_run_goes_on_and_ends_as_if_never_stopped(
    main: Main, tiny: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    line = ("trainer.epochs=125", "checkpoint_seconds=0.1")
    process, outputs = start(tmp_path, *line), tmp_path / "outputs"
    wait_until(lambda: bool(list(outputs.rglob("last.pt"))), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    ((stopped, said),) = run_jsons(outputs).items()
    assert (process.returncode, said["status"]) == (143, "interrupted")
    ended = main(f"again={stopped}")
    assert ended.code == 0 and "goes on from step" in ended.err, ended.err
    assert f"again: {stopped}, interrupted: stopped by signal 15, begun" in ended.err
    assert {path: found["status"] for path, found in run_jsons(outputs).items()} == {stopped: "done"}
    straight = prepare_experiment({**tiny(*line), "outputs": str(tmp_path / "straight")})
    run_experiments("transfer", [[straight]], tmp_path / "straight" / "run", [], Stop())
    weights = [next((tmp_path / root / "models").glob("*/model.safetensors")) for root in ("outputs", "straight")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    pd.testing.assert_frame_equal(results(stopped), results(tmp_path / "straight" / "run"), check_exact=True)


def test_ones_own_words_win_wherever_they_stand(main: Main, done: Path) -> None:
    """Also where the earlier ones set a field of what they leave out."""
    said = json.loads((done / "run.json").read_text())
    said["overrides"].append("models.target.trainer.epochs=2")
    (done / "run.json").write_text(json.dumps(said))
    for words in ([f"again={done}", "models.target=null"], ["models.target=null", f"again={done}"]):
        ended = main(*words)
        assert ended.code == 2 and "models should be at least one model" in ended.err, ended.err


def test_its_words_are_those_of_its_record(main: Main, done: Path, tmp_path: Path) -> None:
    """Not of an overrides.yaml that a full disk left empty, which would be the config as it is without any words."""
    (done / ".hydra" / "overrides.yaml").write_text("")
    assert main(f"again={done}").code == 0
    (new,) = run_jsons(tmp_path / "outputs")
    pd.testing.assert_frame_equal(results(new), results(done), check_exact=True)


def test_its_files_are_never_half_written(main: Main, done: Path, tmp_path: Path) -> None:
    """A run that goes on in its directory puts them aside whole, for whoever has them open."""
    said = {**json.loads((done / "run.json").read_text()), "status": "interrupted"}
    (done / "run.json").write_text(json.dumps(said))
    for path in (done / ".hydra").iterdir():
        os.link(path, tmp_path / path.name)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.yaml")}
    assert main(f"again={done}", "checkpoint_seconds=7").code == 0
    assert "checkpoint_seconds=7" in (done / ".hydra" / "overrides.yaml").read_text()
    assert len(before) == 3 and {path: path.read_bytes() for path in before} == before  # put aside, not written over


def test_a_look_at_what_a_stopped_run_has_leaves_it_as_it_is(main: Main, done: Path, tmp_path: Path) -> None:
    said = {**json.loads((done / "run.json").read_text()), "status": "interrupted"}
    said["process"] = {**this_process(), "host": "node-7"}
    (done / "run.json").write_text(json.dumps(said))
    assert main(f"again={done}", "missing=skip").code == 0
    assert json.loads((done / "run.json").read_text()) == said
    (done / "run.json").write_text(json.dumps({**said, "status": "running"}))
    ended = main(f"again={done}")
    assert ended.code == 0 and "again: its process is on node-7: if it still runs there, stop it" in ended.err
    assert json.loads((done / "run.json").read_text())["status"] == "done"


def test_a_job_of_a_sweep(main: Main, tmp_path: Path) -> None:
    """The one that did not finish goes on where it lies."""
    assert main("-m", *tiny_line("seed=0,1")).code == 0
    job = next(path for path, said in run_jsons(tmp_path / "outputs").items() if said["seed"] == 1)
    said = json.loads((job / "run.json").read_text())
    (job / "run.json").write_text(json.dumps({**said, "status": "interrupted"}))
    before = results(job)
    ended = main(f"again={job}")
    assert ended.code == 0, ended.err
    assert json.loads((job / "run.json").read_text())["status"] == "done"
    pd.testing.assert_frame_equal(results(job), before, check_exact=True)
    sweep = main(f"again={job.parent}")
    said = f"again={job.parent}"
    assert sweep.code == 2 and sweep.err == f"error: {said} is a folder of runs: name one of them, {said}/0\n"


def test_configs_that_lie_elsewhere_are_found_again(main: Main, tmp_path: Path) -> None:
    (tmp_path / "conf" / "paper").mkdir(parents=True)
    (tmp_path / "conf" / "paper" / "probe.yaml").write_text("# @package _global_\nexperiment: probe\n")
    found = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    assert main(*tiny_line("paper=probe", found, f"hydra.run.dir={tmp_path / 'first'}")).code == 0
    ended = main(f"again={tmp_path / 'first'}")
    assert ended.code == 0, ended.err
    assert [path.parent.name for path in run_jsons(tmp_path / "outputs")] == ["probe"]


def test_what_a_parts_own_file_changed_is_told(main: Main, tmp_path: Path) -> None:
    """The config of the whole run is the same then, as it is where a file of data is another."""
    folder = tmp_path / "conf" / "paper" / "probe"
    folder.mkdir(parents=True)
    (folder / "all.yaml").write_text("# @package _global_\nexperiment: probe\nparts: [probe/one, probe/two]\n")
    for part in ("one", "two"):
        (folder / f"{part}.yaml").write_text(f"# @package _global_\nexperiment: {part}\n")
    found = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    assert main(*tiny_line("paper=probe/all", found, f"hydra.run.dir={tmp_path / 'first'}")).code == 0
    (folder / "two.yaml").write_text("# @package _global_\nexperiment: two\neps: 0.2\n")
    ended = main(f"again={tmp_path / 'first'}")
    assert ended.code == 0, ended.err
    told = [line.removeprefix("since then: ") for line in ended.err.splitlines() if line.startswith("since then: ")]
    assert told == ["two.eps is 0.2, was 0.3", "two.suite.fgsm.eps is 0.2, was 0.3"]


def test_a_word_that_no_longer_fits_is_named_and_left_out_by_a_tilde(main: Main, tmp_path: Path) -> None:
    """A field of another architecture's; of two words that delete one key both stand."""
    first, left_out = tmp_path / "first", ["~arch.width", "~arch.hidden"]
    assert main(*tiny_line("sources=[target]", "~local", "missing=skip", f"hydra.run.dir={first}")).code == 0
    refused = main(f"again={first}", "arch=mnist_a", left_out[0])
    field = "arch.hidden is not a config key: arch.hidden is a field of arch=madry_mnist"
    said = f"{field} (arch.hidden=256 is of again={first}: ~arch.hidden leaves it out)"
    assert refused.code == 2 and refused.err == f"error: {said}\n"
    forest = main(f"again={first}", "arch=random_forest", *left_out)
    said = f"can be a target alone (sources=[target] is of again={first}: ~sources leaves it out)\n"
    assert forest.code == 2 and forest.err.endswith(said), forest.err
    own = main(f"again={first}", "arch.hidden=x")
    assert own.code == 2 and "arch.hidden" in own.err and "leaves it out" not in own.err, own.err
    ended = main(f"again={first}", "arch=mnist_a", *left_out, "~local")
    assert ended.code == 0 and "arch.name is mnist_a, was madry_mnist" in ended.err, ended.err


def test_other_data_at_the_same_place_are_told(main: Main, tmp_path: Path) -> None:
    """The words and the config are the same then."""
    data, first = tmp_path / "data", tmp_path / "first"
    write_npz(data)
    words = ["dataset.train_size=null", "dataset.test_size=null", f"hydra.run.dir={first}"]
    ended = main(*tiny_line("dataset=npz", f"dataset.root={data}", *words))
    assert ended.code == 0, ended.err
    again = main(f"again={first}")
    assert again.code == 0 and "since then" not in again.err, again.err
    shutil.rmtree(data)
    write_npz(data, test=changed(random_images()["test"]))
    again = main(f"again={first}")
    told = [line.partition(" is ")[0] for line in again.err.splitlines() if line.startswith("since then: ")]
    assert again.code == 0, again.err
    assert told == [f"since then: {key}" for key in ("dataset.checksum", "models.target.dataset.checksum")]


def test_a_group_that_was_empty_is_told_by_what_it_has_now() -> None:
    assert list(changes({"tables": {}}, {"tables": {"t": {"title": "T"}}})) == ["tables.t.title is T, was not set"]


def spoiled(done: Path, how: str) -> list[str]:
    """Spoil a run directory; the words that name it."""
    match how:
        case "nothing there":
            return ["again=nowhere"]
        case "no config":
            (done / ".hydra" / "config.yaml").unlink()
        case "damaged config":
            (done / ".hydra" / "config.yaml").write_text('eps: ${times:2,"0.1}\n')
        case "damaged":
            (done / "run.json").write_text("{")
        case "not a run's":
            (done / "run.json").write_text('{"overrides": "eps=0.1"}')
        case "no words":
            (done / "run.json").write_text("{}")
        case "twice":
            return [f"again={done}", f"again={done}"]
        case "a sweep of it":
            return ["-m", f"again={done}", "seed=0,1"]
        case "running":
            said: dict[str, Any] = json.loads((done / "run.json").read_text())
            (done / "run.json").write_text(json.dumps({**said, "status": "running", "process": this_process()}))
    return [f"again={done}"]


WRONG = {
    "nothing there": "again=nowhere is no run directory, such as outputs/transfer/2026",
    "no config": "has no .hydra/config.yaml: run.json has the words of its command line",
    "damaged config": "/first cannot be read: mismatched input",
    "damaged": "first: run.json cannot be read (Expecting property name",
    "not a run's": "first: run.json is not a run's: overrides should be a list, each a text, is 'eps=0.1'",
    "no words": "first cannot be read: 'overrides'",
    "twice": "again is given 2 times",
    "a sweep of it": "again repeats a single run: leave out -m",
    "running": "is still running, as process",
}


@pytest.mark.parametrize("how", WRONG)
def test_what_cannot_be_repeated_is_told_in_one_line(main: Main, done: Path, tmp_path: Path, how: str) -> None:
    if how == "running" and not sys.platform.startswith("linux"):
        pytest.skip("the system does not say when a process began")
    ended = main(*spoiled(done, how))
    assert ended.code == 2 and WRONG[how] in ended.err, ended.err
    assert len(ended.err.splitlines()) == 1
    assert not run_jsons(tmp_path / "outputs")


def test_the_directory_of_a_run_that_is_under_way_is_not_another_runs(main: Main, done: Path) -> None:
    """Though it is the same: both would write its files."""
    said = json.loads((done / "run.json").read_text())
    (done / "run.json").write_text(json.dumps({**said, "status": "running", "process": this_process()}))
    ended = main(*tiny_line("seed=3", f"hydra.run.dir={done}"))
    told = f"hydra.run.dir={done} is in use by process {os.getpid()}: name another directory"
    assert ended.code == 2 and ended.err.splitlines()[-1] == f"error: {told}"
