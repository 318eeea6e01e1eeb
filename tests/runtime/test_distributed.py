"""Several processes compute what one does, share by share; a job that loses one ends, and goes on."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY
from hydra.types import RunMode
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from epsball.build import ConfigError
from epsball.cli import main
from epsball.cli.compose import composed
from epsball.data.images import Split
from epsball.runtime import distributed
from epsball.runtime.distributed import (
    PeerLost,
    cores,
    in_order,
    interleaved,
    missing_peers,
    processes,
    rank,
    share,
    threads_of_process,
)
from epsball.training.fit import batch_indices, replica_seed, steps_per_epoch
from epsball.training.spec import BuildCache, build_spec

RUN = str(ROOT / "run.py")
RESNET = (
    *("models=alone", "attack=none", "suite=fgsm", "device=cpu", "threads=1", "scale=smoke"),
    *("dataset.train_size=64", "dataset.test_size=41", "arch=resnet20", "arch.width=0.25", "trainer=kurakin"),
    *("trainer.batch_size=8", "trainer.epochs=0.5", "trainer.objective.delay=0"),
    *("trainer.objective.eps_distribution=fixed", "trainer.objective.attack.step=l2"),  # a sign can turn for a last bit
)
LONGER = (*TINY, "trainer.epochs=40")  # long enough to be met in training


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Weights that two processes train of LONGER from begin to end."""
    outputs = tmp_path_factory.mktemp("uninterrupted")
    weights, _, _ = trained(outputs, torchrun(*LONGER, f"outputs={outputs}"))
    return weights


def torchrun(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", RUN, *arguments]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def trained(outputs: Path, command: list[str]) -> tuple[dict[str, Tensor], pd.DataFrame, str]:
    """Weights of the one model, rows of the one run, and the name of the model's folder."""
    done = run(command)
    assert done.returncode == 0, done.stderr
    (weights,) = outputs.glob("models/*/model.safetensors")
    (results,) = outputs.glob("transfer/*/results.csv")
    assert done.stdout.count("results.csv") == 1
    return load_file(weights), pd.read_csv(results), weights.parent.name


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def test_two_processes_are_one_with_synchronised_batch_norm_alone(tmp_path: Path) -> None:
    outputs = {name: tmp_path / name for name in ("one", "synchronised", "local")}
    both = "trainer.batch_norm=synchronised"
    one, rows, name = trained(outputs["one"], [sys.executable, RUN, *RESNET, both, f"outputs={outputs['one']}"])
    two, found, same = trained(outputs["synchronised"], torchrun(*RESNET, both, f"outputs={outputs['synchronised']}"))
    local, others, other = trained(outputs["local"], torchrun(*RESNET, f"outputs={outputs['local']}"))
    assert distance(one, two) < 1e-4 < 1e-2 < distance(one, local)
    assert name == same != other
    kept = ["measurement", "attack", "eps", "n", "error_top1", "error_top5"]
    pd.testing.assert_frame_equal(rows[kept], found[kept])
    assert list(found["loss_mean"]) == pytest.approx(list(rows["loss_mean"]), abs=1e-3)
    assert set(found["n"]) == set(others["n"]) == {41}


def test_models_that_are_in_the_store_are_measured_as_by_one_process(tmp_path: Path) -> None:
    """With their clean rows kept, so that whom clean images mistake is found beside the attack, model by model; each
    process has its own order of sets of names."""
    line = [*TINY, "models=none", *(f"+model@models.{name}=mnist_{name[0].lower()}" for name in ("A", "B", "C", "D"))]
    line = [word for word in line if not word.startswith(("models=alone", "dataset.test_size"))]
    line += ["dataset.test_size=101", "attack=fgsm", f"outputs={tmp_path}"]
    assert run([sys.executable, RUN, *line, "eps=0.05"]).returncode == 0
    found = {}
    for name, command in {"two": torchrun(*line), "one": [sys.executable, RUN, *line, "reuse=false"]}.items():
        done = run([*command, "eps=0.2", f"hydra.run.dir={tmp_path / name}"])
        assert done.returncode == 0 and "training" not in done.stderr, done.stderr
        found[name] = pd.read_csv(tmp_path / name / "results.csv")
    kept = ["source", "target", "attack", "n", "error_top1", "clean_error_top1", "transfer_rate_top1", "transfer_n"]
    pd.testing.assert_frame_equal(found["two"][kept], found["one"][kept])
    assert found["one"]["transfer_n"].dropna().nunique() > 1


def test_a_batch_that_cannot_be_shared_is_refused_once(tmp_path: Path) -> None:
    done = run(torchrun(*TINY, "trainer.batch_size=7", f"outputs={tmp_path / 'outputs'}"))
    wrong = "error: trainer.batch_size should be a multiple of the job's 2 processes, is 7"
    assert done.returncode != 0 and "exitcode: 2" in done.stderr.replace("exitcode  :", "exitcode:")
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [wrong]
    assert not (tmp_path / "outputs").exists()


def test_fewer_training_images_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epsball.training.spec.processes", lambda: 4)
    model = composed("dataset.train_size=3")["models"]["target"]
    told = r"^models.target.dataset has 3 training images, fewer than the job's 4 processes$"
    with pytest.raises(ConfigError, match=told):
        build_spec(model, "models.target", BuildCache())


@pytest.mark.parametrize(
    ("hashes", "devices", "told"),
    [
        (["a", "b"], ["cuda"], None),
        (["a", "c"], ["cuda"], "process 1 has another config or other data than process 0"),
        (["a", "b"], ["cpu"], "process 1 would compute on another kind of device than process 0"),
    ],
)
def test_processes_that_do_not_compute_the_same_are_refused(
    monkeypatch: pytest.MonkeyPatch, hashes: list[str], devices: list[str], told: str | None
) -> None:
    monkeypatch.setattr(main, "gather", lambda own: [own, (hashes, devices)])
    with pytest.raises(ConfigError, match=f"^{told}: ") if told else nullcontext():
        main.agree_on(["a", "b"], ["cuda"])


def test_what_torch_says_of_a_lost_process_is_told() -> None:
    with (
        pytest.raises(
            PeerLost, match=r"^another process of this torchrun job ended; .* \(Connection closed by peer\)$"
        ),
        missing_peers(),
    ):
        raise RuntimeError("Connection closed\n  by peer")


def test_a_misspelt_option_is_told_once(tmp_path: Path) -> None:
    done = run(torchrun(*TINY, "arch=nope", f"outputs={tmp_path / 'outputs'}"))
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(told) == 1 and "nope" in told[0]


def test_a_sweep_is_refused_once_and_makes_no_folders(tmp_path: Path) -> None:
    """Before its first job: the next would wait for processes that the one before has left."""
    done = run(torchrun("-m", *TINY, "seed=0,1", f"outputs={tmp_path / 'outputs'}"))
    told = [line for line in done.stderr.splitlines() if line.startswith("error:") or "failed" in line]
    assert done.returncode != 0 and told[0].startswith("error: --multirun is for a single process")
    assert not any(line.startswith("error:") or "jobs failed" in line for line in told[1:])
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("in_a_job", [True, False])
def test_what_is_wrong_in_another_process_alone_is_told_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_a_job: bool, ends: bool
) -> None:
    """As of a machine that lacks a file, or of a damaged image that it alone reads in training; where the first process
    ends, torchrun ends this one, too."""
    session = main.Session()

    def wrong(*_: object) -> None:
        raise ConfigError("arch=mine does not exist")

    def sleep(seconds: float) -> None:
        session.stop.signum = signal.SIGTERM if ends else None

    hydra = SimpleNamespace(mode=RunMode.RUN, overrides=SimpleNamespace(task=OmegaConf.create([])))
    monkeypatch.setattr(main, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(main, "run", wrong)
    monkeypatch.setattr(main, "joined", nullcontext)
    monkeypatch.setattr(main, "HydraConfig", SimpleNamespace(get=lambda: hydra))
    monkeypatch.setattr(session.stop, "listen", lambda: None)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    become(monkeypatch, 1, 2)
    assert session.exit_code((lambda: session.run_job(OmegaConf.create())) if in_a_job else wrong) == 2
    assert capsys.readouterr().err == ("" if ends else "error: process 1: arch=mine does not exist\n")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the killed process is found in /proc")
def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(
    tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    """To the same bits as without."""
    command = torchrun(*LONGER, "checkpoint_seconds=0", f"outputs={tmp_path}")
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    until = time.monotonic() + 600
    while not list(tmp_path.glob("models/*/last.pt")):
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.kill(child_of(job.pid, "RANK=1"), signal.SIGKILL)
    _, errors = job.communicate(timeout=600)
    assert job.returncode != 0
    assert "error: another process of this torchrun job ended; the same command goes on from the last" in errors
    assert not list(tmp_path.glob("models/*/manifest.json"))
    again = run(command)
    assert again.returncode == 0, again.stderr
    assert "target goes on from step " in again.stderr
    (weights,) = tmp_path.glob("models/*/model.safetensors")
    assert distance(load_file(weights), uninterrupted) == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_job_saves_and_the_same_command_goes_on(
    tmp_path: Path, uninterrupted: dict[str, Tensor], stop: signal.Signals
) -> None:
    """To the same bits as without; torchrun passes the signal on to its processes."""
    command = torchrun(*LONGER, "checkpoint_seconds=3600", f"outputs={tmp_path}")  # so that only the stop saves
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    until = time.monotonic() + 600
    while not list(tmp_path.glob("models/*")):
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(stop)
    _, errors = job.communicate(timeout=600)
    assert job.returncode != 0 and "stopping after saving" in errors
    (record,) = tmp_path.glob("transfer/*/run.json")
    assert json.loads(record.read_text())["status"] == "interrupted"
    assert list(tmp_path.glob("models/*/last.pt")) and not list(tmp_path.glob("models/*/manifest.json"))
    again = run(command)
    assert again.returncode == 0, again.stderr
    assert "target goes on from step " in again.stderr
    (weights,) = tmp_path.glob("models/*/model.safetensors")
    assert distance(load_file(weights), uninterrupted) == 0


def test_machines_that_share_no_files_train_what_one_machine_does(
    tmp_path: Path, uninterrupted: dict[str, Tensor]
) -> None:
    """Two torchruns that meet at a port, as on two machines; only the first process's machine gets files."""
    meet = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}"]
    start = [sys.executable, "-m", "torch.distributed.run", *meet, RUN, *LONGER]
    outputs = [tmp_path / "here", tmp_path / "there"]
    jobs = [
        subprocess.Popen([*start, f"outputs={own}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for own in outputs
    ]
    told = [job.communicate(timeout=600) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    assert sorted(printed.count("results.csv") for printed, _ in told) == [0, 1]
    (first,) = (own for own in outputs if own.exists())
    (weights,) = first.glob("models/*/model.safetensors")
    assert distance(load_file(weights), uninterrupted) == 0


def free_port() -> int:
    """One below those that systems give to whoever asks for any, as other jobs do before this one is used."""
    while True:
        with socket.socket() as free, suppress(OSError):
            free.bind(("", port := random.randrange(20000, 32000)))
            return port


def child_of(parent: int, variable: str) -> int:
    """The process that `parent` started with this variable in its environment."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if variable in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no child of {parent} has {variable}")


def become(monkeypatch: pytest.MonkeyPatch, number: int, of: int) -> None:
    """Be process `number`, as torchrun says it."""
    for name, value in {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": of}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # of some other program's
    assert (processes(), rank(), share(5)) == (1, 0, slice(0, None, 1))
    values = torch.arange(5)
    assert in_order(values, 5) is values


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # where the system does not tell
    assert cores() == 64


@pytest.mark.parametrize(("asked", "threads"), [(None, 4), ("1", 4), ("6", None)])
def test_a_process_of_a_job_has_its_share_of_the_cores_unless_the_user_says(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, threads: int | None
) -> None:
    monkeypatch.setattr(distributed, "cores", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads_of_process() is None
    become(monkeypatch, 1, 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads_of_process() == threads


@pytest.mark.parametrize(("images", "number"), [(41, 2), (7, 3), (3, 3), (12, 4)])
def test_shares_are_a_partition_whose_order_is_restored(
    monkeypatch: pytest.MonkeyPatch, images: int, number: int
) -> None:
    split, parts = Split(torch.arange(images).view(-1, 1, 1, 1), torch.arange(images)), []
    for r in range(number):
        become(monkeypatch, r, number)
        parts.append(split.share().y)
    assert torch.equal(interleaved(parts), split.y)


def test_fewer_images_than_processes_are_everyones(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 2, 3)
    assert share(2) == slice(None)


@pytest.mark.parametrize("size", [6, 8])
def test_a_step_s_batches_are_those_of_one_process_together(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    split, number, k = Split(torch.zeros(22, 1, 2, 2), torch.zeros(22)), 2, 4
    whole = list(batch_indices(split, size, 0, 0, steps_per_epoch(22, size)))
    shared = []
    for r in range(number):
        become(monkeypatch, r, number)
        shared.append(list(batch_indices(split, size, 0, 0, len(whole))))
    for batch, *parts in zip(whole, *shared, strict=True):
        assert torch.equal(interleaved(parts), batch[: len(batch) // number * number])
        first = torch.cat([part[: k // number] for part in parts])
        assert set(first.tolist()) == set(batch[:k].tolist())


@pytest.mark.parametrize("batch_norm", ["local", "synchronised"])
def test_a_batch_norm_that_is_more_than_that_is_not_synchronised(
    monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., dict[str, Any]], batch_norm: str
) -> None:
    """timm's has the network's activations in it, which training would do without."""
    pytest.importorskip("timm")
    arch = {"name": "timm", "model": "mobilenetv3_small_050", "pretrained": False, "checkpoint": None}
    target = tiny()["models"]["target"] | {"arch": arch}
    target["trainer"] |= {"batch_norm": batch_norm}
    build_spec(target, "models.target", BuildCache())
    become(monkeypatch, 0, 2)
    said = (
        "models.target.trainer.batch_norm should be local where several processes train a network with BatchNormAct2d"
    )
    refused = pytest.raises(ConfigError, match=f"^{said}$")
    with refused if batch_norm == "synchronised" else nullcontext():
        build_spec(target, "models.target", BuildCache())


@pytest.mark.parametrize(
    ("images", "size", "number", "steps"), [(21, 6, 2, 3), (22, 6, 2, 4), (2, 6, 2, 1), (9, 2, 2, 4)]
)
def test_a_last_batch_has_two_images_for_each_process(
    monkeypatch: pytest.MonkeyPatch, images: int, size: int, number: int, steps: int
) -> None:
    become(monkeypatch, 1, number)
    assert steps_per_epoch(images, size) == steps


def test_the_first_process_draws_what_a_single_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, seeds = replica_seed(5, "fit"), []
    for r in range(3):
        become(monkeypatch, r, 3)
        seeds.append(replica_seed(5, "fit"))
    assert seeds[0] == alone and len(set(seeds)) == 3


def test_a_model_of_several_processes_begins_with_the_weights_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its batch norm is local it ends as another."""
    target = composed("arch=resnet20", "models=alone", "trainer=standard")["models"]["target"]
    one = build_spec(target, "models.target", BuildCache())
    become(monkeypatch, 0, 2)
    two = build_spec(target, "models.target", BuildCache())
    assert one.key != two.key and one.model_seed == two.model_seed
