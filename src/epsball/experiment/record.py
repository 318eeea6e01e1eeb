"""Run directories and their run.json."""

import contextlib
import json
import logging
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from epsball.build import ConfigError
from epsball.experiment.prepare import Experiment
from epsball.experiment.settings import COMPUTED, FILES, OF_ROWS, OF_WHOLE, folder_of_part
from epsball.results.rows import KEY, Row
from epsball.runtime.device import environment
from epsball.runtime.distributed import is_first
from epsball.runtime.files import make_folder, remove_abandoned, write_whole
from epsball.runtime.processes import running_process, state_of, this_process
from epsball.runtime.progress import Interrupted
from epsball.runtime.records import read_record
from epsball.runtime.store import MODELS, ROWS, fingerprint, free_name
from epsball.training.spec import ModelSpec
from epsball.training.trained import TrainedModels

Json = dict[str, Any]
Part = list[Experiment]  # one per seed
TRACEBACK = "traceback.txt"
NO_SETTINGS = (*OF_WHOLE, *COMPUTED, *FILES, *OF_ROWS)
"""config keys in which jobs of one experiment do not differ: seeds, paths, and how it is computed"""
NO_FIELDS = ("seed", "root", "download")
"""fields of components in which jobs of one experiment do not differ either"""
OF_PAPER = ("paper", "scale", "local", "hydra", "precision", "measurement", "measurements", "sources", "targets")
"""config keys that choose what is measured of a paper, and leave its settings as they are"""
BEGINNING = (".hydra", "run.log", ".run.json.*.part")
"""files of a run that ended before it had a run.json, killed or on a full disk: none of them is a result"""
log = logging.getLogger(__name__)


@dataclass
class Record:
    """What run.json says of a run, or of one of its parts: what ran, on what, how it ended."""

    name: str
    parts: Sequence[Part]
    directory: Path
    overrides: list[str]
    """of the command line"""
    models: TrainedModels
    began: float = field(default_factory=time.time)
    objective: Json | None = None
    """expression and value of what is given back, when it is known"""
    left_out: list[str] = field(default_factory=list)
    """of each seed with rows that missing=skip leaves out, which they are"""
    without_rows: set[int] = field(default_factory=set)
    """seeds that have no row at all"""

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Write run.json at the start and at the end of the block, whichever way it ends; one process of a job does."""
        if not is_first():
            yield
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_abandoned([self.directory, self.directory / ".hydra"])  # of an earlier run that goes on here
        self.write("running", None)
        self.announce_parts()
        try:
            yield
        except Interrupted as error:
            with logged_if_unwritten():
                self.write("interrupted", str(error))
            raise
        except BaseException as error:
            with logged_if_unwritten():
                self.write("failed", f"{type(error).__name__}: {error}")
            with logged_if_unwritten():
                write_whole(self.directory / TRACEBACK, traceback.format_exc())
            raise
        (self.directory / TRACEBACK).unlink(missing_ok=True)  # of an earlier run that failed here
        self.write("done", None)

    def announce_parts(self) -> None:
        """Write a record of each part before its turn comes, so that a collector misses its rows if the run is killed
        before that."""
        for part in self.of_parts() if len(self.parts) > 1 else ():
            if not (part.directory / "run.json").exists():
                part.directory.mkdir(parents=True, exist_ok=True)
                part.write("interrupted", "its turn has not come")

    def write(self, status: Literal["running", "done", "failed", "interrupted"], reason: str | None) -> None:
        content = json.dumps(self.content(status, reason), indent=2) + "\n"
        write_whole(self.directory / "run.json", content)

    def content(self, status: str, reason: str | None) -> Json:
        """Return what run.json says."""
        first = self.parts[0][0]
        seeds = [experiment.settings.seed for experiment in self.parts[0]]
        return {
            "status": status,
            "exit_reason": reason,
            "experiment": self.name,
            **({"parts": [part[0].settings.experiment for part in self.parts]} if len(self.parts) > 1 else {}),
            "seed": seeds[0],
            "seeds": seeds,
            "overrides": self.overrides,
            "command": shlex.join(["python", *sys.argv]),
            "folder": str(Path.cwd()),
            "config_hash": config_hash(self.parts),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.began)),
            "seconds": round(time.time() - self.began, 2),
            "process": this_process(),
            "git_commit": git_commit(),
            **({"objective": self.objective} if self.objective else {}),
            "data": first.data.origin,
            "models": {
                name: row
                for part in self.parts
                for each in part
                for name, row in self.models.recorded(self.titled(each, each.specs))
            },
            **environment(first.execution.device, first.execution.threads),
            **({} if len(self.parts) > 1 else for_collectors(self.parts[0])),
        }

    def facts(self) -> Json:
        """Return what stands at the head of a report."""
        content = self.content("done", None)
        seeds = [str(seed) for seed in content["seeds"] if seed not in self.without_rows]
        return {
            "command": content["command"],
            "scale": self.parts[0][0].config.get("scale", {}).get("name"),
            "not as the paper's file": self.changed,
            "device": content["device"],
            "threads": content["threads"],
            "commit": content["git_commit"],
            "seed" if len(seeds) == 1 else "seeds": ", ".join(seeds) or "none",
            **({"left out": "; ".join(self.left_out)} if self.left_out else {}),
            "data": content["data"],
            "started": content["started"],
            "wall time": f"{content['seconds']:.0f} s",
        }

    @property
    def changed(self) -> str | None:
        """Return the words of the command line that give a paper's numbers beside other settings than its file's."""
        every = [part[0].statements for part in self.parts]
        tables = any(table.paper for statements in every for table in statements.tables.values())
        figures = any(figure.paper for statements in every for figure in statements.figures.values())
        words = words_of_settings(self.overrides) if tables or figures else []
        return " ".join(words) or None

    def tell_left_out(self, experiment: Experiment, rows: Sequence[Row]) -> None:
        """Log, and keep for the report, which cells of a seed have no row."""
        seed, cells = experiment.settings.seed, experiment.cells
        there = {(*(row[key] for key in KEY[:-1]), round(row["eps"], 9)) for row in rows if row["seed"] == seed}
        absent = [cell for cell in cells if (*cell[:-1], round(cell[-1], 9)) not in there]
        if not absent:
            return
        _, _, source, target, attack, eps = absent[0]
        of = f"error({target})" if attack == "clean" else f"error({target} | {source}, {attack}) at eps {eps:.4g}"
        few = f"{len(absent)} of {len(cells)} rows are not there, such as {of}"
        self.left_out.append(f"seed {seed}: {few if there else 'no row is there'}")
        log.info("missing=skip: %s", self.left_out[-1])
        if not there:
            self.without_rows.add(seed)

    def join_left_out(self, parts: Sequence["Record"]) -> None:
        """Keep what is left out of the parts."""
        self.left_out = [f"{part.name}: {told}" for part in parts for told in part.left_out]
        self.without_rows = set.intersection(*(part.without_rows for part in parts))

    def of_parts(self) -> list["Record"]:
        """Return a record of each part, with a folder of its own below this one's."""
        records = []
        for part in self.parts:
            name = part[0].settings.experiment
            folder = self.directory / folder_of_part(name, self.name)
            records.append(Record(name, [part], folder, self.overrides, self.models))
        return records

    def titled(self, experiment: Experiment, models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
        """Return models of an experiment under names that tell them from those of the run's other seeds."""
        several = len({each.settings.seed for part in self.parts for each in part}) > 1
        of_seed = f" of seed {experiment.settings.seed}" if several else ""
        return {name + of_seed: spec for name, spec in models.items()}


@contextlib.contextmanager
def logged_if_unwritten() -> Iterator[None]:
    """Log an OSError of the block, such as that of a full disk: it hides no error that is being handled."""
    try:
        yield
    except OSError as error:
        log.error("%s", error)


def for_collectors(part: Part) -> Json:
    """Return what a collector of many runs asks: the settings in which jobs can differ, the cells that each seed should
    have, and of each seed the names that stand for equal models, which are listed once."""
    names = [{name: listed for name, listed in each.aliases.items() if name != listed} for each in part]
    settings = flat_settings(part[0].config) | checksums(part[0])
    return {"settings": settings, "cells": part[0].cells, "aliases": names}


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as a flat dict of plain values: a component's name stands at its key, `trainer: madry`, its
    fields below, `trainer.epochs: 5`; of named components the names, `suite: fgsm,pgd`."""
    return dict(flat({key: value for key, value in config.items() if key not in NO_SETTINGS}))


def flat(group: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what `flat_settings` returns of the fields of one group, whose own key is `where`."""
    for key, value in group.items():
        if key in NO_FIELDS or (key == "name" and where):
            continue
        at = f"{where}.{key}" if where else str(key)
        if not isinstance(value, Mapping):
            yield at, value
            continue
        if "name" in value:
            yield at, value["name"]
        elif all(part is None or isinstance(part, Mapping) for part in value.values()):
            yield at, ",".join(str(name) for name, part in value.items() if part is not None) or "none"
        yield from flat(value, at)


def checksums(experiment: Experiment) -> dict[str, str]:
    """Return what names the images of the experiment and of each model: data sets of one name, npz files below other
    roots, differ in nothing else that a collector may see."""
    models = {f"models.{name}.dataset": spec.data for name, spec in experiment.specs.items()}
    return {
        f"{key}.checksum": fingerprint({"train": data.checksum, "test": data.test_checksum})
        for key, data in {"dataset": experiment.data, **models}.items()
    }


def config_hash(parts: Sequence[Part]) -> str:
    """Return a name for everything that can change a run's results."""
    hashes = [experiment.config_hash for part in parts for experiment in part]
    return hashes[0] if len(hashes) == 1 else fingerprint({"experiments": hashes})


def words_of_settings(words: Sequence[str]) -> list[str]:
    """Return the words of a paper's command line that change settings of the paper's file; none without a paper."""
    keys = {word: re.split("[=@]", word.lstrip("+~"))[0].split(".") for word in words}
    kept = {*NO_SETTINGS, *OF_PAPER}
    found = [word for word, key in keys.items() if key[0] not in kept and key[-1] not in NO_FIELDS]
    return found if ["paper"] in keys.values() else []


def claim_directory(name: str, parts: Sequence[Part], given: str | None, job: Path | None) -> Path:
    """Return a run directory that no other run has: outputs/<name>/<date_time[-n]>, or a sweep's `job` folder; or the
    `given` one, where a run of the same experiments goes on.

    Raises ConfigError when `given` holds anything else, or a run that is under way, or where no folder can be made.
    """
    outputs = Path(parts[0][0].settings.outputs)
    for folder in (MODELS, ROWS):
        make_folder(outputs / folder, f"outputs={outputs}")
    if given is None:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        return make_unique_directory(job or outputs / name / stamp)
    path = Path(given)
    make_folder(path, f"hydra.run.dir={given}")
    record, _ = read_record(path / "run.json")
    if (process := running_process(record)) is not None and state_of(process) == "runs":
        raise ConfigError(f"hydra.run.dir={given} is in use by process {process.get('id')}: name another directory")
    only_begun = all(any(map(file.match, BEGINNING)) for file in path.iterdir())
    if not only_begun and record.get("config_hash") != config_hash(parts):
        raise ConfigError(f"hydra.run.dir={given} holds something else than this experiment: name another directory")
    return path


def make_unique_directory(path: Path) -> Path:
    """Make `path`, or path-2, path-3, ...: whichever this process is the one to make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        candidate = free_name(path)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            candidate.mkdir()
            return candidate


def record_refusal(job: Path, overrides: list[str], reason: str) -> None:
    """Leave a run.json of a sweep's job whose config is wrong, so that the hole in the grid has a name."""
    content = {"status": "failed", "exit_reason": reason, "overrides": overrides}
    write_whole(make_unique_directory(job) / "run.json", json.dumps(content, indent=2) + "\n")


@cache
def git_commit() -> str | None:
    """Return the checkout's commit when the process first asks, with a plus sign when files differ from it.

    None outside a checkout. A commit made while a run is under way is not the code that runs.
    """
    here = Path(__file__).parent
    try:
        ask = partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True, timeout=10)
        commit = ask(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = ask(["git", "--no-optional-locks", "status", "--porcelain", "-uno"]).stdout.strip()
        return commit + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
