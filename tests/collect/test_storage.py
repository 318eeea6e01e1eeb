"""scripts/runs.py on a store made by hand: what is listed, what is deleted, what never is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import FileLock

from epsball.collect.storage import main
from epsball.runtime.processes import this_process
from epsball.runtime.store import Store

KEYS = {name: f"{name}bcdef012345" for name in "123456"}


def make_model(outputs: Path, name: str, *, trained: bool = True, aside: str = "") -> Path:
    folder = outputs / "models" / f"mnist_a-standard-{KEYS[name]}{aside}"
    folder.mkdir(parents=True)
    files = {"spec.json": "{}", "manifest.json": "{}", "model.safetensors": "x" * 1500}
    for file, content in (files if trained else {"last.pt": "state"}).items():
        (folder / file).write_text(content)
    return folder


def make_run(outputs: Path, name: str, models: str, status: str = "done", **record: object) -> Path:
    folder = outputs / "transfer" / name
    folder.mkdir(parents=True)
    named = {model: {"fingerprint": KEYS[model]} for model in models}
    said = {"status": status, "experiment": "transfer", "started": "2026-11-26", "models": named, **record}
    (folder / "run.json").write_text(json.dumps(said))
    return folder


def old(path: Path, content: str = "half") -> Path:
    """A file that was written aside a while ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Models 1, its source 2, that one's source 3, and 5 are used; nothing uses 4; 5 is half trained, 6 damaged."""
    root = tmp_path / "outputs"
    for name in "1234":
        make_model(root, name)
    make_model(root, "5", trained=False)
    make_model(root, "6", aside=".damaged")
    make_run(root, "first", "1235")
    make_run(root / "transfer" / "first", "part", "1")
    make_run(root, "second", "6", status="failed")
    (root / "rows").mkdir()
    (root / "rows" / "a.json").write_text("[]")
    return root


def everything(outputs: Path) -> set[str]:
    return {path.relative_to(outputs).as_posix() for path in outputs.rglob("*") if not path.name.endswith(".lock")}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """`answer(text)`: what the user says when asked; the questions asked."""

    def set_answer(text: str) -> list[str]:
        asked: list[str] = []
        monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or text)
        return asked

    return set_answer


def test_list_says_what_there_is_and_who_uses_it(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(outputs, "third", "", status="running", process={**this_process(), "began": "boot 1"})
    before = everything(outputs)
    assert main(["list", str(outputs)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("3 runs, ") and "6 models, 7.5 kB" in lines
    assert any(line.startswith("transfer/first: transfer, done, 2026-11-26, ") for line in lines)
    assert any("transfer/third: transfer, interrupted (process gone)" in line for line in lines)
    used = {line.split()[1].rstrip(","): line.rpartition(": ")[2] for line in lines if line.startswith("mnist_a")}
    assert used == {
        KEYS["1"]: "transfer/first",
        KEYS["2"]: "transfer/first",
        KEYS["3"]: "transfer/first",
        KEYS["4"]: "no run",
        KEYS["5"]: "transfer/first",
        KEYS["6"]: "no run",
    }
    assert any(f"{KEYS['5']} (half trained), 5 B" in line for line in lines)
    assert any(f"{KEYS['6']} (damaged)" in line for line in lines)
    assert "1 rows, 2 B" in lines and "0 examples, 0 B" in lines and lines[-1].endswith(" in all")
    assert everything(outputs) == before


@pytest.mark.parametrize(("said", "goes"), [("y", True), ("YES", True), ("", False), ("n", False), ("all", False)])
def test_clean_deletes_what_no_run_uses_and_only_after_a_yes(
    outputs: Path, answer: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str], said: str, goes: bool
) -> None:
    part, asked = old(outputs / "rows" / ".a.json.0f.part"), answer(said)
    before = everything(outputs)
    assert main(["clean", str(outputs)]) == 0
    assert asked == ["delete these 3? [y/N] "]
    gone = before - everything(outputs)
    models = {"4": f"mnist_a-standard-{KEYS['4']}", "6": f"mnist_a-standard-{KEYS['6']}.damaged"}
    files = {f"/{name}" for name in ("spec.json", "manifest.json", "model.safetensors")} | {""}
    expected = {f"models/{model}{file}" for model in models.values() for file in files} | {"rows/.a.json.0f.part"}
    assert gone == (expected if goes else set())
    out = capsys.readouterr().out
    assert all(f"models/{model}: no run uses it" in out for model in models.values()) and part.name in out


def test_no_answer_is_a_no(outputs: Path) -> None:
    before = everything(outputs)
    script = [sys.executable, ROOT / "scripts" / "runs.py", "clean", outputs]
    done = subprocess.run(script, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "nothing was deleted" in done.stdout
    assert everything(outputs) == before
    assert subprocess.run([*script, "--yes"], check=False, capture_output=True).returncode == 0
    assert everything(outputs) < before
    again = subprocess.run([*script, "--yes"], check=False, capture_output=True, text=True)
    assert again.stdout == f"nothing to delete under {outputs}\n"


def test_a_model_in_training_stays(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lock is held; nobody's run has to say so."""
    with FileLock(Store(outputs, lambda: None).lock(KEYS["4"])):
        old(outputs / "models" / f"mnist_a-standard-{KEYS['4']}" / "last.pt")
        main(["list", str(outputs)])
        assert f"{KEYS['4']} (in training)" in capsys.readouterr().out
        assert main(["clean", str(outputs), "--yes"]) == 0
        assert (outputs / "models" / f"mnist_a-standard-{KEYS['4']}" / "last.pt").exists()
    assert main(["clean", str(outputs), "--yes"]) == 0
    assert not (outputs / "models" / f"mnist_a-standard-{KEYS['4']}").exists()


def test_another_users_store_is_listed(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock files are not ours to write; whether they are held is asked all the same."""

    def refuse(path: Path, timeout: float) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    free, held = (Store(outputs, lambda: None).lock(KEYS[name]) for name in "14")
    free.touch()
    with FileLock(held):
        monkeypatch.setattr("epsball.collect.storage.FileLock", refuse)
        assert main(["list", str(outputs)]) == 0
    listed = capsys.readouterr().out
    assert f"{KEYS['4']} (in training)" in listed and f"{KEYS['1']} (in training)" not in listed


def test_a_run_that_begins_while_one_is_asked_keeps_its_models(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _: str(make_run(outputs, "late", "4", status="running")) and "y")
    assert main(["clean", str(outputs)]) == 0
    assert (outputs / "models" / f"mnist_a-standard-{KEYS['4']}").exists()
    assert not (outputs / "models" / f"mnist_a-standard-{KEYS['6']}.damaged").exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"models": [1]}', '{"models": {"A": "mnist_a"}}'])
def test_a_record_that_cannot_be_read_keeps_every_model(
    outputs: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    (outputs / "transfer" / "second" / "run.json").write_text(damage)
    before = everything(outputs)
    assert main(["clean", str(outputs), "--yes", "--runs", "all"]) == 0
    assert "transfer/second/run.json cannot be read" in capsys.readouterr().out
    assert {path for path in before - everything(outputs) if path.startswith("models")} == set()


def test_runs_that_lie_elsewhere_count_where_they_are_named(outputs: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere", "mine", "4")
    main(["clean", str(outputs), "--yes", "--also", str(tmp_path / "elsewhere"), "--runs", "all"])
    assert (outputs / "models" / f"mnist_a-standard-{KEYS['4']}").exists()
    assert (tmp_path / "elsewhere" / "transfer" / "mine").exists()  # and it is not deleted


def test_a_misspelt_folder_of_runs_costs_no_model(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "elsewhere", "mine", "4")
    assert main(["clean", str(outputs), "--yes", "--also", str(tmp_path / "elsewere")]) == 2
    assert capsys.readouterr().out.startswith(f"error: --also {tmp_path / 'elsewere'} is no folder")
    assert (outputs / "models" / f"mnist_a-standard-{KEYS['4']}").exists()


def test_runs_are_deleted_where_they_are_named_and_never_one_that_runs(outputs: Path) -> None:
    make_run(outputs, "killed", "", status="running", process={**this_process(), "began": "boot 1"})
    make_run(outputs, "alive", "", status="running", process=this_process())
    make_run(outputs, "there", "", status="running", process={"host": "there", "id": 1})
    make_run(outputs, "stopped", "", status="interrupted")

    def left(choice: str) -> set[str]:
        main(["clean", str(outputs), "--yes", "--runs", choice])
        return {path.name for path in (outputs / "transfer").iterdir()}

    alive = {"alive", "there"}
    assert left("none") == {"first", "second", "killed", "stopped", *alive}
    assert left("failed") == {"first", "killed", "stopped", *alive}
    assert left("interrupted") == {"first", *alive}
    assert left("all") == alive


def test_a_state_beside_a_finished_model_goes_and_the_model_stays(outputs: Path) -> None:
    """A training was killed after its last file."""
    model = outputs / "models" / f"mnist_a-standard-{KEYS['1']}"
    (model / "last.pt").write_text("state")
    main(["clean", str(outputs), "--yes"])
    assert {path.name for path in model.iterdir()} == {"spec.json", "manifest.json", "model.safetensors"}


def test_a_folder_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(tmp_path / "absent")]) == 2
    assert "absent is no folder" in capsys.readouterr().out
