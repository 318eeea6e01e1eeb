"""The device a run computes on: which one, its precision, its random numbers, its kernels launched all at once."""

import hashlib
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor

from epsball.build import ConfigError, listed

Precision = Literal["fp32", "tf32", "bf16"]
GRAPHS_KEPT = 16
EAGER_CALLS = 3  # before a capture: lazy initialisation and cuDNN's choice of algorithm happen in these

log = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device a config asks for; auto is CUDA, else MPS, else the CPU. Raises ConfigError where it is lacking."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if there[n])
    if not there[name]:
        raise ConfigError(
            f"device is {name!r}, which this machine lacks: it has {listed(n for n in there if there[n])}"
        )
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Inside the block CUDA's convolutions and matrix products may round their operands to TF32, unless in fp32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A block of one training step: in bf16 its convolutions and matrix products are, while images, perturbations,
    parameters and losses stay fp32. Not longer than a step: it keeps its copies of the parameters to the end."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Replay:
    """Calls functions of tensors; on CUDA, from the fourth call with one key on, as a captured graph.

    A graph launches all kernels of the function at once. It is recorded for the shapes of the tensors and for `key`,
    which must name everything else that the function's control flow depends on; it reads parameters where they lie and
    draws fresh random numbers of the device's default generator at every replay. When a capture fails (an unsupported
    module, a host synchronisation), one log line says so and the calls stay as they are.
    """

    def __init__(self, device: torch.device, allowed: bool = True) -> None:
        self.device, self.active = device, allowed and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.active else None  # type: ignore[no-untyped-call]
        self.calls: dict[Hashable, int] = {}
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, key: Hashable, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if not self.active:
            return function(*tensors)
        key = (key, *((t.shape, t.dtype) for t in tensors))
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] > EAGER_CALLS and key not in self.graphs:
            self.capture(key, function, tensors)
        if key not in self.graphs:
            return self.eager(function, tensors)
        graph, inputs, output = self.graphs[key]
        for buffer, tensor in zip(inputs, tensors, strict=True):
            buffer.copy_(tensor)
        graph.replay()
        return output.clone()  # the next replay writes over it

    def eager(self, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        """A plain call, on a stream of its own: a capture must not find work of the default stream unfinished."""
        assert self.stream is not None
        here = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = function(*tensors)
        here.wait_stream(self.stream)
        result.record_stream(here)
        return result

    def capture(self, key: Hashable, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
        graph, inputs = torch.cuda.CUDAGraph(), [t.clone() for t in tensors]
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                output = function(*inputs)
        except RuntimeError as error:
            self.active = False
            torch.cuda.synchronize(self.device)
            log.info("no CUDA graph, kernels are launched one by one: %s", " ".join(str(error).split())[:200])
        else:
            while len(self.graphs) >= GRAPHS_KEPT:  # those of a learning rate that is over hold memory
                del self.graphs[next(iter(self.graphs))]
            self.graphs[key] = graph, inputs, output


current: ContextVar[Replay | None] = ContextVar("replay", default=None)


@contextmanager
def graphs(device: torch.device, allowed: bool = True) -> Iterator[None]:
    """Inside the block, `launch` captures and replays on CUDA; graphs and their memory go with the block."""
    token = current.set(Replay(device, allowed))
    try:
        yield
    finally:
        current.reset(token)


def launch(key: Hashable, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function(*tensors)`, through the block's Replay where there is one."""
    replay = current.get()
    return function(*tensors) if replay is None else replay(key, function, *tensors)


def derived_seed(*parts: object) -> int:
    """A seed of 63 bits for one purpose: the same parts give the same seed, other parts an unrelated one."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def borrowed_seed(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators seeded inside the block, and given back as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
