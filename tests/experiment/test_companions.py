"""Companions of the model under test, where they do not fit it or the images."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_files import write_own_files

from epsball.build import ConfigError
from epsball.experiment.joint import prepare_parts
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.remarks import remarks

Config = dict[str, Any]


@pytest.fixture
def small(compose: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """`small(*overrides)`: the config of companions on own arrays of 12 x 12."""
    write_own_files(tmp_path)
    return lambda *overrides: compose("dataset=npz", f"dataset.root={tmp_path / 'npz'}", "device=cpu", *overrides)


def test_one_that_does_not_take_the_images_is_left_out(
    small: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        experiment = prepare_experiment(small())
    assert list(experiment.specs) == experiment.sources == experiment.targets == ["target", "copy", "natural"]
    (said,) = (text for text in caplog.messages if "left out" in text)
    assert said.startswith("model holdout is left out: models.holdout.arch: mnist_b takes images from 27x27 on")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sources=[holdout]"], "models.holdout.arch: mnist_b takes images from 27x27 on, these are 12x12"),
        (["targets=[holdout]"], "models.holdout.arch: mnist_b takes images from 27x27 on, these are 12x12"),
        (["arch=mnist_b"], "arch: mnist_b takes images from 27x27 on, these are 12x12"),
        (["models.holdout.optional=false"], "models.holdout.arch: mnist_b takes images from 27x27 on"),
        (['claims.c={says: x, paper: y, checks: ["error(holdout) < 1"]}'], "claims.c asks about 'holdout'"),
    ],
    ids=["a source", "a target", "under test", "not optional", "asked about"],
)
def test_one_that_is_asked_for_is_not(small: Callable[..., Config], overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare_experiment(small(*overrides))
    assert str(caught.value).startswith(told)


def test_a_wrong_value_of_one_is_told(small: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"^models\.holdout\.trainer\.epochs should be positive"):
        prepare_experiment(small("models.holdout.trainer.epochs=-1"))


def said_of(config: Config) -> list[str]:
    return list(remarks(*prepare_parts([[config]], config), "mine"))


def test_attacks_that_nothing_has_gradients_for_are_told(compose: Callable[..., Config]) -> None:
    config = compose("arch=random_forest", "models=alone", "suite=fgsm", "attack=none", "device=cpu")
    assert said_of(config) == ["no model has gradients: fgsm crafted on none"]


def test_an_attack_that_nothing_asks_about_is_told(tiny: Callable[..., Config]) -> None:
    """As one's own beside a paper's: most papers measure only what their tables, claims and figures ask about."""
    claim = 'claims.c={says: x, paper: y, checks: ["error(target | target, fgsm) > error(target)"]}'
    words = ("attack=none", "suite=fgsm", "+attack@suite.own=pgd", "measurement.cells=asked", claim)
    told = "no table, claim or figure asks about own: in the matrix with measurement.cells=all alone"
    assert told in said_of(tiny(*words))
    worst = "+measurement@measurements.worst=worst_case"
    for other in ("measurement.cells=all", worst):  # of which the worst case crafts all
        assert not any("asks about" in text for text in said_of(tiny(*words, other)))


def test_a_random_forest_needs_no_other_words(compose: Callable[..., Config]) -> None:
    """It has no trainer, no twin that is trained naturally, and no gradient: it is a target."""
    experiment = prepare_experiment(compose("arch=random_forest", "device=cpu"))
    assert {name: spec.trainer is None for name, spec in experiment.specs.items()} == {
        **{"target": True, "copy": True, "holdout": False},
    }
    assert (experiment.sources, experiment.targets) == (["holdout"], ["target", "copy", "holdout"])


def test_a_forests_own_trainer_is_refused(compose: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"^models\.target\.trainer should be null: RandomForest fits itself"):
        prepare_experiment(compose("arch=random_forest", "device=cpu", "models.target.trainer.epochs=7"))


SHORT = "10 steps of 0.0333 eps each go 0.333 eps at most: its edge takes step_share=0.1"


def test_steps_that_miss_the_edge_of_the_ball_are_told(tiny: Callable[..., Config]) -> None:
    """PGD's usual share is of 40 steps: with ten it is a weak attack, and training on it a weak defence."""
    words = ("attack=pgd", "attack.steps=10", "trainer=madry", "trainer.objective.attack.steps=10", "scale=paper")
    told = [text for text in said_of(tiny(*words)) if "eps at most" in text]
    assert told == [f"attack pgd: {SHORT}", f"the attack that target is trained on: {SHORT}"]
    wide = tiny("attack=pgd", "attack.steps=10", "attack.step_share=0.1", "trainer=madry", "scale=paper")
    assert not any("eps at most" in text for text in said_of(wide))


@pytest.mark.parametrize(("steps", "share"), [(2, "0.5"), (3, "0.34"), (7, "0.15"), (30, "0.034"), (100, "0.01")])
def test_the_step_that_is_told_reaches_the_edge(tiny: Callable[..., Config], steps: int, share: str) -> None:
    words = ("attack=pgd", f"attack.steps={steps}")
    (told,) = [text for text in said_of(tiny(*words, "attack.step_share=0.001")) if "eps at most" in text]
    assert told.endswith(f"its edge takes step_share={share}")
    assert not any("eps at most" in text for text in said_of(tiny(*words, f"attack.step_share={share}")))


def test_a_training_that_ends_before_its_delay_or_rise_is_told(tiny: Callable[..., Config]) -> None:
    """Of 8 steps an epoch; the whole eps is there from the last stair on."""
    words = ("trainer=madry", "models=alone", "trainer.epochs=2", "trainer.watch=null", "attack=none", "suite=fgsm")

    def told(*more: str) -> list[str]:
        return [text for text in said_of(tiny(*words, *more)) if " is trained on " in text]

    clean = "target is trained on clean images alone: the delay is {} epochs of 2"
    assert told("trainer.objective.delay=2") == [clean.format(2)] and told("trainer.objective.delay=7") == [
        clean.format(7)
    ]
    assert told("trainer.objective.delay=1.8") == []
    assert said_of(tiny("trainer=static_adv", "models=alone")) == []  # whose sources are bound when it trains
    rise = "trainer.objective.eps_rise={{steps: {}, stairs: 4}}".format
    rises = "target is trained on {} of the attack's eps at most: eps_rise takes {} steps, there are {}"
    assert told(rise(40)) == [rises.format(0.5, 40, 16)] and told(rise(20)) == []
    assert told(rise(20), "trainer.objective.delay=1") == [rises.format(0.5, 20, 8)]
