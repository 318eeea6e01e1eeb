"""scripts/collect.py on run directories made by hand."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "collect.py"


@pytest.fixture(scope="module")
def collect() -> ModuleType:
    spec = importlib.util.spec_from_file_location("collect", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["collect"] = module
    spec.loader.exec_module(module)
    return module


def make_run(
    path: Path, seed: int, errors: dict[str, float] | None, trainer: str = "madry", age: int = 0, **record: object
) -> Path:
    """A run with a clean row and one fgsm row per error {"A>B": rate}; `age` in seconds."""
    path.mkdir(parents=True)
    overrides = [f"trainer={trainer}", f"seed={seed}", "suite=tramer", "hydra.run.dir=x"]
    made = {
        "status": "done",
        "experiment": "digits",
        "seed": seed,
        "overrides": overrides,
        "config_hash": f"{trainer}{seed}",
    }
    (path / "run.json").write_text(json.dumps(made | record))
    if errors is not None:
        rows = [("A", "A", "clean", 0.0, 0.01), *((k[0], k[2], "fgsm", 8 / 255, e) for k, e in errors.items())]
        frame = pd.DataFrame(rows, columns=["source", "target", "attack", "eps", "error_top1"])
        frame = frame.assign(dataset="digits", seed=seed, n=100, error_top5=float("nan"))
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
    make_run(root / "2", 0, {"A>A": 0.5}, trainer="standard")
    make_run(root / "3", 1, None, trainer="standard", status="failed", exit_reason="out of memory")
    return root


def lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_table_has_mean_and_sd_and_names_every_hole(collect: ModuleType, grid: Path, capsys) -> None:
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


def test_collected_rows_are_counted_once_and_say_where_from(collect: ModuleType, grid: Path) -> None:
    collect.main([str(grid), "--out", str(grid / "new")])
    rows = pd.read_csv(grid / "new" / "collected.csv", dtype={"run": str})
    assert list(rows.columns[:4]) == ["run", "experiment", "job", "source"]
    assert "error_top5" in rows
    assert list(rows["run"].unique()) == ["0", "1", "2"]
    assert len(rows) == 8
    assert rows["eps"].iloc[1] == pytest.approx(8 / 255)


def test_csv_is_long_and_says_missing(collect: ModuleType, grid: Path) -> None:
    assert collect.main([str(grid), "--format", "csv"]) == 0
    table = pd.read_csv(grid / "collected_table.csv")
    hole = table[(table["job"] == "trainer=standard") & (table["target"] == "B")].iloc[0]
    assert (hole["seeds"], hole["seeds_expected"], hole["error_top1"]) == (0, 2, "missing")
    assert table.isin(["missing"]).sum().sum() == 1


def test_latex(collect: ModuleType, grid: Path) -> None:
    assert collect.main([str(grid), "--format", "latex"]) == 0
    text = (grid / "collected_table.tex").read_text()
    assert "85.0 $\\pm$ 7.1" in text
    assert "% 1 of 5 runs missing" in text


def test_an_edited_config_replaces_the_older_run_by_name(collect: ModuleType, tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.2}, age=50, config_hash="before")
    make_run(tmp_path / "b", 0, {"A>B": 0.4}, config_hash="after")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "a: not counted, b replaces it and has another config_hash" in text
    assert "20.0" not in text


def test_a_failure_that_was_repaired_is_not_missing(collect: ModuleType, tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, None, age=50, status="failed", exit_reason="oom")
    make_run(tmp_path / "b", 0, {"A>A": 0.4})
    assert collect.main([str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_jobs_with_different_suites_are_not_each_others_holes(collect: ModuleType, tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "a", 0, {"A>A": 0.4}, overrides=["suite=one"])
    make_run(tmp_path / "b", 0, {"A>B": 0.4}, overrides=["suite=two"])
    assert collect.main([str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_a_run_with_parts_is_its_parts(collect: ModuleType, tmp_path: Path, capsys) -> None:
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


def test_a_part_that_failed_is_named_once(collect: ModuleType, tmp_path: Path, capsys) -> None:
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
def test_damaged_results_are_named_and_passed_over(
    collect: ModuleType, tmp_path: Path, capsys, damage: str, says: str
) -> None:
    make_run(tmp_path / "good", 0, {"A>A": 0.4, "A>B": 0.2})
    bad = make_run(tmp_path / "bad", 1, {"A>A": 0.4, "A>B": 0.2}) / "results.csv"
    bad.write_text(bad.read_text()[:-12] if damage == "cut" else damage)
    (make_run(tmp_path / "worse", 2, {"A>A": 0.4}) / "run.json").write_text("{")
    assert collect.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "bad/results.csv" in text and says in text
    assert "worse: run.json cannot be read" in text


def test_as_a_process(grid: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, grid / "1", grid / "2"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "± sd over seeds" in done.stdout
    (tmp_path / "empty").mkdir()
    done = subprocess.run([sys.executable, SCRIPT, tmp_path / "empty"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (1, 1, "")
    assert done.stdout.startswith("nothing to tabulate under ")
