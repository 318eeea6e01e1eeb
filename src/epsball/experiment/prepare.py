"""The only reader of config nodes: a plain config becomes an Experiment, with everything it names checked.

Whatever is misspelt or out of range raises ConfigError here, before anything is trained or written.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from epsball.attacks import ATTACKS, NamedAttack
from epsball.build import ConfigError, build, construct, did_you_mean, listed, mapping, under
from epsball.data.images import Data
from epsball.experiment.settings import ABOVE, COMPONENTS, REFERRED, Settings
from epsball.measurements import MEASUREMENTS
from epsball.measurements.measurement import Measurement
from epsball.paper.claims import Claim
from epsball.paper.expressions import Quantity
from epsball.paper.tables import Table
from epsball.runtime.device import Execution
from epsball.runtime.store import fingerprint
from epsball.training.spec import BuildCache, ModelSpec, build_spec, load_data

Statement = TypeVar("Statement", Claim, Table)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """A whole config, checked: nothing in it can fail any more for being misspelt or out of range."""

    settings: Settings
    execution: Execution
    config: dict[str, Any]
    """as it was composed"""
    measurements: dict[str, Measurement]
    """by the name that their rows carry"""
    data: Data
    specs: dict[str, ModelSpec]
    """its models by name, each once"""
    sources: list[str]
    targets: list[str]
    attacks: list[NamedAttack]
    tables: dict[str, Table]
    claims: dict[str, Claim]

    @cached_property
    def asked(self) -> list[Quantity]:
        """All quantities that its tables and claims ask about."""
        statements: list[Table | Claim] = [*self.tables.values(), *self.claims.values()]
        return [quantity for statement in statements for quantity in statement.quantities]

    @cached_property
    def config_hash(self) -> str:
        """Names everything that can change a result: not the device, nor where files lie."""
        settings = {name: getattr(self.settings, name) for name in ("experiment", "seed", "precision")}
        return fingerprint(
            {
                **settings,
                **{key: self.config.get(key) for key in ("measurement", "measurements", "tables", "claims")},
                "models": {name: spec.key for name, spec in self.specs.items()},
                "sources": self.sources,
                "targets": self.targets,
                "attacks": [{"name": named.name, "attack": named.identity} for named in self.attacks],
                "test": self.data.test_checksum,
            }
        )


def prepare_experiment(config: Mapping[str, Any], cache: BuildCache | None = None) -> Experiment:
    """Check everything that `config` names; what is in `cache` already is not built again. What is quick to check comes
    first: settings, attacks and measurements before models, and these before their data are read.

    Raises ConfigError: one line, what, where, and what would be right.
    """
    known = [*Settings.__dataclass_fields__, *COMPONENTS, *REFERRED, *ABOVE]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key} is not a config key{did_you_mean(key, known)}")
    settings = construct(Settings, {k: v for k, v in config.items() if k in Settings.__dataclass_fields__}, where="")
    execution = settings.execution
    attacks = distinct([*attacks_of(config.get("suite"), "suite"), *attacks_of(config.get("attack"), "attack")])
    measurements = measurements_of(config)
    cache = BuildCache() if cache is None else cache
    specs = specs_of(config, settings, cache)
    data = load_data(config.get("dataset"), "dataset", cache)
    check_shapes(specs, data)
    aliases = aliases_of(specs)
    sources, targets = roles(specs, settings, aliases)
    check_measurements(measurements, config, sources, targets, attacks)
    asked = KnownNames(list(mapping(config.get("models"), "models")), aliases, attacks, list(measurements.values()))
    tables = asked.statements(Table, config.get("tables"), "tables")
    claims = asked.statements(Claim, config.get("claims"), "claims")
    specs = {name: spec for name, spec in specs.items() if aliases[name] == name}
    experiment = Experiment(
        settings, execution, dict(config), measurements, data, specs, sources, targets, attacks, tables, claims
    )
    check_unambiguous(experiment)
    return experiment


def check_unambiguous(experiment: Experiment) -> None:
    """ConfigError where a table or a claim asks about an error that two measurements have: it cannot say whose."""
    cells = {label: each.error_cells(experiment) for label, each in experiment.measurements.items()}
    for quantity in experiment.asked:
        found = [label for label, own in cells.items() if any(quantity.is_about(cell._asdict()) for cell in own)]
        if len(found) > 1:
            where = f"error({quantity.target} | {quantity.source}, {quantity.attack})"
            raise ConfigError(f"measurements: {listed(found)} all measure {where}: keep one of them")


def specs_of(config: Mapping[str, Any], settings: Settings, cache: BuildCache) -> dict[str, ModelSpec]:
    """Check the models that are sources or targets, by name."""
    given = {name: spec for name, spec in mapping(config.get("models"), "models").items() if spec is not None}
    chosen = [
        *known_models(settings.sources, list(given), "sources"),
        *known_models(settings.targets, list(given), "targets"),
    ]
    specs: dict[str, ModelSpec] = {}
    for name in given:
        if name in chosen:
            spec = mapping(given[name], f"models.{name}")
            places = {key: key for key in ("arch", "trainer", "dataset") if spec.get(key) == config.get(key)}
            specs[name] = build_spec(spec, f"models.{name}", cache, places)
    return specs


def check_shapes(specs: Mapping[str, ModelSpec], data: Data) -> None:
    """ConfigError unless every model takes the images of the experiment."""
    for name, spec in specs.items():
        if (spec.data.shape, spec.data.classes) != (data.shape, data.classes):
            raise ConfigError(f"models.{name}.dataset has other image shapes or classes than dataset")


def aliases_of(specs: Mapping[str, ModelSpec]) -> dict[str, str]:
    """Return the name under which each model is listed: equal ones are one model, under its first name."""
    first = {spec.key: name for name, spec in reversed(list(specs.items()))}
    aliases = {name: first[spec.key] for name, spec in specs.items()}
    for name in specs:
        if aliases[name] != name:
            log.info("model %s is the same as %s and is listed once", name, aliases[name])
    return aliases


def roles(
    specs: Mapping[str, ModelSpec], settings: Settings, aliases: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Return sources and targets by the names they are listed under, in the order of the models."""
    with_gradients = [name for name, spec in specs.items() if spec.differentiable]
    sources = with_gradients if settings.sources is None else settings.sources
    targets = list(specs) if settings.targets is None else settings.targets
    for name in sources:
        if name not in with_gradients:
            raise ConfigError(f"sources names {name!r}, which has no gradient to attack: it can be a target alone")
    ordered = [list(dict.fromkeys(aliases[name] for name in specs if name in chosen)) for chosen in (sources, targets)]
    return ordered[0], ordered[1]


def measurements_of(config: Mapping[str, Any]) -> dict[str, Measurement]:
    """Return what is measured by the name that its rows carry: `measurement`, and those of `measurements`."""
    first = config.get("measurement")
    found: dict[str, Measurement] = {}
    if first is not None:
        measurement = build(MEASUREMENTS, first, where="measurement")
        found[str(mapping(first, "measurement")["name"])] = measurement
    for name, spec in mapping(config.get("measurements") or {}, "measurements").items():
        if spec is not None:
            if name in (*found, "clean"):
                raise ConfigError(f"measurements.{name}: the name {name} is taken: call it something else")
            found[name] = build(MEASUREMENTS, spec, where=under("measurements", name))
    if not found:
        raise ConfigError(f"measurement is missing: choose one of {listed(MEASUREMENTS)}")
    return found


def check_measurements(
    measurements: Mapping[str, Measurement],
    config: Mapping[str, Any],
    sources: Sequence[str],
    targets: Sequence[str],
    attacks: Sequence[NamedAttack],
) -> None:
    """ConfigError unless every measurement can be done on these models and attacks."""
    for name, measurement in measurements.items():
        where = under("measurements", name) if name in (config.get("measurements") or {}) else "measurement"
        try:
            measurement.check(sources, targets, [named.name for named in attacks])
        except ValueError as error:
            raise ConfigError(under(where, str(error))) from None


def attacks_of(specs: object, where: str) -> Iterator[NamedAttack]:
    """Yield the attacks of a suite {name: spec}, one for each of a spec's eps values."""
    for name, spec in mapping(specs or {}, where).items():
        if spec is None:
            continue
        key = where if where == "attack" else under(where, name)  # the one attack's fields stand at attack.*
        fields = dict(mapping(spec, key))
        values = fields.get("eps")
        for eps in values if isinstance(values, list) else [values]:
            yield NamedAttack(name, build(ATTACKS, {**fields, "eps": eps}, where=key))


def distinct(attacks: Sequence[NamedAttack]) -> list[NamedAttack]:
    """Return each attack once; two different ones may not carry the same name and eps."""
    found: dict[tuple[str, float], NamedAttack] = {}
    for named in attacks:
        other = found.setdefault((named.name, named.attack.eps), named)
        if other != named:
            raise ConfigError(f"attack {named.name} at eps {named.attack.eps:g} is set twice, differently: rename one")
    if "clean" in (named.name for named in attacks):
        raise ConfigError("suite.clean: the name clean is taken by the rows without an attack")
    return list(found.values())


def known_models(names: list[str] | None, known: list[str], where: str) -> list[str]:
    """Return the models that a list names, all of them for null."""
    for name in names or []:
        if name not in known:
            raise ConfigError(f"{where} names {name!r}{did_you_mean(name, known)}: the models are {listed(known)}")
    return known if names is None else names


@dataclass(frozen=True)
class KnownNames:
    """Names that tables and claims may use."""

    models: list[str]
    """by the names of the config"""
    aliases: Mapping[str, str]
    """the names that these models have in the results"""
    attacks: Sequence[NamedAttack]
    measurements: Sequence[Measurement]

    def statements(self, kind: type[Statement], specs: object, where: str) -> dict[str, Statement]:
        """Check all tables or all claims of a config; their models get the names that the results have."""
        found = {}
        for name, spec in mapping(specs or {}, where).items():
            if spec is not None:
                statement = construct(kind, spec, where=under(where, name))
                absent = {self.check(quantity, under(where, name)) for quantity in statement.quantities}
                for what in sorted(absent - {""}):
                    log.warning("%s asks about %s, which this run does not have", under(where, name), what)
                found[name] = statement.renamed(self.aliases)
        return found

    def check(self, quantity: Quantity, where: str) -> str:
        """ConfigError for an unknown model or an eps that is not clear; the attack that the run lacks, if it does."""
        for name in (quantity.target, quantity.source):
            if name not in self.models:
                known = f"the models are {listed(self.models)}"
                raise ConfigError(f"{where} asks about {name!r}{did_you_mean(name, self.models)}: {known}")
        if any(quantity.attack in measurement.makes for measurement in self.measurements):
            return ""
        names, eps = [named.name for named in self.attacks], dict(quantity.conditions).get("eps")
        values = [named.attack.eps for named in self.attacks if named.name == quantity.attack]
        if len(values) > 1 and eps is None:
            which = ", ".join(f"eps={value:g}" for value in values)
            raise ConfigError(f"{where} asks about {quantity.attack} without saying which eps: one of {which}")
        if not values:
            return f"attack {quantity.attack}{did_you_mean(quantity.attack, names)}"
        known_eps = eps is None or any(abs(eps - value) < 1e-9 for value in values)
        return "" if known_eps else f"attack {quantity.attack} at eps {eps:g}"
