"""CUDA graphs: a function of tensors is captured once and replayed, so that all its kernels are launched at once."""

import logging
import pickle
import random
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from epsball.build import one_line

GRAPHS_KEPT = 16
EAGER_CALLS = 3  # before a capture: lazy initialisation and cuDNN's choice of algorithm happen in these
SYNCHRONISED = "called a synchronizing CUDA operation"  # torch's words
SYNC_PROTOTYPE = "Synchronization debug mode is a prototype"
log = logging.getLogger(__name__)


class CaptureFailed(RuntimeError):
    """Capture that broke off and has left torch in a state that no run should go on from."""


@dataclass(frozen=True)
class CapturedGraph:
    """A function of tensors as its kernels were captured."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    """buffers that it reads its arguments from"""
    output: Tensor
    """buffer that it leaves its result in"""

    def replay(self, tensors: Sequence[Tensor]) -> Tensor:
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self.graph.replay()
        return self.output.clone()  # the next replay writes over it, and so may any other graph of the same pool


class GraphCache:
    """Call functions of tensors; on CUDA, from some call with one key on, as a captured graph.

    A graph is captured for the shapes of the tensors and for `key`, which must name everything else that the function's
    control flow depends on, objects by an id only if they outlive the cache. It reads parameters where they lie and
    draws fresh random numbers of the device's default generator at every replay. A function that waits for the device
    is never captured, and one log line says so. A capture that fails all the same raises CaptureFailed. Every key is
    captured once at most: where more are live than graphs are kept, the rest stays eager.
    """

    def __init__(self, device: torch.device, allowed: bool = True) -> None:
        self.device, self.active = device, allowed and device.type == "cuda"
        self.pool = torch.cuda.graph_pool_handle() if self.active else None
        self.graphs: dict[Hashable, CapturedGraph] = {}  # least recently used first
        self.replays = 0
        self.calls: dict[Hashable, int] = {}
        self.never: set[Hashable] = set()

    def __call__(self, key: Hashable, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        if not self.active:
            return function(*tensors)
        key = (key, *((t.shape, t.dtype) for t in tensors))
        how = self.next_call(key)
        if how == "eager":
            return self.eager(function, tensors)
        if how == "watched":
            return self.watched(key, function, tensors)
        if how == "capture":
            self.keep(key, self.capture(function, tensors))
        self.replays += 1
        return self.graphs[key].replay(tensors)

    def next_call(self, key: Hashable) -> Literal["eager", "watched", "capture", "replay"]:
        """Count a call with `key` and say how it is to be made."""
        if key in self.graphs:
            self.graphs[key] = self.graphs.pop(key)
            return "replay"
        if key in self.never:
            return "eager"
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] > EAGER_CALLS:
            return "capture"
        return "watched" if self.calls[key] == EAGER_CALLS else "eager"

    def keep(self, key: Hashable, captured: CapturedGraph) -> None:
        """Keep a graph in the place of the least recently used one, whose key stays eager from now on."""
        if len(self.graphs) >= GRAPHS_KEPT:
            oldest = next(iter(self.graphs))
            del self.graphs[oldest]
            self.never.add(oldest)
        self.graphs[key] = captured

    def eager(self, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
        """Call on the side stream, without a graph: a capture must not find work of the default stream unfinished."""
        here, side = torch.cuda.current_stream(self.device), side_stream(self.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            result = function(*tensors)
        here.wait_stream(side)
        result.record_stream(here)
        return result

    def watched(self, key: Hashable, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
        """Call without a graph, and find out whether the function waits for the device, which no capture survives, or
        draws random numbers on the host, which every replay would repeat."""
        mode, drawn = torch.cuda.get_sync_debug_mode(), host_random_state()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.eager(function, tensors)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        if place := synchronisation(caught):
            self.never.add(key)
            log.info("no CUDA graph of a function that waits for the device, at %s: its calls stay eager", place)
        elif host_random_state() != drawn:
            self.never.add(key)
            log.info("no CUDA graph of a function that draws random numbers on the host: its calls stay eager")
        return result

    def capture(self, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> CapturedGraph:
        graph, inputs, first = torch.cuda.CUDAGraph(), [t.clone() for t in tensors], None
        here, side = torch.cuda.current_stream(self.device), side_stream(self.device)
        try:
            mode = "thread_local"  # a streamed data set's thread pins memory, which would end a global capture
            with torch.cuda.graph(graph, pool=self.pool, stream=side, capture_error_mode=mode):
                try:
                    output = function(*inputs)
                except Exception as error:
                    first = error  # leaving the block, torch raises another one that says less
                    raise
        except Exception as error:
            torch.cuda.set_stream(here)  # torch 2.11 leaves the side stream the current one
            raise capture_failed(first or error) from (first or error)
        return CapturedGraph(graph, inputs, output)


def host_random_state() -> bytes:
    """Return the state of the host's global random numbers: torch's, Python's and NumPy's."""
    return pickle.dumps((torch.get_rng_state().numpy(), random.getstate(), np.random.get_state()))


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the device's one stream for captures and what comes before them: graphs of one pool must share theirs."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def synchronisation(caught: Sequence[warnings.WarningMessage]) -> str | None:
    """Find where torch's warnings say that the host waited for the device; give all other warnings again."""
    place = None
    for warning in caught:
        text = str(warning.message)
        if SYNCHRONISED in text:
            place = place or f"{warning.filename}:{warning.lineno}"
        elif SYNC_PROTOTYPE not in text:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return place


def capture_failed(first: Exception) -> CaptureFailed:
    reason = one_line(first)[:300]
    return CaptureFailed(f"no CUDA graph, {type(first).__name__}: {reason}: run with cuda_graphs=false")


current: ContextVar[GraphCache | None] = ContextVar("graph cache", default=None)


@contextmanager
def graphs(device: torch.device, allowed: bool = True) -> Iterator[None]:
    """Let `run_captured` capture and replay on CUDA inside the block; graphs and their memory go with it."""
    token = current.set(GraphCache(device, allowed))
    try:
        yield
    finally:
        current.reset(token)


def run_captured(key: Hashable, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return `function(*tensors)`, computed through the block's GraphCache where there is one."""
    graph_cache = current.get()
    return function(*tensors) if graph_cache is None else graph_cache(key, function, *tensors)
