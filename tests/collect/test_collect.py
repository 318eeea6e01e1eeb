"""scripts/collect.py on run directories made by hand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from epsball.collect import table as collect
from epsball.collect.jobs import telling_keys
from epsball.runtime.processes import this_process

SCRIPT = ROOT / "scripts" / "collect.py"


def cell(source: str, target: str, measurement: str = "transfer_matrix") -> list[Any]:
    clean = measurement == "clean"
    return ["digits", measurement, source, target, "clean" if clean else "fgsm", 0.0 if clean else 8 / 255]


def make_run(
    path: Path, seed: int, errors: dict[str, float] | None, trainer: str = "madry", age: int = 0, **record: object
) -> Path:
    """A run with a clean row and one fgsm row per error {"A>B": rate}, which promised as much; `age` in seconds."""
    path.mkdir(parents=True)
    cells = [cell("A", "A", "clean"), *(cell(pair[0], pair[2]) for pair in errors or ())]
    made = {
        "status": "done",
        "experiment": "digits",
        "seeds": [seed],
        "overrides": [f"trainer={trainer}", f"seed={seed}", "suite=tramer", "hydra.run.dir=x"],
        "config_hash": f"{trainer}{seed}",
        "settings": {"trainer": trainer, "suite": "tramer"},
        "cells": cells,
        "aliases": [{}],
    }
    (path / "run.json").write_text(json.dumps(made | record))
    if errors is not None:
        frame = pd.DataFrame(cells, columns=["dataset", "measurement", "source", "target", "attack", "eps"])
        frame = frame.assign(error_top1=[0.01, *errors.values()], seed=seed, n=100, error_top5=float("nan"))
        frame.to_csv(path / "results.csv", index=False)
    for file in path.iterdir():
        os.utime(file, (1e9 - age, 1e9 - age))
    return path


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Two trainers x two seeds: one re-run, one failed, one with a hole."""
    root = tmp_path / "outputs"
    make_run(root / "0", 0, {"A>A": 0.9, "A>B": 0.1})
    make_run(root / "0-old", 0, {"A>A": 0.0, "A>B": 0.0}, age=100)
    make_run(root / "1", 1, {"A>A": 0.8, "A>B": 0.3})
    promised = [cell("A", "A", "clean"), cell("A", "A"), cell("A", "B")]
    make_run(root / "2", 0, {"A>A": 0.5}, trainer="standard", cells=promised)
    make_run(root / "3", 1, None, trainer="standard", cells=promised, status="failed", exit_reason="out of memory")
    return root


def lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_has_mean_and_sd_and_names_every_hole(grid: Path, capsys) -> None:
    assert collect.main([str(grid)]) == 0
    text = capsys.readouterr().out
    assert lines(text)[0] == ["job", "source", "attack", "eps", "A", "B"]
    assert lines(text)[2:] == [
        ["trainer=madry", "-", "clean", "0", "1.0 ± 0.0", "-"],
        ["trainer=madry", "A", "fgsm", "8/255", "85.0 ± 7.1", "20.0 ± 14.1"],
        ["trainer=standard", "-", "clean", "0", "1.0 (1 of 2 seeds)", "-"],
        ["trainer=standard", "A", "fgsm", "8/255", "50.0 (1 of 2 seeds)", "missing"],
    ]
    assert "1 of 5 runs missing: 3: failed: out of memory\n" in text
    assert "  digits trainer=standard seed=0: A -> B fgsm eps 8/255\n" in text
    assert "  digits trainer=standard seed=1: everything (3 cells)\n" in text
    assert (grid / "collected_table.md").read_text() == text


def test_collected_rows_are_counted_once_and_say_where_from(grid: Path) -> None:
    collect.main([str(grid), "--out", str(grid / "new")])
    rows = pd.read_csv(grid / "new" / "collected.csv", dtype={"run": str})
    assert list(rows.columns[:4]) == ["run", "experiment", "job", "dataset"]
    assert "error_top5" in rows
    assert list(rows["run"].unique()) == ["0", "1", "2"]
    assert len(rows) == 8
    assert rows["eps"].iloc[1] == pytest.approx(8 / 255)


def test_csv_is_long_and_says_missing(grid: Path) -> None:
    assert collect.main([str(grid), "--format", "csv"]) == 0
    table = pd.read_csv(grid / "collected_table.csv")
    hole = table[(table["job"] == "trainer=standard") & (table["target"] == "B")].iloc[0]
    assert (hole["seeds"], hole["seeds_expected"], hole["error_top1"]) == (0, 2, "missing")
    assert table.isin(["missing"]).sum().sum() == 1


def test_the_heading_says_of_how_many_seeds(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "0", 0, {"A>A": 0.9})
    collect.main([str(tmp_path)])
    make_run(tmp_path / "a", 1, {"A>A": 0.8}, experiment="other", seeds=[1, 2])
    collect.main([str(tmp_path)])
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Error in per cent, ")]
    assert [line.split(", ")[1].split(";")[0] for line in headings] == ["one seed", "mean ± sd over 1 or 2 seeds"]


def test_latex(grid: Path) -> None:
    assert collect.main([str(grid), "--format", "latex"]) == 0
    text = (grid / "collected_table.tex").read_text()
    assert text.startswith("% Error in per cent, mean ± sd over 2 seeds; source")
    assert "85.0 $\\pm$ 7.1" in text
    assert "% 1 of 5 runs missing" in text


def test_an_edited_config_replaces_the_older_run_by_name(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, age=50, config_hash="before")
    make_run(tmp_path / "b", 0, {"A>B": 0.4}, config_hash="after")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "a: not counted, b replaces it and has another config_hash" in text
    assert "20.0" not in text


def test_a_failure_that_was_repaired_is_not_missing(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, None, age=50, status="failed", exit_reason="oom")
    make_run(tmp_path / "b", 0, {"A>A": 0.4})
    assert collect.main([str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_jobs_with_different_suites_are_not_each_others_holes(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.4}, settings={"suite": "one"})
    make_run(tmp_path / "b", 0, {"A>B": 0.4}, settings={"suite": "two"})
    assert collect.main([str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_a_run_with_parts_is_its_parts(tmp_path: Path, capsys) -> None:
    """The folder above them has no rows and is no hole; nothing below it is counted twice."""
    parts, line = ["tramer/table1", "tramer/table8"], ["paper=tramer/all", "scale=quick"]
    for status, top in (("done", tmp_path / "all"), ("interrupted", tmp_path / "stopped")):
        make_run(top, 0, None, experiment="tramer/all", parts=parts, overrides=line, status=status)
        (top / "claims.csv").write_text("claim\n")
    for name, error in (("table1", 0.4), ("table8", 0.6)):
        make_run(tmp_path / "all" / name, 0, {"A>A": error}, experiment=f"tramer/{name}", overrides=line)
    assert collect.main([str(tmp_path), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "missing" not in text and "tramer/all" not in text and "hole" not in text
    rows = pd.read_csv(tmp_path / "collected.csv")
    assert list(rows["run"]) == ["all/table1"] * 2 + ["all/table8"] * 2
    assert lines(text)[2:] == [
        ["tramer/table1", "-", "clean", "0", "1.0"],
        ["tramer/table1", "A", "fgsm", "8/255", "40.0"],
        ["tramer/table8", "-", "clean", "0", "1.0"],
        ["tramer/table8", "A", "fgsm", "8/255", "60.0"],
    ]


def test_a_part_that_failed_is_named_once(tmp_path: Path, capsys) -> None:
    parts = {"experiment": "tramer/all", "parts": ["tramer/table1", "tramer/table8"]}
    make_run(tmp_path / "all", 0, None, status="failed", exit_reason="oom", **parts)
    make_run(tmp_path / "all" / "table1", 0, {"A>A": 0.4}, experiment="tramer/table1")
    make_run(tmp_path / "all" / "table8", 0, None, experiment="tramer/table8", status="failed", exit_reason="oom")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "1 of 2 runs missing: all/table8: failed: oom\n" in text


@pytest.mark.parametrize(
    ("damage", "says"),
    [("", "cannot be read"), ("source,target\nA,B\n", "lacks the columns dataset"), ("cut", "truncated: 2 whole rows")],
)
def test_damaged_results_are_named_and_passed_over(tmp_path: Path, capsys, damage: str, says: str) -> None:
    make_run(tmp_path / "good", 0, {"A>A": 0.4, "A>B": 0.2})
    bad = make_run(tmp_path / "bad", 1, {"A>A": 0.4, "A>B": 0.2}) / "results.csv"
    bad.write_text(bad.read_text()[:-12] if damage == "cut" else damage)
    (make_run(tmp_path / "worse", 2, {"A>A": 0.4}) / "run.json").write_text("{")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "bad/results.csv" in text and says in text
    assert "worse: run.json cannot be read" in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("seeds", 3, "seeds should be a list, each an int, is 3"),
        ("seeds", ["a"], "seeds[0] should be an int, is 'a'"),
        ("cells", [["A", "B"]], "cells[0] should be a list that ends with an eps, is ['A', 'B']"),
        ("aliases", [None], "aliases[0] should be"),
        ("settings", "trainer=madry", "settings should be"),
        ("settings", None, "settings should be {NAME: ...}, is null"),
        ("overrides", 1, "overrides should be a list, each a text, is 1"),
    ],
)
def test_a_record_that_no_run_wrote_is_named_and_passed_over(
    tmp_path: Path, capsys, field: str, value: object, says: str
) -> None:
    make_run(tmp_path / "good", 0, {"A>A": 0.4, "A>B": 0.2})
    make_run(tmp_path / "bad", 1, {"A>A": 0.4}, **{field: value})
    assert collect.main([str(tmp_path)]) == 0
    assert f"bad: run.json is not a run's: {says}" in capsys.readouterr().out


def test_as_a_process(grid: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, grid / "1", grid / "2"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "± sd over 2 seeds; " in done.stdout
    (tmp_path / "empty").mkdir()
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "empty"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (1, 1, "")
    assert done.stdout.startswith("nothing to tabulate under ")


def test_a_misspelt_folder_and_a_file_to_write_to_are_one_line(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    wrong = {
        "grid/nope is not there": [str(grid), "grid/nope"],
        f"--out {file}: {file} cannot be written": [str(grid), "--out", str(file)],
    }
    for told, words in wrong.items():
        assert collect.main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"error: {told}") and err.count("\n") == 1


def test_another_users_runs_are_collected_into_a_folder_of_ones_own(
    grid: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("epsball.runtime.files.tempfile.TemporaryFile", refuse)
    assert collect.main([str(grid)]) == 2
    refused = f"{grid} cannot be written (Permission denied): name a folder of your own"
    assert capsys.readouterr().err == f"error: --out is not given: {refused}\n"


# ---- interrupted runs


@pytest.mark.parametrize("hashes", [("one", "one"), ("before", "after")], ids=["same", "edited"])
def test_a_finished_run_beats_an_interrupted_one_that_is_newer(tmp_path: Path, capsys, hashes: tuple[str, str]) -> None:
    make_run(tmp_path / "done", 0, {"A>A": 0.2}, age=50, config_hash=hashes[0])
    make_run(tmp_path / "stopped", 0, {"A>A": 0.6, "A>B": 0.4}, status="interrupted", config_hash=hashes[1])
    assert collect.main([str(tmp_path)]) == 0
    cells = {tuple(line[:3]): line[3:] for line in lines(capsys.readouterr().out)[2:]}
    same = hashes[0] == hashes[1]  # of one config, each cell is from the better run
    counted = ["20.0", "40.0" if same else "missing"]
    assert cells["A", "fgsm", "8/255"] == counted


def test_of_two_finished_runs_the_newer_counts(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.2})
    make_run(tmp_path / "b", 0, {"A>A": 0.6}, age=50)
    assert collect.main([str(tmp_path)]) == 0
    assert lines(capsys.readouterr().out)[3] == ["A", "fgsm", "8/255", "20.0"]


def test_a_run_of_several_seeds_is_not_replaced_by_a_run_of_one(tmp_path: Path) -> None:
    both = make_run(tmp_path / "a", 0, {"A>A": 0.2}, age=50, seeds=[0, 1], config_hash="both")
    rows = pd.read_csv(both / "results.csv")
    pd.concat([rows, rows.assign(seed=1)]).to_csv(both / "results.csv", index=False)
    os.utime(both / "results.csv", (1e9 - 50, 1e9 - 50))
    make_run(tmp_path / "b", 0, {"A>A": 0.4}, config_hash="one")
    assert collect.main([str(tmp_path)]) == 0
    rows = pd.read_csv(tmp_path / "collected.csv")
    assert sorted(zip(rows["run"], rows["seed"], rows["error_top1"], strict=True)) == [
        *(("a", 1, 0.01), ("a", 1, 0.2), ("b", 0, 0.01), ("b", 0, 0.4)),
    ]


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ([0], "old: of its seed 0 new's count, which are of another config, and its others (1) stand in one mean with"),
        ([1, 2], "old: of its seed 1 new's count, which are of another config, and its others (0) stand in one mean"),
        ([0, 1, 2], "old: of its seeds 0, 1 new's count, which are of another config\n"),
        ([2], ""),
    ],
)
@pytest.mark.parametrize("identities", [{}, {"old": "a", "new": "b"}, {"old": "a", "new": "a"}], ids=str)
def test_two_configs_that_share_seeds_are_told(
    tmp_path: Path, capsys, later: list[int], told: str, identities: dict[str, str]
) -> None:
    """A mean over seeds may be of both. The hash is of all seeds of a run: rows of one identity are of one config."""
    for name, seeds, age in (("old", [0, 1], 50), ("new", later, 0)):
        run = make_run(tmp_path / name, seeds[0], {"A>A": 0.2}, age=age, seeds=seeds, config_hash=name)
        rows = pd.concat([pd.read_csv(run / "results.csv").assign(seed=seed) for seed in seeds])
        rows.assign(**({"identity": identities[name]} if identities else {})).to_csv(run / "results.csv", index=False)
        os.utime(run / "results.csv", (1e9 - age, 1e9 - age))
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    if identities.get("new") == "a":
        assert "another config" not in text
    else:
        assert told in text and ("another config" in text) == bool(told)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process's beginning is unknown")
def test_a_killed_run_is_told_from_one_that_runs(tmp_path: Path, capsys) -> None:
    """Both say `running`: the killed one could say no more. One of another host is not looked for."""
    started = {"status": "running", "started": "2026-11-26T20:00:00+0000"}
    says = "import json; from epsball.runtime.processes import this_process; print(json.dumps(this_process()))"
    killed = subprocess.run([sys.executable, "-uc", f"{says}; import os; os.kill(os.getpid(), 9)"], stdout=-1)
    assert killed.returncode == -9
    make_run(tmp_path / "done", 0, {"A>A": 0.4})
    make_run(tmp_path / "here", 1, None, **started, process=this_process())
    make_run(tmp_path / "killed", 2, None, **started, process=json.loads(killed.stdout))
    make_run(tmp_path / "older", 3, None, **started)
    make_run(tmp_path / "there", 4, None, **started, process={"host": "there", "id": 7, "began": "boot 1"})
    assert collect.main([str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "runs missing" in line]
    assert line == (
        "4 of 5 runs missing: here: running since 2026-11-26T20:00:00+0000; killed: interrupted (process gone); "
        "older: running; there: running on there since 2026-11-26T20:00:00+0000"
    )


# ---- what a run's record says of itself

PLAIN = {"scale": "quick", "arch": "mnist_a", "trainer": "madry", "trainer.epochs": 5, "trainer.optimizer": "adam"}


def recorded(cells: list[list[Any]] | None = None, **settings: object) -> dict[str, Any]:
    """The record of a run that says its settings and its cells."""
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    return {"settings": PLAIN | changed, **({} if cells is None else {"cells": cells})}


def test_jobs_are_named_by_their_settings_whatever_was_typed(tmp_path: Path) -> None:
    """A default that is typed out makes no other job, and a machine's paths and threads are no settings."""
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, **recorded(), overrides=["device=cpu"])
    make_run(tmp_path / "b", 1, {"A>A": 0.4}, **recorded(), overrides=["trainer=madry", "seed=1"])
    make_run(tmp_path / "c", 0, {"A>A": 0.6}, **recorded(trainer="standard", trainer__epochs=3), overrides=["x=y"])
    assert collect.main([str(tmp_path), "--format", "csv"]) == 0
    table = pd.read_csv(tmp_path / "collected_table.csv")
    assert table["job"].tolist() == ["trainer=madry"] * 2 + ["trainer=standard"] * 2
    assert table["seeds"].tolist() == [2, 2, 1, 1] and set(table["seeds_expected"]) == {2}


KEYS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "the same": ([PLAIN, PLAIN], []),
    "a group": ([PLAIN, PLAIN | {"trainer": "standard", "trainer.epochs": 3}], ["trainer"]),
    "a field": ([PLAIN, PLAIN | {"trainer.epochs": 3}], ["trainer.epochs"]),
    "a field of one group": (
        [PLAIN, PLAIN | {"trainer.epochs": 3}, PLAIN | {"trainer": "standard"}],
        ["trainer", "trainer.epochs"],
    ),
    "groups that go together": ([PLAIN, PLAIN | {"trainer": "x", "arch": "y"}], ["arch", "trainer"]),
    "a deeper field that follows": (
        [PLAIN | {"models.t.trainer.epochs": 5}, PLAIN | {"trainer.epochs": 3, "models.t.trainer.epochs": 3}],
        ["trainer.epochs"],
    ),
    "a field that is new": ([PLAIN, PLAIN | {"trainer.clip": 1.0}], []),
    "numbers and lists": ([PLAIN | {"targets": None}, PLAIN | {"targets": ["A"]}], ["targets"]),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_the_keys_that_tell_jobs_apart(case: str) -> None:
    settings, keys = KEYS[case]
    assert telling_keys(settings) == keys


def test_a_group_without_a_name_is_not_its_absence(tmp_path: Path) -> None:
    """As a trainer's augment, by default null: seeds with and without it are two jobs."""
    given = {"trainer.augment.shift": 2, "trainer.augment.flip": False}
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, settings=PLAIN | {"trainer.augment": None})
    make_run(tmp_path / "b", 1, {"A>A": 0.4}, settings=PLAIN | given)
    make_run(tmp_path / "c", 2, {"A>A": 0.6}, settings=PLAIN | given)
    assert collect.main([str(tmp_path), "--format", "csv"]) == 0
    table = pd.read_csv(tmp_path / "collected_table.csv")
    assert table["job"].tolist() == ["trainer.augment=null"] * 2 + ["trainer.augment=(given)"] * 2
    assert table["seeds"].tolist() == [1, 1, 2, 2]


def test_a_models_own_seed_tells_jobs_apart_where_it_was_typed(tmp_path: Path) -> None:
    """Whatever the run's seed is, which models follow by default."""
    for seed in (0, 5):
        make_run(tmp_path / f"plain{seed}", seed, {"A>A": 0.2}, **recorded(), overrides=[f"seed={seed}"])
        for own in (5, 6):
            typed = [f"seed={seed}", f"models.A.seed={own}"]
            make_run(tmp_path / f"{seed}-{own}", seed, {"A>A": 0.4}, **recorded(), overrides=typed)
    assert collect.main([str(tmp_path), "--format", "csv"]) == 0
    table = pd.read_csv(tmp_path / "collected_table.csv")
    assert sorted(set(table["job"])) == ["models.A.seed=(default)", "models.A.seed=5", "models.A.seed=6"]
    assert set(table["seeds"]) == {2}


def test_a_finished_run_without_errors_is_no_hole(tmp_path: Path, capsys) -> None:
    """As one that measures training curves alone: its rows have no errors."""
    run = make_run(tmp_path / "curves" / "a", 0, {}, experiment="curves", cells=[])
    frame = pd.read_csv(run / "results.csv").assign(error_top1=float("nan"), training_loss=0.5)
    frame.assign(measurement="training_curves", attack="training", source="A").to_csv(run / "results.csv", index=False)
    assert collect.main([str(tmp_path / "curves")]) == 0
    assert "hole" not in capsys.readouterr().out
    make_run(tmp_path / "b", 0, {"A>A": 0.2})
    make_run(tmp_path / "c", 1, None, experiment="curves", cells=[], status="failed", exit_reason="oom")
    assert collect.main([str(tmp_path)]) == 0
    holes = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert holes == ["curves seed=1: everything"]


def test_models_may_have_names_that_look_like_numbers_or_nothing(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "a", 0, {"A>A": 0.2, "A>B": 0.4})
    for file in ("results.csv", "run.json"):
        text = (run / file).read_text()
        for old, new in (("A", "007"), ("B", "nan")):
            text = re.sub(rf"""(?<=[,"]){old}(?=[,"])""", new, text)
        (run / file).write_text(text)
    assert collect.main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert lines(said)[0][-2:] == ["007", "nan"] and lines(said)[-1][-2:] == ["20.0", "40.0"]
    assert not any(word in said for word in ("hole", "missing", "truncated"))


def test_holes_are_cells_of_the_runs_own_record(tmp_path: Path, capsys) -> None:
    """Not those that another job has, and also those that no run has."""
    matrix = [cell("A", "A", "clean"), cell("A", "A"), cell("A", "B")]
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, **recorded(matrix))
    make_run(tmp_path / "b", 0, {"B>C": 0.6}, **recorded([cell("A", "A", "clean"), cell("B", "C")], arch="mnist_b"))
    make_run(tmp_path / "c", 0, None, **recorded(matrix, arch="mnist_c"), status="failed", exit_reason="oom")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    holes = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    assert holes == [
        "digits arch=mnist_a seed=0: A -> B fgsm eps 8/255",
        "digits arch=mnist_c seed=0: everything (3 cells)",
    ]


@pytest.mark.parametrize("status", ["failed", "done"])
def test_what_a_replaced_run_promised_is_no_hole(tmp_path: Path, capsys, status: str) -> None:
    """The config was edited since: the newer run says which cells there are."""
    older = {"status": status, "age": 50, "config_hash": "before", "exit_reason": "oom"}
    promised = recorded([cell("A", "A"), cell("A", "B")])
    make_run(tmp_path / "a", 0, {"A>B": 0.3} if status == "done" else None, **promised, **older)
    make_run(tmp_path / "b", 0, {"A>A": 0.2}, **recorded([cell("A", "A")]), config_hash="after")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "missing" not in text and "hole" not in text
    assert ("a: not counted" in text) == (status == "done")


def test_what_a_later_run_promised_and_failed_to_have_is_a_hole(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, **recorded([cell("A", "A")]), age=50, config_hash="before")
    promised = recorded([cell("A", "A"), cell("A", "B")])
    make_run(tmp_path / "b", 0, None, **promised, config_hash="after", status="failed", exit_reason="oom")
    assert collect.main([str(tmp_path)]) == 0
    assert "  digits seed=0: A -> B fgsm eps 8/255\n" in capsys.readouterr().out


def test_a_failed_run_of_several_seeds_lacks_each(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, **recorded())
    make_run(tmp_path / "b", 3, None, **recorded([cell("A", "A")], arch="x"), status="failed", seeds=[3, 4])
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "digits arch=x seed=3: everything" in text and "digits arch=x seed=4: everything" in text


# ---- models that are the same, listed once


def run_with_names(path: Path, seed: int, errors: dict[str, float], names: dict[str, str], arch: str) -> None:
    """A run that promises what it has, and says which names stand for equal models."""
    models = sorted({pair[0] for pair in errors})
    cells = [*(cell(model, model, "clean") for model in models), *(cell(pair[0], pair[2]) for pair in errors)]
    run = make_run(path, seed, errors, **recorded(cells, arch=arch), aliases=[names])
    rows = pd.read_csv(run / "results.csv")
    more = [rows[rows["attack"] == "clean"].assign(source=model, target=model) for model in models[1:]]
    pd.concat([rows, *more]).to_csv(run / "results.csv", index=False)


def test_a_name_for_an_equal_model_is_no_hole(tmp_path: Path, capsys) -> None:
    both = {"A>A": 0.9, "A>B": 0.2, "B>A": 0.3, "B>B": 0.8}
    for seed in (0, 1):
        run_with_names(tmp_path / f"one{seed}", seed, {"A>A": 0.4}, {"B": "A"}, "one")
        run_with_names(tmp_path / f"two{seed}", seed, both, {}, "two")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "missing" not in text and "hole" not in text and "= MODEL: the same model, listed once" in text
    assert lines(text)[2:] == [
        ["arch=one", "-", "clean", "0", "1.0 ± 0.0", "= A"],
        ["arch=one", "A", "fgsm", "8/255", "40.0 ± 0.0", "= A"],
        ["arch=two", "-", "clean", "0", "1.0 ± 0.0", "1.0 ± 0.0"],
        ["arch=two", "A", "fgsm", "8/255", "90.0 ± 0.0", "20.0 ± 0.0"],
        ["arch=two", "B", "fgsm", "8/255", "30.0 ± 0.0", "80.0 ± 0.0"],
    ]


def test_a_name_that_no_job_lists_has_its_column_too(tmp_path: Path, capsys) -> None:
    for seed in (0, 1):
        run_with_names(tmp_path / f"one{seed}", seed, {"A>A": 0.4}, {"B": "A"}, "one")
    assert collect.main([str(tmp_path)]) == 0
    assert lines(capsys.readouterr().out)[2:] == [
        ["-", "clean", "0", "1.0 ± 0.0", "= A"],
        ["A", "fgsm", "8/255", "40.0 ± 0.0", "= A"],
    ]


def test_models_that_are_equal_in_one_seed_alone_count_in_its_mean(tmp_path: Path, capsys) -> None:
    """Such as a companion of a fixed seed, which is the target in that one."""
    both = {"A>A": 0.9, "A>B": 0.2, "B>A": 0.3, "B>B": 0.8}
    run_with_names(tmp_path / "0", 0, both, {}, "one")
    run_with_names(tmp_path / "1", 1, {"A>A": 0.4}, {"B": "A"}, "one")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "missing" not in text and "hole" not in text
    assert [line[-2:] for line in lines(text)[3:]] == [["65.0 ± 35.4", "30.0 ± 14.1"], ["35.0 ± 7.1", "60.0 ± 28.3"]]
    assert len(pd.read_csv(tmp_path / "collected.csv")) == 8  # each row once


def test_a_sweep_promises_its_seeds_to_its_own_jobs(tmp_path: Path, capsys) -> None:
    """Not to a run of its own beside it, nor that one's seed to them."""
    for number, (seed, arch) in enumerate([(0, "one"), (1, "one"), (0, "two")]):
        make_run(tmp_path / "sweep" / str(number), seed, {"A>A": 0.4}, **recorded([cell("A", "A")], arch=arch))
    (tmp_path / "sweep" / "multirun.yaml").touch()
    make_run(tmp_path / "alone", 7, {"A>A": 0.4}, **recorded([cell("A", "A")], arch="three"))
    assert collect.main([str(tmp_path)]) == 0
    holes = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert holes == ["digits arch=two seed=1: everything (2 cells)"]


def test_a_sweep_promises_its_seeds_to_the_parts_of_its_own_jobs(tmp_path: Path, capsys) -> None:
    for sweep, arch in enumerate(("one", "two")):
        for job in range(2):
            part, seed = tmp_path / f"sweep{sweep}" / str(job) / "part", 2 * sweep + job
            make_run(part, seed, {"A>A": 0.4}, **recorded([cell("A", "A")], arch=arch))
        (tmp_path / f"sweep{sweep}" / "multirun.yaml").touch()
    assert collect.main([str(tmp_path)]) == 0
    assert "hole" not in capsys.readouterr().out


# ---- measurements


def add_column(run: Path, **columns: object) -> None:
    rows = pd.read_csv(run / "results.csv")
    rows.assign(**columns).to_csv(run / "results.csv", index=False)


def test_rows_with_values_of_a_grid_stand_beside_rows_without(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "plain", 0, {"A>A": 0.2, "A>B": 0.1}, trainer="standard")
    for seed, error in ((0, 0.3), (1, 0.5)):
        made = make_run(tmp_path / f"grid{seed}", seed, {"A>A": error, "A>B": 0.6})
        add_column(made, width=[2, 2, 4], activation=["relu", "relu", "elu"])
    assert collect.main([str(tmp_path)]) == 0
    assert lines(capsys.readouterr().out)[2:] == [
        ["trainer=madry", "-", "clean", "0", "1.0 ± 0.0", "-"],
        ["trainer=madry", "A", "fgsm", "8/255", "40.0 ± 14.1", "60.0 ± 0.0"],
        ["trainer=standard", "-", "clean", "0", "1.0 (1 of 2 seeds)", "-"],
        ["trainer=standard", "A", "fgsm", "8/255", "20.0 (1 of 2 seeds)", "10.0 (1 of 2 seeds)"],
    ]
    rows = pd.read_csv(tmp_path / "collected.csv").astype(object).fillna("none")
    assert rows[["run", "width", "activation"]].values.tolist() == [
        *([f"grid{seed}", *values] for seed in (0, 1) for values in ([2, "relu"], [2, "relu"], [4, "elu"])),
        *[["plain", "none", "none"]] * 3,
    ]


def test_two_measurements_of_one_cell_have_a_line_each(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "a", 0, {"A>A": 0.2, "B>B": 0.6}, cells=[])
    add_column(run, target="A", source="A", measurement=["clean", "transfer_matrix", "again"])
    assert collect.main([str(tmp_path)]) == 0
    heading, _, *body = lines(capsys.readouterr().out)
    assert heading == ["measurement", "source", "attack", "eps", "A"]
    assert body == [
        ["clean", "-", "clean", "0", "1.0"],
        ["transfer_matrix", "A", "fgsm", "8/255", "20.0"],
        ["again", "A", "fgsm", "8/255", "60.0"],
    ]


def test_rows_without_an_error_are_collected_and_stand_in_no_table(tmp_path: Path, capsys) -> None:
    run = make_run(tmp_path / "a", 0, {"A>A": 0.2, "B>B": 0.6}, cells=[])
    add_column(run, error_top1=[0.01, 0.2, float("nan")], measurement=["clean", "transfer_matrix", "surface"], e1=0.1)
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert len(lines(text)) == 4 and "truncated" not in text and "missing" not in text
    assert len(pd.read_csv(tmp_path / "collected.csv")) == 3


def test_fingerprints_that_look_like_numbers_are_collected_as_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 0, {"A>A": 0.2})
    add_column(run, source_model="123456789012", target_model="12e456789012", identity=["000000000001", "1e5000000000"])
    assert collect.main([str(tmp_path)]) == 0
    found = (tmp_path / "collected.csv").read_text()
    assert all(f",{text}" in found for text in ("123456789012", "12e456789012", "000000000001", "1e5000000000"))
