"""Trained models out of plans: from the store, or trained now, one after another or side by side."""

import json
import logging
import multiprocessing
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache, partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import epsball
from epsball import evaluate
from epsball.data import Data
from epsball.device import allow_tf32, choose_device, choose_kernels
from epsball.plan import Experiment, Plan, Shared, prepare
from epsball.progress import Stop
from epsball.store import Slot, Store, Trained
from epsball.train import TrainingControl, fit

Row = dict[str, Any]

log = logging.getLogger(__name__)


class Workshop:
    """A run's device, data and store, and the models it has made ready so far, for all experiments of the run."""

    def __init__(self, experiments: Sequence[Experiment], stop: Stop) -> None:
        settings = experiments[0].settings  # the device's are the same for all
        self.experiments, self.settings, self.stop = experiments, settings, stop
        self.device = choose_device(settings.device)
        self.store = Store(Path(settings.outputs), stop.check)
        self.batch_size = settings.batch_size or (128 if self.device.type == "cpu" else 1000)
        self.ready: dict[str, tuple[nn.Module, Row]] = {}
        self.on_device: dict[int, Data] = {}
        self.mistakes: dict[tuple[str, str], evaluate.Mistakes] = {}
        choose_kernels(self.device, settings.deterministic)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    def models(self, experiment: Experiment) -> dict[str, nn.Module]:
        """All models of an experiment by name, trained, in eval mode and frozen."""
        if self.settings.workers > 1:
            self.train_side_by_side()
        shorter_first = sorted(experiment.plans, key=lambda name: experiment.plans[name].epochs)
        trained = {name: self.model(experiment.plans[name], name + self.of_seed(experiment)) for name in shorter_first}
        return {name: trained[name] for name in experiment.plans}

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
        return self.ready[plan.key][0]

    def clean_mistakes(self, plan: Plan, network: nn.Module, data: Data) -> evaluate.Mistakes:
        """The mistakes of a plan's trained network on clean test images, found once in a run."""
        key = plan.key, data.test_checksum
        if key not in self.mistakes:
            test = self.data(data).test
            self.mistakes[key] = evaluate.clean_mistakes(network, test, self.batch_size, self.stop)
        return self.mistakes[key]

    def of_seed(self, experiment: Experiment) -> str:
        """What tells an experiment's models from those of the run's other seeds."""
        seeds = {each.settings.seed for each in self.experiments}
        return f" of seed {experiment.settings.seed}" if len(seeds) > 1 else ""

    def records(self, experiment: Experiment) -> Iterator[tuple[str, Row]]:
        """What run.json says of an experiment's models, and of their sources, as far as they are ready."""
        for place, plan in every_plan(experiment.plans):
            if plan.key in self.ready:
                yield "'s source ".join(place) + self.of_seed(experiment), self.ready[plan.key][1]

    def placed(self, plan: Plan) -> nn.Module:
        """A plan's network on the run's device, its weights laid out as the config says."""
        network = plan.network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.settings.channels_last else network

    def train(self, plan: Plan, name: str, slot: Slot) -> tuple[Mapping[str, Tensor], Row, str]:
        """Train a plan in its slot of the store: weights, spec.json, learning curve."""
        import pandas as pd

        data, began = self.data(plan.data), time.perf_counter()
        curve: list[dict[str, float]]
        log.info("training %s (%s-%s)", name, plan.label, plan.key)
        network = self.placed(plan)
        if plan.trainer is None:
            network.fit_to(*data.train.take(torch.arange(len(data.train))), plan.own_seed)  # type: ignore[operator]
            seconds, curve = time.perf_counter() - began, []
        else:
            sources = [self.model(source, f"{name}'s source {key}") for key, source in plan.sources.items()]
            followed = FollowedTraining(self, plan, name, slot)
            curve = fit(network, plan.trainer, sources, data, plan.own_seed, followed.control())
            seconds = followed.seconds()
        wrong = self.clean_mistakes(plan, network.eval(), plan.data).top1
        spec = {
            "fingerprint": plan.key,
            "spec": plan.identity,
            "seed": plan.seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "data": plan.data.origin,
            "data_checksum": plan.data.checksum,
            "seconds": round(seconds, 2),
            "loss": curve[-1]["loss"] if curve else None,
            "clean_error": evaluate.rate(wrong),
            "clean_n": len(wrong),
            **environment(self.device),
        }
        return network.state_dict(), spec, pd.DataFrame(curve).to_csv(index=False)

    def heir(self, plan: Plan) -> Plan | None:
        """The plan that goes on where `plan` ends, if the run has one: the same but for more epochs."""
        longer = {p.key: p for _, p in self.every_plan() if p.course == plan.course and p.epochs > plan.epochs}
        return min(longer.values(), key=lambda p: p.epochs) if plan.course and longer else None

    def every_plan(self) -> Iterator[tuple[tuple[int, tuple[str, ...]], Plan]]:
        """All plans of the run with where they stand: which experiment, and the path to it."""
        for number, experiment in enumerate(self.experiments):
            for place, plan in every_plan(experiment.plans):
                yield (number, place), plan

    def train_side_by_side(self) -> None:
        """Train the models that the store lacks in several processes; afterwards the store has them all."""
        every = {plan.key: (place, plan) for place, plan in self.every_plan()}
        missing = {key: found for key, found in every.items() if not self.store.has(found[1].label, key)}
        if not missing:
            return
        needs = self.needs([plan for _, plan in missing.values()])
        left = epochs_left(needs, {key: plan.epochs for key, (_, plan) in missing.items()})
        order = TopologicalSorter(needs)
        order.prepare()
        configs = [experiment.config for experiment in self.experiments]
        context = multiprocessing.get_context("spawn")
        workers = min(self.settings.workers, len(missing))
        threads = self.settings.threads or max(1, torch.get_num_threads() // workers)
        with ProcessPoolExecutor(workers, context, begin_worker, (threads,)) as pool:
            training: dict[Future[str], str] = {}
            ready: list[str] = []
            try:
                while order.is_active():
                    ready = sorted([*ready, *order.get_ready()], key=lambda key: left[key])
                    while ready and len(training) < workers:
                        key = ready.pop()
                        training[pool.submit(train_in_worker, configs, *missing[key][0])] = key
                    self.stop.check()
                    done, _ = wait(training, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in done:
                        log.info("%s", future.result())
                        order.done(training.pop(future))
            except BaseException:
                for worker in multiprocessing.active_children():
                    worker.terminate()  # it saves its state and ends
                pool.shutdown(cancel_futures=True)
                raise

    def needs(self, plans: Sequence[Plan]) -> dict[str, list[str]]:
        """Which of `plans` wait for which: a model for its sources, a longer training for the one it goes on from."""
        needs = {plan.key: {source.key for source in plan.sources.values()} for plan in plans}
        for plan in plans:
            if (heir := self.heir(plan)) and heir.key in needs:
                needs[heir.key].add(plan.key)
        return {key: sorted(first & needs.keys()) for key, first in needs.items()}


class FollowedTraining:
    """One model's training: where it began, how long it has taken, where its state is kept."""

    def __init__(self, shop: Workshop, plan: Plan, name: str, slot: Slot) -> None:
        self.shop, self.plan, self.name, self.slot = shop, plan, name, slot
        self.state, self.began, self.here = slot.last_state(shop.device), time.perf_counter(), environment(shop.device)
        self.spent = 0.0 if self.state is None else self.state["seconds"]
        if self.state is not None:
            log.info("%s goes on from step %d", name, self.state["step"])
            if changed := [key for key in self.here if self.here[key] != self.state["environment"].get(key)]:
                log.warning("%s: %s changed since: the result may differ in the last bits", name, ", ".join(changed))

    def control(self) -> TrainingControl:
        settings, heir = self.shop.settings, self.shop.heir(self.plan)

        def save(state: Row) -> None:
            self.slot.save_state(self.full(state))

        def hand_on(heir: Plan, state: Row) -> None:
            self.shop.store.hand_on(heir.label, heir.key, self.full(state))

        stop, between, to_heir = self.shop.stop, settings.checkpoint_seconds, partial(hand_on, heir) if heir else None
        return TrainingControl(self.name, stop, self.state, save, between, settings.cuda_graphs, to_heir)

    def full(self, state: Row) -> Row:
        return {**state, "environment": self.here, "seconds": self.seconds()}

    def seconds(self) -> float:
        return float(self.spent + time.perf_counter() - self.began)


def every_plan(plans: Mapping[str, Plan], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Plan]]:
    """All plans with where they stand, sources before the models that need them."""
    for name, plan in plans.items():
        yield from every_plan(plan.sources, (*place, name))
        yield (*place, name), plan


def epochs_left(needs: Mapping[str, Sequence[str]], epochs: Mapping[str, float]) -> dict[str, float]:
    """The epochs of each model and of the longest chain of models that wait for it: what to begin with. A longer
    training counts whole, also where it goes on from a shorter one: this orders, it does not predict."""
    left = dict(epochs)
    for key in reversed(list(TopologicalSorter(needs).static_order())):
        for first in needs[key]:
            left[first] = max(left[first], epochs[first] + left[key])
    return left


worker_stop = Stop()


def begin_worker(threads: int) -> None:
    """The first thing that a worker process does."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    worker_stop.listen()
    torch.set_num_threads(threads)


@cache
def worker_shop(configs: str) -> Workshop:
    """A worker's view of a run's experiments, prepared once per process."""
    shared = Shared()
    return Workshop([prepare(config, shared) for config in json.loads(configs)], worker_stop)


def train_in_worker(configs: Sequence[Mapping[str, Any]], experiment: int, place: tuple[str, ...]) -> str:
    """Train one plan, named by its experiment and the path to it, and leave it in the store."""
    shop = worker_shop(json.dumps(configs))
    asking = shop.experiments[experiment]
    chosen = asking.plans[place[0]]
    for source in place[1:]:
        chosen = chosen.sources[source]
    name = "'s source ".join(place)
    with allow_tf32(asking.settings.evaluation_precision):  # its clean error is one of the experiment's
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
