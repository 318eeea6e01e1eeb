"""Tell Hydra's and OmegaConf's errors in one line, with the nearest name there is."""

import re
import sys
from collections.abc import Mapping
from typing import Any

import hydra

from epsball.build import ConfigError, did_you_mean, listed
from epsball.cli.compose import CONF, VERSION
from epsball.cli.keys import absent_key

RENAMED = {"task": "measurement", "report": "diagnostic"}
"""config keys and groups of older versions, as they are called now"""


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def explain(error: Exception) -> str:
    """Return Hydra's and OmegaConf's complaints in one line, with the nearest name there is."""
    text = one_line(error)
    if match := re.search(r"Could not (?:override|delete)(?: from config)?\.? ?'([^']+)'", text):
        return unknown_key(match[1])
    if (match := re.search(r"Could not find '([^'/]+)/([^']*)'", text)) and (options := options_of(match[1])):
        return no_such_option(match[1], match[2], options)
    if "Config group override must be a string" in text:  # attack=null, attack=1
        words = [word.partition("=") for word in sys.argv[1:]]
        chosen = [(name, value, options_of(name)) for name, _, value in words]
        wrong = [word for word in chosen if word[2] and word[1] not in word[2]]
        return "; ".join(no_such_option(*word) for word in wrong) or text
    if match := re.search(r"Could not override '([^']+)'. No match in the defaults list", text):
        return unknown_key(match[1])
    return text


def renamed(key: str) -> str:
    """Say what an old key or group is called now, with the words of the command line that set it; empty if it is not an
    old one."""
    old = re.split("[.@]", key)[0]
    if old not in RENAMED:
        return ""
    words = [word for word in sys.argv[1:] if re.match(rf"[+~]*{old}([.@=]|$)", word)]
    now = [re.sub(rf"^([+~]*){old}", rf"\1{RENAMED[old]}", word) for word in words]
    return f"{old} is called {RENAMED[old]} now" + (f": {' '.join(now)}" if now else "")


def refuse_old_keys(config: Mapping[str, Any]) -> None:
    """ConfigError if a config has an old key: `+task.cells=all`, and a file that says `task:`, compose."""
    if answer := next(filter(None, map(renamed, config)), ""):
        raise ConfigError(answer)


def options_of(group: str) -> list[str]:
    """Return the files of a config group; empty where there is no such group."""
    folder = CONF / group.split("@")[0]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def no_such_option(group: str, option: str, options: list[str]) -> str:
    return f"{group}={option} does not exist{did_you_mean(option, options)}: choose one of {listed(options)}"


def unknown_key(key: str) -> str:
    """Say what a key that does not exist was perhaps meant to be: an old name, one beside it, or one further down."""
    if answer := renamed(key):
        return answer
    with hydra.initialize_config_dir(str(CONF), **VERSION):
        groups = [g for g in hydra.compose("config", return_hydra_config=True).hydra.runtime.choices if "/" not in g]
        config = hydra.compose("config", [o.split(",")[0] for o in sys.argv[1:] if o.split("=")[0] in groups])
    return absent_key(key, config) or f"{key} cannot be set here"
