"""Compose the config with Hydra, as a plain dict, of each seed."""

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import RuntimeConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, convert, fraction_hint
from epsball.cli.keys import absent_key, reference_on, shared_group
from epsball.cli.words import key_of
from epsball.experiment.grid import expand_grids, laid_over
from epsball.experiment.settings import STATED
from epsball.runtime.files import write_whole

CONF = Path(__file__).resolve().parents[3] / "conf"
SCALES = ("paper", "quick", "smoke")
VERSION = {} if tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}


def by_scale(paper: Any, quick: Any, smoke: Any, *, _root_: DictConfig) -> Any:
    """Resolve `${by_scale:60000,20000,2000}`: the values for scale=paper, quick, smoke."""
    name = _root_.scale.name
    if name not in SCALES:
        raise ConfigError(f"scale.name should be one of {', '.join(SCALES)}, is {name!r}")
    value = (paper, quick, smoke)[SCALES.index(name)]
    return OmegaConf.create(value) if isinstance(value, dict | list) else value  # --resolve prints no plain ones


def arithmetic(operation: Callable[[float, float], float]) -> Callable[..., Any]:
    """Return a resolver of two numbers, or of one and each of a list, which names what it was given instead."""

    def resolve(*values: Any) -> Any:
        if len(values) == 2 and isinstance(values[1], list | ListConfig):
            return OmegaConf.create([resolve(values[0], value) for value in values[1]])
        if len(values) != 2:
            raise ConfigError(f"two numbers are needed, as in ${{frac:8,255}}, are {list(values)}")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"a number is needed, is {value!r}{fraction_hint(value)}")
        return operation(*values)

    return resolve


def unlike(word: str, usual: str, other: str) -> str:
    """Resolve `${unlike:${arch},mnist_b,mnist_a}`: the usual word, or the other where `word` is the usual one."""
    return other if word == usual else usual


def with_fields(*given: Any) -> DictConfig:
    """Resolve `${with:${arch},{activation:{name:elu}}}`: a copy of a group with these fields laid over it."""
    if len(given) != 2 or not all(isinstance(value, dict | DictConfig) for value in given):
        raise ConfigError("with needs a group and fields for it, as in ${with:${arch},{depth:26}}")
    plain = [OmegaConf.to_container(one, resolve=True) if isinstance(one, DictConfig) else one for one in given]
    changed: dict[str, Any] = laid_over(*plain)
    return OmegaConf.create(changed)


RESOLVERS: dict[str, Callable[..., Any]] = {
    "unlike": unlike,
    "by_scale": by_scale,
    "frac": arithmetic(operator.truediv),
    "times": arithmetic(operator.mul),
    "plus": arithmetic(operator.add),
    "quotient": arithmetic(operator.floordiv),
    "with": with_fields,
}
OPEN = ("models", "grid", *STATED)
"""groups that take keys which no file gives: a grid's models have no names yet while Hydra composes"""
GLOBAL = ("paper", "diagnostic", "local")
"""groups whose files set keys of the whole config"""


def register_with_hydra() -> None:
    """Tell Hydra the resolvers, and the node `open` of config.yaml's defaults, which opens the groups of OPEN."""
    store = ConfigStore.instance()
    if "open.yaml" not in store.repo:
        node = OmegaConf.create({key: {} for key in OPEN})
        for key in OPEN:
            OmegaConf.set_struct(node[key], False)
        store.store(name="open", node=node)
    for name, resolver in RESOLVERS.items():
        register_resolver(name, resolver)


def register_resolver(name: str, resolver: Callable[..., Any]) -> None:
    """Tell OmegaConf what `${name:...}` stands for."""
    register = OmegaConf.register_new_resolver if VERSION else OmegaConf.register_resolver  # renamed with Hydra 1.4
    register(name, resolver, replace=True)  # type: ignore[call-arg]


def chosen_file(group: str, runtime: RuntimeConf) -> Path | None:
    """Return the file of the option that a group has in a run, the user's own too; None where it has none. Hydra's
    `runtime` says which option it is, and where config files are looked for."""
    folders = [Path(source.path) for source in runtime.config_sources if source.schema == "file"]
    files = [folder / group / f"{runtime.choices.get(group)}.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def searched() -> list[str]:
    """Return the command's words that name more folders of configs."""
    return [word for word in as_typed_words(HydraConfig.get().overrides.hydra) if word.startswith("hydra.searchpath=")]


def as_typed_words(overrides: Any) -> list[str]:
    """Return Hydra's list of overrides with `${...}` as typed: what it stands for is not said there, and may have no
    end."""
    words = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def as_plain(config: DictConfig, choices: dict[str, Any]) -> dict[str, Any]:
    """Return the composed config as a plain dict, in which the attack of `attack=` has a name, as a suite's have: its
    option's, or that of the user's function."""
    check_package(config, choices)
    try:
        for key, kind in (("eps", float), ("seed", int)):  # others refer to these: a wrong one is named itself
            if config._get_node(key, validate_access=False) is None:
                raise ConfigError(f"{key} is missing: other keys refer to it")
            convert(config[key], kind, key)
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].partition("resolving interpolation: ")
        where = f"{error.full_key}: " if error.full_key else ""
        raise ConfigError(f"{where}{reason[2] or reason[0]}") from error
    except RecursionError:
        raise ConfigError("a key refers to itself: look for ${...} in what was set last, such as sources") from None
    assert isinstance(plain, dict)
    attack = plain.pop("attack", None)
    if attack:
        option = choices["attack"].rpartition("/")[2]
        called = attack.get("call") if option == "module" and isinstance(attack, dict) else None
        plain["attack"] = {called if isinstance(called, str) and called.isidentifier() else option: attack}
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def check_package(config: DictConfig, choices: dict[str, Any]) -> None:
    """ConfigError where a file that sets keys of the whole config lacks the line that says so, so that they stand below
    its group."""
    for group in GLOBAL:
        if group in config:
            raise ConfigError(no_package(group, choices[group]))


def no_package(group: str, option: str) -> str:
    """Say which line a file lacks that sets keys of the whole config."""
    return f"{group}/{option}.yaml should begin with the line: # @package _global_"


def composed(*overrides: str) -> dict[str, Any]:
    """Return the config that these overrides of the command line compose, as a plain dict."""
    return composed_seeds([None], *overrides)[0]


def composed_seeds(seeds: Sequence[int | None], *overrides: str) -> list[dict[str, Any]]:
    """Return the configs that these overrides compose with each seed, None for their own."""
    return with_model_fields(hydra_configs(seeds, overrides), seeds, overrides)


def hydra_configs(seeds: Sequence[int | None], overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Return what Hydra composes, with each seed: composed once, for that takes longer than all the rest."""
    config = hydra_config(overrides)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config.hydra
    found = []
    for seed in seeds:
        if seed is not None:
            config.seed = seed
        found.append(as_plain(config, choices))
    return found


def hydra_config(overrides: Sequence[str]) -> DictConfig:
    """Return what Hydra composes, its own config included, not resolved."""
    return deepcopy(hydra_composition(tuple(overrides)))


@cache
def hydra_composition(overrides: tuple[str, ...]) -> DictConfig:
    """Compose with Hydra, once in a job (`hydra_composition.cache_clear`): it takes 20 times as long as a copy, and a
    run of parts asks for the same several times."""
    register_with_hydra()
    within = GlobalHydra.instance().is_initialized()  # a job that composes its parts and seeds
    with nullcontext() if within else hydra.initialize_config_dir(str(CONF), **VERSION):
        return hydra.compose("config", list(overrides), return_hydra_config=True)


def with_model_fields(
    composed: list[dict[str, Any]], seeds: Sequence[int | None], overrides: Sequence[str]
) -> list[dict[str, Any]]:
    """Check the overrides that set a field of a model, `models.A.trainer.epochs=3`, or add one to it,
    `+models.A.arch.arguments.width=8`, and lay them over what is there.

    `composed` is what Hydra made of them for each seed: it takes any key of a model, and puts them in place of a group
    that is the experiment's, `trainer: ${trainer}`. Raises ConfigError for a key that no model has, nor one of a grid.
    """
    refuse_shared_groups(overrides)
    keys = {override: key_of(override) for override in overrides if override.lstrip("+").startswith("models.")}
    if not keys:
        return composed
    without = hydra_configs(seeds, [override for override in overrides if override not in keys])
    models = expand_grids(without[0])[0].get("models") or {}
    added = {override for override in keys if override.startswith("+")}
    made = {keys[override].split(".")[1] for override in added} - models.keys()  # by its first field
    for override, key in keys.items():
        there = key.rpartition(".")[0] if override in added else key
        if key.split(".")[1] not in made and (answer := absent_key(there, {"models": models})):
            raise ConfigError(answer)
    return [
        {**own, "models": laid_over(plain.get("models"), own["models"])}
        for plain, own in zip(without, composed, strict=True)
    ]


def refuse_shared_groups(overrides: Sequence[str]) -> None:
    """ConfigError for a word that chooses an option for a model's group, or leaves out a field of it, where that group
    is another key's, `trainer: ${trainer}`: Hydra would mix the option into it, or take the field from the other."""
    words = {word: key_of(word).rpartition("@")[2] for word in overrides if "@" in key_of(word) or word[:1] == "~"}
    words = {word: place for word, place in words.items() if place.startswith("models.") and place.count(".") > 1}
    if not words:
        return
    config = hydra_config([word for word in overrides if word not in words])
    for word, place in words.items():
        if "@" in key_of(word):
            choice = f"{key_of(word).partition('@')[0]}={word.partition('=')[2]}"
            if shared := shared_group(config, place, choice):
                raise ConfigError(f"{word}: {shared}")
            continue
        at, value = reference_on(config, place.rpartition(".")[0])
        if at:
            other = f"~{value[2:-1]}{place[len(at) :]} leaves it out of all"
            alone = f", {place}=null of this one" if ".sources." in place[len(at) :] else ""
            raise ConfigError(f"{word}: {at} is {value}, shared by all that refer to it: {other}{alone}")


def write_hydra(directory: Path, config: DictConfig, overrides: list[str]) -> None:
    """Write what Hydra would keep: the composed config, Hydra's own, and the command line's overrides."""
    (directory / ".hydra").mkdir(exist_ok=True)
    kept: dict[str, Any] = {"config": config, "hydra": {"hydra": HydraConfig.get()}, "overrides": overrides}
    for name, content in kept.items():
        write_whole(directory / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
