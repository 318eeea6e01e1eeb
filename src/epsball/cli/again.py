"""Repeat a run, or go on with it, from what it left: `again=RUN_DIRECTORY` stands for the words of its command line."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, one_line
from epsball.cli.words import key_of
from epsball.runtime.processes import running_process, state_of
from epsball.runtime.records import read_record

if TYPE_CHECKING:
    from epsball.experiment.prepare import Experiment

WORD = "again="
NOT_SET = "not set"
log = logging.getLogger("epsball")


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run, as read from its directory."""

    directory: Path
    record: Mapping[str, Any]
    """its run.json"""
    config: Mapping[str, Any]
    """as it was composed, nothing resolved"""
    words: list[str]
    """of its command line, of which `with_earlier_words` returns those that stand"""

    @property
    def ended(self) -> str:
        """Say how it ended."""
        reason = self.record.get("exit_reason")
        return f"{self.record.get('status')}" + (f": {reason}" if reason else "")


def with_earlier_words(words: Sequence[str]) -> tuple[list[str], EarlierRun | None]:
    """Return the words of a command line in which those of an earlier run stand for `again=`, and that run, if it names
    one. Of two words for one key the user's own is taken; `~KEY` leaves out the earlier run's. Raises ConfigError."""
    named = [word for word in words if word.startswith(WORD)]
    if not named:
        return list(words), None
    if len(named) > 1:
        raise ConfigError(f"again is given {len(named)} times: it repeats a single run")
    if {"-m", "--multirun"} & set(words):
        raise ConfigError("again repeats a single run: leave out -m, or name the job of a sweep")
    earlier = read_earlier(Path(named[0].removeprefix(WORD).strip("'\"")))
    theirs = {key_of(word) for word in earlier.words if not word.startswith("~")}
    own = {key_of(word) for word in words if word not in named}
    kept = [word for word in earlier.words if key_of(word) not in own]
    new = [word for word in words if not (word.startswith("~") and word.lstrip("~") in theirs) and word not in named]
    return [*kept, *new], replace(earlier, words=kept)  # what stands last wins


def read_earlier(directory: Path) -> EarlierRun:
    """Read what a run left. ConfigError where it is no run, did not leave its config, or left a damaged file."""
    said, whole = f"again={directory}", directory.parent
    if not (directory / "run.json").is_file():
        if jobs := sorted(path.parent.name for path in directory.glob("*/run.json")):
            raise ConfigError(f"{said} is a folder of runs: name one of them, {said}/{jobs[0]}")
        raise ConfigError(
            f"{said} is no run directory, such as outputs/transfer/2026-01-31_12-00-00: it has no run.json"
        )
    if not (directory / ".hydra" / "config.yaml").is_file():
        part = (whole / ".hydra" / "config.yaml").is_file()
        meant = f"it is a part of again={whole}" if part else "run.json has the words of its command line"
        raise ConfigError(f"{said} has no .hydra/config.yaml: {meant}")
    record, problem = read_record(directory / "run.json")
    if problem:
        raise ConfigError(f"{said}: {problem}")
    try:
        config, hydra = (read_yaml(directory, name) for name in ("config", "hydra"))
        sources = hydra["hydra"]["runtime"]["config_sources"]
        own = [f"'file://{one['path']}'" for one in sources if one["schema"] == "file" and one["provider"] != "main"]
        searched = [f"hydra.searchpath=[{','.join(own)}]"] if own else []
        return EarlierRun(directory, record, dict(config), [*record["overrides"], *searched])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{said} cannot be read: {one_line(error)}") from None


def read_yaml(directory: Path, name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / f"{name}.yaml"))


def naming_its_word(text: str, earlier: EarlierRun | None) -> str:
    """Add to what is wrong with a command line which word of an earlier run it is about, and how that is left out."""
    if earlier is None:
        return text
    for word in earlier.words:
        key = key_of(word)
        if not word.startswith("~") and re.match(rf"(part \S+: )?{re.escape(key)}(?![\w.@])", text):
            return f"{text} ({word} is of again={earlier.directory}: ~{key} leaves it out)"
    return text


def directory_again(
    earlier: EarlierRun, config: DictConfig, parts: Sequence[list["Experiment"]], given: str | None
) -> str | None:
    """Say what differs from an earlier run. Return the directory that is `given`, else the earlier run's where the run
    goes on in it: it is the same, did not finish, and is not only looked at by `missing=skip`; None for a new one.
    Raises ConfigError where it still runs and no other directory is given."""
    from epsball.experiment.record import config_hash, git_commit
    from epsball.runtime.device import environment

    record, execution = earlier.record, parts[0][0].execution
    process = running_process(record)
    if given is None and process and state_of(process) == "runs":
        raise ConfigError(f"again={earlier.directory} is still running, as process {process.get('id')}")
    log.info("again: %s, %s, begun %s", earlier.directory, earlier.ended, record.get("started"))
    if process and state_of(process) == "elsewhere":
        log.info("again: its process is on %s: if it still runs there, stop it or this one", process.get("host"))
    now = {"commit": git_commit(), **environment(execution.device, execution.threads)}
    before = {"commit": record.get("git_commit"), **{key: record.get(key) for key in now if key != "commit"}}
    if (folder := record.get("folder")) is not None:  # relative paths, such as outputs, are seen from there
        before, now = {"folder": folder, **before}, {"folder": str(Path.cwd()), **now}
    composed = OmegaConf.to_container(config)
    assert isinstance(composed, dict)
    typed = [*changes(earlier.config, {str(key): value for key, value in composed.items()})]
    other = [] if typed else changes(*settings_of_parts(earlier, parts))  # else they would say the same again
    for change in (*typed, *other, *changes(before, now)):
        log.info("since then: %s", change)
    if given is not None or record.get("status") == "done" or config.missing == "skip":
        return given
    if record.get("config_hash") != config_hash(parts):
        log.info("another experiment than that one: it gets a directory of its own")
        return None
    return str(earlier.directory)


def settings_of_parts(
    earlier: EarlierRun, parts: Sequence[list["Experiment"]]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the settings and the data's checksums that an earlier run recorded, and those of this one; of several
    parts below each one's name. They may differ where the whole run's config does not: by a part's file, by data."""
    from epsball.experiment.record import for_collectors
    from epsball.experiment.settings import folder_of_part

    own = [json.loads(json.dumps(for_collectors(part)["settings"])) for part in parts]
    if len(parts) == 1:
        return earlier.record.get("settings", own[0]), own[0]
    names = [part[0].settings.experiment for part in parts]
    folders = [earlier.directory / folder_of_part(name, str(earlier.record.get("experiment"))) for name in names]
    then = [read_record(folder / "run.json")[0].get("settings", now) for folder, now in zip(folders, own, strict=True)]
    return dict(zip(names, then, strict=True)), dict(zip(names, own, strict=True))


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield each dotted key whose value is another now."""
    old, new = dict(flat(before)), dict(flat(now))
    for key in dict.fromkeys([*new, *old]):
        was, value = old.get(key, NOT_SET), new.get(key, NOT_SET)
        if was != value:
            yield f"{key} is {value}, was {was}"


def flat(group: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested dict by dotted key; of an empty one inside it none."""
    for key, value in group.items():
        at = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            yield from flat(value, at)
        else:
            yield at, value
