"""What a config states of its results, checked: tables, claims, figures and an objective, over models and attacks that
there are."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from epsball.attacks import NamedAttack
from epsball.build import ConfigError, construct, convert, did_you_mean, listed, mapping, under
from epsball.experiment.grid import GridModel, resolve
from epsball.measurements.measurement import Measurement
from epsball.paper.claims import Claim, Conclusion
from epsball.paper.expressions import ANY, Quantity, is_equal
from epsball.paper.figures import Figure
from epsball.paper.objective import Objective
from epsball.paper.tables import Table

Statement = TypeVar("Statement", Claim, Table, Figure, Objective)

STATED = ("tables", "claims", "figures")
"""config keys of what is stated"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Statements:
    """Tables, claims and figures by name, and the number that is given back."""

    tables: dict[str, Table] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    objective: Objective | None = None
    conclusion: Conclusion | None = None
    """of the claims"""

    @property
    def quantities(self) -> list[Quantity]:
        """Return all that they ask about."""
        every: list[Table | Claim | Figure | Objective]
        every = [*self.tables.values(), *self.claims.values(), *self.figures.values()]
        every += [self.objective] if self.objective else []
        return [quantity for statement in every for quantity in statement.quantities]


@dataclass(frozen=True)
class KnownNames:
    """Names that tables, claims and figures may use."""

    models: list[str]
    """by the names of the config"""
    aliases: Mapping[str, str]
    """the names that these models have in the results"""
    attacks: Sequence[NamedAttack]
    measurements: Mapping[str, Measurement]
    grids: Mapping[str, GridModel] = field(default_factory=dict)
    """the models of grids, which may be named by their grid and values"""

    def statements_of(self, config: Mapping[str, Any]) -> Statements:
        """Check all that a config states."""
        for name in mapping(config.get("figures") or {}, "figures"):
            if not re.fullmatch(r"[\w-]+", name):
                raise ConfigError(f"figures.{name} should have a name of letters, digits, _ and -: it names a file")
        return Statements(
            tables=self.checked(Table, config.get("tables"), "tables"),
            claims=self.checked(Claim, config.get("claims"), "claims"),
            figures=self.checked(Figure, config.get("figures"), "figures"),
            objective=self.objective_of(config.get("objective")),
            conclusion=conclusion_of(config.get("conclusion")),
        )

    def checked(self, kind: type[Statement], specs: object, where: str) -> dict[str, Statement]:
        """Check all tables, claims or figures of a config; their models get the names that the results have."""
        found = {}
        for name, spec in mapping(specs or {}, where).items():
            if spec is not None:
                statement = construct(kind, spec, where=under(where, name))
                statement = self.with_members(statement, under(where, name))
                every = [one for quantity in statement.quantities for one in quantity.single]
                absent = {self.check(quantity, under(where, name)) for quantity in every}
                for what in sorted(absent - {""}):
                    log.warning("%s asks about %s, which this run does not have", under(where, name), what)
                found[name] = statement.mapped(lambda quantity: quantity.renamed(self.aliases))
        return found

    def objective_of(self, expression: object) -> Objective | None:
        """Check the expression of a config's objective, if it has one."""
        if expression is None:
            return None
        try:
            objective = Objective(convert(expression, str, "objective"))
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"objective: {error}") from None
        objective = self.with_members(objective, "objective")
        for one in (one for quantity in objective.quantities for one in quantity.single):
            if absent := self.check(one, "objective"):
                raise ConfigError(f"objective asks about {absent}, which this run does not have")
        return objective.mapped(lambda quantity: quantity.renamed(self.aliases))

    def with_members(self, statement: Statement, where: str) -> Statement:
        """Return a statement about models for one about grids. ConfigError where it does not say which of theirs."""
        if isinstance(statement, Figure) and statement.values is None:
            values = [place.values[statement.x] for place in self.grids.values() if statement.x in place.values]
            statement = replace(statement, values=list(dict.fromkeys(values)) or None)
        try:
            for quantity in statement.quantities:
                resolve(quantity, self.grids)
        except ValueError as error:
            raise ConfigError(f"{where} {error}") from None
        return statement.mapped(partial(resolve, places=self.grids))

    def check(self, quantity: Quantity, where: str) -> str:
        """ConfigError for an unknown model or measurement or an eps that is not clear; the attack that the run lacks,
        if it does."""
        conditions = dict(quantity.conditions)
        measurement = conditions.get("measurement", "clean")
        if measurement not in ("clean", *self.measurements):
            near = did_you_mean(str(measurement), self.measurements)
            raise ConfigError(
                f"{where} asks about measurement={measurement}{near}: there are {listed(self.measurements)}"
            )
        others = [source for each in self.measurements.values() for source in each.other_sources]
        for name, known in ((quantity.target, self.models), (quantity.source, [*self.models, *others])):
            if name not in known:
                meant = did_you_mean(name, [*self.models, *(place.grid for place in self.grids.values())])
                raise ConfigError(f"{where} asks about {name!r}{meant}: the models are {listed(self.models)}")
        if any(quantity.attack in measurement.makes for measurement in self.measurements.values()):
            return ""
        names, eps = [named.name for named in self.attacks], conditions.get("eps")
        if isinstance(eps, str) and eps != ANY:
            raise ConfigError(f"{where} asks about eps={eps}: it should be a number")
        values = [named.attack.eps for named in self.attacks if named.name == quantity.attack]
        if len(values) > 1 and eps is None:
            which = ", ".join(f"eps={value:g}" for value in values)
            raise ConfigError(f"{where} asks about {quantity.attack} without saying which eps: one of {which}")
        if not values:
            return f"attack {quantity.attack}{did_you_mean(quantity.attack, names)}"
        known_eps = eps is None or any(is_equal(value, eps) for value in values)
        return "" if known_eps else f"attack {quantity.attack} at eps {float(str(eps)):g}"


def conclusion_of(texts: object) -> Conclusion | None:
    """Check what a config concludes of its claims, if it does."""
    conclusion: Conclusion | None = None if texts is None else construct(Conclusion, texts, where="conclusion")
    return conclusion
