"""Check before anything is trained that an experiment will have the rows that its config's statements ask about."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from epsball.build import ConfigError, listed
from epsball.experiment.grid import as_text
from epsball.experiment.statements import Statements
from epsball.measurements.measurement import Cell, Further, Measurement, Scope, grid_columns
from epsball.paper.expressions import ANY, Quantity, is_equal
from epsball.paper.objective import Objective
from epsball.results.metrics import ERROR_METRICS, METRICS
from epsball.results.rows import FURTHER, MEASURED

BINS = ("bin_low", "bin_high")


@dataclass(frozen=True)
class Expected:
    """The rows that an experiment's measurements will have."""

    scope: Scope
    measurements: Mapping[str, Measurement]
    """by the name that their rows carry"""

    @cached_property
    def cells(self) -> dict[str, list[Cell]]:
        """Return the cells with an error that each measurement will have."""
        return {label: list(each.error_cells(self.scope)) for label, each in self.measurements.items()}

    @cached_property
    def clean(self) -> list[str]:
        """Return the models that will have a row on clean images."""
        every = self.measurements.values()
        return list(dict.fromkeys(name for each in every for name in each.clean_models(self.scope)))

    def check(self, statements: Statements) -> None:
        """ConfigError where a table, a claim, the objective or a point of a figure is about several rows of a seed, or
        asks for a step, an epoch or the like that no row will have."""
        for where, statement in statements.named():
            for quantity in statement.single:
                self.check_quantity(quantity, statement.drawn, where)

    def holes(self, statements: Statements) -> Iterator[str]:
        """Yield a line for each statement that asks for errors that no row will have, though their models exist."""
        for where, statement in statements.named():
            stated = [one for one in statement.single if one.metric in ERROR_METRICS]
            known = [one for one in stated if {one.target, one.source} <= {*self.scope.sources, *self.scope.targets}]
            open_ones = [one for one in known if not self.has(one)]
            if open_ones:
                few = f"{where}: {len(open_ones)} of {len(stated)} numbers will not be measured, such as"
                yield f"{few} {open_ones[0].text}: measurement, sources and targets say what is"

    def has(self, quantity: Quantity) -> bool:
        """Whether a row will have an error, on the data, of the measurement and at the eps that are said."""
        said = {"dataset": ANY, "measurement": ANY, "eps": ANY, **dict(quantity.conditions)}
        grid = grid_columns(self.scope, quantity.source, quantity.target)
        own = {"dataset": self.scope.dataset, **{column: grid.get(column) for column in said if column not in MEASURED}}
        if not all(is_equal(value, said[column]) for column, value in own.items()):
            return False
        if quantity.attack == "clean":
            return quantity.target == quantity.source and quantity.target in self.clean
        for label, cells in self.cells.items():
            if is_equal(label, said["measurement"]):
                made = not cells and quantity.attack in self.measurements[label].makes  # of no attack of the config
                if made or any(is_of(cell, quantity) and is_equal(cell.eps, said["eps"]) for cell in cells):
                    return True
        return False

    def check_quantity(self, quantity: Quantity, drawn: Collection[str], where: str) -> None:
        """Check one quantity as `check` does; in the columns `drawn` a statement has all that there is."""
        said = {**dict(quantity.conditions), **dict.fromkeys(drawn, ANY)}
        every = [
            (label, further)
            for label, measurement in self.measurements.items()
            if is_equal(label, said.get("measurement", ANY))
            for further in rows_of(measurement, quantity, self.cells[label])
        ]
        found = [(label, further) for label, further in every if fits(further, said)]
        labels = list(dict.fromkeys(label for label, _ in found))
        if len(labels) > 1:
            said_whose = f"keep one of them, or say measurement={labels[0]}"
            raise ConfigError(f"measurements: {listed(labels)} all measure {quantity.text}: {said_whose}")
        if choice := open_choice([further for _, further in found], said):
            raise ConfigError(f"{where} asks about {quantity.text}, which has several rows: say which, as in {choice}")
        if every and not found:
            wrong = unknown_values([further for _, further in every], said)
            raise ConfigError(f"{where} asks about {quantity.text} at {wrong}")


def check_measured(objective: Objective, experiments: Sequence[Expected]) -> None:
    """ConfigError where the objective is of an error that no experiment has. Other metrics are known when measured."""
    for quantity in objective.single:
        if quantity.metric in ERROR_METRICS and not any(one.has(quantity) for one in experiments):
            measured = "which is not measured: see measurement, sources and targets"
            raise ConfigError(f"objective asks about {quantity.text}, {measured}")


def rows_of(measurement: Measurement, quantity: Quantity, cells: Sequence[Cell]) -> Iterator[Further]:
    """Yield the further columns of the rows that a measurement, of which these `cells` have an error, will have of a
    quantity's metric and cell."""
    metric = METRICS[quantity.metric]
    bins = dict.fromkeys(BINS) if metric.binned else {}
    further = [{**own, **bins} for own in measurement.further(metric.name, quantity.target == quantity.source)]
    if metric.name not in ERROR_METRICS:
        yield from further if metric.name in measurement.metrics else ()
    elif quantity.attack != "clean":
        for cell in cells:
            if is_of(cell, quantity):
                yield from ({"eps": (cell.eps,), **own} for own in further)


def is_of(cell: Cell, quantity: Quantity) -> bool:
    """Whether a quantity asks about a cell, at this or another eps."""
    return cell[:3] == (quantity.source, quantity.target, quantity.attack)


def fits(further: Further, said: Mapping[str, float | str]) -> bool:
    """Whether rows with such columns can have what is said of them."""
    for column, value in said.items():
        values = further.get(column, () if column in FURTHER else None)
        if values is not None and value != ANY and not any(is_equal(known, value) for known in values):
            return False
    return True


def open_choice(found: Sequence[Further], said: Collection[str]) -> str | None:
    """Return an example of what has to be said, too, so that one row is meant; None where one is. Of columns whose
    values are not known one is enough: an epoch's row has its step, too."""
    for further in found:
        unknown = [column for column, values in further.items() if values is None]
        if unknown and not any(column in said for column in unknown):
            return f"{unknown[0]}=..."
    columns = dict.fromkeys(column for further in found for column in further if column not in said)
    for column in columns:
        values = [value for further in found for value in further.get(column) or ()]
        if len(set(values)) > 1 or 0 < len(values) < len(found):
            return f"{column}={as_text(values[0])}"
    return None


def unknown_values(every: Sequence[Further], said: Mapping[str, float | str]) -> str:
    """Say what no row will have, and what rows will have there."""
    columns = [column for column in said if column in FURTHER or any(column in further for further in every)]
    for column in columns:
        known = dict.fromkeys(value for further in every for value in further.get(column) or ())
        if not any(is_equal(value, said[column]) for value in known):
            there = f"there are {listed(map(as_text, known))}" if known else f"its rows have no {column}"
            return f"{column}={as_text(said[column])}: {there}"
    return " and ".join(f"{column}={as_text(said[column])}" for column in columns) + ", which no row has"
