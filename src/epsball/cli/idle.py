"""Words of the command line that change nothing, as a trainer's fields where models have their own, or a mere label."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write

from epsball.cli.compose import hydra_config, register_resolver
from epsball.cli.words import key_of

PLACES_OF_ONE = {"trainer": "models.NAME.{}", "arch": "models.NAME.{}", "eps": "suite.NAME.eps"}
"""keys that act only where others refer to them, and what sets the same of one model or attack"""
OPTIONS = ("trainer", "arch")
"""those of them that choose an option, a file of their group"""


class Composed(NamedTuple):
    """What Hydra composed."""

    config: DictConfig
    choices: Mapping[str, Any]
    """the option of each group"""


def compose(words: Sequence[str]) -> Composed:
    """Return what these words of the command line compose."""
    config = hydra_config(words)
    return Composed(config, config.hydra.runtime.choices)


def idle_words(configs: Iterable[Composed], words: Sequence[str]) -> list[str]:
    """Say which words change nothing, because they set what acts by references alone and nothing else in any of the
    configs, one of each part, refers to it, and what would change something. No more configs are taken than needed."""
    idle = {word: key for word in words if acts_by_reference(key := key_of(word))}
    each = iter(configs)
    while idle and (composed := next(each, None)) is not None:
        acting = [
            key
            for key in idle.values()
            if is_chosen_again(key, composed.choices) or acts(composed.config, key.rpartition("@")[2])
        ]
        idle = {word: key for word, key in idle.items() if key not in acting}
    own = {word: f"{'+' * word.startswith('+')}{place_of_one(key)}" for word, key in idle.items()}
    return [f"{word} changes nothing: what is run has its own, one at a time set by {key}" for word, key in own.items()]


def labelling_words(words: Sequence[str]) -> list[str]:
    """Say which words change the label of a trainer alone, where an arch's or attack's name chooses the class."""
    how = "trainer=OPTION chooses one, trainer@models.NAME.trainer=OPTION that of one model"
    labelling = [word for word in words if not word.startswith("~") and labels_a_trainer(word)]
    return [f"{word} changes the label of a trainer alone: {how}" for word in labelling]


def labels_a_trainer(word: str) -> bool:
    """Whether a word sets a trainer's name, or makes a grid that does."""
    key = key_of(word)
    return f".{key}".endswith(".trainer.name") or (key.split(".")[0] == "grid" and "trainer.name" in word)


def acts_by_reference(key: str) -> bool:
    """Whether a key is of a group that acts by references alone: a field of it, or the choice of its option, or of an
    option in it, `optimizer@trainer.optimizer`."""
    return key.rpartition("@")[2].split(".")[0] in PLACES_OF_ONE


def place_of_one(key: str) -> str:
    """Return the key that sets of one model or attack what a key acts on by references."""
    group, _, field = key.rpartition("@")
    place = PLACES_OF_ONE[field.split(".")[0]].format(field)
    return f"{group or key}@{place}" if group or key in OPTIONS else place


def is_chosen_again(key: str, choices: Mapping[str, Any]) -> bool:
    """Whether a key is a group whose option stands in a second place, as where a list of defaults says
    `/arch@models.A.arch: ${arch}`, which leaves no other trace."""
    return key in OPTIONS and any(place.startswith(f"{key}@") and choices[place] == choices[key] for place in choices)


def acts(config: DictConfig, key: str) -> bool:
    """Whether something refers to a key from outside of PLACES_OF_ONE's groups, directly or not."""
    met, watched = False, deepcopy(config)

    def meet() -> Any:
        nonlocal met
        met = True
        return OmegaConf.select(config, key)

    register_resolver("meet", meet)
    with read_write(watched), open_dict(watched):
        OmegaConf.update(watched, key, "${meet:}", merge=False)
        for name in watched:
            node = None if name in (*PLACES_OF_ONE, "hydra") else watched[name]
            if isinstance(node, Container):
                OmegaConf.to_container(node, resolve=True)
    return met
