"""The only reader of config nodes: a plain config becomes an Experiment, with everything it names checked and built.

Whatever is misspelt or out of range raises ConfigError here, before anything is trained or written.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from epsball.attacks import ATTACKS
from epsball.build import ConfigError, build, construct, did_you_mean, listed, mapping, require, under
from epsball.data import Data
from epsball.datasets import DATASETS
from epsball.device import Precision, borrowed_seed, choose_device, derived_seed
from epsball.expressions import Claim, Quantity, Table
from epsball.models import MODELS
from epsball.store import fingerprint
from epsball.tasks import TASKS, Craft, Task
from epsball.train import Trainer

COMPONENTS = ("dataset", "attack", "suite", "models", "task", "tables", "claims")  # config keys that Settings lacks
SPECS = ("scale", "arch", "trainer", "eps")  # config keys that other keys refer to; they act through those
ABOVE = ("seeds", "parts")  # config keys that say how many configs a run has; run.py composes one of each

Component = TypeVar("Component", Claim, Table)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The config's own values, beside the components it names.

    sources, targets: names of models; null for all, of the sources for all that have gradients. precision: of training;
    evaluation is in fp32 or tf32. cuda_graphs: whether CUDA records attack loops and training steps. deterministic:
    whether CUDA uses only kernels that give the same bits every time. channels_last: how convolutions' weights are laid
    out. workers: processes that train independent models side by side. threads: CPU threads of each process, null for
    torch's own number, which workers share out. batch_size: images per step of an evaluation, null for a size that
    suits the device. reuse: whether finished rows are taken from the store. outputs: root folder of models, rows and
    run directories.
    """

    experiment: str
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    workers: int
    precision: Precision
    cuda_graphs: bool
    deterministic: bool
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

    @property
    def evaluation_precision(self) -> Precision:
        return "fp32" if self.precision == "fp32" else "tf32"


@dataclass(frozen=True)
class Plan:
    """One model, checked and built but not trained: what its spec {dataset, arch, trainer, seed} names.

    trainer is None for a network that fits itself to the data, without gradients."""

    label: str
    identity: dict[str, Any]
    network: nn.Module
    trainer: Trainer | None
    data: Data
    sources: dict[str, "Plan"]
    seed: int

    @cached_property
    def key(self) -> str:
        return fingerprint(self.identity)

    @cached_property
    def course(self) -> str | None:
        """What trainings share that differ in their epochs alone, the longer ones going on where the shorter end."""
        return without(self.identity, "epochs") if self.trainer and self.trainer.prolongs else None

    @cached_property
    def own_seed(self) -> int:
        """What the model's random numbers are drawn from: initial weights, order of images, dropout.

        Models that differ in more than epochs and precision share none of them, even with one seed: a source that began
        where its target did, or saw the images in the same order, would not be a black box.
        """
        return own_seed(self.identity)

    @property
    def epochs(self) -> float:
        return self.trainer.epochs if self.trainer else 0.0

    @property
    def differentiable(self) -> bool:
        return getattr(self.network, "differentiable", True)


@dataclass(frozen=True)
class Shared:
    """What the configs of one run have in common, built once: data sets by their spec, models by fingerprint."""

    data: dict[str, Data] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A whole config, checked: nothing in it can fail any more for being misspelt or out of range."""

    settings: Settings
    config: dict[str, Any]
    task: Task
    data: Data
    plans: dict[str, Plan]
    sources: list[str]
    targets: list[str]
    crafts: list[Craft]
    tables: dict[str, Table]
    claims: dict[str, Claim]

    @cached_property
    def quantities(self) -> list[Quantity]:
        """All that its tables and claims ask about."""
        asked: list[Table | Claim] = [*self.tables.values(), *self.claims.values()]
        return [quantity for component in asked for quantity in component.quantities]

    @cached_property
    def config_hash(self) -> str:
        """Names everything that can change a result: not the device, nor where files lie."""
        settings = {name: getattr(self.settings, name) for name in ("experiment", "seed", "precision")}
        return fingerprint(
            {
                **settings,
                **{key: self.config.get(key) for key in ("task", "tables", "claims")},
                "models": {name: plan.key for name, plan in self.plans.items()},
                "sources": self.sources,
                "targets": self.targets,
                "attacks": [{"name": craft.name, "attack": craft.identity} for craft in self.crafts],
                "test": self.data.test_checksum,
            }
        )


def prepare(config: Mapping[str, Any], shared: Shared | None = None) -> Experiment:
    """Build everything that `config` names; what is in `shared` already is not built again.

    Raises ConfigError: one line, what, where, and what would be right.
    """
    known = [*Settings.__dataclass_fields__, *COMPONENTS, *SPECS, *ABOVE]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key} is not a config key{did_you_mean(key, known)}")
    own = {k: v for k, v in config.items() if k in Settings.__dataclass_fields__}
    settings = construct(Settings, own, where="")
    choose_device(settings.device)
    shared = Shared() if shared is None else shared
    data = load_data(config.get("dataset"), "dataset", shared)
    plans = plans_of(config, settings, data, shared)
    one = twins(plans)
    sources, targets = roles(plans, settings, one)
    crafts = distinct([*attacks_of(config.get("suite"), "suite"), *attacks_of(config.get("attack"), "attack")])
    task: Task = build(TASKS, config.get("task"), where="task")
    task.check(sources, targets, [craft.name for craft in crafts])
    asked = Asked(list(mapping(config.get("models"), "models")), one, crafts, task)
    tables = asked.components(Table, config.get("tables"), "tables")
    claims = asked.components(Claim, config.get("claims"), "claims")
    plans = {name: plan for name, plan in plans.items() if one[name] == name}
    return Experiment(settings, dict(config), task, data, plans, sources, targets, crafts, tables, claims)


def plans_of(config: Mapping[str, Any], settings: Settings, data: Data, shared: Shared) -> dict[str, Plan]:
    """The models that are sources or targets, by name."""
    specs = {name: spec for name, spec in mapping(config.get("models"), "models").items() if spec is not None}
    chosen = [*named(settings.sources, list(specs), "sources"), *named(settings.targets, list(specs), "targets")]
    plans: dict[str, Plan] = {}
    for name in specs:
        if name in chosen:
            spec = mapping(specs[name], f"models.{name}")
            places = {key: key for key in ("arch", "trainer", "dataset") if spec.get(key) == config.get(key)}
            plans[name] = plan_model(spec, f"models.{name}", shared, places)
            if (plans[name].data.shape, plans[name].data.classes) != (data.shape, data.classes):
                raise ConfigError(f"models.{name}.dataset has other image shapes or classes than dataset")
    return plans


def twins(plans: dict[str, Plan]) -> dict[str, str]:
    """The name under which each model is listed: equal ones are one model, under its first name."""
    first = {plan.key: name for name, plan in reversed(plans.items())}
    one = {name: first[plan.key] for name, plan in plans.items()}
    for name in plans:
        if one[name] != name:
            log.info("model %s is the same as %s and is listed once", name, one[name])
    return one


def roles(plans: Mapping[str, Plan], settings: Settings, one: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Sources and targets by the names they are listed under, in the order of the models."""
    with_gradients = [name for name, plan in plans.items() if plan.differentiable]
    sources = with_gradients if settings.sources is None else settings.sources
    targets = list(plans) if settings.targets is None else settings.targets
    for name in sources:
        if name not in with_gradients:
            raise ConfigError(f"sources names {name!r}, which has no gradient to attack: it can be a target alone")
    ordered = [list(dict.fromkeys(one[name] for name in plans if name in chosen)) for chosen in (sources, targets)]
    return ordered[0], ordered[1]


def load_data(spec: object, where: str, shared: Shared) -> Data:
    """The data set of a spec, read once however many models name it."""
    key = json.dumps(spec, sort_keys=True)
    if key not in shared.data:
        settings = build(DATASETS, spec, where=where)
        try:
            shared.data[key] = settings.load()
        except ConfigError as error:
            raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return shared.data[key]


def plan_model(spec: object, where: str, shared: Shared, places: Mapping[str, str] | None = None) -> Plan:
    """Check and build one model spec, its sources first. `places`: the config keys of parts that stand elsewhere."""
    fields = dict(mapping(spec, where))
    at = {key: under(where, key) for key in fields} | dict(places or {})
    for key in ("dataset", "arch", "seed"):
        if fields.get(key) is None:
            raise ConfigError(f"{where}.{key} is missing: a model is {{dataset, arch, trainer, seed}}")
    given = fields.get("trainer")
    trainer: Trainer | None = None if given is None else construct(Trainer, given, where=at["trainer"])
    specs = trainer.sources.items() if trainer else ()
    sources = {n: plan_model(s, f"{at['trainer']}.sources.{n}", shared) for n, s in specs}
    sources = dict(sorted(sources.items(), key=lambda item: item[1].key))  # an order that does not rest on labels
    for name, source in sources.items():
        if not source.differentiable:
            raise ConfigError(f"{at['trainer']}.sources.{name} has no gradient to craft examples on")
    data, seed = load_data(fields["dataset"], at["dataset"], shared), fields["seed"]
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"{where}.seed should be an int of at least 0, is {seed!r}")
    identity = {
        "data": {"checksum": data.checksum, "classes": len(data.classes)},
        "arch": unlabelled(fields["arch"]),
        "trainer": given
        and {
            **{key: unlabelled(value) for key, value in given.items() if key != "name"},
            "sources": [source.identity for source in sources.values()],
        },
        "seed": seed,
    }
    key = fingerprint(identity)
    if key in shared.plans:
        return shared.plans[key]
    with borrowed_seed(derived_seed(own_seed(identity), "init"), torch.device("cpu")):
        network: nn.Module = build(MODELS, fields["arch"], data.shape, len(data.classes), where=at["arch"])
    check_trainer(trainer, network, len(sources), where, at.get("trainer", under(where, "trainer")))
    label = f"{fields['arch']['name']}-{trainer.name if trainer else 'fitted'}"
    return shared.plans.setdefault(key, Plan(label, identity, network, trainer, data, sources, seed))


def unlabelled(spec: Any) -> Any:
    """Return `spec` with every group of named components as a list: what a user calls an ensemble's member changes
    nothing of it."""
    if not isinstance(spec, Mapping):
        return spec
    parts = {key: unlabelled(value) for key, value in spec.items()}
    named = [part for part in spec.values() if part is not None]
    if named and all(isinstance(part, Mapping) and "name" in part for part in named):
        return [part for part in parts.values() if part is not None]
    return parts


def without(identity: Mapping[str, Any], *fields: str) -> str:
    """What models share that differ in these fields of their trainer alone."""
    trainer = identity["trainer"] and {**identity["trainer"], **dict.fromkeys(fields)}
    return fingerprint({**identity, "trainer": trainer})


def own_seed(identity: Mapping[str, Any]) -> int:
    """See `Plan.own_seed`."""
    return derived_seed(identity["seed"], without(identity, "epochs", "precision"))


def check_trainer(trainer: Trainer | None, network: nn.Module, sources: int, where: str, at: str) -> None:
    """ConfigError unless the trainer can train the network; one that fits itself has none."""
    fits_itself = hasattr(network, "fit_to")
    if trainer is None and not fits_itself:
        raise ConfigError(f"{where}.trainer is missing: a model is {{dataset, arch, trainer, seed}}")
    if trainer is not None and fits_itself:
        raise ConfigError(f"{at} should be null: {type(network).__name__} fits itself to the data, without gradients")
    if trainer is not None:
        try:
            trainer.objective.check(network, sources)
        except ValueError as error:
            raise ConfigError(f"{at}.objective.{error}") from None


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


def named(names: list[str] | None, known: list[str], where: str) -> list[str]:
    """The models a list names, all of them for null."""
    for name in names or []:
        if name not in known:
            raise ConfigError(f"{where} names {name!r}{did_you_mean(name, known)}: the models are {listed(known)}")
    return known if names is None else names


@dataclass(frozen=True)
class Asked:
    """What tables and claims may ask about: models by the names of the config, which `one` turns into those of the
    results, and attacks."""

    models: list[str]
    one: Mapping[str, str]
    crafts: list[Craft]
    task: Task

    def components(self, kind: type[Component], specs: object, where: str) -> dict[str, Component]:
        """All tables or all claims of a config, their models under the names that the results have."""
        found = {}
        for name, spec in mapping(specs or {}, where).items():
            if spec is not None:
                component = construct(kind, spec, where=under(where, name))
                absent = {self.check(quantity, under(where, name)) for quantity in component.quantities}
                for what in sorted(absent - {""}):
                    log.warning("%s asks about %s, which this run does not have", under(where, name), what)
                found[name] = component.renamed(self.one)
        return found

    def check(self, quantity: Quantity, where: str) -> str:
        """ConfigError for an unknown model or an eps that is not clear; the attack that the run lacks, if it does."""
        for name in (quantity.target, quantity.source):
            if name not in self.models:
                known = f"the models are {listed(self.models)}"
                raise ConfigError(f"{where} asks about {name!r}{did_you_mean(name, self.models)}: {known}")
        if quantity.attack in self.task.makes:
            return ""
        attacks, eps = [craft.name for craft in self.crafts], dict(quantity.conditions).get("eps")
        values = [craft.attack.eps for craft in self.crafts if craft.name == quantity.attack]
        if len(values) > 1 and eps is None:
            which = ", ".join(f"eps={value:g}" for value in values)
            raise ConfigError(f"{where} asks about {quantity.attack} without saying which eps: one of {which}")
        if not values:
            return f"attack {quantity.attack}{did_you_mean(quantity.attack, attacks)}"
        known_eps = eps is None or any(abs(eps - value) < 1e-9 for value in values)
        return "" if known_eps else f"attack {quantity.attack} at eps {eps:g}"
