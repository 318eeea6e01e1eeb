"""Modules that a command does not import for its answer: those that take seconds and that it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

RUN = ROOT / "run.py"
SLOW = {"torchvision", "timm", "sklearn", "scipy", "matplotlib", "pandas", "jinja2", "PIL"}
COMMAND = f"""
import runpy, sys
sys.argv[0] = {str(RUN)!r}
try:
    runpy.run_path({str(RUN)!r}, run_name="__main__")
except SystemExit as end:
    print("ended", end.code, *sys.modules, file=sys.stderr)
"""


def run(tmp_path: Path, *arguments: str) -> tuple[str, str, str, set[str]]:
    """What run.py prints, its errors, its exit code, and the modules that it imported."""
    line = [sys.executable, "-c", COMMAND, *arguments]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    *errors, last = done.stderr.splitlines()
    ended, code, *modules = last.split()
    assert ended == "ended", done.stderr
    assert list(tmp_path.iterdir()) == []
    return done.stdout, "\n".join(errors), code, set(modules)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (
            ["--help"],
            ["arch: ", "mnist_a", "suite: ", "trainer.epochs", "seed: 0", "python run.py", "paper: tramer/all, "],
        ),
        (["-h", "trainer=madry", "trainer.epochs=7"], ["arch: ", "epochs: 7", "name: madry"]),
        (["--cfg", "job", "paper=demo", "trainer.epochs=7"], ["experiment: demo", "epochs: 7"]),
        (
            ["--cfg", "job", "--resolve", "paper=kurakin/figure1"],
            ["      - 0.0625\n      - 0.125\n      - 0.1875"],
        ),
        (["--cfg", "job", "--resolve", "paper=kariyappa/table2_conv3", "scale=paper"], ["images: {}"]),
    ],
)
def test_help_and_cfg_answer_without_torch(tmp_path: Path, arguments: list[str], shown: list[str]) -> None:
    printed, errors, code, modules = run(tmp_path, *arguments)
    assert code in ("0", "None") and not errors
    assert all(text in printed for text in shown)
    assert not modules & {"torch", "numpy", *SLOW}


@pytest.mark.parametrize(
    "wrong",
    [
        ["arch=nope"],
        ["trainer.epoch=3"],
        ["models.copyy=null"],
        ["task=worst_case"],
        ["seeds=0"],
        ["seed=-1"],
        ["experiment=../x"],
        ["sources=[]"],
        ["threads=100000"],
        ["--help", "arch=nope"],
    ],
)
def test_a_misspelt_word_is_answered_without_torch(tmp_path: Path, wrong: list[str]) -> None:
    printed, errors, code, modules = run(tmp_path, *wrong)
    assert (printed, code) == ("", "2") and errors.startswith("error: ") and "\n" not in errors
    assert not modules & {"torch", "numpy", *SLOW}


@pytest.mark.parametrize(
    "wrong", ["attack.eps=abc", "trainer.epochs=0", "dataset.train_size=-1", "dataset.train_size=5000", "sources=[x]"]
)
def test_a_wrong_value_is_answered_without_what_only_a_run_needs(tmp_path: Path, wrong: str) -> None:
    printed, errors, code, modules = run(tmp_path, wrong)
    assert (printed, code) == ("", "2") and errors.startswith("error: ") and wrong.split("=")[0] in errors
    assert not modules & {*SLOW, "epsball.experiment.run"}


@pytest.mark.parametrize(
    "module",
    ["epsball.experiment.prepare", "epsball.experiment.run", "epsball.experiment.record", "epsball.measurements"],
)
def test_importing_does_not_import_what_functions_import(module: str) -> None:
    line = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    assert not {"hydra", "omegaconf", *SLOW} & set(loaded)


@pytest.mark.parametrize("module", ["epsball.build", "epsball.collect.table", "epsball.runtime.progress"])
def test_the_ground_imports_nothing_slow(module: str) -> None:
    line = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(line, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "hydra", "omegaconf", *SLOW} & set(loaded)
