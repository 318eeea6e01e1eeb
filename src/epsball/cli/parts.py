"""The parts and seeds of a run: the words that compose each, and their configs."""

from collections.abc import Sequence
from typing import Any

from hydra.errors import HydraException

from epsball.build import ConfigError, convert
from epsball.cli.compose import composed_seeds, hydra_config, searched, with_model_fields
from epsball.cli.explain import explain
from epsball.cli.words import key_of


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
        configs = composed_seeds(seeds, *words)
    except HydraException as error:
        raise ConfigError(explain(error, part)) from None
    if parts := configs[0]["parts"]:
        raise ConfigError(f"parts: {part} has parts itself, name these: [{','.join(parts)}]")
    return configs


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
    """Return the words that compose each part, or the run itself if its config lists none."""
    named = {"seed", "seeds", *(["paper", "parts", "experiment", "objective"] if plain["parts"] else [])}
    kept = [override for override in overrides if key_of(override) not in named] + searched()
    kept += [f"workers={convert(plain['workers'], int, 'workers')}"]  # the run's, not a part's
    return [[*kept, f"paper={part}"] for part in plain["parts"]] or [kept]
