"""Attacks and measurements that a config names, checked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from epsball.attacks import ATTACKS, NamedAttack
from epsball.build import ConfigError, build, check_name, is_word, listed, mapping, naming_key, under
from epsball.data.images import Data
from epsball.measurements import MEASUREMENTS
from epsball.measurements.measurement import Measurement
from epsball.results.metrics import METRICS
from epsball.results.rows import FURTHER, KEY


def measurements_of(config: Mapping[str, Any]) -> dict[str, Measurement]:
    """Return what is measured by the name that its rows carry: `measurement`, and those of `measurements`."""
    first = config.get("measurement")
    found: dict[str, Measurement] = {}
    if first is not None:
        measurement = build(MEASUREMENTS, first, where="measurement")
        check_listed(measurement, "measurement")
        found[str(mapping(first, "measurement")["name"])] = measurement
    for name, spec in mapping(config.get("measurements") or {}, "measurements").items():
        if spec is not None:
            check_name(name, under("measurements", name))
            if name in (*found, "clean"):
                raise ConfigError(f"measurements.{name}: the name {name} is taken: call it something else")
            found[name] = build(MEASUREMENTS, spec, where=under("measurements", name))
            check_listed(found[name], under("measurements", name))
    if not found:
        raise ConfigError(f"measurement is missing: choose one of {listed(MEASUREMENTS)}")
    return found


def check_listed(measurement: Measurement, where: str) -> None:
    """ConfigError where a measurement has a metric or a further column that no list has: rows that are given, tables
    and means over seeds would know nothing of it."""
    kind = type(measurement).__name__
    for metric in measurement.metrics:
        if metric not in METRICS:
            raise ConfigError(f"{where}: {kind} has the metric {metric}, which results/metrics.py should list")
        for white_box in (True, False):
            for column in (column for each in measurement.further(metric, white_box) for column in each):
                if column not in (*KEY, *FURTHER):
                    raise ConfigError(f"{where}: {kind} has the column {column}, which results/rows.py should list")


def check_measurements(
    measurements: Mapping[str, Measurement],
    config: Mapping[str, Any],
    sources: Sequence[str],
    targets: Sequence[str],
    attacks: Sequence[NamedAttack],
    members: Mapping[str, int],
) -> None:
    """ConfigError unless every measurement can be done on these models and attacks, and on so many `members` of each
    target that has gradients."""
    for name, measurement in measurements.items():
        with naming_key(key_of_measurement(name, config)):
            measurement.check(sources, targets, attacks)
            measurement.check_members(members)


def with_files(
    measurements: Mapping[str, Measurement], config: Mapping[str, Any], data: Data
) -> dict[str, Measurement]:
    """Return the measurements with the files that they name. ConfigError where one does not fit the images."""
    found = {}
    for name, measurement in measurements.items():
        with naming_key(key_of_measurement(name, config)):
            found[name] = measurement.read(data)
    return found


def key_of_measurement(name: str, config: Mapping[str, Any]) -> str:
    """Return the config key of the measurement whose rows carry that name."""
    return under("measurements", name) if name in (config.get("measurements") or {}) else "measurement"


def attacks_of(specs: object, where: str) -> Iterator[NamedAttack]:
    """Yield the attacks of a suite {name: spec}, one for each of a spec's eps values."""
    for name, spec in mapping(specs or {}, where).items():
        if spec is None:
            continue
        check_name(name, under(where, name))
        if not is_word(name):
            letters = "letters, digits and _, not beginning with a digit"
            raise ConfigError(
                f"{under(where, name)} should have a name of {letters}: error(A | A, {name}) asks about it"
            )
        key = where if where == "attack" else under(where, name)  # the one attack's fields stand at attack.*
        fields = dict(mapping(spec, key))
        values = fields.get("eps")
        if values == []:
            raise ConfigError(f"{key}.eps should be at least one number, is empty")
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
