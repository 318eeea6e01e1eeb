"""What a config states of its results, checked: tables, claims, figures and an objective, over models and attacks that
there are."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from epsball.attacks import NamedAttack
from epsball.build import ConfigError, check_name, construct, convert, did_you_mean, listed, mapping, naming_key, under
from epsball.experiment.grid import GridModel, resolve
from epsball.experiment.settings import STATED
from epsball.measurements import MEASUREMENTS
from epsball.measurements.measurement import Measurement
from epsball.paper.claims import Claim, Conclusion
from epsball.paper.expressions import ANY, Quantity, is_equal
from epsball.paper.figures import Figure
from epsball.paper.objective import Objective
from epsball.paper.statement import Statement
from epsball.paper.tables import Table
from epsball.results.metrics import ERROR_METRICS, METRICS, Metric
from epsball.results.rows import FURTHER, KEY

Kind = TypeVar("Kind", bound=Statement)


@dataclass(frozen=True)
class Statements:
    """Tables, claims and figures by name, and the number that is given back."""

    tables: dict[str, Table] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    objective: Objective | None = None
    conclusion: Conclusion | None = None
    """of the claims"""

    def named(self) -> Iterator[tuple[str, Statement]]:
        """Yield all of them, each with its place in the config."""
        for key in STATED:
            for name, statement in getattr(self, key).items():
                yield under(key, name), statement
        if self.objective:
            yield "objective", self.objective

    @property
    def quantities(self) -> list[Quantity]:
        """Return all that they ask about."""
        return [quantity for _, statement in self.named() for quantity in statement.quantities]


@dataclass(frozen=True)
class KnownNames:
    """Names that tables, claims and figures may use."""

    models: list[str]
    """by the names of the config"""
    aliases: Mapping[str, str]
    """the names that these models have in the results"""
    attacks: Sequence[NamedAttack]
    measurements: Mapping[str, Measurement]
    datasets: Collection[str]
    """as rows call them"""
    grids: Mapping[str, GridModel] = field(default_factory=dict)
    """the models of grids, which may be named by their grid and values"""

    def statements_of(self, config: Mapping[str, Any]) -> Statements:
        """Check all that a config states."""
        for name in mapping(config.get("figures") or {}, "figures"):
            check_name(name, f"figures.{name}")
        return Statements(
            tables=self.checked(Table, config.get("tables"), "tables"),
            claims=self.checked(Claim, config.get("claims"), "claims"),
            figures=self.checked(Figure, config.get("figures"), "figures"),
            objective=self.objective_of(config.get("objective")),
            conclusion=conclusion_of(config.get("conclusion")),
        )

    def checked(self, kind: type[Kind], specs: object, where: str) -> dict[str, Kind]:
        """Check all tables, claims or figures of a config; their models get the names that the results have."""
        found = {}
        for name, spec in mapping(specs or {}, where).items():
            if spec is not None:
                at = under(where, name)
                found[name] = self.resolved(construct(kind, spec, where=at), at)
        return found

    def objective_of(self, expression: object) -> Objective | None:
        """Check the expression of a config's objective, if it has one."""
        if expression is None:
            return None
        text = convert(expression, str, "objective")
        try:
            objective = Objective(text)
        except ValueError as error:
            raise ConfigError(f"objective: {error}") from None
        return self.resolved(objective, "objective")

    def resolved(self, statement: Kind, where: str) -> Kind:
        """Check all that a statement asks about; return it with the names that models have in the results."""
        statement = self.with_members(statement, where)
        for one in statement.single:
            self.check(one, where)
        return statement.mapped(lambda quantity: quantity.renamed(self.aliases))

    def with_members(self, statement: Kind, where: str) -> Kind:
        """Return a statement about models for one about grids. ConfigError where it does not say which of theirs."""
        if isinstance(statement, Figure) and statement.values is None and statement.kind != "histogram":
            named = {name for quantity in statement.quantities for name in (quantity.target, *quantity.sources)}
            places = [place for model, place in self.grids.items() if {model, place.grid} & named]
            values = dict.fromkeys(place.values[statement.x] for place in places if statement.x in place.values)
            with naming_key(where):
                statement = replace(statement, values=list(values) or None)
        try:
            for quantity in statement.quantities:
                resolve(quantity, self.grids)
        except ValueError as error:
            raise ConfigError(f"{where} {error}") from None
        return statement.mapped(partial(resolve, places=self.grids))

    def check(self, quantity: Quantity, where: str) -> None:
        """ConfigError for a model, metric, measurement, attack, eps or column that the results will not have."""
        conditions = dict(quantity.conditions)
        self.check_columns(conditions, where)
        others = [source for each in self.measurements.values() for source in each.other_sources]
        for name, known in ((quantity.target, self.models), (quantity.source, [*self.models, *others])):
            if name not in known:
                meant = did_you_mean(name, [*self.models, *(place.grid for place in self.grids.values())])
                raise ConfigError(f"{where} asks about {name!r}{meant}: the models are {listed(self.models)}")
        self.check_metric(METRICS[quantity.metric], where)
        eps = conditions.get("eps", ANY)
        if quantity.attack == "clean" and quantity.metric in ERROR_METRICS and eps not in (0, ANY):
            asked = f"{quantity.target} on clean images at eps={eps}"
            raise ConfigError(f"{where} asks about {asked}: name an attack, as in error(A | A, fgsm, eps={eps})")
        made = any(quantity.attack in measurement.makes for measurement in self.measurements.values())
        if quantity.attack != "clean" and not made:
            self.check_attack(quantity.attack, conditions.get("eps"), where)

    def check_metric(self, metric: Metric, where: str) -> None:
        """ConfigError for a metric that no measurement of this run has."""
        if metric.name in ERROR_METRICS or any(metric.name in each.metrics for each in self.measurements.values()):
            return
        name = next((name for name, kind in MEASUREMENTS.items() if metric.name in kind.metrics), None)
        message = f"{where} asks about {metric.short or metric.name}, which no measurement of this run has"
        if name is None:
            raise ConfigError(f"{message}, nor any other: the `metrics` of none names it")
        raise ConfigError(f"{message}: measurement={name} has, +measurement@measurements.{name}={name} beside others")

    def check_columns(self, conditions: Mapping[str, float | str], where: str) -> None:
        """ConfigError for a column that rows do not have, or a measurement or data set that this run does not have."""
        columns = [*KEY, *FURTHER, *(column for place in self.grids.values() for column in place.values)]
        for column in conditions:
            if column not in columns:
                known = listed(dict.fromkeys(columns))
                near = did_you_mean(column, columns)
                raise ConfigError(f"{where} asks about {column}={conditions[column]}{near}: the columns are {known}")
        measurements = ["clean", *self.measurements]
        for column, known_values in (("measurement", measurements), ("dataset", self.datasets)):
            value = conditions.get(column, ANY)
            if value not in (*known_values, ANY):
                near = did_you_mean(str(value), known_values)
                raise ConfigError(f"{where} asks about {column}={value}{near}: there are {listed(known_values)}")

    def check_attack(self, attack: str, eps: float | str | None, where: str) -> None:
        """ConfigError for an attack or an eps that this run does not have, or where it does not say which eps."""
        if isinstance(eps, str) and eps != ANY:
            raise ConfigError(f"{where} asks about eps={eps}: it should be a number")
        values = [named.attack.eps for named in self.attacks if named.name == attack]
        known = ", ".join(f"eps={value:.12g}" for value in values)
        if len(values) > 1 and eps is None:
            raise ConfigError(f"{where} asks about {attack} without saying which eps: one of {known}")
        if values and (eps is None or any(is_equal(value, eps) for value in values)):
            return
        names = list(dict.fromkeys(named.name for named in self.attacks))
        what = f"{attack} at {known}" if values else listed(names)
        asked = f"{attack} at eps={eps}" if values else f"attack {attack}{did_you_mean(attack, names)}"
        raise ConfigError(f"{where} asks about {asked}: this run has {what} ({where}=null leaves it out)")


def conclusion_of(texts: object) -> Conclusion | None:
    """Check what a config concludes of its claims, if it does."""
    conclusion: Conclusion | None = None if texts is None else construct(Conclusion, texts, where="conclusion")
    return conclusion
