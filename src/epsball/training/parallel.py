"""Several trainings at once, each in a process of its own."""

import logging
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch

from epsball.runtime.device import Execution, executing
from epsball.runtime.distributed import PeerLost, cores
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.run_log import log_files, log_into
from epsball.runtime.store import Store
from epsball.training.spec import BuildCache, ModelSpec, build_spec
from epsball.training.trained import TrainedModels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A training for a worker process: one model, and the one that continues it."""

    name: str
    config: dict[str, Any]
    continuation: dict[str, Any] | None
    execution: Execution
    outputs: Path
    """root folder of the store"""


@dataclass(frozen=True)
class Worker:
    """A worker process's own state, kept from one job to the next."""

    stop: Stop = field(default_factory=Stop)
    cache: BuildCache = field(default_factory=BuildCache)


def train_in_parallel(
    wanted: Mapping[str, tuple[str, Execution]], models: TrainedModels, workers: int, threads: int | None
) -> None:
    """Train models in several processes; afterwards the store has them all.

    wanted: name and execution of each, by fingerprint, sources that the store lacks included. threads: CPU threads of a
    process; None shares out those of this one. Raises PeerLost where one of them ends before its work is done.
    """
    specs = models.specs
    if not wanted:
        return
    needs = find_needs([specs[key] for key in wanted], models)
    work = models.forecast.left if models.forecast else {}  # which takes a damaged model for trained
    left = work_left(needs, {key: work.get(key, 1) for key in wanted})
    jobs = {key: make_job(*named, specs[key], models) for key, named in wanted.items()}
    workers = min(workers, len(wanted))
    threads = threads or max(1, torch.get_num_threads() // workers)
    if threads > 1 and workers * threads > cores():
        text = "%d workers of %d threads on %d cores wait for one another and are several times slower: threads=%d"
        log.warning(text, workers, threads, cores(), max(1, cores() // workers))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, begin_worker, (threads, log_files())) as pool:
        try:
            run_jobs(pool, workers, jobs, needs, left, models)
        except BaseException as error:
            for worker in multiprocessing.active_children():
                worker.terminate()  # it saves its state and ends
            try:
                pool.shutdown(cancel_futures=True)
            except Interrupted:  # asked for once more: at once, without saving
                for worker in multiprocessing.active_children():
                    worker.kill()
                raise
            if isinstance(error, BrokenProcessPool):
                models.stop.check()  # a signal to this process may have been to its workers, too
                raise PeerLost("a training process was killed (out of memory?); the same command goes on") from None
            raise


def run_jobs(
    pool: ProcessPoolExecutor,
    workers: int,
    jobs: Mapping[str, Job],
    needs: Mapping[str, Sequence[str]],
    left: Mapping[str, float],
    models: TrainedModels,
) -> None:
    """Run each job after those it needs, first what most is `left` after; say what is left of all."""
    order = TopologicalSorter(needs)
    order.prepare()
    training: dict[Future[str], str] = {}
    ready: list[str] = []
    number = 0
    while order.is_active():
        ready = sorted([*ready, *order.get_ready()], key=lambda key: left[key])
        while ready and len(training) < workers:
            key = ready.pop()
            training[pool.submit(train_in_worker, jobs[key])] = key
            if models.forecast:
                models.forecast.begin_elsewhere(key)
        models.stop.check()
        done, _ = wait(training, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            number += 1
            log.info("%s, %d of %d", future.result(), number, len(jobs))
            order.done(key := training.pop(future))
            if models.forecast:
                models.forecast.end_elsewhere(key, workers)


def make_job(name: str, execution: Execution, spec: ModelSpec, models: TrainedModels) -> Job:
    longer = models.continuation(spec)
    return Job(name, spec.config, longer.config if longer else None, execution, models.store.root)


def find_needs(specs: Sequence[ModelSpec], models: TrainedModels) -> dict[str, list[str]]:
    """Return which of `specs` wait for which: a model for its sources, a longer training for the one it continues."""
    needs = {spec.key: {source.key for source in spec.sources.values()} for spec in specs}
    for spec in specs:
        if (longer := models.continuation(spec)) and longer.key in needs:
            needs[longer.key].add(spec.key)
    return {key: sorted(first & needs.keys()) for key, first in needs.items()}


def work_left(needs: Mapping[str, Sequence[str]], work: Mapping[str, float]) -> dict[str, float]:
    """Return the work of each model and of the longest chain of models that wait for it: what to begin with."""
    left = dict(work)
    for key in reversed(list(TopologicalSorter(needs).static_order())):
        for first in needs[key]:
            left[first] = max(left[first], work[first] + left[key])
    return left


@cache
def this_worker() -> Worker:
    """Return this process's own Worker, the same one every time."""
    return Worker()


def begin_worker(threads: int, log_files: Sequence[str]) -> None:
    """Set a worker process up: its log, its signals, its share of the cores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log_into(log_files)
    this_worker().stop.obey_parent()
    torch.set_num_threads(threads)


def train_in_worker(job: Job) -> str:
    """Train one model and leave it in the store."""
    worker = this_worker()
    specs = {"model": job.config, "continuation": job.continuation}
    with worker.stop.job():
        built = {role: build_spec(spec, job.name, worker.cache) for role, spec in specs.items() if spec is not None}
        models = TrainedModels(Store(job.outputs, worker.stop.check), worker.stop, [built])
        with executing(job.execution):
            models.get(job.name, built["model"], job.execution)
    return f"{job.name}: in the store"
