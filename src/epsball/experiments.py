"""Joins the parts: plans become trained models, models become a transfer matrix, rows become the run directory."""

import contextlib
import json
import logging
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
from torch import nn

from epsball import evaluate, statistics, tables
from epsball.build import ConfigError
from epsball.device import derived_seed, graphs, tensor_cores
from epsball.files import write_whole
from epsball.plan import Craft, Experiment
from epsball.progress import Interrupted, Stop
from epsball.store import fingerprint, free_name
from epsball.workshop import Workshop, environment

Row = dict[str, Any]

log = logging.getLogger(__name__)


def claim_directory(experiment: Experiment, given: str | None, job: Path | None) -> Path:
    """A run directory that no other run has: outputs/<experiment>/<date_time[-n]>, or a sweep's `job` folder; or the
    `given` one, where the same experiment's run goes on.

    Raises ConfigError when `given` holds anything else.
    """
    if given is None:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        return claim(job or Path(experiment.settings.outputs) / experiment.settings.experiment / stamp)
    path = Path(given)
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()) and read_json(path / "run.json").get("config_hash") != experiment.config_hash:
        raise ConfigError(f"hydra.run.dir={given} holds something else than this experiment: name another directory")
    return path


def claim(path: Path) -> Path:
    """Make `path`, or path-2, path-3, ...: whichever this process is the one to make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        candidate = free_name(path)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            candidate.mkdir()
            return candidate


def record_refusal(job: Path, overrides: list[str], reason: str) -> None:
    """A sweep's job whose config is wrong leaves a run.json too, so that the hole in the grid has a name."""
    content = {"status": "failed", "exit_reason": reason, "overrides": overrides}
    write_whole(claim(job) / "run.json", json.dumps(content, indent=2) + "\n")


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

    def __post_init__(self) -> None:
        self.shop = Workshop(self.experiment, self.stop)
        self.store, self.device, self.batch_size = self.shop.store, self.shop.device, self.shop.batch_size
        self.test = self.shop.data(self.experiment.data).test

    def rows(self) -> Iterator[Row]:
        """Train what is missing, then measure: the rows of the experiment's task."""
        models = self.shop.models()
        task = {"transfer_matrix": self.transfer_matrix, "worst_case": self.worst_case}[self.experiment.settings.task]
        with tensor_cores("fp32" if self.experiment.settings.precision == "fp32" else "tf32"):
            yield from task(models, CleanVerdicts(self, models))

    def transfer_matrix(self, models: Mapping[str, nn.Module], clean: "CleanVerdicts") -> Iterator[Row]:
        """Clean rows first, then attack by attack and source by source."""
        for target in self.experiment.targets:
            yield self.clean_row(target, clean)
        for craft in self.experiment.crafts:
            for source in self.experiment.sources:
                yield from self.crafted(craft, source, models, clean)

    def worst_case(self, models: Mapping[str, nn.Module], clean: "CleanVerdicts") -> Iterator[Row]:
        """Each source's clean row, and its error under the worst attack of each eps, per image."""
        experiment = self.experiment
        for source in experiment.sources:
            yield self.clean_row(source, clean)
            for eps in sorted({craft.attack.eps for craft in experiment.crafts}):
                crafts = {craft.name: craft for craft in experiment.crafts if craft.attack.eps == eps}
                key = self.row_key({"worst": [craft.identity for craft in crafts.values()]}, source, source)
                row = self.finished(key)
                if row is None:
                    generators = {name: self.generator(craft, source) for name, craft in crafts.items()}
                    attacks = {name: craft.attack for name, craft in crafts.items()}
                    title = f"worst of {len(attacks)} at eps {eps:g} on {source}"
                    lost, seconds = evaluate.worst_case(
                        models[source], attacks, self.test, self.batch_size, generators, self.stop, title
                    )
                    row = evaluate.worst_case_row(clean[source], lost, seconds)
                    self.store.keep_row(key, row)
                yield self.named(row, source, source, "worst_case", eps)

    def clean_row(self, target: str, clean: "CleanVerdicts") -> Row:
        key = self.row_key("clean", target, target)
        row = self.finished(key)
        if row is None:
            row = evaluate.clean_row(clean[target])
            self.store.keep_row(key, row)
        return self.named(row, target, target, "clean", 0.0)

    def generator(self, craft: Craft, source: str) -> torch.Generator:
        """Random numbers that depend on the rows' own key alone."""
        seed = derived_seed(self.experiment.settings.seed, self.experiment.plans[source].key, repr(craft.attack))
        return torch.Generator(self.device).manual_seed(seed)

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
            generator = self.generator(craft, source)
            with graphs(self.device, self.experiment.settings.cuda_graphs):
                own, verdicts, largest = evaluate.transfer(
                    models[source], craft.attack, missing, self.test, self.batch_size, generator, self.stop, title
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
                "tf32": experiment.settings.precision != "fp32",
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
            "models": self.shop.records,
            **environment(self.device),
        }


class CleanVerdicts(dict[str, evaluate.Verdict]):
    """Each model's verdict on the clean test images, computed when first asked for."""

    def __init__(self, run: Run, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.run, self.models = run, models

    def __missing__(self, name: str) -> evaluate.Verdict:
        self[name] = evaluate.clean_verdict(self.models[name], self.run.test, self.run.batch_size, self.run.stop)
        return self[name]


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
