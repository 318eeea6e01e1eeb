"""Dotted keys: whether a config has one, and which one was perhaps meant."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from epsball.build import listed, written

SYNONYMS = {
    **{"learning_rate": "lr", "epsilon": "eps", "iterations": "steps", "num_steps": "steps", "alpha": "step_size"},
    **{"num_epochs": "epochs", "gpu": "device", "num_workers": "workers", "n_train": "train_size", "norm": "step"},
}
"""what other projects call our keys"""
ADDED = {
    "models": ("model", "mnist_b"),
    "suite": ("attack", "pgd"),
    "measurements": ("measurement", "coherence"),
    "trainer.sources": ("model", "mnist_c"),
}
"""what the command line adds to a group of named components: an option of which config group, and one of them"""
CLOSE = 0.6
"""how alike two words are, of 1, where one may be meant to be the other"""


def absent_key(key: str, config: Mapping[Any, Any], groups: Collection[str] = ()) -> str:
    """Say that a config lacks a key, with what was perhaps meant: a name there, one of `groups`, or a key further down.
    Empty if the config has it."""
    parts = key.split("@")[0].split(".")
    node: Any = config
    for i, part in enumerate(parts):
        known = [str(name) for name in node] if isinstance(node, Mapping) else []
        if part not in known:
            return f"{key} is not a config key{meant(part, parts[:i], parts[i + 1 :], node, config, groups)}"
        node = node[part]
    return ""


def reference_on(config: DictConfig, key: str) -> tuple[str, str]:
    """Return the first key on the way to `key` that stands for another, and what it says, `${trainer}`; empty texts
    where none does."""
    node: Any = config
    parts = key.split(".")
    for i, part in enumerate(parts):
        node = node._get_node(part, validate_access=False) if isinstance(node, DictConfig) else None
        if node is None:
            break
        if node._is_interpolation():
            return ".".join(parts[: i + 1]), str(node._value())
    return "", ""


def shared_group(config: DictConfig, key: str, choice: str) -> str:
    """Say how all models get an option that was typed for one, where that one has its group from another key; empty
    where it has its own."""
    at, value = reference_on(config, key)
    adds = "+model@models.NAME=mnist_b adds a model with its own"
    return f"{at} is {value}, shared by all that refer to it: {choice} changes it for all, {adds}" if at else ""


def meant(
    word: str, path: list[str], rest: list[str], node: Any, config: Mapping[Any, Any], groups: Collection[str]
) -> str:
    """Return what stands behind `... is not a config key`: what `word` was perhaps meant to be below `node`, whose own
    key is `path`, or anywhere in the config, with the `rest` of the key where there is one, and which keys there are.
    At the top it may be one of `groups`, too."""
    if not isinstance(node, Mapping):
        return f": {'.'.join(path)} is no group of keys, it is {written(node)}"
    known, place = [str(name) for name in node], ".".join(path)
    names, everywhere = known if path else [*known, *groups], keys_below(config, [])
    found = nearest(SYNONYMS.get(word, word), names, keys_below(node, path), everywhere, place in ADDED)
    found = [".".join([*path, name]) if name in names else name for name in found]
    found = [whole if (whole := ".".join([name, *rest])) in everywhere else name for name in found]
    said = f" (did you mean {' or '.join(map(repr, found))}?)" if found else ""
    if found and not path:
        return said
    where = f" in {place}" if path else ""
    group, option = ADDED.get(place, ("", "..."))
    addable = path and not found and (place in ADDED or not known)  # a group without keys takes any, as arch.arguments
    adds = f"; +{group and f'{group}@'}{place}.{word}={option} adds one" if addable else ""
    return f"{said}: the keys{where} are {listed(known)}{adds}"


def nearest(
    word: str, known: list[str], below: Mapping[str, str], everywhere: Mapping[str, str], named: bool
) -> list[str]:
    """Return the keys that a word may be meant to be: the very name here, below or elsewhere, else a name alike here or
    below; of things `named` as one likes, not below."""
    if word in known:
        return [word]
    if found := shallowest(below, word) or shallowest(everywhere, word):
        return found
    alike = difflib.get_close_matches(word, known, 1, CLOSE)
    if alike or named or not (deeper := difflib.get_close_matches(word, set(below.values()), 1, CLOSE)):
        return alike
    return shallowest(below, deeper[0])


def keys_below(node: Any, path: list[str]) -> dict[str, str]:
    """Return all keys further down than `node`, whose own key is `path`, with their last part, the nearest first; of a
    whole config its own keys too."""
    found: dict[str, str] = {}
    level = [(path, OmegaConf.to_container(node) if isinstance(node, DictConfig) else node)]
    while level:
        groups = [(at, group) for at, group in level if isinstance(group, Mapping)]
        level = [([*at, str(key)], value) for at, group in groups for key, value in group.items()]
        found |= {".".join(at): at[-1] for at, _ in level if len(at) > len(path) + 1 or not path}
    return found


def shallowest(keys: Mapping[str, str], name: str) -> list[str]:
    """Return the keys whose last part is `name`, at most three of those with the fewest parts."""
    found = [key for key, last in keys.items() if last == name]
    fewest = min((key.count(".") for key in found), default=0)
    return [key for key in found if key.count(".") == fewest][:3]
