"""Statements about several rows of a seed, or about none, are refused before anything is trained."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from epsball.build import ConfigError
from epsball.experiment.expected import Expected
from epsball.experiment.prepare import Experiment, prepare_experiment
from epsball.measurements.transfer_matrix import TransferMatrix

Config = dict[str, Any]
Prepare = Callable[[Config], Experiment]

PATHS = {"name": "loss_paths", "attack": "pgd", "sources": None, "images": 20, "restarts": 3, "steps": [2, 5]}
MEASUREMENTS: Config = {
    "gaas": {"name": "gaas", "images": None, "eps": [0.1, 0.3], "directions": [1, 4], "gradients_of": "cross_entropy"},
    "worst": {"name": "worst_case"},
    "paths": {**PATHS, "drawn": 2, "paths": True, "bins": None},
    "norms": {"name": "gradient_norms", "bins": {"low": 0, "high": 1, "number": 4, "log": False}},
    "curves": {"name": "training_curves"},
}


@pytest.fixture(scope="module")
def stated(tiny: Callable[..., Config]) -> Prepare:
    """Prepare an experiment of one model, PGD at two eps and many measurements, with some statements."""
    config = tiny("+attack@suite.pgd=pgd", "suite.pgd.eps=[0.1,0.3]", "suite.pgd.steps=5")
    config |= {"measurement": {"name": "gradient_pictures", "images": 1}, "measurements": MEASUREMENTS}
    return lambda statements: prepare_experiment({**config, "tables": {}, "claims": {}, "figures": {}, **statements})


def claim(*checks: str) -> Config:
    return {"claims": {"c": {"says": "s", "paper": "p", "checks": list(checks)}}}


def figure(y: str, **fields: Any) -> Config:
    lines = {"target": "target"}
    given = {"title": "t", "kind": "line", "x": "x", "y": y, "lines": lines, "unit": "value", "values": None}
    return {"figures": {"f": given | fields}}


@pytest.mark.parametrize(
    ("quantity", "told"),
    [
        ("training_loss(target)", "which has several rows: say which, as in epoch=..."),
        ("gaas_all(target | target, gaas, eps=0.1)", "which has several rows: say which, as in directions=1"),
        ("gaas_all(target | target, gaas, directions=4)", "which has several rows: say which, as in eps=0.1"),
        ("gaas_all(target | target, gaas, eps=0.2, directions=4)", "at eps=0.2: there are 0.1, 0.3"),
        ("error(target | target, worst_case)", "which has several rows: say which, as in eps=0.1"),
        ("error(target | target, pgd, eps=0.1)", "which has several rows: say which, as in steps=2"),
        ("error(target | target, pgd, eps=0.1, steps=5)", "which has several rows: say which, as in restarts=1"),
        ("error(target | target, pgd, eps=0.1, steps=4, restarts=1)", "at steps=4: there are 2, 5"),
        (
            "error(target | target, pgd, eps=0.1, steps=5, restarts=3, worst_for=source)",
            "at worst_for=source: its rows have no worst_for",
        ),
        ("gradient_l2_mean(target, step=3)", "at step=3: its rows have no step"),
        ("gradient_l2_share(target)", "which has several rows: say which, as in bin_low=..."),
        ("path_loss(target | target, pgd, eps=0.3, step=1)", "which has several rows: say which, as in image=0"),
        ("path_loss_mean(target | target, pgd, eps=0.3)", "which has several rows: say which, as in step=..."),
    ],
)
def test_of_several_rows_a_statement_says_which(quantity: str, told: str, stated: Prepare) -> None:
    with pytest.raises(ConfigError) as caught:
        stated(claim(f"{quantity} < 0.5"))
    said = str(caught.value)
    assert said.startswith(f"claims.c asks about {quantity.split(',')[0].split(')')[0]}") and said.endswith(told)


def test_every_statement_is_named(stated: Prepare) -> None:
    table = {"title": "t", "rows": {"a": "target"}, "columns": {"c": "training_loss({row})"}}
    table |= {"unit": "value", "best": "none", "paper": None}
    for statements, where in (
        ({"tables": {"t": table}}, "tables.t asks about training_loss(target), which"),
        (figure("gaas_share({line} | {line}, gaas, directions={x})", values=[1, 4]), "figures.f asks about gaas_share"),
        ({"objective": "training_loss(target)"}, "objective asks about training_loss(target), which"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(where)}.* has several rows"):
            stated(statements)


@pytest.mark.parametrize(
    "statements",
    [
        claim("training_loss(target, epoch=1) < 9", "training_loss(target, step=3) < 9"),
        claim("gradient_l2_mean(target) < 9", "error(target) < 0.9", "final_loss(target | target, pgd, eps=0.1) < 9"),
        claim("error(target | target, pgd, eps=0.1, steps=5, restarts=3) < 0.9"),
        claim("gradient_l2_share(target, bin_low=0.25) < 0.9"),
        claim("path_loss(target | target, pgd, eps=0.3, image=1, restart=2, step=5) < 9"),
        figure("training_loss({line}, epoch={x})", x="epoch"),
        figure("training_loss({line}, step={x})", x="step"),
        figure("path_loss({line} | {line}, pgd, eps=0.3, restart=0, step={x})", x="step", each="image"),
        figure("gradient_l2_share({line})", kind="histogram", unit="percent"),
        figure("gaas_share({line} | {line}, gaas, eps=0.1, directions={x})", x="k", values=[1, 4], unit="percent"),
    ],
)
def test_what_is_about_one_row_of_a_seed_is_accepted(statements: Config, stated: Prepare) -> None:
    """Or, of a figure, about one for each value of its axis, for each of its curves or for each bin."""
    assert stated(statements).statements.quantities


def test_errors_that_no_row_will_have_are_told(stated: Prepare) -> None:
    """Not refused: a model that was left out makes holes, too, which are wanted."""
    experiment = stated(claim("error(target | target, fgsm) < 0.5", "error(target) < 0.5"))
    worst_alone = Expected(experiment, {"worst": experiment.measurements["worst"]})
    (told,) = worst_alone.holes(experiment.statements)
    assert told == (
        "claims.c: 1 of 2 numbers will not be measured, such as error(target | target, fgsm): measurement, sources and "
        "targets say what is"
    )
    matrix = {"transfer_matrix": TransferMatrix(cells="all")}
    assert not list(Expected(experiment, matrix).holes(experiment.statements))


def test_an_objective_may_ask_for_the_errors_that_a_claim_may(stated: Prepare) -> None:
    """A loss surface's row has a loss, though no attack of the config made its example."""
    surface = {"name": "loss_surface", "model": "target", "other": "target", "extent": 0.3, "zoom": 0.03, "grid": 3}
    surface |= {"points": 1, "averaged": 4, "clip": True}
    suite = {"fgsm": stated({}).config["suite"]["fgsm"]}
    only: Config = {"measurement": surface, "measurements": {}, "suite": suite}
    loss = "loss_mean(target | target, surface, e1=0, e2=0)"
    experiment = stated({**only, "objective": loss, **claim(f"{loss} < 9")})
    assert not list(experiment.expected.holes(experiment.statements))


def test_a_measurement_that_is_named_has_the_errors_itself(stated: Prepare) -> None:
    """A worst case beside a matrix has FGSM's examples in it, and no error of FGSM."""
    beside: Config = {"measurement": {"name": "transfer_matrix", "cells": "all"}, "measurements": MEASUREMENTS}
    for asked in ("target | target, fgsm, measurement=worst", "target | target, pgd, eps=0.1, measurement=worst"):
        experiment = stated({**beside, **claim(f"error({asked}) < 0.5")})
        (told,) = experiment.expected.holes(experiment.statements)
        assert told.startswith("claims.c: 1 of 1 numbers will not be measured")
        with pytest.raises(ConfigError, match=r"^objective asks about .*, which is not measured: see measurement"):
            stated({**beside, "objective": f"error({asked})"})
