"""A plain config becomes an Experiment, with everything it names checked.

Whatever is misspelt or out of range raises ConfigError here, before anything is trained or written.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from epsball.attacks import NamedAttack
from epsball.attacks.module import try_attack
from epsball.build import ConfigError, UnfitError, check_name, convert, did_you_mean, listed, mapping
from epsball.data.images import Data
from epsball.experiment.components import (
    attacks_of,
    check_measurements,
    distinct,
    measurements_of,
    with_files,
)
from epsball.experiment.expected import Expected, check_measured
from epsball.experiment.grid import GridModel, Value, columns_of, expand_grids, with_members
from epsball.experiment.settings import STATED, Settings, settings_of
from epsball.experiment.statements import KnownNames, Statements
from epsball.measurements.measurement import Measurement
from epsball.paper.expressions import Quantity
from epsball.results.given import GivenRows, read_given
from epsball.results.rows import MATRIX_LINE
from epsball.runtime.device import Execution
from epsball.runtime.distributed import processes
from epsball.runtime.store import fingerprint
from epsball.training.spec import BuildCache, ModelSpec, build_spec, load_data

COLUMNS_BESIDE = ("experiment", "job", "dataset", "measurement", *MATRIX_LINE)
"""columns of tables that are of no model: names that no model may have"""
ExpectedCell = tuple[str, str, str, str, str, float]  # as results.rows.KEY

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
    aliases: dict[str, str]
    """the names that models of the config have in the results, equal ones one name"""
    sources: list[str]
    targets: list[str]
    attacks: list[NamedAttack]
    statements: Statements
    asked: list[Quantity]
    """all quantities that its tables, claims, figures and objective ask about, and those of the whole run about it"""
    grid_values: dict[str, dict[str, Value]]
    """of its grids' models, the values by which they differ: columns of their rows"""
    places: dict[str, GridModel]
    """where each of these stands in its grid"""
    given: GivenRows
    """finished rows that the user gave"""

    @property
    def dataset(self) -> str:
        """Name of the data set, as rows carry it."""
        return self.data.name

    @cached_property
    def expected(self) -> Expected:
        """The rows that its measurements will have of each seed."""
        return Expected(self, self.measurements)

    @cached_property
    def cells(self) -> list[ExpectedCell]:
        """The cells with an error that it should have of each seed, clean ones first."""
        cells: list[ExpectedCell] = [(self.dataset, "clean", name, name, "clean", 0.0) for name in self.expected.clean]
        every = self.expected.cells.items()
        return cells + [(self.dataset, label, *cell) for label, own in every for cell in own]

    def behind(self, cell: ExpectedCell) -> tuple[object, ...]:
        """Return what a cell's names stand for here: models, attack and images."""
        _, label, source, target, attack, eps = cell
        models = [self.specs[name].key for name in (source, target) if name in self.specs]
        measurement = self.measurements.get(label)  # None: of clean images, all
        made_of = measurement and measurement.made_of(attack, eps, self.attacks)
        return models, made_of, self.data.test_checksum, measurement and measurement.images_of(attack)

    @cached_property
    def config_hash(self) -> str:
        """Names everything that can change a result: not the device, nor where files lie."""
        settings = {name: getattr(self.settings, name) for name in ("experiment", "seed", "precision")}
        return fingerprint(
            {
                **settings,
                **{key: self.config.get(key) for key in ("measurement", "measurements", *STATED)},
                "models": {name: spec.key for name, spec in self.specs.items()},
                "sources": self.sources,
                "targets": self.targets,
                "attacks": [{"name": named.name, "attack": named.identity} for named in self.attacks],
                "test": self.data.test_checksum,
                **({"grid": self.grid_values} if self.grid_values else {}),
                **({"objective": objective} if (objective := self.config.get("objective")) else {}),
            }
        )


def prepare_experiment(
    config: Mapping[str, Any], cache: BuildCache | None = None, apart: Collection[str] = ()
) -> Experiment:
    """Check everything that `config` names; what is in `cache` already is not built or read again. What is quick to
    check comes first: settings, attacks and measurements before models, and these before their data are read. The
    models `apart` are listed under their own names, whatever they are equal to.

    Raises ConfigError: one line, what, where, and what would be right.
    """
    settings = settings_of(config)
    check_workers(settings.workers)
    execution = settings.execution
    composed, (config, places) = dict(config), expand_grids(config)
    made = {name: place for name, place in places.items() if config["models"][name] is not None}
    lists = (without_left_out(names, config.get("models")) for names in (settings.sources, settings.targets))
    sources, targets = (with_members(names, made) for names in lists)
    settings = replace(settings, sources=sources, targets=targets)
    attacks = distinct([*attacks_of(config.get("suite"), "suite"), *attacks_of(config.get("attack"), "attack")])
    measurements = measurements_of(config)
    cache = BuildCache() if cache is None else cache
    specs = specs_of(config, settings, cache)
    data = load_data(config.get("dataset"), "dataset", cache)
    check_shapes(specs, data)
    for named in attacks:
        try_attack(named.attack, data.shape, len(data.classes), where=f"attack {named.name}")
    aliases = aliases_of(specs, apart)
    crafted_on, shown_to = roles(specs, settings, aliases)
    members = {name: specs[name].members for name in shown_to if specs[name].differentiable}
    check_measurements(measurements, config, crafted_on, shown_to, attacks, members)
    measurements = with_files(measurements, config, data)
    names = KnownNames(known_to_statements(config, specs), aliases, attacks, measurements, {data.name}, places)
    statements = names.statements_of(config)
    if cache.given is None:
        cache.given = read_given(settings.rows)
    experiment = Experiment(
        settings=settings,
        execution=execution,
        config=composed,
        measurements=measurements,
        data=data,
        specs={name: spec for name, spec in specs.items() if aliases[name] == name},
        aliases=aliases,
        sources=crafted_on,
        targets=shown_to,
        attacks=attacks,
        statements=statements,
        asked=statements.quantities,
        grid_values=columns_of(places, aliases),
        places=places,
        given=cache.given,
    )
    experiment.expected.check(statements)
    if statements.objective:
        check_measured(statements.objective, [experiment.expected])
    return experiment


def specs_of(config: Mapping[str, Any], settings: Settings, cache: BuildCache) -> dict[str, ModelSpec]:
    """Check the models that are sources or targets, by name."""
    given = {name: spec for name, spec in mapping(config.get("models"), "models").items() if spec is not None}
    grids = list(config.get("grid") or {})
    chosen = [
        *known_models(settings.sources, list(given), grids, "sources"),
        *known_models(settings.targets, list(given), grids, "targets"),
    ]
    if not chosen:
        raise ConfigError("models should be at least one model, is empty: models=companions, models=alone or a paper")
    specs: dict[str, ModelSpec] = {}
    for name in given:
        if name in chosen:
            check_name(name, f"models.{name}")
            if name in COLUMNS_BESIDE:
                raise ConfigError(f"models.{name}: tables have a column {name}: call the model something else")
            spec = dict(mapping(given[name], f"models.{name}"))
            optional = convert(spec.pop("optional", False), bool, f"models.{name}.optional")
            places = {key: key for key in ("arch", "trainer", "dataset") if spec.get(key) == config.get(key)}
            try:
                specs[name] = build_spec(spec, f"models.{name}", cache, places)
            except UnfitError as error:
                if name in (*(settings.sources or []), *(settings.targets or [])):
                    raise
                if not optional:
                    leave = "" if "arch" in places else f", or leave the model out with models.{name}=null"
                    raise UnfitError(f"{error}{leave}") from None
                log.info("model %s is left out: %s", name, error)
    return specs


def known_to_statements(config: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> list[str]:
    """Return the models that tables and claims may ask about: all of the config but those that were left out."""
    models = mapping(config.get("models"), "models")
    return [name for name, spec in models.items() if name in specs or not (spec and spec.get("optional"))]


def check_workers(workers: int) -> None:
    """ConfigError where each process of a job would start processes of its own."""
    if workers > 1 and processes() > 1:
        raise ConfigError(f"workers should be 1 in a torchrun job, whose {processes()} processes share the work")


def check_shapes(specs: Mapping[str, ModelSpec], data: Data) -> None:
    """ConfigError unless every model takes the images of the experiment."""
    for name, spec in specs.items():
        if (spec.data.shape, spec.data.classes) != (data.shape, data.classes):
            raise ConfigError(f"models.{name}.dataset has other image shapes or classes than dataset")


def aliases_of(specs: Mapping[str, ModelSpec], apart: Collection[str]) -> dict[str, str]:
    """Return the name under which each model is listed: equal ones are one model, under its first name; but for those
    that are to be `apart`."""
    first = {spec.key: name for name, spec in reversed(list(specs.items())) if name not in apart}
    return {name: name if name in apart else first[spec.key] for name, spec in specs.items()}


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


def without_left_out(names: list[str] | None, models: object) -> list[str] | None:
    """Return a list of models without those that are null in the config, as a paper's is where one is left out; as it
    is where that leaves none."""
    known = models if isinstance(models, Mapping) else {}
    return [name for name in names or [] if known.get(name, name) is not None] or names


def known_models(names: list[str] | None, known: list[str], grids: list[str], where: str) -> list[str]:
    """Return the models that a list names, all of them for null; a wrong name may be meant to be a grid's."""
    for name in names or []:
        if name not in known:
            meant = did_you_mean(name, [*known, *grids])
            raise ConfigError(f"{where} names {name!r}{meant}: the models are {listed(known)}")
    return known if names is None else names
