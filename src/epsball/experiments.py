"""Joins the parts: plans become trained models, models become a transfer matrix, rows become the run directory."""

import json
import logging
import platform
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import epsball
from epsball import evaluate, statistics, tables
from epsball.build import ConfigError
from epsball.data import Data
from epsball.files import write_whole
from epsball.plan import Craft, Experiment, Plan, choose_device
from epsball.progress import Interrupted, Stop
from epsball.store import Slot, Store, Trained, fingerprint, free_name
from epsball.train import Watch, derived_seed, fit

Row = dict[str, Any]

log = logging.getLogger(__name__)


def claim_directory(experiment: Experiment, given: str | None, job: str | None) -> Path:
    """A run directory that no other run has: outputs/<experiment>/<date_time[-n]>, or a sweep's `job` folder, made with
    an exclusive mkdir; or the `given` one, where the same experiment's run goes on.

    Raises ConfigError when `given` holds another experiment's results.
    """
    if given is not None:
        path = Path(given)
        path.mkdir(parents=True, exist_ok=True)
        earlier = read_json(path / "run.json")
        if earlier.get("config_hash") != experiment.config_hash and any(path.iterdir()):
            raise ConfigError(
                f"hydra.run.dir={given} holds something else than this experiment: name another directory"
            )
        return path
    settings = experiment.settings
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    path = Path(job) if job else Path(settings.outputs) / settings.experiment / stamp
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            candidate = free_name(path)
            candidate.mkdir()
            return candidate
        except FileExistsError:  # another process was quicker
            continue


def run(experiment: Experiment, directory: Path, overrides: list[str], stop: Stop) -> list[Path]:
    """Train, attack, evaluate, write; the files written, most readable first. `run.json` says how it ended."""
    this = Run(experiment, directory, overrides, stop)
    this.record("running", None)
    try:
        files = this.write(list(this.rows()))
    except Interrupted as error:
        this.record("interrupted", str(error))
        raise
    except BaseException as error:
        write_whole(directory / "traceback.txt", traceback.format_exc())
        this.record("failed", f"{type(error).__name__}: {error}")
        raise
    this.record("done", None)
    return [*files, directory / "run.json"]


@dataclass
class Run:
    """One experiment at work in its directory: its device, its store, and the record that becomes run.json."""

    experiment: Experiment
    directory: Path
    overrides: list[str]
    stop: Stop
    began: float = field(default_factory=time.time)
    models: dict[str, Row] = field(default_factory=dict)
    ready: dict[str, nn.Module] = field(default_factory=dict)
    on_device: dict[int, Data] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.experiment.settings
        self.device = choose_device(settings.device)
        self.store = Store(Path(settings.outputs), self.stop.check)
        self.batch_size = settings.batch_size or (128 if self.device.type == "cpu" else 1000)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    def data(self, data: Data) -> Data:
        """`data` on the run's device, moved there once."""
        if id(data) not in self.on_device:
            self.on_device[id(data)] = data.to(self.device)
        return self.on_device[id(data)]

    def model(self, plan: Plan, name: str) -> nn.Module:
        """The trained network of a plan, in eval mode and frozen: out of the store, or trained now."""
        if plan.key not in self.ready:
            stored = self.store.load_or_train(plan.label, plan.key, self.device, partial(self.train, plan, name))
            network = plan.network.to(self.device)
            network.load_state_dict(stored.weights)
            self.ready[plan.key] = network.eval().requires_grad_(False)
            self.models[name] = model_record(stored)
            log.info(
                "%s: clean error %.2f%%, %d parameters, %s in %.0f s, %s",
                name,
                100 * stored.spec["clean_error"],
                stored.spec["parameters"],
                "reused; trained" if stored.reused else "trained",
                stored.spec["seconds"],
                stored.path,
            )
        return self.ready[plan.key]

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
        network = plan.network.to(self.device)
        watch = Watch(name, self.stop, state, save, self.experiment.settings.checkpoint_seconds)
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

    def rows(self) -> Iterator[Row]:
        """The transfer matrix: clean rows first, then attack by attack and source by source."""
        experiment = self.experiment
        models = {name: self.model(plan, name) for name, plan in experiment.plans.items()}
        clean = CleanVerdicts(self, models)
        for target in experiment.targets:
            key = self.row_key("clean", target, target)
            row = self.finished(key)
            if row is None:
                row = evaluate.clean_row(clean[target])
                self.store.keep_row(key, row)
            yield self.named(row, target, target, "clean", 0.0)
        for craft in experiment.crafts:
            for source in experiment.sources:
                yield from self.crafted(craft, source, models, clean)

    def crafted(
        self, craft: Craft, source: str, models: Mapping[str, nn.Module], clean: "CleanVerdicts"
    ) -> Iterator[Row]:
        """The rows of one attack on one source: crafted once, and only for the targets whose row is not finished."""
        eps, targets = craft.attack.eps, self.experiment.targets
        keys = {target: self.row_key(craft.identity, source, target) for target in targets}
        rows = {target: self.finished(key) for target, key in keys.items()}
        missing = {target: models[target] for target in targets if rows[target] is None}
        if missing:
            title = f"{craft.name} eps {eps:g} on {source}"
            seed = derived_seed(self.experiment.settings.seed, self.experiment.plans[source].key, repr(craft.attack))
            generator = torch.Generator(self.device).manual_seed(seed)
            test = self.data(self.experiment.data).test
            own, verdicts, largest = evaluate.transfer(
                models[source], craft.attack, missing, test, self.batch_size, generator, self.stop, title
            )
            for target, verdict in verdicts.items():
                row = evaluate.transfer_row(clean[source], own, clean[target], verdict)
                rows[target] = row | {"max_perturbation": largest}
                self.store.keep_row(keys[target], row | {"max_perturbation": largest})
            errors = ", ".join(f"{target} {100 * evaluate.rate(v.wrong1):.1f}%" for target, v in verdicts.items())
            log.info("%s: error of %s", title, errors)
        for target in targets:
            yield self.named(rows[target] or {}, source, target, craft.name, eps)

    def finished(self, key: str) -> Row | None:
        """A row an earlier run finished, unless the config wants all anew."""
        return self.store.row(key) if self.experiment.settings.reuse else None

    def row_key(self, attack: Row | str, source: str, target: str) -> str:
        """The fingerprint of everything that a row's numbers depend on."""
        experiment = self.experiment
        return fingerprint(
            {
                "attack": attack,
                "source": experiment.plans[source].key,
                "target": experiment.plans[target].key,
                "test": experiment.data.test_checksum,
                "seed": experiment.settings.seed,
                "batch_size": self.batch_size,
                "device": self.device.type,
            }
        )

    def named(self, row: Row, source: str, target: str, attack: str, eps: float) -> Row:
        """A row with its key before its numbers, and the paper's number after them where there is one."""
        experiment = self.experiment
        key = {"dataset": experiment.data.name, "seed": experiment.settings.seed, "source": source, "target": target}
        return {**key, "attack": attack, "eps": eps, **row, **experiment.published(source, target, attack, eps)}

    def write(self, rows: list[Row]) -> list[Path]:
        """All files of the run directory but run.json."""
        import pandas as pd

        from epsball import figures

        frame = statistics.with_intervals(pd.DataFrame(rows))
        names = ("results.csv", "transfer_matrix.csv", "transfer_matrix.png", "report.md")
        results, matrix, image, report = (self.directory / name for name in names)
        tables.write_results(frame, results)
        tables.write_transfer_matrix(frame, matrix)
        figures.transfer_heatmap(frame, image)
        write_whole(report, tables.report(frame, self.content("done", None)))
        print(tables.console(frame))
        return [matrix, image, report, results]

    def record(self, status: Literal["running", "done", "failed", "interrupted"], reason: str | None) -> None:
        """Write run.json: what ran, on what, how it ended."""
        content = json.dumps(self.content(status, reason), indent=2) + "\n"
        write_whole(self.directory / "run.json", content)

    def content(self, status: str, reason: str | None) -> Row:
        settings = self.experiment.settings
        return {
            "status": status,
            "exit_reason": reason,
            "experiment": settings.experiment,
            "seed": settings.seed,
            "overrides": self.overrides,
            "command": shlex.join(["python", *sys.argv]),
            "config_hash": self.experiment.config_hash,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.began)),
            "seconds": round(time.time() - self.began, 2),
            "git_commit": git_commit(),
            "data": self.experiment.data.origin,
            "models": self.models,
            **environment(self.device),
        }


class CleanVerdicts(dict[str, evaluate.Verdict]):
    """Each model's verdict on the clean test images, computed when first asked for."""

    def __init__(self, run: Run, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.run, self.models = run, models

    def __missing__(self, name: str) -> evaluate.Verdict:
        test = self.run.data(self.run.experiment.data).test
        self[name] = evaluate.clean_verdict(self.models[name], test, self.run.batch_size, self.run.stop)
        return self[name]


def model_record(stored: Trained) -> Row:
    """What run.json says of a model."""
    kept = ("fingerprint", "parameters", "clean_error", "clean_n", "loss", "seconds", "device")
    return {**{key: stored.spec[key] for key in kept}, "path": str(stored.path), "reused": stored.reused}


def environment(device: torch.device) -> Row:
    """What the last bits of a result depend on beside its config."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "versions": {"epsball": epsball.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def git_commit() -> str | None:
    """The checkout's commit, with a plus sign when files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        ask = partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True, timeout=10)
        commit = ask(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        return commit + ("+" if ask(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def read_json(path: Path) -> Row:
    """A JSON object out of a file; empty when there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
