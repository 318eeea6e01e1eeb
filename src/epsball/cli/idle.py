"""Words of the command line that change nothing, as a trainer's fields where all models of a paper have their own."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write

from epsball.cli.compose import register_resolver
from epsball.cli.words import key_of

REFERRED = {"trainer": "models.NAME.{}", "arch": "models.NAME.{}", "eps": "suite.NAME.eps"}
"""keys that act only where others refer to them, and what sets the same of one model or attack"""


def idle_words(configs: Iterable[DictConfig], words: Sequence[str]) -> list[str]:
    """Say which words change nothing, because they set what acts by references alone and nothing else in any of the
    configs, one of each part, refers to it, and what would change something. No more configs are taken than needed."""
    idle = {word: key_of(word) for word in words if acts_by_reference(key_of(word))}
    each = iter(configs)
    while idle and (config := next(each, None)) is not None:
        met = references(config, list(idle.values()))
        idle = {word: key for word, key in idle.items() if key not in met}
    own = {word: REFERRED[key.split(".")[0]].format(key) for word, key in idle.items()}
    return [f"{word} changes nothing: what is run has its own, one at a time set by {key}" for word, key in own.items()]


def acts_by_reference(key: str) -> bool:
    """Whether a key is a field of a group that acts by references alone; the choice of an option, `trainer=madry`, is
    none."""
    group, *fields = key.split(".")
    return group in REFERRED and "@" not in key and (bool(fields) or group == "eps")


def references(config: DictConfig, keys: Sequence[str]) -> set[str]:
    """Return those of the keys that something refers to from outside of REFERRED's groups, directly or not."""
    met, watched = set[str](), deepcopy(config)

    def meet(number: int) -> Any:
        met.add(keys[number])
        return OmegaConf.select(config, keys[number])

    register_resolver("meet", meet)
    with read_write(watched), open_dict(watched):
        for number, key in enumerate(keys):
            OmegaConf.update(watched, key, f"${{meet:{number}}}", merge=False)
        for name in watched:
            node = None if name in (*REFERRED, "hydra") else watched[name]
            if isinstance(node, Container):
                OmegaConf.to_container(node, resolve=True)
    return met
