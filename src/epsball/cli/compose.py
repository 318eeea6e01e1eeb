"""Compose the config with Hydra, as a plain dict, of each part and seed."""

import operator
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, convert, fraction_hint

CONF = Path(__file__).resolve().parents[3] / "conf"
SCALES = ("paper", "quick", "smoke")
VERSION = {} if tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}


def by_scale(paper: Any, quick: Any, smoke: Any, *, _root_: DictConfig) -> Any:
    """Resolve `${by_scale:60000,20000,2000}`: the values for scale=paper, quick, smoke."""
    return dict(zip(SCALES, (paper, quick, smoke), strict=True))[_root_.scale.name]


def arithmetic(operation: Callable[[float, float], float]) -> Callable[[Any, Any], float]:
    """Return a resolver of two numbers, which names what it was given instead."""

    def resolve(a: Any, b: Any) -> float:
        for value in (a, b):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"a number is needed, is {value!r}{fraction_hint(value)}")
        return operation(a, b)

    return resolve


RESOLVERS: dict[str, Callable[..., Any]] = {
    "by_scale": by_scale,
    "frac": arithmetic(operator.truediv),
    "times": arithmetic(operator.mul),
    "plus": arithmetic(operator.add),
}


def register_resolvers() -> None:
    register = OmegaConf.register_new_resolver if VERSION else OmegaConf.register_resolver  # renamed with Hydra 1.4
    for name, resolver in RESOLVERS.items():
        register(name, resolver, replace=True)  # type: ignore[call-arg]


def parts_of(plain: dict[str, Any], overrides: list[str]) -> list[list[dict[str, Any]]]:
    """Return the configs of a run: of one part, or of each that the config lists, one config per seed.

    Raises ConfigError, and HydraException where a part does not compose.
    """
    seeds, parts = convert(plain["seeds"], int, "seeds"), convert(plain["parts"], list[str], "parts")
    if seeds < 1:
        raise ConfigError(f"seeds should be at least 1, is {seeds}")
    if seeds == 1 and not parts:
        return [[plain]]
    named = {"seed", "seeds", *(["paper", "experiment"] if parts else [])}
    kept = [override for override in overrides if override.split("=")[0] not in named]
    kept += [override for override in HydraConfig.get().overrides.hydra if override.startswith("hydra.searchpath=")]
    kept += [f"workers={convert(plain['workers'], int, 'workers')}"]  # the run's, not a part's
    numbers = [f"seed={plain['seed'] + i}" for i in range(seeds)]
    papers = [[f"paper={part}"] for part in parts] or [[]]
    return [[composed(*kept, *paper, number) for number in numbers] for paper in papers]


def as_plain(config: DictConfig, choices: dict[str, Any]) -> dict[str, Any]:
    """Return the composed config as a plain dict, in which the attack of `attack=` has a name, as a suite's have."""
    try:
        for key, kind in (("eps", float), ("seed", int)):  # others refer to these: a wrong one is named itself
            convert(config[key], kind, key)
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].partition("resolving interpolation: ")
        raise ConfigError(f"{error.full_key}: {reason[2] or reason[0]}") from error
    assert isinstance(plain, dict)
    attack = plain.pop("attack", None)
    if attack:
        plain["attack"] = {choices["attack"]: attack}
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def composed(*overrides: str) -> dict[str, Any]:
    """Return the config that these overrides of the command line compose, as a plain dict."""
    register_resolvers()
    within = GlobalHydra.instance().is_initialized()  # a job that composes its parts and seeds
    with nullcontext() if within else hydra.initialize_config_dir(str(CONF), **VERSION):
        config = hydra.compose("config", list(overrides), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config.hydra
    return as_plain(config, choices)


def write_hydra(directory: Path, config: DictConfig, overrides: list[str]) -> None:
    """Write what Hydra would keep: the composed config, Hydra's own, and the command line's overrides."""
    (directory / ".hydra").mkdir(exist_ok=True)
    hydra_config = OmegaConf.create({"hydra": HydraConfig.get()})
    OmegaConf.save(config, directory / ".hydra" / "config.yaml")
    OmegaConf.save(hydra_config, directory / ".hydra" / "hydra.yaml")
    OmegaConf.save(OmegaConf.create(overrides), directory / ".hydra" / "overrides.yaml")
