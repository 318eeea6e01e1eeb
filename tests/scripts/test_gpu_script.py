"""scripts/gpu.sh and scripts/bench_gpu.py on a CPU at smoke scale: what comes back, whatever a stage does."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import ROOT

SCRIPT = ROOT / "scripts" / "gpu.sh"
MOST_BYTES = 16 * 2**20
DIGITS = "parts=[tramer/table7] dataset.train_size=64 dataset.test_size=40 threads=1"


def settings(out: Path, **given: str) -> dict[str, str]:
    """The environment of a call on this machine, without a GPU and without data."""
    smallest = {"DEVICE": "cpu", "SCALE": "smoke", "DATASET": "digits", "SEEDS": "1", "WORKERS": "1", "LIMIT": "900"}
    own = {"PYTHON": sys.executable, "OUT": str(out), "OMP_NUM_THREADS": "1", "OVERRIDES": DIGITS}
    return {**os.environ, **smallest, **own, **given}


def call(out: Path, *stages: str, **given: str) -> int:
    done = subprocess.run([SCRIPT, *stages], env=settings(out, **given), capture_output=True, text=True, timeout=900)
    assert len(list(out.iterdir())) <= 8 and all(path.stat().st_size <= MOST_BYTES for path in out.iterdir())
    return done.returncode


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def codes(out: Path) -> dict[str, int]:
    return {row["stage"]: int(row["exit_code"]) for row in rows(out / "stages.csv")}


def state_names(out: Path) -> set[str]:
    """Names of the files in the archive of the state."""
    whole = b"".join(path.read_bytes() for path in sorted(out.glob("state.tar.gz.*")))
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        return {Path(name).name for name in archive.getnames()}


def run_names(out: Path) -> set[str]:
    """Names of the run directories that came back."""
    with tarfile.open(out / "results.tar.gz") as archive:
        return {name.split("/")[1] for name in archive.getnames() if name.count("/") > 1}


def interpreter(folder: Path, script: str) -> str:
    """A shell script in the place of Python."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}")
    python.chmod(0o755)
    return str(python)


def test_an_unknown_stage_is_told_before_anything_is_done(tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, "tests", "sped"], env=settings(tmp_path / "out"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such stage: sped; choose tests, parity, speed, tramer, madry, kariyappa, kurakin" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_failed_stage_takes_no_other_and_one_that_overruns_is_ended(tmp_path: Path) -> None:
    (tmp_path / "test_fails.py").write_text("def test_fails():\n    assert 0\n")
    (tmp_path / "test_hangs.py").write_text(
        "import time\ndef test_quick():\n    pass\ndef test_hangs():\n    time.sleep(3600)\n"
    )
    out, both = tmp_path / "out", [str(tmp_path / name) for name in ("test_fails.py", "test_hangs.py")]
    assert call(out, "tests", "parity", TESTS=both[0], ONLY="attack mi_fgsm") == 1
    assert codes(out) == {"tests": 1, "parity": 0}
    assert "test_fails FAILED" in (out / "log.txt").read_text()
    assert [(row["precision"], row["value"], row["error"]) for row in rows(out / "parity.csv")] == [
        ("fp32", "0", ""),
        ("tf32", "0", ""),
    ]
    begins = int(rows(out / "stages.csv")[0]["seconds"])  # at least as long as pytest takes here to begin
    began, limit = time.monotonic(), 10 + 3 * begins
    assert call(out, "tests", TESTS=both[1], LIMIT=str(limit)) == 3
    assert time.monotonic() - began < limit + 120 and codes(out) == {"tests": 124}
    log = (out / "log.txt").read_text()
    assert "test_quick PASSED" in log and "test_hangs" in log


def test_speed_writes_a_row_per_case(tmp_path: Path) -> None:
    assert call(tmp_path, "speed", ONLY="PGD-40") == 0
    found = rows(tmp_path / "speed.csv")
    assert {(row["case"], row["unit"]) for row in found} == {("PGD-40, batch 256", "images/s")}
    assert {row["precision"] for row in found} == {"fp32", "tf32"}
    assert all(float(row["value"]) > 0 and float(row["share_of_peak"]) > 0 and not row["error"] for row in found)


def test_madry_runs_what_only_names(tmp_path: Path) -> None:
    few = "dataset.train_size=64 dataset.test_size=20 threads=1"
    assert call(tmp_path, "madry", ONLY="mnist", OVERRIDES=f"parts=[madry/figure4_mnist,madry/text_mnist] {few}") == 0
    assert codes(tmp_path) == {"madry": 0}
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        names = archive.getnames()
    runs = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert runs == {"madry_mnist_seed_0"}
    assert any(name.endswith("figure4_mnist/figure_training_loss.png") for name in names)


def test_kariyappa_runs_a_group_for_each_seed(tmp_path: Path) -> None:
    few = "dataset.train_size=64 dataset.test_size=10 trainer.epochs=1 threads=1"
    words = f"parts=[kariyappa/figure5] {few}"
    assert call(tmp_path, "kariyappa", ONLY="conv4", SEEDS="2", OVERRIDES=words) == 0
    with tarfile.open(tmp_path / "results.tar.gz") as archive:
        names = archive.getnames()
    runs = {name.split("/")[1] for name in names if name.count("/") > 1}
    assert runs == {"kariyappa_conv4_seed_0", "kariyappa_conv4_seed_1"}
    assert sum(name.endswith("results.csv") for name in names) == 2


def test_kurakin_runs_the_groups_that_are_asked_for(tmp_path: Path) -> None:
    few = "dataset.train_size=64 dataset.test_size=10 arch.width=0.0625 threads=1"
    assert call(tmp_path, "kurakin", ONLY="transfer", OVERRIDES=f"parts=[kurakin/figure2] {few}") == 0
    assert codes(tmp_path) == {"kurakin": 0}
    assert run_names(tmp_path) == {"kurakin_transfer_seed_0"}


def test_a_stopped_call_brings_back_the_state_that_the_next_goes_on_from(tmp_path: Path) -> None:
    first, second, work = tmp_path / "first", tmp_path / "second", tmp_path / "work"
    longer = {"OVERRIDES": f"{DIGITS} dataset.train_size=300 checkpoint_seconds=0.1"}
    stopped = subprocess.Popen(
        [SCRIPT, "tramer"], env=settings(first, WORK=str(work), **longer), stdout=subprocess.DEVNULL
    )
    while not list(work.glob("outputs/models/*/last.pt")):
        assert stopped.poll() is None, (first / "log.txt").read_text()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=300) == 143
    assert codes(first) == {"tramer": 143}
    assert "last.pt" in state_names(first)
    assert call(second, "tramer", STATE=str(first), **longer) == 0
    log = (second / "log.txt").read_text()
    assert "goes on from step" in log and "no whole state" not in log
    assert {"model.safetensors", "manifest.json"} <= state_names(second) and "last.pt" not in state_names(second)
    with tarfile.open(second / "results.tar.gz") as archive:
        (said,) = [name for name in archive.getnames() if name.endswith("seed_0/run.json")]
        file = archive.extractfile(said)
        assert file and json.load(file)["status"] == "done"
        assert any(name.endswith("seed_0/results.csv") for name in archive.getnames())


def make_state(out: Path) -> dict[str, bytes]:
    """Files of an earlier call that has a finished run of unknown words, and a model."""
    made = out.parent / "made"
    (made / "runs" / "seed_0").mkdir(parents=True)
    (made / "runs" / "seed_0" / "run.json").write_text('{"status": "done"}')
    (made / "outputs" / "models" / "a-0").mkdir(parents=True)
    (made / "outputs" / "models" / "a-0" / "manifest.json").write_text("{}")
    out.mkdir()
    for archive, folder in (("state.tar.gz.00", "outputs"), ("results.tar.gz", "runs")):
        with tarfile.open(out / archive, "w:gz") as file:
            file.add(made / folder, folder)
    return {path.name: path.read_bytes() for path in out.glob("*.tar.gz*")}


def test_the_same_command_again_keeps_what_an_earlier_call_brought_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_state(out)
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    assert call(out, "tests", TESTS=str(tmp_path / "test_nothing.py")) == 0
    assert "manifest.json" in state_names(out) and run_names(out) == {"seed_0"}


@pytest.mark.parametrize("damaged", ["state.tar.gz.00", "results.tar.gz"])
def test_a_state_that_cannot_be_unpacked_stays_and_nothing_is_run(tmp_path: Path, damaged: str) -> None:
    out = tmp_path / "out"
    make_state(out)
    (out / damaged).write_bytes((out / damaged).read_bytes()[:-40])
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    given = settings(out, STATE=str(out), TESTS="none")
    done = subprocess.run([SCRIPT, "tests"], env=given, capture_output=True, text=True)
    assert done.returncode == 1 and f"no whole {damaged.removesuffix('.00')} in {out}" in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != "log.txt"} == before


def test_a_run_that_cannot_be_packed_leaves_the_earlier_archives(tmp_path: Path) -> None:
    out, work, programs = tmp_path / "out", tmp_path / "work", tmp_path / "programs"
    before = make_state(out)
    programs.mkdir()
    (programs / "tar").write_text('#!/bin/sh\ncase $1 in -c*) exit 2 ;; esac\nexec /bin/tar "$@"\n')
    (programs / "tar").chmod(0o755)
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    given = {"TESTS": str(tmp_path / "test_nothing.py"), "PATH": f"{programs}:{os.environ['PATH']}"}
    assert call(out, "tests", WORK=str(work), **given) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.tar.gz*")} == before
    assert "was not packed: the earlier one stays" in (out / "log.txt").read_text()


def test_a_run_with_other_words_has_a_directory_of_its_own(tmp_path: Path) -> None:
    """What an interpreter is called with is all that is looked at here."""
    script = """
for word; do case $word in hydra.run.dir=*) folder=${word#hydra.run.dir=} ;; esac; done
mkdir "$folder" && echo '{"status": "done"}' >"$folder/run.json"
"""
    same = {"WORK": str(tmp_path / "work"), "PYTHON": interpreter(tmp_path, script)}
    for given, name in (
        ({}, "seed_0"),
        ({"SCALE": "paper"}, "seed_0-2"),
        ({"DATASET": "mnist"}, "seed_0-3"),
        ({"OVERRIDES": "seed=3"}, "seed_0-4"),
    ):
        for again in (False, True):
            assert call(tmp_path / "out", "tramer", **same, **given) == 0
            assert (f"{name}: done by an earlier call" in (tmp_path / "out" / "log.txt").read_text()) == again
    assert run_names(tmp_path / "out") == {"seed_0", "seed_0-2", "seed_0-3", "seed_0-4"}


@pytest.mark.parametrize(
    ("script", "limit", "code", "answer"),
    [
        ("kill -KILL $$", "900", 137, 1),  # as for want of memory
        ("trap '' TERM; exec sleep 60", "6", 124, 3),  # it does not end in time
    ],
)
def test_a_killed_run_ran_out_of_time_only_where_none_is_left(
    tmp_path: Path, script: str, limit: str, code: int, answer: int
) -> None:
    assert call(tmp_path / "out", "tests", PYTHON=interpreter(tmp_path, script), LIMIT=limit) == answer
    assert codes(tmp_path / "out") == {"tests": code}


def test_only_a_run_that_is_done_without_graphs_takes_them_from_the_others(tmp_path: Path) -> None:
    """Seed 0 fails either way, the others with graphs alone."""
    script = f"""
for word; do case $word in seed=*) seed=$word ;; cuda_graphs=*) graphs=$word ;; esac; done
echo "$seed $graphs" >>{tmp_path}/calls
[ "$seed" != seed=0 ] && [ "$graphs" = cuda_graphs=false ]
"""
    assert call(tmp_path / "out", "tramer", PYTHON=interpreter(tmp_path, script), DEVICE="cuda", SEEDS="3") == 1
    tried = [(0, "null"), (0, "false"), (1, "null"), (1, "false"), (2, "false")]
    expected = [f"seed={seed} cuda_graphs={graphs}" for seed, graphs in tried]
    assert (tmp_path / "calls").read_text().splitlines() == expected


@pytest.fixture
def bench_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """scripts/bench_gpu.py, imported."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import bench_gpu

    yield bench_gpu


def test_a_failed_trial_is_a_row_and_takes_no_other(bench_gpu: ModuleType, tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("out of\nmemory")

    def measures() -> object:
        return bench_gpu.Measured(2.0, "steps/s", flop_per_second=1e6, error="")

    trials = [bench_gpu.Trial("training", name, "fp32", "eager", f) for name, f in (("a", fails), ("b", measures))]
    bench_gpu.run(trials, tmp_path / "rows.csv", torch.device("cpu"))
    first, second = rows(tmp_path / "rows.csv")
    assert (first["case"], first["value"], first["error"]) == ("a", "", "RuntimeError: out of memory")
    assert (second["case"], second["value"], second["error"]) == ("b", "2", "")
    assert bench_gpu.failed(tmp_path / "rows.csv") == 1
    bench_gpu.run(trials, tmp_path / "rows.csv", torch.device("cpu"), start=1)  # as after one that spoilt the device
    assert [row["case"] for row in rows(tmp_path / "rows.csv")] == ["a", "b", "b"]


def test_what_differs_is_an_error(bench_gpu: ModuleType) -> None:
    same, other = torch.ones(3), torch.tensor([1.0, 1.0, 1.25])
    assert bench_gpu.largest_difference([same, same]).error == ""
    found = bench_gpu.largest_difference([same, other])
    assert (found.value, found.error) == (0.25, "graph and eager differ")


def test_the_slowest_trial_is_the_last(bench_gpu: ModuleType) -> None:
    bench = bench_gpu.Bench(torch.device("cuda"), 1.0, smoke=False)
    trials = list(bench_gpu.speed_trials(bench))
    assert [(t.case, t.precision, t.launch) for t in trials[-2:]] == [
        (bench_gpu.WIDE, "fp32", "eager"),
        (bench_gpu.WIDE, "fp32", "graph"),
    ]
    assert {t.case for t in trials if t.measurement == "training"} == set(bench_gpu.CASES)
