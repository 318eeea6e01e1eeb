"""run.py as a user meets it: exit codes, one-line errors, signals, run directories, sweeps.

What needs a process of its own (signals, two at once) gets one; the rest calls main() here.
"""

import json
import logging
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import RUN, Ended, run_jsons, start, tiny_line, wait_until
from own_files import write_own_files
from torch import nn

from epsball.build import ConfigError
from epsball.cli.main import Session
from epsball.collect import table as collect
from epsball.experiment import run
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.results.rows import KEY, error_rows
from epsball.runtime.progress import JobFailed, Stop
from epsball.runtime.run_log import log_file

# ---- what the user got wrong

WIDE = "grid.wide={model: target, values: {width: [0.5, 1]}, keys: {width: arch.width}}"
ONE = ("models=alone", "arch=mnist_d", "trainer=standard")
WRONG: dict[str, tuple[list[str], list[str]]] = {
    "misspelt key": (["sorces=null"], ["sorces", "'sources'"]),
    "misspelt field": (["trainer.epoch=3"], ["trainer.epoch", "'trainer.epochs'"]),
    "a model that a paper lacks": (
        ["paper=madry/table1", "optimizer=sgd"],
        ["say where", "models.A.trainer.optimizer=sgd, optimizer@trainer.optimizer=sgd"],
    ),
    "misspelt field, added": (["+trainer.epoch=3", *ONE], ["trainer.epoch", "'epochs'"]),
    "misspelt deep field": (["trainer.lrr=3"], ["trainer.lrr", "'trainer.optimizer.lr'"]),
    "misspelt deep field, added": (["+trainer.lrr=3", *ONE], ["trainer.lrr", "optimizer"]),
    "misspelt model": (
        ["models.targt.trainer.epochs=3"],
        ["(did you mean 'models.target.trainer.epochs'?)", "copy, natural"],
    ),
    "misspelt model, left out": (["models.copyy=null"], ["models.copyy is not a config key", "'models.copy'"]),
    "misspelt field of a model": (["models.natural.trainer.epoch=3"], ["'models.natural.trainer.epochs'"]),
    "misspelt deep field of a model": (
        ["models.natural.trainer.lr=3"],
        ["models.natural.trainer.lr", "'models.natural.trainer.optimizer.lr'"],
    ),
    "misspelt part of a model": (["models.natural.trainr.epochs=3"], ["'models.natural.trainer.epochs'"]),
    "misspelt part of a model, added": (
        ["+models.target.sed=3", *ONE],
        ["models.target.sed is not a field", "'seed'"],
    ),
    "a field of a number": (["models.copy.seed.x=3"], ["models.copy.seed.x is not a config key"]),
    "misspelt model of a grid": (
        tiny_line(WIDE, "models.wide_widht_1.trainer.epochs=3"),
        ["(did you mean 'models.wide_width_1.trainer.epochs'?)", "target, wide_width_0_5, wide_width_1"],
    ),
    "misspelt field of a grid's model": (
        tiny_line(WIDE, "models.wide_width_1.trainer.epoch=3"),
        ["models.wide_width_1.trainer.epoch is not a config key", "'models.wide_width_1.trainer.epochs'"],
    ),
    "misspelt key of a grid": (
        tiny_line(WIDE, "grid.wide.keys.width=arch.widht"),
        ["models.wide_width_0_5.arch.widht is not a field", "'width'"],
    ),
    "misspelt field of a grid": (tiny_line("grid.wide.valus.width=[1]"), ["grid.wide.valus", "'values'"]),
    "misspelt grid": (tiny_line(WIDE, "sources=[wid]"), ["sources names 'wid'", "'wide'"]),
    "misspelt grids": (["grd.wide.model=target"], ["grd.wide.model", "'grid'"]),
    "misspelt field of a suite": (["suite.fgsm.epss=0.1"], ["suite.fgsm.epss", "'suite.fgsm.eps'"]),
    "misspelt option": (["arch=mnist_z"], ["arch=mnist_z does not exist", "mnist_a, mnist_b"]),
    "null for an option": (["attack=null"], ["attack=null does not exist", "fgsm", "none"]),
    "a number for an option": (["dataset=3", "seed=1"], ["dataset=3 does not exist: choose one of cifar10, digits"]),
    "no word for an option": (["suite="], ["suite= does not exist: choose one of all_one_step, fgsm"]),
    "misspelt nested option": (["paper=tramer/tabel1"], ["tabel1", "table1"]),
    "misspelt scale": (["scale=smok"], ["'smoke'"]),
    "misspelt group": (["modle=x"], ["modle", "'model"]),
    "no value": (["seed"], ["seed"]),
    "a word for a number": (tiny_line("trainer.epochs=abc"), ["trainer.epochs should be a float, is 'abc'"]),
    "a word for the seed": (["seed=abc"], ["seed", "'abc'"]),
    "a fraction": ([*ONE, "attack.eps=8/255"], ["attack.eps should be a float", "'8/255'", "${frac:8,255}"]),
    "a fraction for all": ([*ONE, "eps=8/255"], ["eps", "8/255", "${frac:8,255}"]),
    "levels for shares": ([*ONE, "attack.eps=8"], ["attack.eps should be a float in [0, 1], is 8.0"]),
    "infinity": (tiny_line("trainer.clip_norm=inf"), ["trainer.clip_norm"]),
    "unknown source": (tiny_line("sources=[targt]"), ["sources names 'targt'", "'target'"]),
    "unknown device": (tiny_line("device=tpu"), ["device", "cpu", "'tpu'"]),
    "no data": (tiny_line("dataset=npz", "dataset.root=/nonexistent"), ["dataset.root", "/nonexistent/train.npz"]),
    "no MNIST": (tiny_line("dataset=mnist", "dataset.root=/nonexistent"), ["dataset.root", "dataset.download=true"]),
    "too few images": (tiny_line("dataset.train_size=5000"), ["dataset.train_size is 5000", "1437"]),
    "no seeds": (tiny_line("seeds=0"), ["seeds should be at least 1, is 0"]),
    "less than no seeds": (tiny_line("seeds=-1"), ["seeds should be at least 1, is -1"]),
    "a word for the seeds": (tiny_line("seeds=two"), ["seeds should be an int, is 'two'"]),
    "half a seed": (tiny_line("seeds=1.5"), ["seeds should be an int, is 1.5"]),
    "one part, not a list": (tiny_line("parts=tramer/table1"), ["parts should be", "'tramer/table1'"]),
    "misspelt measurement": (["measurement=worst_cse"], ["measurement=worst_cse does not exist", "'worst_case'"]),
    "a measurement's name for it": (
        tiny_line("measurement.name=worst_cse"),
        ["measurement.name is 'worst_cse'", "'worst_case'"],
    ),
    "misspelt field of a measurement": (["measurement.cell=asked"], ["measurement.cell", "'measurement.cells'"]),
    "misspelt choice of a measurement": (
        tiny_line("measurement.cells=some"),
        ["measurement.cells should be one of all, asked, is 'some'"],
    ),
    "misspelt diagnostic": (["diagnostic=none_"], ["diagnostic=none_ does not exist", "none"]),
    "no surface": (tiny_line("measurement=loss_surface"), ["measurement.other names 'holdout'", "target"]),
    "rows of no file": (tiny_line("rows=[nothing.csv]"), ["rows: nothing.csv cannot be read", "No such file"]),
    "rows that are no rows": (tiny_line(f"rows=[{RUN}]"), [f"rows: {RUN} lacks the columns dataset, seed"]),
    "misspelt answer to missing rows": (tiny_line("missing=skp"), ["missing should be one of measure, skip, is 'skp'"]),
    "nothing to diversify": (["models=alone", "arch=mnist_d", "trainer=diversity"], ["diversity", "ensemble"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_config_is_told_in_one_line_and_nothing_is_written(
    main: Callable[..., Ended], tmp_path: Path, wrong: str
) -> None:
    arguments, fragments = WRONG[wrong]
    ended = main(*arguments)
    assert ended.code == 2, ended.err
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ")
    for fragment in fragments:
        assert fragment in line
    assert not (tmp_path / "outputs").exists()


WRONG_LINES = (Path(__file__).parent / "wrong_lines.txt").read_text()


def wrong_lines() -> list[Any]:
    """Return each wrong command line and a part of its answer."""
    found = re.findall(r"^([^#\s].*)\n    (.*)$", WRONG_LINES, re.MULTILINE)
    return [pytest.param(line, answer, id=line) for line, answer in found]


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_own_files(folder)
    return folder


@pytest.mark.parametrize(("line", "answer"), wrong_lines())
def test_a_wrong_line_is_answered_in_one_line_before_any_training(
    main: Callable[..., Ended], own_files: Path, monkeypatch: pytest.MonkeyPatch, line: str, answer: str
) -> None:
    def accepted(*_: object) -> None:
        pytest.fail("accepted: it would train now", pytrace=False)

    monkeypatch.setattr(run, "run_experiments", accepted)
    monkeypatch.chdir(own_files)
    ended = main(*shlex.split(line))
    (told,) = ended.err.splitlines()
    assert told.startswith("error: ") and answer in told.replace(f"{own_files}/", "")
    assert (ended.code, ended.out) == (2, "")


@pytest.mark.parametrize(
    "words", [["models.C.trainer.epochs=3"], ["arch@models.C.arch=mnist_d"], ["+models.C.optional=true", "seeds=2"]]
)
def test_words_about_an_added_model_are_taken(
    main: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    def accepted(*_: object) -> None:
        raise ConfigError("as far as this")

    monkeypatch.setattr(run, "run_experiments", accepted)
    ended = main("models=none", "+model@models.C=mnist_c", "device=cpu", *words)
    assert "error: as far as this" in ended.err


def test_wrong_lines_of_every_kind_are_tried() -> None:
    kinds = re.split(r"^# ", WRONG_LINES, flags=re.MULTILINE)[2:]
    assert len(kinds) == 8 and all(kind.count("\n    ") >= 15 for kind in kinds)


@pytest.mark.parametrize(
    ("error", "told"), [(JobFailed("x"), ""), (OSError("the disk is full"), "OSError: the disk is full")]
)
def test_what_no_job_has_told_is_told_at_the_end(
    capsys: pytest.CaptureFixture[str], error: Exception, told: str
) -> None:
    def jobs() -> None:
        raise pickle.loads(pickle.dumps(error))  # as it comes back from a launcher's worker

    assert Session().exit_code(jobs) == 1
    assert capsys.readouterr().err == (f"error: {told}\n" if told else "")


def test_a_process_with_a_wrong_config_exits_with_2(tmp_path: Path) -> None:
    line = [sys.executable, RUN, *tiny_line("sources=[targt]")]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("error: sources names 'targt'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trainer.epochs=-1 hydra.run.dir={}", "trainer.epochs should be positive"),
        ("-m seed=0,1 trainer.epoch=3 hydra.sweep.dir={}", "trainer.epoch is not a config key"),
        ("-m seed=0,1 hydra.run.dir={}", "names the folder of a single run: hydra.sweep.dir={} names that of a sweep"),
        ("hydra.sweep.dir={}", "names the folder of a sweep (-m): hydra.run.dir={} names that of a single run"),
    ],
)
def test_a_named_folder_is_made_for_a_run_alone(
    main: Callable[..., Ended], tmp_path: Path, words: str, told: str
) -> None:
    ended = main(*words.format(tmp_path / "new" / "folder").split())
    assert ended.code == 2 and told.format(tmp_path / "new" / "folder") in ended.err, ended.err
    assert not (tmp_path / "new").exists()


def test_a_sweep_whose_folder_cannot_be_made_is_told_in_one_line(main: Callable[..., Ended], tmp_path: Path) -> None:
    """Hydra makes it before any job."""
    (tmp_path / "file").touch()
    ended = main("-m", *tiny_line(f"outputs={tmp_path / 'file'}", "seed=0,1"))
    (line,) = ended.err.splitlines()
    assert ended.code == 2 and str(tmp_path / "file") in line and line.endswith("sweep.dir say where")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_log_lines_without_room_stop_and_hide_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError, match="told"), log_file(Path("/dev/full")):
        logging.getLogger("epsball").warning("a line")
        raise KeyError("told")
    assert "Logging error" not in capsys.readouterr().err


# ---- signals


def test_a_stopped_run_goes_on_and_ends_as_if_never_stopped(
    tmp_path: Path, tiny: Callable[..., dict[str, Any]]
) -> None:
    """SIGTERM, the same command and SIGINT, the same command: the weights are a straight run's."""
    overrides, outputs = ("trainer.epochs=125", "checkpoint_seconds=0.1"), tmp_path / "outputs"
    config = tiny(*overrides)
    planned = prepare_experiment(config).specs["target"]
    model = outputs / "models" / f"{planned.label}-{planned.key}"
    ends = []
    for signum, name in ((signal.SIGTERM, "first"), (signal.SIGINT, "second")):
        process, directory = start(tmp_path, *overrides, f"hydra.run.dir={name}"), tmp_path / name
        log = directory / "run.log"
        if signum == signal.SIGTERM:
            wait_until((model / "last.pt").exists, process)
        else:
            wait_until(lambda log=log: log.exists() and "goes on from step" in log.read_text(), process)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=300)
        said = json.loads((directory / "run.json").read_text())
        ends.append((process.returncode, said["status"], said["exit_reason"]))
        assert "Traceback" not in errors and "stopping after saving" in errors
        assert (model / "last.pt").exists() and not (model / "manifest.json").exists()
        assert not (directory / "results.csv").exists()
    assert ends == [(143, "interrupted", "stopped by signal 15"), (130, "interrupted", "stopped by signal 2")]
    process = start(tmp_path, *overrides, "hydra.run.dir=first")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "wrote first/results.csv" in printed and not (model / "last.pt").exists()
    assert json.loads((tmp_path / "first" / "run.json").read_text())["status"] == "done"

    straight = prepare_experiment({**config, "outputs": str(tmp_path / "straight")})
    (tmp_path / "run").mkdir()
    run_experiments("transfer", [[straight]], tmp_path / "run", [], Stop())
    weights = tmp_path / "straight" / "models" / model.name / "model.safetensors"
    assert (model / "model.safetensors").read_bytes() == weights.read_bytes()
    curve = (tmp_path / "straight" / "models" / model.name / "training.csv").read_text()
    assert (model / "training.csv").read_text() == curve


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="whether run.py listens is asked of /proc")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_start_up_is_obeyed_there(tmp_path: Path, signum: signal.Signals) -> None:
    """So many seeds take minutes to compose: a scheduler that has asked for an end would kill before they have."""
    process = start(tmp_path, "seeds=100000")
    wait_until(lambda: catches_sigterm(process.pid), process)
    time.sleep(3)
    process.send_signal(signum)
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + signum, errors
    assert out == "" and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def catches_sigterm(process: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM, as run.py has once it listens."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


# ---- fields of models, and grids


def test_a_field_of_a_grids_model_can_be_set(main: Callable[..., Ended], tmp_path: Path) -> None:
    """With a prefix or without, and the record has the words as they were typed."""
    words = ["grid.long={model: target, values: {passes: [1, 2]}, keys: {passes: trainer.epochs}}"]
    words += ["models.long_passes_2.trainer.batch_size=16", "+models.long_passes_1.seed=5", "sources=[long]"]
    line = tiny_line(*words, f"hydra.run.dir={tmp_path / 'run'}")
    ended = main(*line)
    assert ended.code == 0, ended.err
    rows = rows_of(tmp_path / "run")
    assert rows.groupby("target")["passes"].max().to_dict() == {"long_passes_1": 1, "long_passes_2": 2, "target": 2}
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recorded["overrides"] == [*(word for word in line if "hydra" not in word), f"outputs={tmp_path / 'outputs'}"]
    specs: dict[str, Any] = {}
    for name, model in recorded["models"].items():
        (path,) = (tmp_path / "outputs" / "models").glob(f"*-{model['fingerprint']}/spec.json")
        specs[name] = json.loads(path.read_text())["spec"]
    found = {name: (spec["trainer"]["batch_size"], spec["seed"]) for name, spec in specs.items()}
    assert found == {"target": (8, 0), "long_passes_1": (8, 5), "long_passes_2": (16, 0)}


def test_a_sweep_over_a_field_of_a_grids_model(main: Callable[..., Ended], tmp_path: Path) -> None:
    grid = "grid.long={model: target, values: {passes: [1]}, keys: {passes: trainer.epochs}}"
    line = tiny_line(
        grid, "sources=[long]", "targets=[long]", "seeds=2", "models.long_passes_1.trainer.batch_size=8,16"
    )
    ended = main("-m", *line)
    assert ended.code == 0, ended.err
    found = [rows_of(path.parent) for path in sorted((tmp_path / "outputs").rglob("results.csv"))]
    assert [list(rows["target"]) for rows in found] == [["long_passes_1"] * 4] * 2
    assert not found[0].equals(found[1])
    ended = main("-m", *line, "models.long_passes_1.trainer.batchsize=1,2")
    errors = [line for line in ended.err.splitlines() if line.startswith("error: job ")]
    assert ended.code == 2 and len(errors) == 4
    assert all("models.long_passes_1.trainer.batchsize is not a config key" in line for line in errors)


# ---- run directories


def test_two_at_once_have_two_directories_and_train_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    found = run_jsons(tmp_path / "outputs")
    assert len(found) == 2 and {path.parent.name for path in found} == {"transfer"}
    assert sorted(said["models"]["target"]["reused"] for said in found.values()) == [False, True]
    files = {"results.csv", "transfer_matrix.csv", "transfer_matrix.png", "report.md", "report.html"}
    files |= {"run.json", "run.log", ".hydra"}
    assert all(files <= {path.name for path in directory.iterdir()} for directory in found)
    assert not list(tmp_path.rglob("*.part"))
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_a_given_directory_is_honoured_and_protected(main: Callable[..., Ended], tmp_path: Path) -> None:
    given = f"hydra.run.dir={tmp_path / 'mine'}"
    ended = main(*tiny_line(given))
    assert ended.code == 0, ended.err
    assert f"wrote {tmp_path / 'mine' / 'results.csv'}" in ended.out
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir() if path.is_file()}
    hydra = {path.name for path in (tmp_path / "mine" / ".hydra").iterdir()}
    assert hydra == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    ended = main(*tiny_line(given, "seed=1"))
    assert ended.code == 2 and ended.out == ""
    (line,) = ended.err.splitlines()
    assert str(tmp_path / "mine") in line and "name another directory" in line
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir() if path.is_file()} == before
    assert main(*tiny_line(given)).code == 0  # the same experiment may go on


# ---- several seeds, several parts


def rows_of(directory: Path) -> pd.DataFrame:
    return pd.read_csv(directory / "results.csv")


def test_several_seeds_are_runs_of_each_under_one_report(main: Callable[..., Ended], tmp_path: Path) -> None:
    assert main(*tiny_line("seeds=2", "seed=3", f"hydra.run.dir={tmp_path / 'both'}")).code == 0
    found = rows_of(tmp_path / "both")
    for seed in (3, 4):
        assert main(*tiny_line(f"seed={seed}", f"hydra.run.dir={tmp_path / str(seed)}")).code == 0
        own = found[found["seed"] == seed].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, rows_of(tmp_path / str(seed)), check_exact=True)
    assert len(found) == 4 and found["seed"].tolist() == [3, 3, 4, 4]
    said = json.loads((tmp_path / "both" / "run.json").read_text())
    assert (said["seeds"], said["seed"]) == ([3, 4], 3)
    assert len({model["fingerprint"] for model in said["models"].values()}) == 2
    matrix = pd.read_csv(tmp_path / "both" / "transfer_matrix.csv")
    assert list(matrix.columns) == ["source", "attack", "eps", "target", "target sd"]
    clean = found[found["attack"] == "clean"]["error_top1"] * 100
    assert matrix.loc[0, "target"] == pytest.approx(clean.mean(), abs=0.051)
    assert matrix.loc[0, "target sd"] == pytest.approx(clean.std(), abs=0.051)
    assert main(*tiny_line("seeds=2", f"hydra.run.dir={tmp_path / '3'}")).code == 2  # holds one seed's run


PARTS = ("tramer/table7", "tramer/table2")
SMALL = ("device=cpu", "threads=1", "scale=smoke", "dataset=digits", "dataset.train_size=64", "dataset.test_size=40")
IMAGES = "measurement.images"


def all_line(*overrides: str) -> list[str]:
    """The command line of a paper as two of its files, on a few digits."""
    return ["paper=tramer/all", f"parts=[{','.join(PARTS)}]", *SMALL, *overrides]


def test_parts_are_runs_of_their_own_under_one_report(
    main: Callable[..., Ended], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = tmp_path / "all"
    ended = main(*all_line("seeds=2", f"hydra.run.dir={top}"))
    assert ended.code == 0, ended.err
    for name in ("report.html", "report.md", "claims.csv", "comparison.csv", "run.json"):
        assert f"wrote {top / name}" in ended.out
    assert {path.name for path in top.iterdir()} == {
        *("table7", "table2", "report.html", "report.md", "claims.csv", "comparison.csv", "rows.csv", "mistakes.csv"),
        *("timings.csv", "run.json", "run.log", ".hydra"),
    }
    said = json.loads((top / "run.json").read_text())
    assert said["parts"] == list(PARTS) and not {"settings", "cells"} & set(said)  # each part says its own
    for name, rows, told in (("table7", 4, 2), ("table2", 9, 9)):  # of gradient norms the clean errors alone
        own = json.loads((top / name / "run.json").read_text())
        assert (own["status"], own["experiment"]) == ("done", f"tramer/{name}")
        assert len(rows_of(top / name)) == 2 * rows and set(rows_of(top / name)["seed"]) == {0, 1}
        measured = error_rows(rows_of(top / name))[list(KEY)].itertuples(index=False, name=None)
        assert {tuple(cell) for cell in own["cells"]} <= set(measured) and len(own["cells"]) == told
        alone = tmp_path / name
        assert main(f"paper=tramer/{name}", *SMALL, "seeds=2", f"hydra.run.dir={alone}").code == 0
        pd.testing.assert_frame_equal(rows_of(alone), rows_of(top / name), check_exact=True)
        assert json.loads((alone / "run.json").read_text())["config_hash"] == own["config_hash"]
    assert list(pd.read_csv(top / "claims.csv")["part"].unique()) == list(PARTS)
    compared = pd.read_csv(top / "comparison.csv")
    assert len(compared) == 10 and set(compared["seeds"]) == {2} and compared["ours"].notna().all()
    capsys.readouterr()
    assert collect.main([str(top)]) == 0
    printed = capsys.readouterr().out
    assert "missing" not in printed and "tramer/all" not in printed
    collected = pd.read_csv(top / "collected.csv")
    assert len(collected) == 26 and sorted(set(collected["run"])) == ["table2", "table7"]


def test_the_command_line_reaches_every_part(main: Callable[..., Ended], tmp_path: Path) -> None:
    words = ["eps=0.1", "trainer.epochs=2", "seed=5", "arch@models.B.arch=mnist_d"]  # table7 has no B
    line = all_line(*words, f"hydra.run.dir={tmp_path / 'all'}")
    ended = main(*line)
    assert ended.code == 0 and "trainer.epochs=2 changes nothing" in ended.err and "eps=0.1 changes" not in ended.err
    assert set(rows_of(tmp_path / "all" / "table2")["eps"]) == {0.0, 0.1}
    assert {seed for name in ("table2", "table7") for seed in rows_of(tmp_path / "all" / name)["seed"]} == {5}
    assert words[-1] in json.loads((tmp_path / "all" / "run.json").read_text())["overrides"]  # as typed
    said = json.loads((tmp_path / "all" / "table2" / "run.json").read_text())["models"]
    (trained,) = (tmp_path / "outputs" / "models").glob(f"*-{said['B']['fingerprint']}")
    assert trained.name.startswith("mnist_d-")
    for again in (line, [f"again={tmp_path / 'all'}"]):  # goes on
        ended = main(*again)
        assert ended.code == 0 and "training" not in ended.err
    assert main(*line[:-1], f"hydra.run.dir={tmp_path / 'all' / 'table2'}").code == 2


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (["sources=[B]"], ["sources names 'B'", "A, A_adv"]),  # of the first part, which has no B
        (["seeds=0"], ["seeds should be at least 1"]),
        (["dataset.train_size=5000"], ["dataset.train_size is 5000"]),
        pytest.param(
            ["parts=[tramer/table7,tramer/tabel2]"],
            ["tramer/tabel2", "table2"],
        ),
    ],
    ids=["source", "seeds", "size", "name"],
)
def test_a_wrong_part_is_told_in_one_line_before_anything_is_trained(
    main: Callable[..., Ended], tmp_path: Path, overrides: list[str], fragments: list[str]
) -> None:
    given = {override.partition("=")[0] for override in overrides}
    ended = main(*(word for word in all_line() if word.partition("=")[0] not in given), *overrides)
    (line,) = ended.err.splitlines()
    assert line.startswith("error: ") and all(fragment in line for fragment in fragments)
    assert (ended.code, ended.out) == (2, "")
    assert not (tmp_path / "outputs").exists()


def test_parts_of_a_run_under_another_name_keep_their_own(main: Callable[..., Ended], tmp_path: Path) -> None:
    assert main(*all_line("experiment=mine")).code == 0
    (top,) = (tmp_path / "outputs" / "mine").iterdir()
    assert len(list(top.rglob("results.csv"))) == 2


def test_seeds_of_a_paper_that_lies_elsewhere(main: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "conf" / "paper").mkdir(parents=True)
    (tmp_path / "conf" / "paper" / "probe.yaml").write_text("# @package _global_\nexperiment: probe\n")
    line = ("paper=probe", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", f"hydra.run.dir={tmp_path / 'run'}")
    assert main(*tiny_line(*line)).code == 0
    assert main(*tiny_line(*line[:2], f"hydra.run.dir={tmp_path / 'both'}", "seeds=2")).code == 0


def test_parts_train_side_by_side_when_their_paper_says_so(main: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "conf" / "paper").mkdir(parents=True)
    text = "# @package _global_\nexperiment: both\nworkers: 2\nparts: [tramer/table7]\n"
    (tmp_path / "conf" / "paper" / "both.yaml").write_text(text)
    ended = main("paper=both", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *SMALL)
    assert ended.code == 0 and "A_adv: in the store" in ended.err, ended.err
    assert "training: about" not in ended.err, ended.err  # once all have begun their own progress says what is left
    ended = main("paper=both", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *SMALL, "seed=1", "workers=1")
    assert ended.code == 0 and "training A_adv" in ended.err and "in the store" not in ended.err, ended.err


def own_papers(folder: Path, **texts: str) -> str:
    """Write files of papers; the word that names their folder."""
    (folder / "conf" / "paper").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "conf" / "paper" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return f"hydra.searchpath=[file://{folder / 'conf'}]"


def test_a_file_of_parts_says_how_all_of_them_are_run(main: Callable[..., Ended], tmp_path: Path) -> None:
    """Here that nothing is trained; the user's own word comes before it."""
    said = "experiment: own/all\nmissing: skip\nparts: [one, two]"
    folder = own_papers(tmp_path, all=said, one="experiment: own/one", two="experiment: own/two")
    ended = main("paper=all", folder, *tiny_line())
    assert ended.code == 0 and "training" not in ended.err, ended.err
    assert not list(tmp_path.rglob("model.safetensors"))
    assert main("paper=all", folder, *tiny_line("missing=measure")).code == 0
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1


def test_a_field_of_what_one_part_alone_has_is_that_parts(main: Callable[..., Ended], tmp_path: Path) -> None:
    """A model that the other part lacks, and a claim, which is none of the run's as a whole."""
    claim = "claims: {c: {says: s, paper: p, checks: [error(target) < 0.9]}}"
    models = "defaults: [/model@models.other: mnist_b]"
    folder = own_papers(tmp_path, one=f"experiment: own/one\n{claim}", two=f"{models}\nexperiment: own/two")
    words = ["parts=[one,two]", "models.other.trainer.epochs=0.125", "claims.c.says=mine", "experiment=both"]
    assert main(*words, folder, *tiny_line("dataset.train_size=80")).code == 0
    (top,) = (tmp_path / "outputs" / "both").iterdir()
    assert list(pd.read_csv(top / "claims.csv")["says"]) == ["mine"]
    said = json.loads((top / "run.json").read_text())["models"]
    assert set(said) == {"target", "other"}
    ended = main(*words, folder, "models.othr.trainer.epochs=1", *tiny_line())
    assert ended.code == 2 and "error: part one: models.othr.trainer.epochs is not a config key" in ended.err


def test_a_field_of_the_measurement_is_of_the_parts_that_have_it(main: Callable[..., Ended], tmp_path: Path) -> None:
    """One part measures no images, of another their number has no names of attacks."""
    parts = {"cells": "transfer_matrix", "curves": "training_curves", "rounded": "rounding"}
    start = {name: f"defaults: [override /measurement: {option}]\n" for name, option in parts.items()}
    folder = own_papers(tmp_path, **{name: f"{line}experiment: own/{name}" for name, line in start.items()})
    words = [f"parts=[{','.join(parts)}]", "experiment=both", "missing=skip", folder, *tiny_line("models=alone")]
    for word, images in {
        f"{IMAGES}=3": {("cells", IMAGES): 3, ("rounded", IMAGES): 3},
        f"+{IMAGES}={{fgsm: 3}}": {("cells", f"{IMAGES}.fgsm"): 3, ("rounded", IMAGES): None},
    }.items():
        run = tmp_path / word[0]
        assert main(*words, word, f"hydra.run.dir={run}").code == 0
        settings = {name: json.loads((run / "own" / name / "run.json").read_text())["settings"] for name in parts}
        assert {(name, key): said[key] for name, said in settings.items() for key in said if IMAGES in key} == images


def test_fields_and_images_of_an_attack_that_one_part_alone_has_are_that_parts(
    main: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = own_papers(
        tmp_path, one="experiment: own/one", two="defaults: [/attack@suite.weak: fgsm]\nexperiment: own/two"
    )
    words = ["parts=[one,two]", "experiment=both", folder, *tiny_line()]
    assert main(*words, "+measurement.images={weak: 7}", "suite.weak.eps=0.05").code == 0
    (rows,) = (tmp_path / "outputs" / "both").rglob("rows.csv")
    shown = pd.read_csv(rows)
    assert set(shown["n"][shown["attack"] == "weak"]) == {7} and set(shown["n"][shown["attack"] == "clean"]) != {7}
    assert set(shown["eps"][shown["attack"] == "weak"]) == {0.05}
    (said,) = (tmp_path / "outputs" / "both").glob("*/run.json")
    assert "suite.weak.eps=0.05" in json.loads(said.read_text())["overrides"]  # as typed
    ended = main(*words, "+measurement.images={week: 7}")
    assert ended.code == 2 and "measurement.images.week is none of the attacks" in ended.err, ended.err
    for word, answer in {
        "suite.week.eps=0.05": "part one: suite.week.eps is not a config key",
        "suite.weak.esp=0.05": "part two: suite.weak.esp is not a config key (did you mean 'suite.weak.eps'?)",
        "suite.weak.eps=[": "'suite.weak.eps=[' cannot be read",
    }.items():
        ended = main(*words, word)
        assert ended.code == 2 and answer in ended.err, ended.err


@pytest.mark.parametrize(
    ("whole", "second", "told"),
    [
        ("suite: {fgsm: null}", "experiment: own/two", "suite is set beside parts, which have their own"),
        ("eps: 0.1", "experiment: own/two", "eps is set beside parts, which have their own"),
        ("defaults: [override /dataset: mnist]", "experiment: own/two", "dataset is set beside parts, which have"),
        ("defaults: [override /attack: fgsm]", "experiment: own/two", "attack is set beside parts, which have"),
        ("defaults: [override /trainer: madry]", "experiment: own/two", "trainer is set beside parts, which have"),
        ("models: {target: null}", "experiment: own/two", "models is set beside parts, which have their own"),
        ("", "experiment: own/two\nseed: 7", "part two has seed=7: that is the run's, for all parts"),
        ("", "experiment: own/two\nseeds: 2", "part two has seeds=2: that is the run's, for all parts"),
        ("", "experiment: own/one", "parts: experiment is own/one in one and own/one in another: each needs its own"),
        ("", "experiment: [", "part two: "),
    ],
)
def test_what_a_file_of_parts_or_a_part_cannot_say_is_refused(
    main: Callable[..., Ended], tmp_path: Path, whole: str, second: str, told: str
) -> None:
    said = f"experiment: own/all\nparts: [one, two]\n{whole}"
    ended = main("paper=all", own_papers(tmp_path, all=said, one="experiment: own/one", two=second), *tiny_line())
    (line,) = ended.err.splitlines()
    assert ended.code == 2 and line.startswith(f"error: {told}"), line


def test_a_training_that_several_seeds_share_is_told(main: Callable[..., Ended]) -> None:
    ended = main(*tiny_line("seeds=2", "models.target.seed=3"))
    assert ended.code == 0
    assert "model target is one training in 2 seeds (its seed is 3 in each): means are not over trainings" in ended.err


def test_weights_of_ones_own_may_be_others_in_each_seed(main: Callable[..., Ended], tmp_path: Path) -> None:
    own = tmp_path / "net.py"
    own.write_text("from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n")
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).state_dict(), tmp_path / f"net_{seed}.pt")
    given = ("arch=module", f"arch.file={own}", "arch.call=net", "models.target.trainer=null", "seeds=2")
    line = (*given, "models=alone", "attack=none", "suite=fgsm", "device=cpu", "dataset.test_size=40")
    told = "model target has the same weights in 2 seeds: means are not over models"
    cleans = []
    for name in ("net_${seed}.pt", "net_0.pt"):
        directory = tmp_path / f"run_{len(cleans)}"
        ended = main(*line, f"arch.checkpoint={tmp_path / name}", f"hydra.run.dir={directory}")
        assert ended.code == 0 and (told in ended.err) == (name == "net_0.pt"), ended.err
        found = rows_of(directory)
        cleans.append(found[found.attack == "clean"].set_index("seed").error_top1)
    assert cleans[0][0] == cleans[1][0] == cleans[1][1] != cleans[0][1]


def test_several_seeds_in_a_sweep(main: Callable[..., Ended], tmp_path: Path) -> None:
    ended = main("-m", *tiny_line("seeds=2", "trainer.epochs=1,2"))
    assert ended.code == 0
    (sweep,) = (tmp_path / "outputs").rglob("multirun.yaml")
    assert ended.out.splitlines()[-1] == f"python scripts/collect.py {sweep.parent} puts them into one table"
    told = re.findall(r"^(.*)models=alone.* trainer\.epochs=(\d)", ended.err + ended.out, re.MULTILINE)
    assert told == [("job: ", "1"), ("job: ", "2")]
    found = [rows_of(path.parent) for path in sorted((tmp_path / "outputs").rglob("results.csv"))]
    assert [set(rows["seed"]) for rows in found] == [{0, 1}, {0, 1}]
    assert not found[0].equals(found[1])


# ---- sweeps


def test_a_failed_job_is_named_and_stops_no_other(
    main: Callable[..., Ended],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = main("-m", *tiny_line("suite=fgsm,one_step", "trainer.optimizer.lr=0.01,1e30,-1"))
    assert ended.code == 1
    errors = [line for line in ended.err.splitlines() if line.startswith("error: job ")]
    assert len(errors) == 4 and "4 jobs failed" in ended.err
    for suite in ("fgsm", "one_step"):
        (diverged,) = [e for e in errors if f"suite={suite} " in e and "lr=1e+30" in e]
        assert "Diverged: training diverged: loss nan" in diverged or "loss inf" in diverged
        (refused,) = [e for e in errors if f"suite={suite} " in e and "lr=-1" in e]
        assert "trainer.optimizer.lr should be positive, is -1.0" in refused
    assert ended.err.count("training target (") == 3  # the model that two jobs share, and twice the one that diverges
    found = run_jsons(tmp_path / "outputs")
    assert sorted(said["status"] for said in found.values()).count("done") == 2
    assert len(list((tmp_path / "outputs").rglob("results.csv"))) == 2
    assert collect.main([str(tmp_path / "outputs")]) == 0
    printed = capsys.readouterr().out
    assert "missing" in printed and "lr=1e+30" in printed and "fgsm" in printed
    (closing,) = [line for line in printed.splitlines() if "runs missing" in line]
    assert closing.startswith(f"{len(found) - 2} of {len(found)} runs missing") and "diverged" in closing
    assert (tmp_path / "outputs" / "collected.csv").exists()


def test_a_sweep_in_which_only_configs_are_wrong_exits_with_2(
    main: Callable[..., Ended], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = main("-m", *tiny_line("dataset.train_size=64,5000", "seed=0,1"))
    assert ended.code == 2
    errors = [line for line in ended.err.splitlines() if line.startswith("error: job ")]
    assert len(errors) == 2 and all("dataset.train_size is 5000" in error for error in errors)
    assert len(list((tmp_path / "outputs").rglob("results.csv"))) == 2
    assert collect.main([str(tmp_path / "outputs")]) == 0
    printed = capsys.readouterr().out
    assert "2 of 4 runs missing" in printed and "dataset.train_size is 5000" in printed
    assert " ± " in printed  # the two seeds that ran are one line


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("arch=mnist_d,mnist_z", "mnist_z"),
        ("arch=mnist_d,mnist_b trainer.epoch=3", "trainer.epoch is not a config key (did you mean 'trainer.epochs'?)"),
    ],
    ids=["misspelt", "misspelt beside"],
)
def test_a_wrong_word_in_a_sweep_runs_nothing(main: Callable[..., Ended], tmp_path: Path, line: str, told: str) -> None:
    ended = main("-m", *line.split())
    assert ended.code == 2 and told in ended.err.splitlines()[-1]
    assert not list(tmp_path.rglob("run.json"))


def test_a_second_signal_stops_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    stop.on_signal(15, None)
    assert stop.signum == 15 and "once more" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt, match="stopped by signal 2"):
        stop.on_signal(2, None)


def test_a_worker_tells_its_launcher_that_a_job_failed(tmp_path: Path) -> None:
    """A launcher's worker has a copy of the command's session: it says what is wrong, and the command exits with 1."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *tiny_line("dataset.train_size=5000,6000")]
    done = subprocess.run([sys.executable, RUN, *sweep], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and 1 <= len(errors) <= 2, done.stderr
    assert all(re.search(r"^error: job .*dataset\.train_size is [56]000, but there are only 1437", e) for e in errors)
    found = run_jsons(tmp_path / "outputs")
    assert {said["status"] for said in found.values()} == {"failed"}


@pytest.mark.parametrize("signum, to", [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)])
def test_jobs_in_a_launchers_workers_save_when_they_are_stopped(
    tmp_path: Path, signum: signal.Signals, to: Callable[[int, int], None]
) -> None:
    """Ctrl-C reaches the command and its workers, a scheduler's SIGTERM the command alone; also in a worker's second
    job."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launched = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    lasting = ("trainer.epochs=1,100000,100001", "seed=0,1", "checkpoint_seconds=3600")
    process = start(tmp_path, *launched, *lasting, own_group=True)
    jobs = [tmp_path / "sweep" / job / "run.log" for job in ("2", "3")]
    wait_until(lambda: all(log.exists() and "training target" in log.read_text() for log in jobs), process)
    to(process.pid, signum)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signum and "Traceback" not in errors, errors
    assert errors.count("stopping after saving") == 1, errors
    reasons = [said["exit_reason"] for said in run_jsons(tmp_path / "sweep").values()]
    assert reasons == [None, None, *2 * [f"stopped by signal {signum}"]] and len(list(tmp_path.rglob("last.pt"))) == 2
