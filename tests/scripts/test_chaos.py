"""scripts/chaos.py: a few kills of a real run, and that it sees what it should see."""

import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT
from filelock import FileLock

SCRIPT = ROOT / "scripts" / "chaos.py"
LITTLE = ("trainer.epochs=2", "models.natural.trainer.epochs=1", "attack.steps=4")


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/chaos.py, imported."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import chaos

    return chaos


def test_killed_runs_end_as_if_nobody_had_disturbed_them() -> None:
    command = [sys.executable, SCRIPT, "--kills", "6", "--seed", "19", *LITTLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert "6 kills" in lines and lines[-1] == "0 wrong"


def make(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / "outputs" / {"results": "run/results.csv", "model": "models/a-1/model.safetensors"}[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_what_differs_is_named(chaos: ModuleType, tmp_path: Path) -> None:
    straight, same = (make(tmp_path / name, results="a,b\n", model="w") for name in ("straight", "same"))
    other = make(tmp_path / "other", results="a,c\n")
    assert list(chaos.differences(straight, same)) == []
    assert list(chaos.differences(straight, other)) == [
        "outputs/run/results.csv differs",
        "outputs/models/a-1/model.safetensors differs",  # it is not there
    ]


def test_what_is_left_is_named(chaos: ModuleType, tmp_path: Path) -> None:
    straight, folder = (make(tmp_path / name, results="", model="") for name in ("straight", "folder"))
    for each in (straight, folder):
        (each / "tmp" / "cache").mkdir(parents=True)  # the undisturbed run leaves it, too
    assert list(chaos.leftovers(folder, straight)) == []
    left = ["outputs/run/.run.json.0f.part", "outputs/models/a-1/last.pt", "outputs/models/a-1.damaged", "tmp/x"]
    for name in left:
        (folder / name).touch()
    with FileLock(folder / "outputs" / "models" / ".1.lock"):
        found = list(chaos.leftovers(folder, straight))
    assert set(found) == {*(f"{name} is left" for name in left), "outputs/models/.1.lock is held"}


def test_exit_codes_of_a_stop_are_those_of_its_signal(chaos: ModuleType) -> None:
    def kill(signum: str, phase: str, code: int, traced: bool = False, told: bool = True) -> tuple[bool, bool]:
        made = chaos.Kill(chaos.signal.Signals[signum], phase, code, 0.0, traced, told)
        return made.is_right, made.is_bare

    right, bare, wrong = (True, False), (False, True), (False, False)
    assert (
        kill("SIGTERM", "training", 143) == kill("SIGINT", "start-up", 130) == kill("SIGKILL", "writing", -9) == right
    )
    assert kill("SIGTERM", "start-up", -15) == kill("SIGINT", "start-up", -2, traced=True) == bare
    assert kill("SIGTERM", "exit", -15) == bare
    assert kill("SIGINT", "evaluation", 0) == kill("SIGTERM", "writing", 0) == right  # nothing was left to stop
    assert kill("SIGINT", "training", 0) == kill("SIGKILL", "writing", 0) == wrong
    assert kill("SIGTERM", "training", -15) == kill("SIGINT", "writing", 1) == kill("SIGTERM", "training", 130) == wrong
    assert kill("SIGINT", "training", 130, traced=True) == kill("SIGKILL", "training", -9, told=False) == wrong


def test_a_run_is_killed_in_later_phases_later(chaos: ModuleType) -> None:
    """And in start-ups anywhere: it does not go back to a training that has ended."""
    for seed in range(20):
        late = [phase for phase in chaos.drawn(random.Random(seed), 8) if phase != "start-up"]
        assert late == sorted(late, key=chaos.PHASES.index)
