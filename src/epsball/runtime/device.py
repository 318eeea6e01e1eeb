"""Choose the device a run computes on, its precision, its kernels, its random numbers."""

import hashlib
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import epsball
from epsball.build import ConfigError, listed
from epsball.runtime.distributed import local_rank, processes

Precision = Literal["fp32", "tf32", "bf16"]
Tracker = Literal["tensorboard", "wandb"]


@dataclass(frozen=True)
class Execution:
    """Settings of how an experiment is computed, on which no result should depend but for its last bits."""

    device: torch.device
    threads: int | None
    """CPU threads of a process; None for those that it has"""
    batch_size: int
    """images per step of an evaluation"""
    precision: Precision
    """of evaluations; a trainer has its own"""
    cuda_graphs: bool
    """whether CUDA captures attack loops and training steps"""
    deterministic: bool
    """whether CUDA uses only kernels that give the same bits every time"""
    channels_last: bool
    """how convolutions' weights are laid out"""
    checkpoint_seconds: float
    """how often a training saves its state"""
    track: Tracker | None
    """what shows learning curves while models train"""


@contextmanager
def executing(execution: Execution) -> Iterator[None]:
    """Compute as `execution` says inside the block: threads, kernels, precision; afterwards as before."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    kernels = cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
    choose_kernels(execution.device, execution.deterministic)
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    try:
        with allow_tf32(execution.precision):
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = kernels[:2]
        torch.use_deterministic_algorithms(kernels[2])


def choose_device(name: str) -> torch.device:
    """Return the device a config asks for; auto is CUDA, else MPS, else the CPU. ConfigError where it is lacking.
    Each process of a machine has a GPU of its own."""
    mps = torch.backends.mps.is_available() and processes() == 1  # of one process's alone: its tensors do not travel
    there = {"cpu": True, "cuda": local_rank() < torch.cuda.device_count(), "mps": mps}
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if there[n])
    if not there[name]:
        raise ConfigError(
            f"device is {name!r}, which this machine lacks: it has {listed(n for n in there if there[n])}"
        )
    return torch.device(name, local_rank()) if name == "cuda" else torch.device(name)


@contextmanager
def allow_tf32(precision: Precision) -> Iterator[None]:
    """Let CUDA's convolutions and matrix products round their operands to TF32 inside the block, unless in fp32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which, with precision bf16, convolutions and matrix products are computed in bf16; images,
    perturbations, parameters and losses stay fp32. Enter it anew for each training step: inside it torch caches bf16
    copies of the parameters, which an update would leave outdated."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def choose_kernels(device: torch.device, deterministic: bool) -> None:
    """Let CUDA take the fastest kernel for each shape, which it finds by timing, or only kernels that give the same
    bits every time. The CPU's always do, with the same number of threads."""
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = not deterministic, deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the process first multiplies matrices


def derived_seed(*parts: object) -> int:
    """Return a seed of 63 bits for one purpose: the same parts give the same seed, other parts an unrelated one."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def borrowed_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside the block, and give them back as they were."""
    before = random_state(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(before, device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators, the CPU's and the device's, by type of device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators as `random_state` found them; one of a device that is not in use is left alone."""
    torch.set_rng_state(states["cpu"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"].cpu())


def environment(device: torch.device, threads: int | None = None) -> dict[str, Any]:
    """Return what, apart from its config, the last bits of a result depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = {"epsball": epsball.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    here = {"device": f"{device.type} ({name})", "threads": threads or torch.get_num_threads(), "versions": versions}
    return {**here, "processes": processes()} if processes() > 1 else here


def seconds_at(device: torch.device) -> float:
    """Read the clock once the device has finished: calls to a GPU return before their work is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
