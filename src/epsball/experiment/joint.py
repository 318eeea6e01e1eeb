"""The parts of one run, each with its seeds, and what is stated of them together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from epsball.build import ConfigError, naming_part
from epsball.experiment.expected import check_measured
from epsball.experiment.prepare import ExpectedCell, Experiment, prepare_experiment
from epsball.experiment.settings import folder_of_part
from epsball.experiment.statements import KnownNames, Statements
from epsball.paper.expressions import Quantity
from epsball.results.metrics import ERROR_METRICS
from epsball.results.rows import KEY
from epsball.training.spec import BuildCache


def prepare_parts(
    configs: Sequence[Sequence[Mapping[str, Any]]], whole: Mapping[str, Any]
) -> tuple[list[list[Experiment]], Statements]:
    """Check the configs of all parts and seeds, and what the `whole` run's config states of their results together.

    What the latter asks about is asked of every part that has it. Raises ConfigError, which names the part it is about.
    """
    cache, parts = BuildCache(), list[list[Experiment]]()
    for name, seeds in zip(whole.get("parts") or [None] * len(configs), configs, strict=True):
        with naming_part(name):
            parts.append(prepare_seeds(seeds, cache))
    if len(parts) == 1:
        return parts, Statements()
    check_folders([part[0] for part in parts], str(whole.get("experiment")))
    if apart := equal_in_some(parts, whole):
        parts = [prepare_seeds(seeds, cache, apart) for seeds in configs]
    joint = joint_names([part[0] for part in parts]).statements_of(whole)
    parts = [[replace(one, asked=one.asked + joint.quantities) for one in part] for part in parts]
    check_joint(joint, [part[0] for part in parts])
    return parts, joint


def prepare_seeds(
    configs: Sequence[Mapping[str, Any]], cache: BuildCache, apart: Collection[str] = ()
) -> list[Experiment]:
    """Check the configs of all seeds of a part. Models that are equal in some of the seeds alone have their own names
    in all: what is stated of them is of each seed's own. So do those `apart`."""
    found = [prepare_experiment(config, cache, apart) for config in configs]
    every = dict.fromkeys(name for one in found for name in one.aliases)
    unlike = [name for name in every if len({one.aliases.get(name) for one in found}) > 1]
    if not unlike:
        return found
    return [prepare_experiment(config, cache, [*apart, *unlike]) for config in configs]


def check_folders(experiments: Sequence[Experiment], run: str) -> None:
    """ConfigError where two parts of a run would have one folder."""
    taken: dict[str, str] = {}
    for part in (one.settings.experiment for one in experiments):
        if other := taken.get(folder_of_part(part, run)):
            raise ConfigError(f"parts: experiment is {other} in one and {part} in another: each needs its own folder")
        taken[folder_of_part(part, run)] = part


def equal_in_some(parts: Sequence[Sequence[Experiment]], whole: Mapping[str, Any]) -> set[str]:
    """Return the models that what is stated of all parts together asks about, and that are equal to another in some of
    the parts alone."""
    experiments = [part[0] for part in parts]
    names = replace(joint_names(experiments), aliases={})
    asked = [one for _, statement in names.statements_of(whole).named() for one in statement.single]
    listed_under = {
        name: {one.aliases[name] for one in experiments if name in one.aliases}
        for name in {name for one in asked for name in (one.target, one.source)}
    }
    return {name for name, found in listed_under.items() if len(found) > 1}


def joint_names(experiments: Sequence[Experiment]) -> KnownNames:
    """Return the names that what is stated of several experiments together may use."""
    models = dict.fromkeys(name for one in experiments for name in one.aliases)
    aliases = {name: listed for one in experiments for name, listed in one.aliases.items()}
    attacks = {(named.name, named.attack.eps): named for one in experiments for named in one.attacks}
    measurements = {label: each for one in experiments for label, each in one.measurements.items()}
    places = {name: place for one in experiments for name, place in one.places.items()}
    datasets = {one.dataset for one in experiments}
    return KnownNames(list(models), aliases, list(attacks.values()), measurements, datasets, places)


def check_joint(joint: Statements, experiments: Sequence[Experiment]) -> None:
    """ConfigError where what is stated of several experiments together asks about an error that several rows of a seed
    will have, or about none."""
    for where, statement in joint.named():
        for quantity in statement.single:
            if quantity.metric in ERROR_METRICS:
                check_unique(quantity, experiments, statement.drawn, where)
    if joint.objective:
        check_measured(joint.objective, [one.expected for one in experiments])


def check_unique(quantity: Quantity, experiments: Sequence[Experiment], drawn: Collection[str], where: str) -> None:
    """ConfigError where several experiments have an error that is asked about, of different models, attacks or images,
    or in rows that a column tells apart of which the quantity says nothing; in the columns `drawn` a statement has
    all that there is. Rows that further columns tell apart are known when measured."""
    said = {column for column, _ in quantity.conditions}
    if not said <= set(KEY):
        return
    owners = dict[ExpectedCell, Experiment]()
    for one in experiments:
        for cell in one.cells:
            if quantity.is_about(dict(zip(KEY, cell, strict=True))):
                first = owners.setdefault(cell, one)
                if first.behind(cell) != one.behind(cell):
                    parts = f"{first.settings.experiment} and {one.settings.experiment}"
                    meant = f"which {parts} have of different models, attacks or images: call them differently"
                    raise ConfigError(f"{where} asks about {quantity.text}, {meant}")
    for place, column in enumerate(KEY):
        found = {cell[place]: one for cell, one in owners.items()}
        if len(found) > 1 and column not in (*said, *drawn):
            whose = " and ".join(f"{one.settings.experiment} with {column}={value}" for value, one in found.items())
            choice = f"say which, as in {column}={next(iter(found))}"
            raise ConfigError(f"{where} asks about {quantity.text}, which {whose} have: {choice}")
