"""Tell Hydra's, OmegaConf's and YAML's errors in one line, with the nearest name there is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import KeyValidationError, OmegaConfBaseException

from epsball.build import ConfigError, did_you_mean, listed, one_line, under
from epsball.cli.compose import CONF, hydra_config, no_package
from epsball.cli.keys import ADDED, absent_key, keys_below, reference_on, shared_group
from epsball.cli.words import OF_PARTS, choosing, key_of, own_folders, search_path, settings, typed_keys, unreadable
from epsball.experiment.settings import STATED

WITH_FIELDS = ("arch", "attack", "trainer", "dataset", "measurement")
"""groups whose options have fields of their own"""
MANY = 6
"""options that are named one by one"""


def explain(error: Exception, part: str | None = None) -> str:
    """Return what is wrong with a command line or a file in one line, with the nearest name there is; `part` is the
    paper of a run's part that does not compose. Where that cannot be found out, return the complaint as it came."""
    if isinstance(error, ConfigError):
        return one_line(error)
    try:
        return explanation(error, part)
    except Exception:
        return one_line(error)


def explanation(error: Exception, part: str | None) -> str:
    text = one_line(error)
    if isinstance(error, yaml.YAMLError):
        return broken_file(error)
    if isinstance(error, RecursionError):
        typed = listed(f"{key}/{value}" for key, value in typed_keys().items() if value in options_of(key))
        return f"a config file has itself in its defaults, directly or by another: look at {typed}"
    if not text and isinstance(error.__cause__, OmegaConfBaseException):
        return unreadable_value(error.__cause__)
    packed = re.search(r"In '([^'/]+)/([^']+)': Could not override '[^'@]+@(\w+)\.", text)
    if packed and packed[3] not in hydra_config(search_path()):
        return no_package(packed[1], packed[2])
    if match := re.search(r"Could not (?:override|delete)(?: from config)?\.? ?'([^']+)'", text):
        return unknown_key(match[1], part)
    if match := re.search(r"Could not (?:find|load) '([^'/]+)/([^']*)'", text):
        return no_such_file(match[1], match[2], text)
    if match := re.search(r"(In \S+:) Could not load '([^']+)'", text):
        return f"{match[1]} there is no {match[2]}.yaml: an option of a group is added by /model@models.A: mnist_a"
    if "Config group override must be a string" in text:  # attack=null, attack=1
        chosen = [(key, value, options_of(key)) for key, value in typed_keys().items()]
        wrong = [word for word in chosen if word[2] and word[1] not in word[2]]
        return "; ".join(no_such_option(*word) for word in wrong) or text
    if match := re.search(r"In '([^'/]+)/([^']+)': \w+ .*Cannot merge DictConfig with ListConfig", text):
        return unlike_kinds(match[1], match[2])
    if match := re.search(r"Multiple values for ([^\s@]+@\S+?)\.? To override", text):  # +attack@suite.fgsm=mi_fgsm
        field = f"{match[1].partition('@')[2]}.KEY=VALUE sets a field of it, and + adds one under another name"
        another = f"{match[1]}=OPTION, without +, puts another in its place"
        return f"{match[1]} is there already: {field if part else another}"  # the run of the parts may lack it
    if match := re.search(r"(\S+) appears more than once in the final defaults list", text):
        return added_twice(match[1])
    if match := re.search(r"Error merging override \+*([^\s=]+)=", text):  # arch.members=[], betas={...}
        value = typed_keys()[match[1]]
        return f"{match[1]} should be {'a group of fields' if value.startswith('[') else 'a list'}, is {value}"
    if match := re.search(r"Ambiguous value for argument '([^']*)'", text):
        return several_values(match[1])
    return unreadable([choosing(word) for word in settings()]) or text


def no_such_file(group: str, option: str, text: str) -> str:
    """Say which options a group has, or which groups there are."""
    below = option.partition("/")[0]
    if below != option and below in groups_of() and not (CONF / group / below).is_dir():
        return f"{text.partition(': Could')[0]}: there is no group {group}/{below}: /{below}, with a slash, is another"
    if options := options_of(group):
        return no_such_option(group, option, options)
    if group == "hydra":
        return f"hydra/{option.replace('/', '=')} does not exist: is the plugin that has it installed?"
    return f"{text.partition(': Could')[0]}: there is no group {group}{did_you_mean(group, groups_of())}"


def unlike_kinds(group: str, option: str) -> str:
    """Say at which key a file of a group has a list where the config has a group of fields, or the other way round."""
    others = [
        word for word in settings() if key_of(word) != group and word.partition("=")[2] in options_of(key_of(word))
    ]
    config = OmegaConf.to_container(hydra_config([*others, *search_path()]))
    places = (folder / group / f"{option}.yaml" for folder in (*own_folders(), CONF))
    content = yaml.safe_load(next(place for place in places if place.is_file()).read_text())
    said = unlike(content, config, "") or unlike({group: content}, config, "")
    return f"in {group}/{option}: {said or 'a list stands where a group of fields is meant, or the other way round'}"


def unlike(given: object, there: object, key: str) -> str:
    """Say where the first of two configs has a list and the second a group, or the other way round; nothing where it
    has none."""
    if isinstance(given, Mapping) and isinstance(there, Mapping):
        shared = [(name, value) for name, value in given.items() if name in there]
        return next(filter(None, (unlike(value, there[name], under(key, str(name))) for name, value in shared)), "")
    if isinstance(given, list) and isinstance(there, Mapping):
        return f"{key} should be a group of fields, is {given}"
    return f"{key} should be a list, is {given}" if isinstance(given, Mapping) and isinstance(there, list) else ""


def unreadable_value(error: OmegaConfBaseException) -> str:
    """Say what OmegaConf cannot read in a file, of which Hydra says nothing."""
    reason = one_line(str(error).splitlines()[0])
    if isinstance(error, KeyValidationError):
        reason = f"{reason}: a name should be a text, and null is one in quotes"
    return f"{error.full_key}: {reason}" if error.full_key else reason


def broken_file(error: yaml.YAMLError) -> str:
    """Say which file is no YAML, where and why."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"a config file cannot be read: {one_line(error)}"
    reason = one_line(getattr(error, "problem", ""))
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: cannot be read as YAML: {reason}"


def added_twice(place: str) -> str:
    """Say which words add an option at a place, attack@suite.fgsm, that a chosen file adds, too."""
    group = place.partition("@")[2].split(".")[0]
    words = [f"{key}={value}" for key, value in typed_keys().items() if key in (place, group)]
    if not words and (option := hydra_config(search_path()).hydra.runtime.choices.get(group)):
        return (
            f"{place} is added twice, by {group}={option} perhaps: override /{group}: none in the file leaves that out"
        )
    who = f"{listed(words)} and by a file beside it" if words else "two files"
    return f"{place} is added twice, by {who}: leave one of them out"


def several_values(word: str) -> str:
    """Say how several values are given, to a sweep, a list or one text."""
    key, _, value = word.partition("=")
    if options_of(key):
        how = "a run has one; -m runs each in turn"
        more = "; a run has several attacks in its suite: +attack@suite.pgd=pgd" if key == "attack" else ""
        return f"{word} names several: {how}{more}"
    if key == "seeds":
        return f"{word} names several: {how_many_seeds(value)}"
    if isinstance(OmegaConf.select(with_typed_options(None), key), int | float) and not key.endswith(".eps"):
        return f"{word} names several: a run has one; -m runs each in turn"
    others = f"{key}=[{value}] is a list, '{key}=\"{value}\"' a text with commas"
    return f"{word} names several: -m runs each in turn, {others}"


def how_many_seeds(values: str) -> str:
    """Say how a run has several seeds, where `values` were typed."""
    return f"it is how many seeds, from seed on: seeds={values.count(',') + 1}, or -m seed={values}"


def refuse_several_options() -> None:
    """ConfigError where the command line gives a group a list of options, whose fields Hydra would mix."""
    for key, value in typed_keys().items():
        if value.startswith("[") and options_of(key):
            raise ConfigError(several_values(f"{key}={value}"))


def refuse_shadowed_files() -> None:
    """ConfigError where one of the user's own configs has the name of one of ours, which Hydra would take."""
    for folder in own_folders():
        for ours in sorted(CONF.rglob("*.yaml")):
            own = folder / ours.relative_to(CONF)
            if own.is_file() and own.read_bytes() != ours.read_bytes():
                raise ConfigError(f"{own} would not be read: {ours} has its name, so it needs another")


def options_of(group: str) -> list[str]:
    """Return the files of a config group, the user's own too; empty where there is no such group."""
    name = group.split("@")[0]
    folders = [folder / name for folder in (CONF, *own_folders())] if name else []
    return sorted(
        {path.relative_to(folder).with_suffix("").as_posix() for folder in folders for path in folder.rglob("*.yaml")}
    )


def groups_of() -> list[str]:
    """Return the names of all config groups, the user's own too."""
    return [path.name for folder in (CONF, *own_folders()) for path in folder.iterdir() if path.is_dir()]


def no_such_option(group: str, option: str, options: list[str]) -> str:
    """Say which options a group has; of one with folders, those of the folder that was named."""
    folder = f"{option.partition('/')[0]}/"
    inside = [name for name in options if name.startswith(folder)]
    return f"{group}={option} does not exist{did_you_mean(option, options)}: choose one of {listed(inside or options)}"


def unknown_key(key: str, part: str | None) -> str:
    """Say what a key that does not exist was perhaps meant to be: one beside it, one further down, a field of another
    option of a group, or a group that is added."""
    config = with_typed_options(part, without=key)
    choices = config.hydra.runtime.choices
    if not key.startswith("hydra."):
        with open_dict(config):
            del config.hydra
    group, _, package = key.partition("@")
    if options_of(group):
        return unknown_group(key, group, package, choices, config)
    if f"~{key}" in settings() and config.get("parts") and key.split(".")[0] in (*OF_PARTS, *STATED):
        return f"{key} is not a config key of the run itself: {key}=null leaves it out of the parts that have it"
    name, _, word = key.rpartition(".")
    place = OmegaConf.select(config, name) if name else config
    if place is not None and word not in keys_below(place, []).values() and (fields := fields_of_options(name, word)):
        suite = (config.get("suite") or {}) if name == "attack" else {}
        own = [f"suite.{each}.{word}" for each, attack in suite.items() if word in (attack or {})]
        in_suite = f"; in this run it is {' or '.join(own[:3])}" if own else ""
        return f"{key} is not a config key: {listed(fields)}{in_suite}"
    groups = [name for name in choices if "/" not in name and "@" not in name]
    value = typed_keys().get(key, "...")
    at, reference = reference_on(config, name)
    if at and key.split(".")[0] in ("arch", "trainer"):
        new = f"{key}: {at} is {reference}, another key's: models.target.{key}={value} sets it of one model"
    else:
        new = f"{key} has no such keys: +{key}={value} adds them"
    return absent_key(key, config, groups) or new


def with_typed_options(part: str | None, without: str = "") -> DictConfig:
    """Return the config with those of the typed options that there are, but for that of the key `without`, and
    the paper of a part; with no typed option where one of them is what does not compose."""
    paper = [f"paper={part}"] if part else []
    typed = [choosing(word) for word in settings() if key_of(word) != "paper"] if part else settings()
    words = [word for word in typed if word.partition("=")[2] in options_of(key_of(word)) and key_of(word) != without]
    try:
        return hydra_config([*words, *paper, *search_path()])
    except HydraException:
        return hydra_config([*paper, *search_path()])


def unknown_group(key: str, group: str, package: str, choices: Mapping[str, Any], config: DictConfig) -> str:
    """Say how an option of a group is chosen or added that the defaults do not have under this key."""
    value = typed_keys().get(key, "OPTION")
    if answer := absent_key(package.rpartition(".")[0] or package, config) if package else "":
        return f"{key}: {answer}"
    if group == "model":
        name = package.removeprefix("models.") or "NAME"
        return f"{key} is not a config key: +model@models.{name}={value} adds a model, arch and trainer are target's"
    if package:
        shared = shared_group(config, package, f"{group}={value}")
        return f"{key} is not a config key: {shared or f'+{key}={value} adds it'}"
    outer, _, folder = group.partition("/")
    if folder:
        return f"{key} is not a config key: {outer}={folder}/{value} chooses it"
    chosen = [name for name in choices if name.startswith(f"{group}@")]
    places = [name for name in chosen if OmegaConf.select(config, name.partition("@")[2]) is not None]  # not left out
    return f"{key} is not a config key: say where, as in {listed(f'{place}={value}' for place in places)}"


def fields_of_options(place: str, word: str) -> list[str]:
    """Return `arch.width is a field of arch=madry_mnist|resnet20` for each group with options that have a field of this
    name: for the group that a key `place` names with its last part, or for any where it is empty."""
    found = []
    for group in [place.rpartition(".")[2]] if place else WITH_FIELDS:
        options = [path.stem for path in sorted((CONF / group).glob("*.yaml")) if word in fields_of(path)]
        if options:
            names = (
                "|".join(options) if len(options) <= MANY else f"{'|'.join(options[:3])} and {len(options) - 3} others"
            )
            found.append(f"{place or group}.{word} is a field of {group}={names}")
    return found


def fields_of(path: Path) -> dict[str, Any]:
    """Return the fields of its group that a config file has, those that it inherits from its folder included."""
    content: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    bases = [path.with_name(f"{name}.yaml") for name in content.get("defaults", []) if isinstance(name, str)]
    inherited = {key: value for base in bases if base.is_file() for key, value in fields_of(base).items()}
    fields: dict[str, Any] = content.get(path.parent.name, content)
    return inherited | fields


def as_typed(message: str, config: DictConfig) -> str:
    """Return a complaint about a key of a config under the key that the user typed, of which it has its value: `eps=2`
    acts at suite.fgsm.eps. A text where an option of a group was meant is told how to choose that."""
    if part := re.match(r"part (\S+): ", message):
        try:
            return f"{part[0]}{as_typed(message[part.end() :], with_typed_options(part[1]))}"
        except Exception:  # that part is what does not compose: the message says enough
            return message
    found = re.match(r"[\w@.-]*\w", message)
    if not found:
        return message
    key = found[0]
    try:
        origin, typed = followed(config, key), typed_keys()
    except Exception:  # the message says enough
        return message
    if origin != key and origin in typed:
        return f"{origin}{message[len(key) :]} ({key} is {origin})"
    return f"{message}{how_to_give(key, str(typed.get(key)), message)}"


def how_to_give(key: str, value: str, message: str) -> str:
    """Say how a key gets the value that was typed for it where a group of fields, a list or a number should stand."""
    should = message.removeprefix(f"{key} should be ")
    if "should be a group of fields" in message:
        return how_to_choose(key, value)
    if should.startswith("a list, each a text"):
        return f": {key}=[{value}]"
    if should.startswith(("an int", "a float")) and value.startswith("[") and (inner := value.strip("[] ")):
        return f": {how_many_seeds(inner)}" if key == "seeds" else f": -m {key}={inner} runs each in turn"
    return ""


def how_to_choose(key: str, value: str) -> str:
    """Say how a group gets what a text was typed for."""
    place, _, name = key.rpartition(".")
    plus = "+" if f"+{key}={value}" in settings() else ""
    group, _ = ADDED.get(place, (name, ""))
    group = "" if place == "models" and not plus else group  # a model that is there has its arch chosen
    config = with_typed_options(None)
    if value in options_of(group):
        shared = "" if plus else shared_group(config, key, f"{group}={value}")
        return f": {shared or f'{plus}{group}@{key}={value} ' + ('adds one' if plus else 'chooses an option')}"
    if not options_of(group) and OmegaConf.select(config, f"{key}.name"):  # arch.activation=elu
        return f": {key}.name={value} chooses one"
    if key in STATED:
        return f": a paper has its own, paper=tramer/table1; one more is {key}.NAME={{...}}, see docs/statements.md"
    if place == "models" and value in options_of("arch") and not plus:
        shared = shared_group(config, f"{key}.arch", f"arch={value}")
        return f": {shared or f'arch@{key}.arch={value} chooses its architecture'}"
    return ""


def followed(config: DictConfig, key: str) -> str:
    """Return the key whose value a key has, `${trainer}` and the like followed to their end; the key itself where there
    is none."""
    at, value = reference_on(config, key)
    named = re.fullmatch(r"\$\{(\w[\w.]*)\}", value)
    return followed(config, f"{named[1]}{key[len(at) :]}") if named else key
