"""Dotted keys: whether a config has one, and which one was perhaps meant."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from epsball.build import did_you_mean, listed


def absent_key(key: str, config: Mapping[Any, Any]) -> str:
    """Say that a config lacks a key, with the nearest name there, or further down; empty if the config has it."""
    parts = key.split("@")[0].split(".")
    node: Any = config
    for i, part in enumerate(parts):
        known = [str(name) for name in node] if isinstance(node, Mapping) else []
        if part not in known:
            meant = did_you_mean(part, known) or did_you_mean_below(parts[:i], node, part)
            where = f" in {'.'.join(parts[:i])}" if i else ""
            return f"{key} is not a config key{meant}: the keys{where} are {listed(known)}"
        node = node[part]
    return ""


def did_you_mean_below(path: list[str], node: Any, word: str) -> str:
    """Return the nearest name among all keys below `node`, with its whole path."""
    if not isinstance(node, Mapping):
        return ""
    below: dict[str, str] = {}
    plain: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else node
    for key, value in plain.items():
        for deeper, inner in (value if isinstance(value, Mapping) else {}).items():
            if not isinstance(inner, Mapping):
                below.setdefault(deeper, ".".join([*path, str(key), deeper]))
    near = did_you_mean(word, below)
    return near.replace(repr(near.split("'")[1]), repr(below[near.split("'")[1]])) if near else ""
