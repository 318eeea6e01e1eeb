"""Trained models out of specs: from the store, or trained now."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from epsball.data.images import Batched, Data
from epsball.models import FitsItself
from epsball.models.predictions import Mistakes, find_mistakes, rate
from epsball.runtime.device import Execution, environment
from epsball.runtime.distributed import is_first
from epsball.runtime.progress import Stop
from epsball.runtime.store import CheckpointFolder, Store
from epsball.training.fit import Diverged, State, TrainingControl, fit, mismatched_columns
from epsball.training.forecast import TrainingForecast
from epsball.training.spec import ModelSpec, with_sources
from epsball.training.track import tracked

Json = dict[str, Any]

log = logging.getLogger(__name__)


class TrainedModels:
    """Trained models of a run: each is trained or loaded once, and kept until it is released."""

    def __init__(self, store: Store, stop: Stop, uses: Iterable[Mapping[str, ModelSpec]]) -> None:
        """`uses`: the models that are used together, by name, of each experiment of the run."""
        self.store, self.stop = store, stop
        used = list(uses)
        self.specs: dict[str, ModelSpec] = {}  # all of the run; of equal ones the first, whose learning curve it is
        for _, spec in (named for specs in used for named in with_sources(specs)):
            self.specs.setdefault(spec.key, spec)
        self.uses_left = Counter(spec.key for specs in used for spec in specs.values())
        self.records: dict[str, tuple[Json, Path, bool]] = {}  # spec.json, folder and whether reused, by fingerprint
        self.networks: dict[tuple[str, torch.device, bool], nn.Module] = {}
        self.on_device: dict[tuple[str, str, torch.device], Data] = {}
        self.mistakes: dict[tuple[str, Execution], dict[str, Mistakes]] = {}
        self.forecast: TrainingForecast | None = None  # of all trainings of the run

    def untrained(self, specs: Mapping[str, ModelSpec], has: Callable[[str], bool]) -> Iterator[tuple[str, ModelSpec]]:
        """Yield by name the models that the store lacks, by its `has` or `is_trained`, each after those of its sources
        that it lacks."""
        for name, spec in specs.items():
            if not has(spec.key):
                yield from self.untrained({f"{name}'s source {n}": source for n, source in spec.sources.items()}, has)
                yield name, spec

    def train(self, specs: Mapping[str, ModelSpec], execution: Execution) -> dict[str, nn.Module]:
        """Return the networks of `specs` by name, trained, in eval mode and frozen.

        The longest trainings come last: they continue shorter ones.
        """
        in_order = sorted(specs, key=lambda name: specs[name].epochs)
        trained = {name: self.get(name, specs[name], execution) for name in in_order}
        return {name: trained[name] for name in specs}

    def get(self, name: str, spec: ModelSpec, execution: Execution) -> nn.Module:
        """Return one trained network, in eval mode and frozen: out of the store, or trained now."""
        place = spec.key, execution.device, execution.channels_last
        if place not in self.networks:
            train = partial(self.train_one, name, spec, execution)
            stored = self.store.load_or_train(spec.label, spec.key, execution.device, train)
            network = place_network(spec, execution)
            network.load_state_dict(stored.weights)
            self.networks[place] = network.eval().requires_grad_(False)
            self.records[spec.key] = stored.spec, stored.path, stored.reused
            log.info("%s: %s", name, describe_model(model_record(spec, *self.records[spec.key]), spec.as_it_is))
        return self.networks[place]

    def release(self, specs: Mapping[str, ModelSpec]) -> None:
        """Count one use of these models, and let go of every network that no experiment uses any more."""
        self.uses_left -= Counter(spec.key for spec in specs.values())
        self.networks = {place: network for place, network in self.networks.items() if self.uses_left[place[0]] > 0}

    def data(self, data: Data, device: torch.device) -> Data:
        """Return `data` on the device, moved there once."""
        place = data.checksum, data.test_checksum, device
        if place not in self.on_device:
            self.on_device[place] = data.to(device)
        return self.on_device[place]

    def known_mistakes(self, data: Data, execution: Execution) -> dict[str, Mistakes]:
        """Return the dict, shared by the whole run, of mistakes on these clean test images by a model's fingerprint."""
        return self.mistakes.setdefault((data.test_checksum, execution), {})

    def train_one(
        self, name: str, spec: ModelSpec, execution: Execution, folder: CheckpointFolder
    ) -> tuple[Mapping[str, Tensor], Json, str]:
        """Train one model in its folder of the store; its weights, spec.json and learning curve as CSV."""
        import pandas as pd

        data, began = self.data(spec.data, execution.device), time.perf_counter()
        curve: list[dict[str, float]]
        sources = [self.get(f"{name}'s source {n}", source, execution) for n, source in spec.sources.items()]
        act = "scoring" if spec.as_it_is else "training"
        log.info("%s %s (%s-%s)%s", act, name, spec.label, spec.key, self.counted(spec))
        network = place_network(spec, execution)
        if spec.trainer is None:
            if isinstance(network, FitsItself):
                network.fit_to(*data.train.take(torch.arange(len(data.train))), spec.model_seed)
            seconds, curve = time.perf_counter() - began, []
        else:
            checkpoints = Checkpoints.open(name, folder, spec.curve, execution.device)
            with tracked(execution.track if is_first() else None, folder.path, spec.key, spec.identity) as show:
                control = replace(self.control(name, spec, execution, checkpoints), show=show)
                try:
                    curve = fit(network, spec.trainer, sources, data, spec.model_seed, control)
                except Diverged:  # from a state that is not finite it could only diverge again
                    folder.drop_state()
                    raise
            seconds = checkpoints.seconds()
        found = find_mistakes(network.eval(), Batched(data.test, execution.batch_size, self.stop))
        self.known_mistakes(spec.data, execution)[spec.key] = found
        record = {
            "fingerprint": spec.key,
            "spec": spec.identity,
            "seed": spec.seed,
            "parameters": sum(p.numel() for p in network.parameters()),
            "data": spec.data.origin,
            "data_checksum": spec.data.checksum,
            "curve": spec.curve,
            "seconds": round(seconds, 2),
            "loss": curve[-1]["loss"] if curve else None,
            "clean_error": rate(found.top1),
            "clean_n": len(found.top1),
            **environment(execution.device),
        }
        return network.state_dict(), record, pd.DataFrame(curve).to_csv(index=False)

    def counted(self, spec: ModelSpec) -> str:
        """Return which of how many models of the run this one is, for the log."""
        ready = len(self.records.keys() - {spec.key})
        return f", model {ready + 1} of {len(self.specs)}" if len(self.specs) > 1 else ""

    def control(self, name: str, spec: ModelSpec, execution: Execution, checkpoints: "Checkpoints") -> TrainingControl:
        """Return how one training is stopped, saved and continued by a longer one."""
        longer = self.continuation(spec)

        def pass_checkpoint(to: ModelSpec, state: State) -> None:
            self.store.pass_checkpoint(to.label, to.key, checkpoints.complete(state))

        return TrainingControl(
            title=name,
            stop=self.stop,
            state=checkpoints.state,
            save=checkpoints.save,
            seconds_between=execution.checkpoint_seconds,
            cuda_graphs=execution.cuda_graphs,
            pass_checkpoint=partial(pass_checkpoint, longer) if longer else None,
            follow=partial(self.forecast.follow, spec.key) if self.forecast else None,
        )

    def continuation(self, spec: ModelSpec) -> ModelSpec | None:
        """Return the model whose training goes on where that of `spec` ends, if the run has one."""
        longer = [s for s in self.specs.values() if s.trajectory == spec.trajectory and s.epochs > spec.epochs]
        return min(longer, key=lambda s: s.epochs) if spec.trajectory and longer else None

    def recorded(self, specs: Mapping[str, ModelSpec]) -> Iterator[tuple[str, Json]]:
        """Yield what run.json says of these models and of their sources; of one that is not in the store, not yet or
        because its rows were given, the fingerprint alone."""
        for name, spec in with_sources(specs):
            if spec.key not in self.records and (stored := self.store.record(spec.key)):
                self.records[spec.key] = *stored, True
            known = self.records.get(spec.key)
            yield name, model_record(spec, *known) if known else {"fingerprint": spec.key}


@dataclass(frozen=True)
class Checkpoints:
    """Where the states of one training are kept, and how long it has taken in all."""

    folder: CheckpointFolder
    state: State | None
    """where an earlier process left off"""
    curve_of: Json
    """which test images and which watch the learning curve is measured on: `ModelSpec.curve`"""
    environment: Json
    """device, threads and versions: with others the last bits may differ"""
    began: float

    @classmethod
    def open(cls, name: str, folder: CheckpointFolder, curve_of: Json, device: torch.device) -> "Checkpoints":
        """Read the last state, and log from which step the training goes on. Columns of its learning curve that were
        measured by another watch, or on other test images, are left out."""
        state, here = folder.last_state(), environment(device)
        if state is not None:
            log.info("%s goes on from step %d", name, state["step"])
            if changed := [key for key in here if here[key] != state["environment"].get(key)]:
                log.warning("%s: %s changed since: the result may differ in the last bits", name, ", ".join(changed))
            mismatched = mismatched_columns(state.get("curve_of", curve_of), curve_of)
            state["curve"] = [{k: v for k, v in row.items() if k not in mismatched} for row in state["curve"]]
        return cls(folder, state, curve_of, here, time.perf_counter())

    def save(self, state: State) -> None:
        self.folder.save_state(self.complete(state))

    def complete(self, state: State) -> State:
        """Return a state with all that is saved with it: `curve_of`, environment and seconds of training so far."""
        own = {"curve_of": self.curve_of, "environment": self.environment, "seconds": self.seconds()}
        return {**state, **own}

    def seconds(self) -> float:
        """Return the seconds of training so far, those of earlier processes included."""
        before = 0.0 if self.state is None else self.state["seconds"]
        return float(before + time.perf_counter() - self.began)


def place_network(spec: ModelSpec, execution: Execution) -> nn.Module:
    """Return a new network on the device, its weights laid out as the config says, where it takes that."""
    network = spec.make_network().to(execution.device)
    laid_out = execution.channels_last and getattr(network, "takes_channels_last", True)
    return network.to(memory_format=torch.channels_last) if laid_out else network


def model_record(spec: ModelSpec, stored: Json, path: Path, reused: bool) -> Json:
    """Return what run.json says of a model, from its spec.json, without errors that are of other test images than the
    spec's. (A spec.json written before it had `curve` says how many test images there were, not which.)"""
    scored_on = stored.get("curve", spec.curve)["test_checksum"], stored["clean_n"]
    asked = spec.data.test_checksum, len(spec.data.test)
    other = {} if scored_on == asked else {"clean_error": None, "clean_n": None}
    kept = ("fingerprint", "parameters", "clean_error", "clean_n", "loss", "seconds", "device")
    return {**{key: stored[key] for key in kept}, **other, "path": str(path), "reused": reused}


def describe_model(record: Json, as_it_is: bool) -> str:
    """Say in a line what run.json says of a model, which came trained if it is measured `as_it_is`."""
    error, n = record["clean_error"], record["clean_n"]
    scored = "scored on other test images" if error is None else f"clean error {error:.2%} of {n} images"
    trained = "its weights as they are" if as_it_is else f"trained in {record['seconds']:.0f} s"
    how = f"reused; {trained}" if record["reused"] else trained
    return f"{scored}, {record['parameters']} parameters, {how}, {record['path']}"
