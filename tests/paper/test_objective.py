"""The value of an objective, by hand."""

from typing import Any

import pytest

from epsball.paper.objective import Objective


def row(seed: int, attack: str, error: float) -> dict[str, Any]:
    key = {"dataset": "x", "seed": seed, "measurement": "m", "source": "A", "target": "A", "attack": attack}
    return {**key, "eps": 0.1, "n": 100, "error_top1": error}


ROWS = [row(0, "pgd", 0.5), row(0, "fgsm", 0.25), row(1, "pgd", 0.75), row(1, "fgsm", 0.5)]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("error(A | A, pgd)", 0.625),
        ("accuracy(A | A, pgd)", 0.375),
        ("2 * error(A | A, pgd) - error(A | A, fgsm, eps=0.1)", 0.875),
        ("error(A | A, pgd) / error(A | A, fgsm)", 1.75),
    ],
)
def test_its_value_is_the_mean_over_seeds(expression: str, value: float) -> None:
    assert Objective(expression).value(ROWS) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("expression", ["error(B | A, pgd)", "error(A | A, pgd) / error(A | A, none)"])
def test_what_rows_lack_is_no_number(expression: str) -> None:
    with pytest.raises(RuntimeError, match=r"objective: error\(.* has no value in this run's rows"):
        Objective(expression).value(ROWS)


def test_several_rows_of_a_seed_are_no_number() -> None:
    with pytest.raises(ValueError, match=r"objective: error\(A \| A, pgd\) names several rows of a seed"):
        Objective("error(A | A, pgd)").value([*ROWS, {**ROWS[0], "measurement": "another"}])


def test_of_models_under_other_names() -> None:
    mine = Objective("error(B | B, pgd)").mapped(lambda quantity: quantity.renamed({"B": "A"}))
    assert mine.value(ROWS) == 0.625


def test_what_is_no_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read as an expression"):
        Objective("error(A")
