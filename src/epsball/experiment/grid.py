"""Grids: a base spec and lists of values become named models, on plain dicts, before anything is built.

    grid:
      natural:
        model: {dataset: ..., arch: ..., trainer: ..., seed: ...}    a whole spec, or the name of one of `models`
        values: {width: [1, 2]}                                      or {label: value}
        keys: {width: arch.width}                                    or a list of keys: each gets the value

makes the models natural_width_1 and natural_width_2. Several columns make their product: natural_width_1_depth_2.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from epsball.build import ConfigError, construct, did_you_mean, fraction_hint, is_word, listed, mapping, under
from epsball.paper.expressions import Quantity, is_equal
from epsball.results.metrics import METRICS
from epsball.results.rows import COLUMNS, FURTHER, SECONDS

Config = Mapping[str, Any]
Value = int | float | str

COLLECTED = ("run", "experiment", "job")
"""columns that a collector of many runs puts before a row's own"""


@dataclass(frozen=True)
class Grid:
    """A grid as the config has it."""

    model: str | dict[str, Any]
    """the base spec, or the name of a model that has it"""
    values: dict[str, Any]
    """by column: a list, or a mapping of labels to values"""
    keys: dict[str, str | list[str]]
    """by column: where in the spec the value goes"""

    def places(self, column: str) -> list[str]:
        keys = self.keys[column]
        return [keys] if isinstance(keys, str) else keys


@dataclass(frozen=True)
class GridModel:
    """Where a model stands in its grid."""

    grid: str
    labels: Mapping[str, str]
    """by column, what stands for the value in the model's name"""
    values: Mapping[str, Value]
    """by column, as rows carry them"""


def expand_grids(config: Config) -> tuple[dict[str, Any], dict[str, GridModel]]:
    """Return the config with its grids' models behind those that it lists, and where each of these stands in its grid.

    What `models` says of a grid's model already is laid over its spec; null leaves the model out, but not its place:
    statements about it stay open. Raises ConfigError.
    """
    grids = {name: fields for name, fields in mapping(config.get("grid") or {}, "grid").items() if fields is not None}
    if not grids:
        return dict(config), {}
    said = mapping(config.get("models") or {}, "models")
    places: dict[str, GridModel] = {}
    made: dict[str, Any] = {}
    for name, fields in grids.items():
        for model, place, spec in grid_models(name, fields, said):
            if model in (*made, *grids) or is_whole(said.get(model)):
                raise ConfigError(f"grid.{name} makes {model}, a name that is taken: call the grid something else")
            places[model], made[model] = place, laid_over(spec, said.get(model, {}))
    others = {name: spec for name, spec in said.items() if name not in made}
    refuse_strays(others, made)
    return {**config, "models": {**others, **made}}, places


def is_whole(spec: object) -> bool:
    """Whether it is a model of its own, not just some fields of one."""
    parts = spec if isinstance(spec, Mapping) else {}
    return {"dataset", "arch", "seed"} <= set(parts) and isinstance(parts["arch"], Mapping) and "name" in parts["arch"]


def refuse_strays(specs: Config, made: Config) -> None:
    """ConfigError for fields of a model that no grid makes."""
    for name, spec in specs.items():
        if isinstance(spec, Mapping) and not {"dataset", "seed"} & set(spec):
            known = [*made, *(other for other in specs if other != name)]
            raise ConfigError(f"models.{name} is no model{did_you_mean(name, known)}: the models are {listed(known)}")


def laid_over(below: Any, above: Any) -> Any:
    """Return `below` with the fields that `above` has, group by group; a component of another name takes its place."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if above.get("name", below.get("name")) != below.get("name"):
        return above
    return {**below, **{key: laid_over(below.get(key), value) for key, value in above.items()}}


def grid_models(name: str, fields: object, models: Config) -> Iterator[tuple[str, GridModel, Config]]:
    """Yield name, place and spec of each of a grid's models, the values of its last column changing first."""
    where = under("grid", name)
    grid: Grid = construct(Grid, fields, where=where)
    check_names(name, grid, models)
    base = base_of(grid, models, under(where, "model"))
    columns = {column: labelled(values, f"{where}.values.{column}") for column, values in grid.values.items()}
    for point in itertools.product(*(values.items() for values in columns.values())):
        labels = {column: label for column, (label, _) in zip(columns, point, strict=True)}
        values = {column: value for column, (_, value) in zip(columns, point, strict=True)}
        spec = base
        for column, value in values.items():
            for key in grid.places(column):
                spec = with_value(spec, key.split("."), value, f"{where}.keys.{column} is {key!r}")
        model = "_".join([name, *(f"{column}_{label}" for column, label in labels.items())])
        yield model, GridModel(name, labels, values), spec


def check_names(name: str, grid: Grid, models: Config) -> None:
    """ConfigError unless expressions can tell the grid from a model and rows its columns from their own."""
    where = under("grid", name)
    if not is_word(name) or models.get(name) is not None:
        raise ConfigError(f"{where} should have a name of letters, digits and _ that no model has, is {name!r}")
    if not grid.values or set(grid.values) != set(grid.keys):
        named = f"values has {listed(grid.values)}, keys has {listed(grid.keys)}"
        raise ConfigError(f"{where}: values and keys should name the same columns, at least one: {named}")
    for column in grid.values:
        if column in (*COLUMNS, SECONDS, *FURTHER, *COLLECTED, *METRICS):
            raise ConfigError(f"{where}.values.{column} is called like a column of results: call it something else")
        if not is_word(column):
            raise ConfigError(f"{where}.values.{column} should have a name of letters, digits and _, is {column!r}")
        if not grid.places(column):
            raise ConfigError(f"{where}.keys.{column} should be at least one key, is empty")


def base_of(grid: Grid, models: Config, where: str) -> Config:
    """Return the spec that a grid varies."""
    if not isinstance(grid.model, str):
        return grid.model
    known = [name for name, spec in models.items() if is_whole(spec)]
    if grid.model not in known:
        raise ConfigError(f"{where} names {grid.model!r}{did_you_mean(grid.model, known)}: models has {listed(known)}")
    return mapping(models[grid.model], where)


def labelled(values: object, where: str) -> dict[str, Value]:
    """Return a column's values by what stands for them in names."""
    if not isinstance(values, list | tuple | Mapping):
        raise ConfigError(f"{where} should be a list of numbers or texts, or {{label: value}}, is {values!r}")
    if not values:
        raise ConfigError(f"{where} should be at least one number or text, is empty")
    pairs = values.items() if isinstance(values, Mapping) else [(value, value) for value in values]
    found: dict[str, Value] = {}
    for named, value in pairs:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ConfigError(f"{where} should be numbers or texts, has {value!r}")
        label = label_of(named)
        if not re.fullmatch(r"[A-Za-z0-9_]+", label):
            hint = fraction_hint(value) or ": give it a label, {label: value}"
            raise ConfigError(f"{where} has {named!r}, which cannot be part of a name{hint}")
        if label in found:
            both = f"{found[label]!r} and {value!r}"
            raise ConfigError(f"{where} has {both}, both called {label}: give them labels, {{label: value}}")
        found[label] = value
    for label, value in found.items():
        other = found.get(label_of(value), value)
        if not is_equal(other, value):
            meant = f"{label_of(value)} is the label of {other!r} and the value of {label}"
            raise ConfigError(f"{where}: {meant}: an expression could mean either, call one something else")
    return found


def label_of(value: object) -> str:
    """Write a value so that it can be part of a name: 0.25 is 0_25."""
    return re.sub("[.+-]", "_", as_text(value))


def as_text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_value(spec: Config, path: Sequence[str], value: Value, said: str) -> dict[str, Any]:
    """Return a spec with a value at a place that it has, but for the last part of it: what builds it checks that."""
    first, *rest = path
    if rest and not isinstance(spec.get(first), Mapping):
        groups = [key for key, group in spec.items() if isinstance(group, Mapping)]
        raise ConfigError(f"{said}, but {first} is no group{did_you_mean(first, groups)}: there are {listed(groups)}")
    return {**spec, first: with_value(spec[first], rest, value, said) if rest else value}


def with_members(names: Sequence[str] | None, places: Mapping[str, GridModel]) -> list[str] | None:
    """Return a list of models for one in which a grid's name stands for all of its models."""
    if names is None:
        return None
    members: dict[str, list[str]] = {}
    for model, place in places.items():
        members.setdefault(place.grid, []).append(model)
    return [model for name in names for model in members.get(name, [name])]


def columns_of(places: Mapping[str, GridModel], aliases: Mapping[str, str]) -> dict[str, dict[str, Value]]:
    """Return the grid values of the models that are listed. One that stands for equal ones has the values of all, those
    of the first where they differ."""
    found: dict[str, dict[str, Value]] = {}
    for model, place in places.items():
        if model in aliases:
            own = found.setdefault(aliases[model], {})
            own.update({column: value for column, value in place.values.items() if column not in own})
    return found


def resolve(quantity: Quantity, places: Mapping[str, GridModel]) -> Quantity:
    """Return a quantity about models for one about grids: `error(natural | B, fgsm, width=2)` is of natural_width_2.

    ValueError, to stand behind the key of what asks, when its conditions do not choose one model.
    """
    conditions: dict[str, float | str] = dict(quantity.conditions)
    chosen: dict[str, str] = {}
    used: set[str] = set()
    for name in (quantity.target, *quantity.sources):
        members = {model: place for model, place in places.items() if place.grid == name}
        if members and name not in chosen:
            chosen[name] = choose_member(name, members, conditions)
            used |= set(places[chosen[name]].values)
    left = tuple((column, value) for column, value in quantity.conditions if column not in used)
    return replace(quantity, conditions=left).renamed(chosen)


def choose_member(name: str, members: Mapping[str, GridModel], conditions: Mapping[str, float | str]) -> str:
    """Return the one model of a grid that has these values."""
    columns: dict[str, dict[str, Value]] = {}
    for place in members.values():
        for column, label in place.labels.items():
            columns.setdefault(column, {})[label] = place.values[column]
    known = "; ".join(f"{column} is one of {listed(map(written, v, v.values()))}" for column, v in columns.items())
    absent = [column for column in columns if column not in conditions]
    if absent:
        raise ValueError(f"asks about {name} without saying {listed(absent)}: {known}")
    labels = {column: chosen_label(values, conditions[column]) for column, values in columns.items()}
    for model, place in members.items():
        if place.labels == labels:
            return model
    said = ", ".join(f"{column}={as_text(conditions[column])}" for column in columns)
    raise ValueError(f"asks about {name} at {said}: {known}")


def written(label: str, value: Value) -> str:
    """Write a value as an expression names it: by its label where the config gives it one."""
    return label if label != label_of(value) else as_text(value)


def chosen_label(values: Mapping[str, Value], said: float | str) -> str | None:
    """Return the label of the value that an expression names, by its label or as it is."""
    if label_of(said) in values:
        return label_of(said)
    return next((label for label, value in values.items() if is_equal(value, said)), None)
