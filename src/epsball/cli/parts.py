"""The parts and seeds of a run: the words that compose each, and their configs."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, convert
from epsball.cli.compose import composed_seeds, hydra_config, searched, with_model_fields
from epsball.cli.explain import explain
from epsball.cli.words import key_of

OF_RUN = (
    *("device", "threads", "precision", "cuda_graphs", "deterministic", "channels_last", "batch_size"),
    *("outputs", "checkpoint_seconds", "reuse", "rows", "missing"),
)
"""config keys that say how a run is done: where a file lists parts, it says so for all of them"""
OF_PART = ("suite", "measurement", "measurements", "grid", "sources", "targets")
"""config keys that say what a part is: a file that lists parts cannot"""


def parts_of(plain: dict[str, Any], overrides: list[str]) -> list[list[dict[str, Any]]]:
    """Return the configs of a run: of one part, or of each that the config lists, one config per seed.

    Raises ConfigError, which names the part that does not compose.
    """
    for key in ("seeds", "parts"):
        if key not in plain:
            raise ConfigError(f"{key} is missing: leave ~{key} out")
    seeds, parts = convert(plain["seeds"], int, "seeds"), convert(plain["parts"], list[str], "parts")
    if seeds < 1:
        raise ConfigError(f"seeds should be at least 1, is {seeds}")
    if not parts and any(key_of(word) == "parts" for word in overrides):
        raise ConfigError("parts should be at least one part, is empty: without it, a paper's file says which")
    check_added_models(overrides)
    if parts:
        check_file_of_parts()
    if seeds == 1 and not parts:
        return [with_model_fields([plain], [None], [*overrides, *searched()])]
    numbers = [plain["seed"] + i for i in range(seeds)]
    return [
        composed_part(part, numbers, words)
        for part, words in zip(parts or [None], words_of_parts(plain, overrides), strict=True)
    ]


def composed_part(part: str | None, seeds: list[int], words: list[str]) -> list[dict[str, Any]]:
    """Return the configs of a part, None where the run has no others, with each seed."""
    try:
        own, *configs = composed_seeds([None, *seeds], *words)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(explain(error, part)) from None
    except ConfigError as error:
        raise ConfigError(f"part {part}: {error}" if part else str(error)) from None
    if part is None:
        return configs
    if parts := own["parts"]:
        raise ConfigError(f"parts: {part} has parts itself, name these: [{','.join(parts)}]")
    usual = top_of(*searched())
    for key in ("seed", "seeds"):
        if own[key] != usual[key]:
            raise ConfigError(f"part {part} has {key}={own[key]}: that is the run's, for all parts")
    return configs


def check_file_of_parts() -> None:
    """ConfigError where the file that lists the parts sets what each of them sets for itself."""
    for key in OF_PART:
        if key in changed_by_paper():
            raise ConfigError(f"{key} is set beside parts, which have their own: set it in the file of each part")


def check_added_models(overrides: Sequence[str]) -> None:
    """ConfigError where the command line adds a model under a name that the run has without it: Hydra would lay the one
    over the other, field by field."""
    added = {word: model_of(word) for word in overrides if word.startswith("+model@models.")}
    if not added:
        return
    given = hydra_config([*(word for word in overrides if model_of(word) not in added.values()), *searched()])
    for word, name in added.items():
        if name in (given.models or ()):
            field = f"models.{name}.trainer.epochs=3 sets a field of that one"
            raise ConfigError(f"{word}: the run has a model {name}: add this one under another name ({field})")


def model_of(word: str) -> str | None:
    """Return the name of the model that a word of the command line adds or sets a field of, None where it does not."""
    place = key_of(word).rpartition("@")[2].split(".")
    return place[1] if place[0] == "models" and len(place) > 1 else None


def words_of_parts(plain: dict[str, Any], overrides: list[str]) -> list[list[str]]:
    """Return the words that compose each part, or the run itself if its config lists none. What the file that lists the
    parts says of how all are run stands in them."""
    named = {"seed", "seeds", *(["paper", "parts", "experiment", "objective"] if plain["parts"] else [])}
    kept = [override for override in overrides if key_of(override) not in named] + searched()
    kept += [f"workers={convert(plain['workers'], int, 'workers')}"]  # the run's, not a part's
    if not plain["parts"]:
        return [kept]
    typed = {key_of(word) for word in overrides}
    kept += [f"{key}={as_value(plain[key])}" for key in OF_RUN if key in changed_by_paper() and key not in typed]
    return [[*kept, f"paper={part}"] for part in plain["parts"]]


def changed_by_paper() -> dict[str, Any]:
    """Return the keys that the run's `paper=` file gives another value than they have without it, and that value, with
    nothing resolved."""
    choice = HydraConfig.get().runtime.choices.get("paper")
    if choice is None:
        return {}
    with_paper, without = (top_of(*words, *searched()) for words in ([f"paper={choice}"], []))
    return {key: value for key, value in with_paper.items() if without.get(key) != value}


@cache
def top_of(*words: str) -> dict[str, Any]:
    """Return what these words compose, nothing resolved."""
    config = OmegaConf.to_container(hydra_config(words), resolve=False)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def as_value(value: Any) -> str:
    """Write a plain value as a word of the command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return json.dumps(value)
