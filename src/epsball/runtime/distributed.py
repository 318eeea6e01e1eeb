"""Several processes that compute one run together, as torchrun starts them; with one process all is the identity.

Every process runs the same program on the same config. The first one alone reads and writes files of the run, and tells
the others what it found; the others take their shares of batches and test images.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from epsball.build import ConfigError, one_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""variables of the environment that torchrun sets"""
STEP_TIMEOUT = timedelta(minutes=2)
"""of exchanges in every training step, which all processes reach at about the same time: so long does it take to notice
that a machine has gone"""
WAIT_TIMEOUT = timedelta(hours=1)
"""of exchanges before which the first process may read, write and draw while the others wait"""

LOST = "another process of this torchrun job ended; the same command goes on from the last checkpoint"


class PeerLost(RuntimeError):
    """Another process of the job is gone, so that this one cannot go on."""


def launched() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in LAUNCHED)


def processes() -> int:
    """Return the number of processes of this job, on all machines."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def rank() -> int:
    """Return this process's number in the job, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """Return this process's number on its machine, from 0: that of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def cores() -> int:
    """Return the number of cores that this process may use, in a job of a batch system those it was given."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_process() -> int | None:
    """Return this process's share of its cores, where torchrun would give it one; None for a process alone, or with an
    OMP_NUM_THREADS of the user's, whose number is torch's own."""
    if processes() == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":  # torchrun sets 1 where it is not set
        return None
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


@contextmanager
def joined() -> Iterator[None]:
    """Connect the processes of the job inside the block; leave them whichever way it ends."""
    if processes() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        with missing_peers("the processes of this torchrun job did not come together"):
            dist.init_process_group(backend, timeout=STEP_TIMEOUT)
            object_group()
        yield
    finally:
        object_group.cache_clear()
        if dist.is_initialized():
            dist.destroy_process_group()


@cache
def object_group() -> Any:
    """Return the group of all processes in which Python objects are exchanged: on the host, and with patience."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)


@contextmanager
def missing_peers(message: str = LOST) -> Iterator[None]:
    """Raise PeerLost where an exchange inside the block fails, with this message and torch's own reason."""
    try:
        yield
    except RuntimeError as error:
        reason = one_line(error)
        raise PeerLost(f"{message} ({reason})" if reason else message) from error


@contextmanager
def agreed() -> Iterator[None]:
    """Raise a ConfigError at the end of the block in all processes where one of them raised one inside it, as one whose
    machine lacks a file.

    The processes may exchange nothing inside the block.
    """
    error = None
    try:
        yield
    except ConfigError as own:
        error = own
    messages = gather(error and str(error))
    if error is not None:
        raise error
    for number, message in enumerate(messages):
        if message is not None:
            raise ConfigError(f"{message} (in process {number})")


def broadcast(value: T) -> T:
    """Return the first process's value, in all processes."""
    if processes() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    with missing_peers():
        dist.broadcast_object_list(box, src=0, group=object_group())
    return box[0]


def by_first(act: Callable[[], T]) -> T:
    """Let the first process alone call `act`, and return its result in all processes."""
    return broadcast(act() if is_first() else None)  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Return the values of all processes, in their order, in each of them."""
    if processes() == 1:
        return [value]
    import torch.distributed as dist

    values = [value] * processes()
    with missing_peers():
        dist.all_gather_object(values, value, group=object_group())
    return values


def share(number: int) -> slice:
    """Return this process's part of `number` things that each take equally long: every N-th of them, from its rank on.

    All of them, where there are fewer things than processes.
    """
    return slice(rank(), None, processes()) if number >= processes() else slice(None)


def in_order(own: "Tensor", number: int) -> "Tensor":
    """Return what all processes found of `number` things, each of its `share`, in the order of the things."""
    return own if number < processes() or processes() == 1 else interleaved(gather(own.cpu())).to(own.device)


def interleaved(parts: Sequence["Tensor"]) -> "Tensor":
    """Join strided parts again: part r has the rows r, r + N, r + 2N, ..."""
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for number, part in enumerate(parts):
        whole[number :: len(parts)] = part
    return whole


def largest(*values: int) -> list[int]:
    """Return the largest that any process has of each value."""
    if processes() == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    found = torch.tensor(values)
    with missing_peers():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return [int(value) for value in found.tolist()]


def add_up(own: "Tensor") -> "Tensor":
    """Return the sum of all processes' tensors."""
    if processes() == 1:
        return own
    import torch.distributed as dist

    total = own.detach().clone()
    with missing_peers():
        dist.all_reduce(total)
    return total


def average(tensors: Sequence["Tensor"]) -> None:
    """Write over each tensor its mean over all processes. They travel as one message."""
    if processes() == 1:
        return
    import torch

    mean = add_up(torch.cat([tensor.reshape(-1) for tensor in tensors])) / processes()
    for tensor, part in zip(tensors, torch.split(mean, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
