"""The only reader of config nodes: a plain config becomes an Experiment, with everything it names checked and built.

Whatever is misspelt or out of range raises ConfigError here, before anything is trained or written.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from epsball.attacks import ATTACKS, Attack
from epsball.build import ConfigError, build, construct, did_you_mean, listed, mapping, require, under
from epsball.data import Data
from epsball.datasets import DATASETS
from epsball.device import Precision, borrowed_seed, choose_device, derived_seed
from epsball.models import MODELS
from epsball.store import fingerprint
from epsball.train import Trainer

COMPONENTS = ("dataset", "attack", "suite", "models", "reference")  # config keys that Settings does not hold
SPECS = ("scale", "arch", "trainer", "eps")  # config keys that other keys refer to; they act through those

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The config's own values, beside the components it names.

    task: the matrix, or each source's error under the worst of all attacks on itself. sources, targets: names of
    models, null for all. precision: of training; evaluation is in fp32 or tf32. cuda_graphs: whether CUDA records
    attack loops and training steps. channels_last: how convolutions' weights are laid out. workers: processes that
    train independent models side by side. threads: CPU threads, null for torch's own number. batch_size: images per
    step of an evaluation, null for a size that suits the device. reuse: whether finished rows are taken from the
    store. outputs: root folder of models, rows and run directories.
    """

    experiment: str
    task: Literal["transfer_matrix", "worst_case"]
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    workers: int
    precision: Precision
    cuda_graphs: bool
    channels_last: bool
    batch_size: int | None
    sources: list[str] | None
    targets: list[str] | None
    outputs: str
    checkpoint_seconds: float
    reuse: bool

    def __post_init__(self) -> None:
        require(self.batch_size is None or self.batch_size >= 1, f"batch_size should be positive, is {self.batch_size}")
        require(self.threads is None or self.threads >= 1, f"threads should be positive, is {self.threads}")
        require(self.workers >= 1, f"workers should be positive, is {self.workers}")
        require(self.seed >= 0, f"seed should be at least 0, is {self.seed}")


@dataclass(frozen=True)
class Reference:
    """Published numbers: per cent by source and target, for one attack at one eps; `metric` is a column of the rows."""

    metric: Literal["error_top1", "error_top5", "transfer_rate_top1", "transfer_rate_top5"]
    attack: str
    eps: float
    percent: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """One model, checked and built but not trained: what its spec {dataset, arch, trainer, seed} names."""

    label: str
    identity: dict[str, Any]
    network: nn.Module
    trainer: Trainer
    data: Data
    sources: dict[str, "Plan"]
    seed: int

    @cached_property
    def key(self) -> str:
        return fingerprint(self.identity)


@dataclass(frozen=True)
class Craft:
    """One attack at one eps, under the name that its rows carry."""

    name: str
    attack: Attack

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": type(self.attack).__name__, **asdict(self.attack)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Experiment:
    """A whole config, checked: nothing in it can fail any more for being misspelt or out of range."""

    settings: Settings
    config: dict[str, Any]
    data: Data
    plans: dict[str, Plan]
    sources: list[str]
    targets: list[str]
    crafts: list[Craft]
    references: list[Reference]

    @cached_property
    def config_hash(self) -> str:
        """Names everything that can change a result: not the device, nor where files lie."""
        settings = {name: getattr(self.settings, name) for name in ("experiment", "task", "seed", "precision")}
        return fingerprint(
            {
                **settings,
                "models": {name: plan.key for name, plan in self.plans.items()},
                "sources": self.sources,
                "targets": self.targets,
                "attacks": [{"name": craft.name, **craft.identity} for craft in self.crafts],
                "references": [asdict(reference) for reference in self.references],
                "test": self.data.test_checksum,
            }
        )

    def published(self, source: str, target: str, attack: str, eps: float) -> dict[str, Any]:
        """A paper's value of one row, as a fraction, and which of the row's columns it is about."""
        for r in self.references:
            percent = r.percent.get(source, {}).get(target)
            if percent is not None and r.attack == attack and abs(r.eps - eps) < 1e-9:
                return {"paper_value": round(percent / 100, 6), "paper_metric": r.metric}
        return {}


def prepare(config: Mapping[str, Any]) -> Experiment:
    """Build everything that `config` names. Raises ConfigError: one line, what, where, and what would be right."""
    known = [*Settings.__dataclass_fields__, *COMPONENTS, *SPECS]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key} is not a config key{did_you_mean(key, known)}")
    own = {k: v for k, v in config.items() if k not in (*COMPONENTS, *SPECS)}
    settings = construct(Settings, own, where="")
    choose_device(settings.device)
    loaded: dict[str, Data] = {}
    data = load_data(config.get("dataset"), "dataset", loaded)
    specs = {name: spec for name, spec in mapping(config.get("models"), "models").items() if spec is not None}
    names = list(specs)
    sources, targets = chosen(settings.sources, names, "sources"), chosen(settings.targets, names, "targets")
    plans: dict[str, Plan] = {}
    for name in names:
        if name in sources or name in targets:
            spec = mapping(specs[name], f"models.{name}")
            places = {key: key for key in ("arch", "trainer", "dataset") if spec.get(key) == config.get(key)}
            plans[name] = plan_model(spec, f"models.{name}", loaded, places)
            if (plans[name].data.shape, plans[name].data.classes) != (data.shape, data.classes):
                raise ConfigError(f"models.{name}.dataset has other image shapes or classes than dataset")
    crafts = [*attacks_of(config.get("suite"), "suite"), *attacks_of(config.get("attack"), "attack")]
    references = [construct(Reference, r, where=f"reference[{i}]") for i, r in enumerate(config.get("reference") or [])]
    first = {plan.key: name for name, plan in reversed(plans.items())}  # twins are one model, under its first name
    one = {name: first[plan.key] for name, plan in plans.items()}
    for name in plans:
        if one[name] != name:
            log.info("model %s is the same as %s and is listed once", name, one[name])
    sources, targets = (list(dict.fromkeys(one[name] for name in names)) for names in (sources, targets))
    references = [replace(r, percent=renamed(r.percent, one)) for r in references]
    plans = {name: plan for name, plan in plans.items() if one[name] == name}
    return Experiment(settings, dict(config), data, plans, sources, targets, distinct(crafts), references)


def load_data(spec: object, where: str, loaded: dict[str, Data]) -> Data:
    """The data set of a spec, read once however many models name it."""
    key = json.dumps(spec, sort_keys=True)
    if key not in loaded:
        settings = build(DATASETS, spec, where=where)
        try:
            loaded[key] = settings.load()
        except ConfigError as error:
            raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return loaded[key]


def plan_model(spec: object, where: str, loaded: dict[str, Data], places: Mapping[str, str] | None = None) -> Plan:
    """Check and build one model spec, its sources first. `places`: the config keys of parts that stand elsewhere."""
    fields = dict(mapping(spec, where))
    at = {key: under(where, key) for key in fields} | dict(places or {})
    for key in ("dataset", "arch", "trainer", "seed"):
        if fields.get(key) is None:
            raise ConfigError(f"{where}.{key} is missing: a model is {{dataset, arch, trainer, seed}}")
    trainer: Trainer = construct(Trainer, fields["trainer"], where=at["trainer"])
    sources = {n: plan_model(s, f"{at['trainer']}.sources.{n}", loaded) for n, s in sorted(trainer.sources.items())}
    data, seed = load_data(fields["dataset"], at["dataset"], loaded), fields["seed"]
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"{where}.seed should be an int of at least 0, is {seed!r}")
    with borrowed_seed(derived_seed(seed, "init"), torch.device("cpu")):
        network: nn.Module = build(MODELS, fields["arch"], data.shape, len(data.classes), where=at["arch"])
    try:
        trainer.objective.check(network, len(sources))
    except ValueError as error:
        raise ConfigError(f"{at['trainer']}.objective.{error}") from None
    identity = {
        "data": {"name": data.name, "checksum": data.checksum},
        "arch": fields["arch"],
        "trainer": {**fields["trainer"], "sources": {name: plan.identity for name, plan in sources.items()}},
        "seed": seed,
    }
    label = f"{fields['arch']['name']}-{trainer.name}"
    return Plan(label, identity, network, trainer, data, sources, seed)


def attacks_of(specs: object, where: str) -> Iterator[Craft]:
    """The attacks of a suite {name: spec}, one for each of a spec's eps values."""
    for name, spec in mapping(specs or {}, where).items():
        if spec is None:
            continue
        key = where if where == "attack" else under(where, name)  # the one attack's fields stand at attack.*
        fields = dict(mapping(spec, key))
        values = fields.get("eps")
        for eps in values if isinstance(values, list) else [values]:
            yield Craft(name, build(ATTACKS, {**fields, "eps": eps}, where=key))


def distinct(crafts: list[Craft]) -> list[Craft]:
    """Each attack once; two different ones may not carry the same name and eps."""
    found: dict[tuple[str, float], Craft] = {}
    for craft in crafts:
        other = found.setdefault((craft.name, craft.attack.eps), craft)
        if other != craft:
            raise ConfigError(f"attack {craft.name} at eps {craft.attack.eps:g} is set twice, differently: rename one")
    if "clean" in (craft.name for craft in crafts):
        raise ConfigError("suite.clean: the name clean is taken by the rows without an attack")
    return list(found.values())


def chosen(names: list[str] | None, known: list[str], where: str) -> list[str]:
    """The models a list names, all of them for null."""
    for name in names or []:
        if name not in known:
            raise ConfigError(f"{where} names {name!r}{did_you_mean(name, known)}: the models are {listed(known)}")
    return known if names is None else names


def renamed(percent: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """A table of published numbers with its models under other names."""
    table: dict[str, dict[str, float]] = {}
    for source, row in percent.items():
        table.setdefault(names.get(source, source), {}).update({names.get(t, t): v for t, v in row.items()})
    return table
