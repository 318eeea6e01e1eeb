"""The parts and seeds of a run: the words that compose each, and their configs."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, convert, mapping, naming_part
from epsball.cli.compose import OPEN, chosen_file, composed, composed_seeds, hydra_config, searched, with_model_fields
from epsball.cli.explain import explain
from epsball.cli.words import OF_PARTS, adding_word, key_of, place_of, search_path, value_of
from epsball.experiment.grid import expand_grids
from epsball.experiment.settings import COMPUTED, FILES, OF_ROWS, OF_WHOLE, STATED, STATED_ONCE

OF_RUN = (*COMPUTED, *FILES, *OF_ROWS, "precision")
"""config keys that say how a run is done: where a file lists parts, it says so for all of them"""
WITH_FIELDS = ("dataset", "arch", "trainer")
"""groups of which a file of parts may choose an option that a part has: its fields are keys of the whole run then"""
NAMED = (*OF_PARTS, *STATED)
"""groups whose entries parts have, under names of their own"""
ATTACK = "attack"
"""group of the attack that a run without a suite has; among entries of any that it runs"""

Entry = tuple[str, str]  # group and name


class Parts(NamedTuple):
    """The parts of a run: one, or those that its config lists."""

    words: list[list[str]]
    """that compose each, whatever its seed"""
    configs: list[list[dict[str, Any]]]
    """of each, one per seed"""
    whole: dict[str, Any]
    """the run's own config: what it states is of all parts together"""


def parts_of(plain: dict[str, Any], overrides: list[str]) -> Parts:
    """Compose the parts of a run. Raises ConfigError, which names the part that does not compose."""
    for key in ("seeds", "parts"):
        if key not in plain:
            raise ConfigError(f"{key} is missing: leave ~{key} out")
    seeds, parts = convert(plain["seeds"], int, "seeds"), convert(plain["parts"], list[str], "parts")
    if seeds < 1:
        raise ConfigError(f"seeds should be at least 1, is {seeds}")
    if not parts and any(key_of(word) == "parts" for word in overrides):
        raise ConfigError("parts should be at least one part, is empty: without it, a paper's file says which")
    check_added_models(overrides)
    numbers = [plain["seed"] + i for i in range(seeds)]
    if parts:
        paper, usual = HydraConfig.get().runtime.choices.get("paper"), without_resolving(*searched())
        of_file = without_resolving(f"paper={paper}", *searched()) if paper is not None else usual
        words, theirs = where_they_fit(parts, words_of_parts(plain, overrides, of_file, usual))
        configs = [composed_part(part, numbers, own, usual) for part, own in zip(parts, words, strict=True)]
        whole = without_entries(plain, theirs - entries_of(of_file))
        if len(parts) == 1:  # its rows are all that there are
            configs = [[with_statements(own, whole) for own in configs[0]]]
        return Parts(words, configs, whole)
    alone = common_words(plain, overrides, ["seed", "seeds"])
    if seeds == 1:
        return Parts([alone], [with_model_fields([plain], [None], [*overrides, *searched()])], plain)
    return Parts([alone], [composed_seeds(numbers, *alone)], plain)


@contextmanager
def composing(part: str) -> Iterator[None]:
    """Name the part that does not compose inside the block. ConfigError for whatever is wrong with it."""
    with naming_part(part):
        try:
            yield
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError) as error:
            raise ConfigError(explain(error, part)) from None


def where_they_fit(parts: list[str], words: list[list[str]]) -> tuple[list[list[str]], set[Entry]]:
    """Leave words for a model, an attack, its images or a measurement, or for a field of `measurement`, of a table,
    claim or figure, to the parts that have it, where any has. Return the words of each part, and those entries."""
    needed = {word: entries for own in words for word in own if (entries := needed_by(word))}
    if not needed:
        return words, set()
    there = []
    for part, own in zip(parts, words, strict=True):
        with composing(part):
            config = expand_grids(composed(*(word for word in own if word not in needed)))[0]
        there.append(entries_of(config))
    known: set[Entry] = set().union(*there)
    fitting = [
        [mine for word in own if (mine := what_fits(word, known - entries))]
        for own, entries in zip(words, there, strict=True)
    ]
    return fitting, known & set().union(*needed.values())


def what_fits(word: str, lacking: set[Entry]) -> str:
    """Return a word for a part that lacks some entries, empty where it needs one of them, of one for the images of
    several attacks, `measurement.images={fgsm:100,pgd:50}`, what is for the attacks that are not lacking."""
    if needed_by(word) & lacking:
        return ""
    if place_of(word)[0] != "measurement" or not isinstance(given := value_of(word), dict):
        return word
    kept = {attack: number for attack, number in given.items() if (ATTACK, attack) not in lacking}
    return word if kept == given else f"{word.partition('=')[0]}={as_value(kept)}" if kept else ""


def adding(words: list[str]) -> list[str]:
    """Return the words of a command line, in a run of parts those for an attack or a measurement, and those that choose
    an option at a model, an attack or a measurement, as `arch@models.A.arch=mnist_b`, by `adding_word`: Hydra composes
    the run's own config first, which lacks them, and takes unknown keys in the groups of OPEN alone."""
    places = {word: place_of(word) for word in words if not word.startswith(("+", "~", "-"))}
    inside = {
        word: (group, name)
        for word, (group, name, _) in places.items()
        if group in OF_PARTS and name and ("@" in key_of(word) or group not in OPEN)
    }
    if not inside:
        return words
    chosen = [word for word in words if key_of(word) in ("paper", "parts", *OF_PARTS)]
    try:
        given = hydra_config([*chosen, *search_path()])
    except HydraException:  # Hydra's own composition, which follows, raises it again
        return words
    lacking = [word for word, (group, name) in inside.items() if given.parts and name not in (given[group] or {})]
    return [adding_word(word) if word in lacking else word for word in words]


def needed_by(word: str) -> set[Entry]:
    """Return the entries that a part has to have for a word, where any has, attacks and fields of `measurement`."""
    group, name, field = place_of(word)
    if group == ATTACK and name:  # a field of `attack`, whichever it is
        return {(ATTACK, "")}
    if group == "measurement" and name:
        below = {(group, f"{name}.*")} if field or isinstance(value_of(word), dict) else set()
        return {(group, name), *below, *([(ATTACK, field)] if field else [])}
    needed = (group in NAMED and field) or (group in OF_PARTS and name)  # a whole table may be the run's, no model is
    return {(group, name)} if needed else set()


def entries_of(config: dict[str, Any]) -> set[Entry]:
    """Return the named entries that a part has, the attacks that it runs, and the fields of its measurement, `images.*`
    where one is a group, which is one by attack."""
    fields = mapping(config.get("measurement") or {}, "measurement")
    groups = {("measurement", f"{name}.*") for name, value in fields.items() if isinstance(value, dict)}
    suites = [mapping(config.get(group) or {}, group) for group in ("suite", ATTACK)]
    attacks = {(ATTACK, name) for suite in suites for name, attack in suite.items() if attack is not None}
    attacks |= {(ATTACK, "")} if config.get(ATTACK) else set()
    return groups | attacks | {(group, name) for group in (*NAMED, "measurement") for name in config.get(group) or ()}


def without_entries(config: dict[str, Any], entries: set[Entry]) -> dict[str, Any]:
    groups = {group: mapping(config.get(group) or {}, group) for group in NAMED}
    return config | {
        group: {name: one for name, one in own.items() if (group, name) not in entries} for group, own in groups.items()
    }


def with_statements(config: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return a part's config with what the run's own states, which comes first where both use one name."""
    groups = {group: {**(config.get(group) or {}), **(whole.get(group) or {})} for group in STATED}
    single = {key: whole[key] for key in STATED_ONCE if whole.get(key) is not None}
    return {**config, **groups, **single}


def composed_part(part: str, seeds: list[int], words: list[str], usual: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configs of a part with each seed; `usual` is the config without a paper."""
    with composing(part):
        own, configs = without_resolving(*words), composed_seeds(seeds, *words)
    if parts := own["parts"]:
        raise ConfigError(f"parts: {part} has parts itself, name these: [{','.join(parts)}]")
    for key in ("seed", "seeds"):
        if own[key] != usual[key]:
            raise ConfigError(f"part {part} has {key}={own[key]}: that is the run's, for all parts")
    return configs


def check_added_models(overrides: Sequence[str]) -> None:
    """ConfigError where the command line adds a model under a name that the run has without it: Hydra would lay the one
    over the other, field by field."""
    added = {word: place_of(word)[:2] for word in overrides if word.startswith("+model@models.")}
    if not added:
        return
    given = hydra_config([*(word for word in overrides if place_of(word)[:2] not in added.values()), *searched()])
    for word, (_, name) in added.items():
        if (given.models or {}).get(name) is not None:  # a file may name a model that it leaves out
            field = f"models.{name}.trainer.epochs=3 sets a field of that one"
            raise ConfigError(f"{word}: the run has a model {name}: add this one under another name ({field})")


def words_of_parts(
    plain: dict[str, Any], overrides: list[str], of_file: dict[str, Any], usual: dict[str, Any]
) -> list[list[str]]:
    """Return the words that compose each part. What the file that lists the parts says of how all are run, other than
    is `usual` without it, stands in them. ConfigError where it says what each part says for itself."""
    changed = [key for key in of_file if of_file[key] != usual.get(key)]
    follows = ("hydra", "eps")  # of the choices, and of the data set
    chosen = [key for key in changed if key not in follows and not is_a_parts(key, of_file)]
    for key in (*chosen, *keys_of_paper()):
        if key not in (*OF_WHOLE, *OF_RUN):
            raise ConfigError(f"{key} is set beside parts, which have their own: set it in the file of each part")
    typed = {key_of(word) for word in overrides}
    common = common_words(plain, overrides, ["seed", "seeds", "paper", "parts", "experiment", "objective"])
    common += [f"{key}={as_value(plain[key])}" for key in changed if key in OF_RUN and key not in typed]
    return [[*common, f"paper={part}"] for part in plain["parts"]]


def is_a_parts(group: str, of_file: dict[str, Any]) -> bool:
    """Whether a group of WITH_FIELDS has the option in a file of parts that it has in one of the parts."""
    option = of_file["hydra"]["runtime"]["choices"].get(group)
    for part in of_file["parts"] if group in WITH_FIELDS else ():
        with composing(part):
            own = without_resolving(f"paper={part}", *searched())
        if own["hydra"]["runtime"]["choices"].get(group) == option:
            return True
    return False


def keys_of_paper() -> list[str]:
    """Return the keys that the file of the run's paper sets itself, without those of its defaults."""
    file = chosen_file("paper", HydraConfig.get().runtime)
    content = yaml.safe_load(file.read_text()) if file else {}
    return [str(key) for key in content or {} if key != "defaults"]


def common_words(plain: dict[str, Any], overrides: list[str], without: list[str]) -> list[str]:
    """Return the command line's words but those for some keys, and the run's number of workers: it is not a part's."""
    kept = [override for override in overrides if key_of(override) not in without]
    return [*kept, *searched(), f"workers={convert(plain['workers'], int, 'workers')}"]


def without_resolving(*words: str) -> dict[str, Any]:
    """Return what these words compose, nothing resolved."""
    config = OmegaConf.to_container(hydra_config(words), resolve=False)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def as_value(value: Any) -> str:
    """Write a plain value as a word of the command line has it."""
    if isinstance(value, list):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_value(each)}' for key, each in value.items())}}}"
    if isinstance(value, str):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return json.dumps(value)
