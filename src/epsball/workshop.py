"""Trained models out of plans: from the store, or trained now, one after another or side by side."""

import json
import logging
import multiprocessing
import platform
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import epsball
from epsball import evaluate
from epsball.data import Data
from epsball.device import choose_device
from epsball.plan import Experiment, Plan, prepare
from epsball.progress import Stop
from epsball.store import Slot, Store, Trained
from epsball.train import Watch, fit

Row = dict[str, Any]

log = logging.getLogger(__name__)


class Workshop:
    """An experiment's device, data and store, and the models it has made ready so far."""

    def __init__(self, experiment: Experiment, stop: Stop) -> None:
        settings = experiment.settings
        self.experiment, self.stop = experiment, stop
        self.device = choose_device(settings.device)
        self.store = Store(Path(settings.outputs), stop.check)
        self.batch_size = settings.batch_size or (128 if self.device.type == "cpu" else 1000)
        self.records: dict[str, Row] = {}  # of the models, for run.json
        self.ready: dict[str, tuple[nn.Module, Row]] = {}
        self.on_device: dict[int, Data] = {}
        torch.backends.cudnn.benchmark = self.device.type == "cuda"
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    def models(self) -> dict[str, nn.Module]:
        """All models of the experiment by name, trained, in eval mode and frozen."""
        if self.experiment.settings.workers > 1:
            self.train_side_by_side()
        return {name: self.model(plan, name) for name, plan in self.experiment.plans.items()}

    def data(self, data: Data) -> Data:
        """`data` on the run's device, moved there once."""
        if id(data) not in self.on_device:
            self.on_device[id(data)] = data.to(self.device)
        return self.on_device[id(data)]

    def model(self, plan: Plan, name: str) -> nn.Module:
        """The trained network of a plan, in eval mode and frozen: out of the store, or trained now."""
        if plan.key not in self.ready:
            stored = self.store.load_or_train(plan.label, plan.key, self.device, partial(self.train, plan, name))
            network = self.placed(plan)
            network.load_state_dict(stored.weights)
            self.ready[plan.key] = network.eval().requires_grad_(False), model_record(stored)
            how = "reused; trained" if stored.reused else "trained"
            error, size, seconds = (stored.spec[key] for key in ("clean_error", "parameters", "seconds"))
            where = f"{how} in {seconds:.0f} s, {stored.path}"
            log.info("%s: clean error %.2f%%, %d parameters, %s", name, 100 * error, size, where)
        network, self.records[name] = self.ready[plan.key]
        return network

    def placed(self, plan: Plan) -> nn.Module:
        """A plan's network on the run's device, its weights laid out as the config says."""
        network = plan.network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.experiment.settings.channels_last else network

    def train(self, plan: Plan, name: str, slot: Slot) -> tuple[Mapping[str, Tensor], Row, str]:
        """Train a plan in its slot of the store: weights, spec.json, learning curve."""
        import pandas as pd

        sources = [self.model(source, f"{name}'s source {key}") for key, source in plan.sources.items()]
        data, state, began = self.data(plan.data), slot.last_state(self.device), time.perf_counter()
        here = environment(self.device)
        spent = 0.0 if state is None else state["seconds"]
        if state is not None:
            log.info("%s goes on from step %d", name, state["step"])
            if changed := [key for key in here if here[key] != state["environment"].get(key)]:
                log.warning("%s: %s changed since: the result may differ in the last bits", name, ", ".join(changed))

        def seconds() -> float:
            return spent + time.perf_counter() - began

        def save(state: Row) -> None:
            slot.save_state({**state, "environment": here, "seconds": seconds()})

        log.info("training %s (%s-%s)", name, plan.label, plan.key)
        network = self.placed(plan)
        settings = self.experiment.settings
        watch = Watch(name, self.stop, state, save, settings.checkpoint_seconds, settings.cuda_graphs)
        curve = fit(network, plan.trainer, sources, data, plan.seed, watch)
        trained_in = seconds()
        wrong = evaluate.clean_verdict(network, data.test, self.batch_size, self.stop).wrong1
        spec = {
            "fingerprint": plan.key,
            "spec": plan.identity,
            "seed": plan.seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "data": plan.data.origin,
            "data_checksum": plan.data.checksum,
            "seconds": round(trained_in, 2),
            "loss": curve[-1]["loss"],
            "clean_error": evaluate.rate(wrong),
            "clean_n": len(wrong),
            **here,
        }
        return network.state_dict(), spec, pd.DataFrame(curve).to_csv(index=False)

    def train_side_by_side(self) -> None:
        """Train the models that the store lacks in several processes; afterwards the store has them all."""
        experiment = self.experiment
        every = {plan.key: (place, plan) for place, plan in every_plan(experiment.plans)}
        missing = [place for place, plan in every.values() if not self.store.has(plan.label, plan.key)]
        if not missing:
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(experiment.settings.workers, len(missing)), context, listen) as pool:
            waiting = {pool.submit(train_in_worker, experiment.config, place): place for place in missing}
            try:
                while waiting:
                    self.stop.check()
                    done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        log.info("%s", future.result())
                        del waiting[future]
            except BaseException:
                for worker in multiprocessing.active_children():
                    worker.terminate()  # it saves its state and ends
                pool.shutdown(cancel_futures=True)
                raise


def every_plan(plans: Mapping[str, Plan], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Plan]]:
    """All plans with where they stand, sources before the models that need them."""
    for name, plan in plans.items():
        yield from every_plan(plan.sources, (*place, name))
        yield (*place, name), plan


worker_stop = Stop()


def listen() -> None:
    """The first thing that a worker process does."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    worker_stop.listen()


@cache
def worker_shop(config: str) -> Workshop:
    """A worker's view of an experiment, prepared once per process."""
    return Workshop(prepare(json.loads(config)), worker_stop)


def train_in_worker(config: Mapping[str, Any], place: tuple[str, ...]) -> str:
    """Train one plan, named by the path to it, and leave it in the store."""
    shop = worker_shop(json.dumps(config))
    chosen = shop.experiment.plans[place[0]]
    for source in place[1:]:
        chosen = chosen.sources[source]
    name = " source ".join(place)
    shop.model(chosen, name)
    return f"{name}: in the store"


def model_record(stored: Trained) -> Row:
    """What run.json says of a model."""
    kept = ("fingerprint", "parameters", "clean_error", "clean_n", "loss", "seconds", "device")
    return {**{key: stored.spec[key] for key in kept}, "path": str(stored.path), "reused": stored.reused}


def environment(device: torch.device) -> Row:
    """What the last bits of a result depend on beside its config."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = {"epsball": epsball.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    return {"device": f"{device.type} ({name})", "threads": torch.get_num_threads(), "versions": versions}
