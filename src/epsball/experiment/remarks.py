"""Remarks on a valid config that may not do what its author expects, made before anything is trained."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, isclose, log10

from epsball.attacks.gradient import GradientAttack
from epsball.build import listed
from epsball.experiment.prepare import Experiment
from epsball.experiment.statements import Statements
from epsball.paper.figures import Figure
from epsball.paper.tables import Table
from epsball.training.adversarial import Adversarial
from epsball.training.fit import steps_of, steps_per_epoch
from epsball.training.spec import with_sources
from epsball.training.trainer import Trainer, crafting


def remarks(parts: Sequence[Sequence[Experiment]], joint: Statements, run: str) -> Iterator[str]:
    """Yield all of them, part by part, then what is `joint`, stated of all parts of the `run` together."""
    for seeds in parts:
        first = seeds[0]
        yield from other_data(first)
        yield from idle_attacks(first)
        yield from short_steps(first)
        yield from short_trainings(first)
        yield from first.expected.holes(first.statements)
        yield from equal_models(first)
        yield from same_models(seeds)
        yield from idle_conclusion(first.settings.experiment, first.statements)
    yield from idle_conclusion(f"{run}, beside its parts,", joint)


def other_data(experiment: Experiment) -> Iterator[str]:
    """Say which published numbers are of another data set than the experiment's, so that they are not compared."""
    statements, dataset = experiment.statements, experiment.dataset
    stated: dict[str, Table | Figure] = {**statements.tables, **statements.figures}
    for name, each in stated.items():
        if each.paper and not each.compares_on({dataset}):
            yield f"{name}: its published numbers are of {each.published_on}, ours of {dataset}: not compared"


def idle_attacks(experiment: Experiment) -> Iterator[str]:
    """Say which attacks are crafted on no model, because none has gradients, or are left out of a transfer matrix of
    what is asked about, because nothing asks about them."""
    if experiment.attacks and not experiment.sources:
        yield f"no model has gradients: {listed([named.name for named in experiment.attacks])} crafted on none"
    elif any(one.asked_alone for one in experiment.measurements.values()):
        cells = {(label, one.attack, one.eps) for label, own in experiment.expected.cells.items() for one in own}
        kinds, attacks = experiment.measurements, experiment.attacks
        crafted = [one for label, attack, eps in cells for one in kinds[label].made_of(attack, eps, attacks)]
        used = {named.name for named in attacks if named.identity in crafted}
        if idle := [name for name in dict.fromkeys(named.name for named in attacks) if name not in used]:
            where = "in the matrix with measurement.cells=all alone"
            yield f"no table, claim or figure asks about {listed(idle)}: {where}"


def short_steps(experiment: Experiment) -> Iterator[str]:
    """Say which attacks, of the experiment and of its trainings, have steps too small for the edge of their ball."""
    every = {f"attack {named.name}": named.attack for named in experiment.attacks}
    for name, _, _, part in crafting_trainings(experiment):
        every[f"the attack that {name} is trained on"] = part.attack
    for who, attack in every.items():
        if isinstance(attack, GradientAttack) and attack.reach < 1 and not isclose(attack.reach, 1):
            steps, reach = attack.number_of_steps, attack.reach
            each = f"{steps} steps of {reach / steps:.3g} eps each go {reach:.3g} eps at most"
            ten = 10 ** (1 + ceil(log10(steps)))  # rounded up: a share that is a little small would be told of again
            yield f"{who}: {each}: its edge takes step_share={ceil(ten / steps) / ten:g}"


def short_trainings(experiment: Experiment) -> Iterator[str]:
    """Say which trainings end before they have seen an adversarial image, or one of the whole eps."""
    told: dict[str, list[str]] = {}
    for name, images, trainer, part in crafting_trainings(experiment):
        part = replace(part, per_epoch=steps_per_epoch(images, trainer.batch_size))
        last = steps_of(trainer, images) - 1
        if last < part.clean_steps:
            text = f"trained on clean images alone: the delay is {part.delay:g} epochs of {trainer.epochs:g}"
            told.setdefault(text, []).append(name)
        elif part.eps_rise is not None and part.share(last) < 1:
            text = f"trained on {part.share(last):.2g} of the attack's eps at most: eps_rise takes"
            text += f" {part.eps_rise.steps} steps, there are {last + 1 - part.clean_steps}"
            told.setdefault(text, []).append(name)
    for text, names in told.items():
        yield f"{listed(names)} {'is' if len(names) == 1 else 'are'} {text}"


def crafting_trainings(experiment: Experiment) -> Iterator[tuple[str, int, Trainer, Adversarial]]:
    """Yield of each training, those of sources included, that crafts examples: the model's name, the number of training
    images, the trainer, and the part of its objective that crafts."""
    for name, spec in with_sources(experiment.specs):
        if spec.trainer is not None:
            for part in crafting(spec.trainer.objective).values():
                yield name, len(spec.data.train), spec.trainer, part


def equal_models(experiment: Experiment) -> Iterator[str]:
    """Say which models are equal to another."""
    for name, listed_under in experiment.aliases.items():
        if listed_under != name:
            yield f"model {name} is the same as {listed_under} and is listed once"


def same_models(seeds: Sequence[Experiment]) -> Iterator[str]:
    """Say which models have one and the same weights in several seeds of a part."""
    for name, spec in seeds[0].specs.items():
        each = [one.specs[name] for one in seeds if name in one.specs]
        if spec.as_it_is:
            same = [one for one in each if one.as_it_is and {**one.identity, "seed": spec.seed} == spec.identity]
            if len(same) > 1:
                yield f"model {name} has the same weights in {len(same)} seeds: means are not over models"
        elif (number := sum(one.key == spec.key for one in each)) > 1:
            why = f"its seed is {spec.seed} in each"
            yield f"model {name} is one training in {number} seeds ({why}): means are not over trainings"


def idle_conclusion(name: str, statements: Statements) -> Iterator[str]:
    """Say that a conclusion sums up no claims."""
    if statements.conclusion and not statements.claims:
        yield f"conclusion changes nothing: {name} has no claims that it could sum up"
