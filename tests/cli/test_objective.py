"""The objective as a sweeper gets it: in Hydra's JobReturn, of single runs and of a sweep's jobs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from commands import RUN, Ended, run_jsons, tiny_line
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback

ERROR = 'objective="error(target | target, fgsm)"'
SEEN: list[JobReturn] = []


class Seen(Callback):
    """Hydra's own way to look at what a job returns."""

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        SEEN.append(job_return)


def watched(*words: str) -> list[str]:
    SEEN.clear()
    return tiny_line(f"+hydra.callbacks.seen._target_={__name__}.Seen", *words)


def test_a_single_run_returns_prints_and_records_it(main: Callable[..., Ended], tmp_path: Path) -> None:
    ended = main(*watched(ERROR, "seeds=2", f"hydra.run.dir={tmp_path / 'run'}"))
    assert ended.code == 0, ended.err
    (returned,) = SEEN
    rows = pd.read_csv(tmp_path / "run" / "results.csv")
    errors = rows[rows["attack"] == "fgsm"]["error_top1"]
    assert len(errors) == 2 and returned.return_value == pytest.approx(errors.mean(), abs=1e-12)
    assert f"objective: error(target | target, fgsm) = {returned.return_value:.6g}\n" in ended.out
    said = json.loads((tmp_path / "run" / "run.json").read_text())["objective"]
    assert said == {"expression": "error(target | target, fgsm)", "value": returned.return_value}


def test_a_run_without_one_returns_nothing(main: Callable[..., Ended], tmp_path: Path) -> None:
    ended = main(*watched(f"hydra.run.dir={tmp_path / 'run'}"))
    assert ended.code == 0 and [seen.return_value for seen in SEEN] == [None]
    assert "objective" not in json.loads((tmp_path / "run" / "run.json").read_text()) and "objective:" not in ended.out


def test_each_job_of_a_sweep_returns_its_own_and_a_failed_one_fails(main: Callable[..., Ended], tmp_path: Path) -> None:
    """None of these stops another, and the exit code is that of a sweep without an objective."""
    ended = main("-m", *watched(ERROR, "trainer.optimizer.lr=0.01,1e30,-1,0.02"))
    assert ended.code == 1 and "2 jobs failed" in ended.err
    assert [seen.status for seen in SEEN] == [JobStatus[n] for n in ("COMPLETED", "FAILED", "FAILED", "COMPLETED")]
    done = [said["objective"]["value"] for said in run_jsons(tmp_path / "outputs").values() if "objective" in said]
    assert sorted(seen.return_value for seen in SEEN if seen.status is JobStatus.COMPLETED) == sorted(done)
    ended = main("-m", *watched(ERROR, "trainer.optimizer.lr=-2,-1"))
    assert ended.code == 2 and "2 jobs failed" in ended.err


def test_where_its_rows_are_left_out_it_has_no_value(main: Callable[..., Ended], tmp_path: Path) -> None:
    """A run says so and has done what it was asked; a sweeper is told that the trial failed."""
    ended = main(*watched(ERROR, "missing=skip", "seeds=2", f"hydra.run.dir={tmp_path / 'run'}"))
    assert ended.code == 0 and [seen.return_value for seen in SEEN] == [None]
    assert ended.out.count("objective") == 1 and "objective: no value, its rows are not there\n" in ended.out
    assert "Error" not in ended.err and "missing=skip: seed 1: no row is there" in ended.err
    report = (tmp_path / "run" / "report.md").read_text()
    assert "seed 0: no row is there; seed 1: no row is there" in report and "- seeds: none" in report
    ended = main("-m", *watched(ERROR, "missing=skip", "seed=0,1"))
    assert ended.code == 1 and [seen.status for seen in SEEN] == [JobStatus.FAILED] * 2


def test_an_objective_over_parts_has_their_rows(main: Callable[..., Ended], tmp_path: Path) -> None:
    small = ("device=cpu", "threads=1", "scale=smoke", "dataset=digits", "dataset.train_size=64")
    line = ["paper=tramer/all", "parts=[tramer/table7,tramer/table2]", *small, f"hydra.run.dir={tmp_path / 'all'}"]
    ended = main(*line, 'objective="error(A_adv) - error(B)"')  # B is of the second part alone
    assert ended.code == 0, ended.err
    value = json.loads((tmp_path / "all" / "run.json").read_text())["objective"]["value"]
    rows = pd.read_csv(tmp_path / "all" / "table2" / "results.csv")
    clean = rows[rows["attack"] == "clean"].set_index("target")["error_top1"]
    assert value == pytest.approx(clean["A_adv"] - clean["B"], abs=1e-12)


def test_an_objective_over_a_single_part_has_its_rows(main: Callable[..., Ended], tmp_path: Path) -> None:
    """As what else the run states beside its parts: a claim, and what is concluded from it."""
    claim = "claims.whole={says: s, paper: p, checks: ['error(A) < 0.999']}"
    words = ("conclusion={confirmed: Fine, refuted: Bad, open: Unknown}", f"hydra.run.dir={tmp_path / 'one'}")
    line = ["parts=[tramer/table7]", "scale=smoke", "dataset=digits", "dataset.train_size=64", "device=cpu"]
    ended = main(*line, claim, *words, 'objective="error(A)"')
    assert ended.code == 0, ended.err
    rows = pd.read_csv(tmp_path / "one" / "results.csv")
    clean = rows[rows["measurement"] == "clean"].set_index("target")["error_top1"]
    assert json.loads((tmp_path / "one" / "run.json").read_text())["objective"]["value"] == clean["A"]
    assert "whole" in set(pd.read_csv(tmp_path / "one" / "claims.csv")["claim"]) and "whole" in ended.out
    ended = main(*line, 'objective="error(nobody)"')
    assert ended.code == 2 and "objective asks about 'nobody'" in ended.err


def test_what_a_file_of_a_single_part_states_is_judged(main: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "conf" / "paper").mkdir(parents=True)
    text = """# @package _global_
parts: [tramer/table7]
objective: error(A)
claims: {whole: {says: s, paper: p, checks: ["error(A) < 0.999"]}}
"""
    (tmp_path / "conf" / "paper" / "own.yaml").write_text(text)
    folder, run = f"hydra.searchpath=[file://{tmp_path / 'conf'}]", f"hydra.run.dir={tmp_path / 'one'}"
    small = ("device=cpu", "scale=smoke", "dataset=digits", "dataset.train_size=64", "dataset.test_size=40")
    ended = main("paper=own", folder, run, *small)
    assert ended.code == 0 and "objective: error(A) = " in ended.out, ended.err
    assert "whole" in set(pd.read_csv(tmp_path / "one" / "claims.csv")["claim"])


def test_without_a_value_the_job_fails_and_what_was_measured_is_recorded_as_done(
    main: Callable[..., Ended], tmp_path: Path
) -> None:
    """A ratio over no error has none."""
    ended = main(*watched('objective="1 / (error(target) - error(target))"', f"hydra.run.dir={tmp_path / 'run'}"))
    told = "objective: 1 / (error(target) - error(target)) has no value in this run's rows"
    assert ended.code == 1 and told in ended.err and "results.csv" in ended.out
    assert SEEN[0].return_value is None
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert said["status"] == "done" and said["objective"]["value"] is None
    assert not (tmp_path / "run" / "traceback.txt").exists()


WRONG = {
    "a number": ("objective=3", ["objective should be a text", "3"]),
    "no expression": ('objective="error(target"', ["objective: 'error(target' cannot be read"]),
    "no metric": ('objective="eror(target)"', ["objective: eror in 'eror(target)' is no metric", "'error'"]),
    "no quantity": ('objective="1 + 1"', ["objective: '1 + 1' should name a quantity"]),
    "no model": ('objective="error(targt)"', ["objective asks about 'targt'", "'target'"]),
    "no measurement": (
        'objective="coherence(target)"',
        ["objective asks about coherence", "measurement=coherence has"],
    ),
    "no attack": ('objective="error(target | target, pgd)"', ["objective asks about attack pgd"]),
    "no eps": ('objective="error(target | target, fgsm, eps=0.1)"', ["objective asks about fgsm at eps=0.1"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_one_is_told_before_training(main: Callable[..., Ended], tmp_path: Path, wrong: str) -> None:
    word, fragments = WRONG[wrong]
    ended = main(*tiny_line(word))
    (line,) = ended.err.splitlines()
    assert ended.code == 2 and all(fragment in line for fragment in fragments), line
    assert not (tmp_path / "outputs").exists()


def test_what_is_not_measured_is_told_before_training(main: Callable[..., Ended]) -> None:
    line = tiny_line("models=companions", "models.copy=null", "models.holdout=null", "trainer=fgsm_adv")
    for word in ("targets=[target]", "measurement=worst_case"):
        ended = main(*line, word, 'objective="error(natural | target, fgsm)"')
        told = "objective asks about error(natural | target, fgsm), which is not measured"
        assert ended.code == 2 and told in ended.err, ended.err


def test_optuna_searches(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    command = [sys.executable, RUN, "-m", *search, *tiny_line(ERROR, "trainer.optimizer.lr=interval(0.001,0.1)")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    values = [said["objective"]["value"] for said in run_jsons(tmp_path / "outputs").values()]
    (best,) = (tmp_path / "outputs").rglob("optimization_results.yaml")
    found = yaml.safe_load(best.read_text())
    assert len(values) == 3 and found["best_value"] == min(values)
    assert 0.001 <= found["best_params"]["trainer.optimizer.lr"] <= 0.1
