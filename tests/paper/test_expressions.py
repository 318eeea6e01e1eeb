"""The language of tables and claims: what it says, what it equals in Python's own arithmetic, what it refuses."""

import math
import operator
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from epsball.attacks import NamedAttack
from epsball.attacks.gradient import GradientAttack
from epsball.build import ConfigError
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.statements import KnownNames
from epsball.measurements.transfer_matrix import TransferMatrix
from epsball.paper.claims import Claim, judge_claim
from epsball.paper.expressions import (
    Comparison,
    Quantity,
    Sum,
    parse_comparisons,
    parse_expression,
)
from epsball.paper.tables import Table
from epsball.paper.values import SeedRows, by_seed, estimate_in_seed
from epsball.results.intervals import wilson
from epsball.results.metrics import METRICS

A = Quantity("error_top1", "A", ("A",), ("clean",))
B = Quantity("error_top1", "B", ("B",), ("clean",))
A_ON_B = Quantity("error_top1", "A", ("B",), ("fgsm",))


def quantity(text: str) -> Quantity:
    """The quantity that a text names, alone."""
    found = parse_expression(text).alone
    assert found is not None
    return found


def one(text: str) -> Comparison:
    """The only comparison of a text."""
    found = parse_comparisons(text)
    assert len(found) == 1
    return found[0]


# ---- quantities

QUANTITIES: list[tuple[str, Quantity]] = [
    ("error(A)", A),
    ("  error( A )  ", A),
    ("error_top1(A)", A),
    ("error_top5(A)", replace(A, metric="error_top5")),
    ("error(A | B, fgsm)", A_ON_B),
    ("error(A|B,fgsm)", A_ON_B),
    ("transfer_rate(A | B, fgsm)", replace(A_ON_B, metric="transfer_rate_top1")),
    ("transfer_rate_top5(A | B, fgsm)", replace(A_ON_B, metric="transfer_rate_top5")),
    ("gradient_l2_mean(A)", replace(A, metric="gradient_l2_mean")),
    ("gradient_zero_share(A)", replace(A, metric="gradient_zero_share")),
    ("error(A | B, fgsm, eps=0.3)", replace(A_ON_B, conditions=(("eps", 0.3),))),
    ("error(A | B, fgsm, eps=1)", replace(A_ON_B, conditions=(("eps", 1.0),))),
    ("error(A | B, fgsm, dataset=mnist)", replace(A_ON_B, conditions=(("dataset", "mnist"),))),
    ("error(A | B, worst(fgsm, pgd))", replace(A_ON_B, attacks=("fgsm", "pgd"))),
    ("error(A | worst(B, C), fgsm)", replace(A_ON_B, sources=("B", "C"))),
    ("error(A | worst(B), worst(fgsm, fgsm))", A_ON_B),
    (
        "loss_mean(A_adv | B, surface, e1=0.3, e2=0)",
        Quantity("loss_mean", "A_adv", ("B",), ("surface",), (("e1", 0.3), ("e2", 0.0))),
    ),
]


@pytest.mark.parametrize(("text", "expected"), QUANTITIES, ids=[text for text, _ in QUANTITIES])
def test_a_quantity_is_the_cell_that_it_names(text: str, expected: Quantity) -> None:
    assert quantity(text) == expected


@pytest.mark.parametrize("text", ["2 * error(A)", "error(A) + 0.1", "error(A) + error(B)", "error(A) / error(B)"])
def test_more_than_a_quantity_is_none_alone(text: str) -> None:
    """A paper's number of it is not that of a row."""
    assert parse_expression(text).alone is None
    assert parse_expression("1 * error(A) + 0").alone == A


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_can_be_asked_for(metric: str) -> None:
    assert quantity(f"{metric}(A)") == replace(A, metric=metric)


def row(**fields: Any) -> dict[str, Any]:
    key = {"target": "A", "source": "B", "attack": "fgsm", "eps": 0.3, "seed": 0, "n": 100}
    return {**key, "error_top1": 0.5, "loss_mean": 2.0, **fields}


def found_in(asked: Quantity, *rows: dict[str, Any]) -> bool:
    """Whether one of the rows has its number."""
    return bool(SeedRows(rows).find(asked))


def test_a_quantity_finds_its_row_alone() -> None:
    assert found_in(A_ON_B, row())
    for other in ({"target": "B"}, {"source": "A"}, {"attack": "pgd"}):
        assert not found_in(A_ON_B, row(**other)) and not A_ON_B.is_about(row(**other))
        assert SeedRows([row(**other), row()]).find(A_ON_B) == [row()]
    assert found_in(A, row(source="A", attack="clean", eps=0.0))


def test_a_row_of_the_cell_that_lacks_the_number_is_another_measurements() -> None:
    for lacking in (
        row(error_top1=None),
        row(error_top1=math.nan),
        row(measurement="loss_surface", error_top1=math.nan),
    ):
        assert A_ON_B.is_about(lacking) and not found_in(A_ON_B, lacking)
    cell = {key: value for key, value in row().items() if key != "error_top1"}
    assert A_ON_B.is_about(cell) and not found_in(A_ON_B, cell)
    assert found_in(A_ON_B, row(measurement="transfer_matrix", error_top1=0.0))


@pytest.mark.parametrize(("text", "value"), [("eps=8/255", 8 / 255), ("e1=-0.1", -0.1), ("eps=2 * 0.1", 0.2)])
def test_a_condition_may_be_written_as_a_fraction(text: str, value: float) -> None:
    assert dict(quantity(f"error(A | B, fgsm, {text})").conditions) == {text.partition("=")[0]: value}


def test_conditions_hold_but_for_rounding() -> None:
    at = quantity("error(A | B, fgsm, eps=0.3)")
    assert found_in(at, row(eps=0.3)) and found_in(at, row(eps=0.1 + 0.2))  # 0.30000000000000004
    assert not found_in(at, row(eps=0.25)) and not found_in(at, row(eps=0.3001))
    zero = quantity("loss_mean(A | B, fgsm, e1=0, e2=0)")
    assert found_in(zero, row(e1=0.0, e2=1e-12))
    assert not found_in(zero, row(e1=0.0, e2=0.01))
    assert not found_in(zero, row(e1=0.0)) and not found_in(zero, row(e1=0.0, e2=math.nan))


# ---- comparisons


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_a_comparison_has_two_sides_and_a_sign(sign: str) -> None:
    found = one(f"error(A | B, fgsm) {sign} error(B)")
    assert (found.left, found.operator, found.right) == (Sum(0, ((1, A_ON_B),)), sign, Sum(0, ((1, B),)))
    assert found.quantities == [A_ON_B, B]
    assert found.text == f"error(A | B, fgsm) {sign} error(B)"


def test_a_chain_is_a_comparison_of_each_pair_of_neighbours() -> None:
    first, second, third = parse_comparisons("0.02 < error(A) <= 2 * error(B) > 0.5")
    assert (first.left, first.operator, first.right) == (Sum(0.02), "<", Sum(0, ((1, A),)))
    assert (second.left, second.operator, second.right) == (first.right, "<=", Sum(0, ((2, B),)))
    assert (third.left, third.operator, third.right) == (second.right, ">", Sum(0.5))
    texts = ["0.02 < error(A)", "error(A) <= 2 * error(B)", "2 * error(B) > 0.5"]
    assert [first.text, second.text, third.text] == texts


SIDES: list[tuple[str, Sum]] = [
    ("error(A)", Sum(0, ((1, A),))),
    ("-error(A)", Sum(0, ((-1, A),))),
    ("--error(A)", Sum(0, ((1, A),))),
    ("error(A) + error(B)", Sum(0, ((1, A), (1, B)))),
    ("error(A) - error(B)", Sum(0, ((1, A), (-1, B)))),
    ("2 * error(A)", Sum(0, ((2, A),))),
    ("error(A) * 0.5", Sum(0, ((0.5, A),))),
    ("2 * 3 * error(A)", Sum(0, ((6, A),))),
    ("error(A) + 0.01", Sum(0.01, ((1, A),))),
    ("0.01 - error(A)", Sum(0.01, ((-1, A),))),
    ("-(error(A) - 0.25)", Sum(0.25, ((-1, A),))),
    ("2 * (error(A) - error(B) + 1)", Sum(2, ((2, A), (-2, B)))),
    ("(1 - 3) * (error(A) + 0.5)", Sum(-1, ((-2, A),))),
    ("1 - (2 - (3 - error(A)))", Sum(2, ((-1, A),))),
    ("error(A) / 4", Sum(0, ((0.25, A),))),
    ("(error(A) + 1) / 2 - 6 / 4", Sum(-1, ((0.5, A),))),
]


@pytest.mark.parametrize(("text", "expected"), SIDES, ids=[text for text, _ in SIDES])
def test_sums_multiples_negatives_and_parentheses(text: str, expected: Sum) -> None:
    assert one(f"{text} < 1").left == expected
    assert one(f"error(B) >= {text}").right == expected


# ---- against Python's own arithmetic

NAMES = ("A", "B", "C")


def random_side(draw: random.Random, depth: int) -> str:
    """A side with sums, multiples, negatives and parentheses, at most `depth` deep."""
    kind = draw.choice(["number", "quantity", "quantity"]) if depth == 0 else draw.choice("+-*nq")
    if kind == "number":
        return repr(round(draw.uniform(0, 3), draw.choice([0, 1, 4])))
    if kind in ("quantity", "q"):
        name, other = draw.choice(NAMES), draw.choice(NAMES)
        return draw.choice([f"error({name})", f"error({name} | {other}, fgsm)", f"loss_mean({name} | {other}, fgsm)"])
    if kind == "n":
        return f"-({random_side(draw, depth - 1)})"
    if kind == "*":
        factor, inner = f"{draw.randint(1, 9) / 4}", f"({random_side(draw, depth - 1)})"
        return draw.choice([f"{factor} * {inner}", f"{inner} * {factor}"])
    left, right = random_side(draw, depth - 1), random_side(draw, depth - 1)
    return f"{left} {kind} {draw.choice([right, f'({right})'])}"


def random_rows(draw: random.Random) -> list[dict[str, Any]]:
    """All clean and FGSM rows of NAMES, with random numbers."""
    keys = [(name, name, "clean") for name in NAMES] + [(t, s, "fgsm") for t in NAMES for s in NAMES]
    keyed = [{"target": t, "source": s, "attack": attack} for t, s, attack in keys]
    numbers = ("error_top1", "loss_mean", "loss_sd")
    return [{**key, "seed": 0, "n": 1000, **{name: draw.random() for name in numbers}} for key in keyed]


class Name(str):
    """A model's name that Python can evaluate `A | B` on."""

    def __or__(self, other: str) -> tuple[str, str]:  # type: ignore[override]
        return self, other


def reader(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The names of the language for Python's own eval."""

    def look_up(metric: str) -> Callable[..., float]:
        def read(models: str | tuple[str, str], attack: str = "clean") -> float:
            target, source = (models, models) if isinstance(models, str) else models
            key = {"target": target, "source": source, "attack": attack}
            return next(float(row[metric]) for row in rows if key.items() <= row.items())

        return read

    models = {name: Name(name) for name in NAMES}
    return {**models, "fgsm": "fgsm", "error": look_up("error_top1"), "loss_mean": look_up("loss_mean")}


@pytest.mark.parametrize("seed", range(100))
def test_a_side_equals_what_python_makes_of_its_text(seed: int) -> None:
    draw = random.Random(seed)
    rows, text = random_rows(draw), random_side(draw, depth=draw.randint(0, 5))
    side = one(f"{text} < error(A)").left
    estimate = estimate_in_seed(side, SeedRows(rows), wilson)
    assert estimate.value == pytest.approx(eval(text, reader(rows)), rel=1e-9, abs=1e-9)
    assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize("seed", range(30))
def test_a_chain_holds_where_python_says_so(seed: int) -> None:
    draw = random.Random(1000 + seed)
    rows, signs = random_rows(draw), draw.choices(["<", "<=", ">", ">="], k=2)
    sides = [f"error({draw.choice(NAMES)})" if draw.random() < 0.5 else random_side(draw, 2) for _ in range(3)]
    sides[1] = f"{sides[1]} + 30 * (error(B) - error(C))"  # could be anything: no constant decides it
    text = f"{sides[0]} {signs[0]} {sides[1]} {signs[1]} {sides[2]}"
    checks = judge_claim(Claim("says", [text]), by_seed(rows))
    assert all(check.holds for check in checks) == eval(text, reader(rows))


@pytest.mark.parametrize("seed", range(30))
def test_the_written_comparison_says_the_same(seed: int) -> None:
    draw = random.Random(2000 + seed)
    first = one(f"{random_side(draw, 4)} < error(B)")
    again = one(first.text)
    assert (again.left, again.right) == (first.left, first.right)


# ---- other names


def test_mapped_renames_models_alone() -> None:
    names = {"B": "C", "fgsm": "pgd", "eps": "n"}
    found = one("2 * error(A | B, fgsm, eps=1) - 0.5 < error(B)").mapped(lambda asked: asked.renamed(names))
    assert found.left == Sum(-0.5, ((2, Quantity("error_top1", "A", ("C",), ("fgsm",), (("eps", 1.0),))),))
    assert found.right == Sum(0, ((1, Quantity("error_top1", "C", ("C",), ("clean",))),))
    assert found.text == "2 * error(A | B, fgsm, eps=1) - 0.5 < error(B)"


def test_names_can_be_swapped() -> None:
    assert A_ON_B.renamed({"A": "B", "B": "A"}) == Quantity("error_top1", "B", ("A",), ("fgsm",))


def test_a_claim_and_a_table_under_other_names_ask_about_those() -> None:
    claim = Claim("says", ["error(A) < error(B)", "error(A) < 0.1"])
    assert claim.quantities == [A, B, A]
    assert claim.mapped(lambda asked: asked.renamed({"A": "B"})).quantities == [B, B, B]
    assert table().quantities == [A, A_ON_B, B, replace(B, attacks=("fgsm",))]
    assert table().mapped(lambda asked: asked.renamed({"B": "A"})).quantities == [A, replace(A, attacks=("fgsm",))] * 2


def test_other_quantities_stand_on_top_of_each_other() -> None:
    """A part is renamed for its own run, and its run for all."""
    claim = Claim("says", ["error(A) < 0.1"])
    for names in ({"A": "B"}, {"B": "C"}):
        claim = claim.mapped(lambda asked, names=names: asked.renamed(names))  # type: ignore[misc]
    assert [asked.target for asked in claim.quantities] == ["C"]


# ---- what is refused

REFUSED: list[tuple[str, list[str]]] = [
    ("", ["''", "cannot be read"]),
    ("   ", ["cannot be read"]),
    ("error(A) <", ["'error(A) <'", "cannot be read"]),
    ("error(A) < 1\nerror(B) < 1", ["cannot be read"]),
    ("error(A) < 1; error(B) < 1", ["cannot be read"]),
    ("error(A)", ["should compare two sides by <, <=, > or >="]),
    ("error(A) == 1", ["should compare two sides by <, <=, > or >="]),
    ("error(A) != 1", ["should compare two sides by"]),
    ("error(A) < error(B) == 1", ["should compare two sides by"]),
    ("error(A) in error(B)", ["should compare two sides by"]),
    ("error(A) < 1 and error(B) < 1", ["should compare two sides by"]),
    ("not error(A) < 1", ["should compare two sides by"]),
    ("(error(A) < 1) < 1", ["error(A) < 1", "should be a number, a quantity, or a sum"]),
    ("0.1 < 0.2", ["'0.1 < 0.2'", "should compare a quantity"]),
    ("0.1 < 0.2 < error(A)", ["'0.1 < 0.2'", "should compare a quantity"]),
    ("eror(A) < 1", ["eror in 'eror(A) < 1' is no metric (did you mean 'error'?)", "error_top5"]),
    ("gradient_l2(A) < 1", ["gradient_l2", "did you mean 'gradient_l2_", "gradient_zero_share"]),
    ("error_top1_sd(A) < 1", ["error_top1_sd", "is no metric"]),
    ("__import__('os') < 1", ["__import__", "is no metric"]),
    ("error.real(A) < 1", ["error.real", "is no metric"]),
    ("error(A)(B) < 1", ["error(A)", "is no metric"]),
    ("(lambda: error)()(A) < 1", ["is no metric"]),
    ("A < 1", ["A in 'A < 1'", "should be a number, a quantity"]),
    ("error < 1", ["error in", "should be a number, a quantity"]),
    ("error(A) * error(B) < 1", ["error(A) * error(B)", "should be a number, a quantity, or a sum, multiple or ratio"]),
    ("(1 + error(A)) * (1 - error(A)) < 1", ["should be a number, a quantity, or a sum, multiple or ratio"]),
    ("error(A) / 0 < 1", ["error(A) / 0 in 'error(A) / 0 < 1'", "should not divide by 0"]),
    ("error(A) / (2 - 2) < 1", ["should not divide by 0"]),
    ("1 / 2 < 1", ["should compare a quantity"]),
    ("error(A) // 2 < 1", ["error(A) // 2", "sum, multiple or ratio"]),
    ("error(A) ** 2 < 1", ["error(A) ** 2", "sum, multiple or ratio"]),
    ("error(A) if 1 else 2 < 1", ["should compare two sides by"]),
    ("[error(A)] < 1", ["[error(A)]", "sum, multiple or ratio"]),
    ("(x := error(A)) < 1", ["sum, multiple or ratio"]),
    ("'error(A)' < 1", ["'error(A)'", "should be a number"]),
    ("f'{error}' < error(A)", ["{error}"]),  # in a claim a placeholder that has no value
    ("True < error(A)", ["True", "should be a number"]),
    ("None < error(A)", ["None", "should be a number"]),
    ("1j < error(A)", ["1j", "should be a number"]),
    ("1e999 < error(A)", ["should be a number"]),
    (f"1{'0' * 400} < error(A)", ["should be a number"]),
    (f"1{'0' * 5000} < error(A)", ["cannot be read"]),
    ("error() < 1", ["error()", "should be metric(target) or metric(target | source, attack)"]),
    ("error(1) < 1", ["error(1)", "should be metric(target) or"]),
    ("error('A') < 1", ["error('A')", "should be metric(target) or"]),
    ("error(A | B) < 1", ["error(A | B)", "should be metric(target) or metric(target | source, attack)"]),
    ("error(A, fgsm) < 1", ["error(A, fgsm)", "should be metric(target) or metric(target | source, attack)"]),
    ("error(A | B, fgsm, pgd) < 1", ["error(A | B, fgsm, pgd)", "should be metric(target) or"]),
    ("error(A | B | C, fgsm) < 1", ["should be metric(target) or"]),
    ("error(A & B, fgsm) < 1", ["should be metric(target) or"]),
    ("error(A | B, 'fgsm') < 1", ["'fgsm'", "should be a name, or worst(name, name)"]),
    ("error(A | B, worst()) < 1", ["should be a name, or worst(name, name)"]),
    ("error(A | B, worst(fgsm, 'pgd')) < 1", ["should be a name, or worst(name, name)"]),
    ("error(A | B, worst(fgsm, worst(pgd, cw))) < 1", ["should be a name, or worst(name, name)"]),
    ("error(A | B, best(fgsm, pgd)) < 1", ["best(fgsm, pgd)", "should be a name, or worst(name, name)"]),
    ("error(A | B, worst(fgsm, pgd, eps=1)) < 1", ["should be a name, or worst(name, name)"]),
    ("error(worst(A, B)) < 1", ["should be metric(target) or"]),
    ("error(worst(A, B) | B, fgsm) < 1", ["should be metric(target) or"]),
    ("loss_mean(A | B, worst(fgsm, pgd)) < 1", ["loss_mean in", "has no worst of several"]),
    ("transfer_rate(A | worst(B, C), fgsm) < 1", ["transfer_rate_top1 in", "has no worst of several"]),
    ("error(*A) < 1", ["error(*A)", "should be metric(target) or"]),
    ("error(A, **eps) < 1", ["**eps", "should be column=value"]),
    ("error(A, **1) < 1", ["**1", "should be column=value"]),
    ("error(A, eps='1') < 1", ["'1'", "should be a number"]),
    ("error(A, eps=True) < 1", ["True", "should be a number"]),
    ("error(A, eps=eps()) < 1", ["eps()", "should be a number"]),
    ("error(A, eps=8/error(A)) < 1", ["8 / error(A)", "should be a number"]),
    ("error(A, seed=1) < 1", ["seed=1", "should be column=value"]),
    ("error(A, paper_metric=error) < 1", ["paper_metric=error", "should be column=value"]),
    ("error(A, target=1) < 1", ["target=1", "should be column=value"]),
    ("error(A, attack=1) < 1", ["attack=1", "should be column=value"]),
    ("error(A, eps=1, eps=2) < 1", ["error(A, eps=1, eps=2)", "should name a column once"]),
    ("error(A) < 1\0", ["cannot be read"]),
]


def refusal(action: Callable[[], object]) -> str:
    """The one line that a ValueError says."""
    with pytest.raises(ValueError) as caught:
        action()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize(("text", "parts"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
def test_a_refusal_names_the_culprit_and_what_would_be_right(text: str, parts: list[str]) -> None:
    message = refusal(lambda: parse_comparisons(text))
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("text", ["error(A) < 1", "A", "0.5", "1 / 2", "[error(A)]", ""])
def test_a_cell_is_a_sum_multiple_or_ratio_of_quantities(text: str) -> None:
    assert repr(text) in refusal(lambda: parse_expression(text))


DEEP = {
    "parentheses": "(" * 5000 + "1" + ")" * 5000 + " < error(A)",
    "some negatives": "-" * 900 + "error(A) < 1",
    "negatives": "-" * 3000 + "error(A) < 1",
    "many negatives": "-" * 200_000 + "error(A) < 1",
    "sum": " + ".join(["error(A)"] * 5000) + " < 1",
    "calls": "error(" * 3000 + "A" + ")" * 3000 + " < 1",
    "attributes": "error" + ".a" * 5000 + "(A) < 1",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=list(DEEP))
def test_what_is_too_deep_is_refused_and_does_not_crash(text: str) -> None:
    refusal(lambda: parse_comparisons(text))


def test_text_is_never_run(tmp_path: Path) -> None:
    place = tmp_path / "touched"
    refusal(lambda: parse_comparisons(f"__import__('pathlib').Path({str(place)!r}).touch() < error(A)"))
    refusal(lambda: parse_expression(f"error(__import__('pathlib').Path({str(place)!r}).touch())"))
    assert not place.exists()


# ---- tables


def table(**changes: Any) -> Table:
    fields: dict[str, Any] = {
        "title": "Table 0",
        "rows": {"first": "A", "second": "B"},
        "columns": {"Clean": "error({row})", "FGSM": "error({row} | B, fgsm)"},
        "paper": {"first": [1.0, None]},
        "unit": "percent",
        "best": "none",
    }
    return Table(**{**fields, **changes})


def test_a_cell_is_the_column_with_the_row_in_its_place() -> None:
    assert table().cell("first", "FGSM").alone == A_ON_B
    assert table().cell("second", "Clean").alone == B
    whole = table(rows={"mean": "gradient_l2_mean"}, columns={"A": "{row}(A)"}, paper=None, unit="value")
    assert whole.cell("mean", "A").alone == replace(A, metric="gradient_l2_mean")
    twice = table(rows={"self": "A"}, columns={"FGSM": "error({row} | {row}, fgsm)"}, paper=None)
    assert twice.cell("self", "FGSM").alone == replace(A, attacks=("fgsm",))


def test_published_is_the_papers_number_or_none() -> None:
    given = table(paper={"second": [2.0, 3.5], "first": [None, 4]})
    cells = [given.published(row, column) for row in given.rows for column in given.columns]
    assert cells == [None, 4, 2.0, 3.5]
    assert table().published("second", "Clean") is None
    assert table(paper=None).published("first", "FGSM") is None


def test_the_unit_says_what_rows_are_multiplied_by() -> None:
    assert (table().scale, table(unit="value").scale) == (100, 1)


REFUSED_TABLES: list[tuple[dict[str, Any], list[str]]] = [
    ({"paper": {"first": [1.0]}}, ["paper.first should be 2 numbers", "[1.0]"]),
    ({"paper": {"first": [1.0, 2.0, 3.0]}}, ["paper.first should be 2 numbers"]),
    ({"paper": {"frist": [1.0, 2.0]}}, ["paper.frist is no row (did you mean 'first'?)", "first, second"]),
    ({"rows": {}, "paper": None}, ["rows should be at least one row"]),
    ({"columns": {}, "paper": None}, ["columns should be at least one column"]),
    ({"columns": {"Clean": "eror({row})"}, "paper": None}, ["columns.Clean", "did you mean 'error'?"]),
    ({"columns": {"Clean": "error({row}) < 1"}, "paper": None}, ["columns.Clean", "should be a number, a quantity"]),
    ({"columns": {"Clean": "0.5"}, "paper": None}, ["columns.Clean", "should name a quantity"]),
    (
        {"columns": {"Clean": "error({rows})"}, "paper": None},
        ["columns.Clean of row first", "{rows}", "the placeholders are {row}"],
    ),
    ({"rows": {"first": "A", "odd": "1"}}, ["columns.Clean", "odd", "error(1)"]),
    ({"columns": {"norm": "gradient_l2_mean({row})"}, "paper": None}, ["unit should be value: gradient_l2_mean is no"]),
    ({"columns": {"r": "error({row}) / error(B)"}, "paper": None}, ["unit should be value: a ratio is no rate"]),
    ({"columns": {"r": "100 * error({row})"}, "paper": None}, ["value: 100 times a rate is in per cent already"]),
    ({"columns": {"share": "gradient_zero_share({row})"}, "paper": None, "best": "columns"}, ["best should be none"]),
    (
        {"columns": {"loss": "loss_mean({row})"}, "paper": None, "unit": "value", "best": "rows"},
        ["best should be none"],
    ),
]


@pytest.mark.parametrize(("changes", "parts"), REFUSED_TABLES)
def test_a_table_that_does_not_fit_is_refused(changes: dict[str, Any], parts: list[str]) -> None:
    message = refusal(lambda: table(**changes))
    assert [part for part in parts if part not in message] == []


def test_a_claim_has_checks_that_can_be_read() -> None:
    assert "checks should be at least one comparison" in refusal(lambda: Claim("says", []))
    message = refusal(lambda: Claim("says", ["error(A) < 1", "eror(A) < 1"]))
    assert message.startswith("checks[1]") and "did you mean 'error'?" in message


# ---- in a config


def fgsm(*eps: float) -> list[NamedAttack]:
    attack = GradientAttack(
        **{
            "eps": 0.3,
            "steps": 1,
            "step_size": None,
            "step_share": None,
            "step": "sign",
            "loss": "cross_entropy",
            "kappa": 0.0,
        },
        **{"label": "true", "start": "none", "start_share": 0.0, "clip_start": True, "momentum": 0.0},
        **{"restarts": 1, "keep": "last"},
    )
    return [NamedAttack("fgsm", replace(attack, eps=value)) for value in eps]


ALIASES = {"A": "A", "A_alias": "A", "B": "B"}
MATRIX = {"transfer_matrix": TransferMatrix(cells="all")}
ASKED = KnownNames(list(ALIASES), ALIASES, fgsm(0.3), MATRIX, {"mnist"})
TWO_EPS = replace(ASKED, attacks=fgsm(0.25, 0.3))


def claim_spec(*checks: Any) -> dict[str, Any]:
    return {"c": {"says": "words", "paper": "1 < 2", "checks": list(checks)}}


def table_spec(**changes: Any) -> dict[str, Any]:
    spec = {"title": "T", "rows": {"first": "A"}, "columns": {"Clean": "error({row})"}, "paper": None}
    return {"t": {**spec, "unit": "percent", "best": "none", **changes}}


def test_components_speak_of_models_by_the_names_of_the_results() -> None:
    claims_found = ASKED.checked(Claim, claim_spec("error(A_alias) < error(B | A_alias, fgsm)"), "claims")
    assert claims_found["c"].quantities == [A, Quantity("error_top1", "B", ("A",), ("fgsm",))]
    tables_found = ASKED.checked(Table, table_spec(rows={"first": "A_alias"}), "tables")
    assert tables_found["t"].quantities == [A]
    assert ASKED.checked(Claim, None, "claims") == {}
    assert ASKED.checked(Claim, {"c": None}, "claims") == {}


def test_an_eps_that_is_named_is_enough() -> None:
    found = TWO_EPS.checked(Claim, claim_spec("error(A | B, fgsm, eps=0.3) < error(A | B, fgsm, eps=0.25)"), "claims")
    assert [dict(quantity.conditions) for quantity in found["c"].quantities] == [{"eps": 0.3}, {"eps": 0.25}]
    assert TWO_EPS.checked(Claim, claim_spec("error(A) < error(B)"), "claims")  # clean rows have one eps


REFUSED_CLAIMS: list[tuple[KnownNames, list[Any], list[str]]] = [
    (ASKED, [], ["claims.c.checks", "at least one comparison"]),
    (ASKED, [1], ["claims.c.checks[0]", "should be a text"]),
    (ASKED, ["error(C) < 1"], ["claims.c", "'C'", "the models are A, A_alias, B"]),
    (ASKED, ["error(A_alas) < 1"], ["claims.c", "'A_alas' (did you mean 'A_alias'?)"]),
    (ASKED, ["error(A) < error(B | D, fgsm)"], ["claims.c", "'D'"]),
    (TWO_EPS, ["error(A | B, fgsm) < 1"], ["claims.c", "without saying which eps", "eps=0.25, eps=0.3"]),
    (ASKED, ["error(A | B, fgsm, eps=half) < 1"], ["claims.c asks about eps=half: it should be a number"]),
    (ASKED, ["error(A | worst(B, C), fgsm) < 1"], ["claims.c", "'C'"]),
    (TWO_EPS, ["error(A | B, worst(fgsm, pgd)) < 1"], ["claims.c", "fgsm without saying which eps"]),
    (ASKED, ["error(A) / error(C) < 1"], ["claims.c", "'C'"]),
    (ASKED, ["error(A | B, fgms) < 1"], ["claims.c asks about attack fgms (did you mean 'fgsm'?)", "has fgsm"]),
    (TWO_EPS, ["error(A | B, fgsm, eps=0.5) < 1"], ["claims.c asks about fgsm at eps=0.5", "eps=0.25, eps=0.3"]),
    (
        replace(ASKED, attacks=fgsm(8 / 255)),
        ["error(A | B, fgsm, eps=0.0313725) < 1"],
        ["claims.c asks about fgsm at eps=0.0313725: this run has fgsm at eps=0.0313725490196"],
    ),
    (ASKED, ["error(A | B, fgsm, epsilon=0.3) < 1"], ["claims.c asks about epsilon=0.3 (did you mean 'eps'?)"]),
    (ASKED, ["error(A, dataset=cifar10) < 1"], ["claims.c asks about dataset=cifar10", "there are mnist"]),
    (ASKED, ["error(A | B"], ["claims.c.checks[0]", "YAML splits a list at commas, so each is quoted"]),
    (ASKED, ["error(A, measurement=matrix) < 1"], ["claims.c asks about measurement=matrix", "transfer_matrix"]),
    *((ASKED, ["error(A) < 1", text], ["claims.c.checks[1]", *parts]) for text, parts in REFUSED),
    (ASKED, [DEEP["negatives"]], ["claims.c.checks[0]", "nested"]),
]


@pytest.mark.parametrize(("asked", "checks", "parts"), REFUSED_CLAIMS)
def test_a_wrong_claim_is_a_config_error_with_its_key(asked: KnownNames, checks: list[Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        asked.checked(Claim, claim_spec(*checks), "claims")
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == []


REFUSED_SPECS: list[tuple[dict[str, Any], list[str]]] = [
    ({"paper": {"first": [1.0, 2.0]}}, ["tables.t.paper.first should be 1 numbers"]),
    ({"paper": {"last": [1.0]}}, ["tables.t.paper.last is no row", "first"]),
    ({"paper": {"first": ["1/2"]}}, ["tables.t.paper.first[0] should be a float or null", "(write ${frac:1,2})"]),
    ({"rows": {}}, ["tables.t.rows should be at least one row"]),
    ({"columns": {"Clean": "eror({row})"}}, ["tables.t.columns.Clean", "did you mean 'error'?"]),
    ({"columns": {"Clean": "error({row} | C, fgsm)"}}, ["tables.t", "'C'"]),
    ({"columns": {"FGSM": "error({row} | B, fgsm)"}}, ["tables.t", "eps=0.25, eps=0.3"]),
    ({"unit": "points"}, ["tables.t.unit", "percent, value"]),
    ({"best": "both"}, ["tables.t.best", "none, columns, rows"]),
    ({"changes": []}, ["tables.t.changes is not a field"]),
]


@pytest.mark.parametrize(("changes", "parts"), REFUSED_SPECS)
def test_a_wrong_table_is_a_config_error_with_its_key(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        TWO_EPS.checked(Table, table_spec(**changes), "tables")
    message = str(caught.value)
    assert "\n" not in message and [part for part in parts if part not in message] == []


def test_prepare_refuses_what_the_config_asks_wrongly(tiny: Callable[..., dict[str, Any]]) -> None:
    config = {**tiny(), "claims": claim_spec("error(target) < error(targt)")}
    with pytest.raises(ConfigError, match=r"claims\.c asks about 'targt' \(did you mean 'target'\?\)"):
        prepare_experiment(config)
    config = {**tiny(), "tables": table_spec(rows={"first": "target"}, paper={"first": []})}
    with pytest.raises(ConfigError, match=r"tables\.t\.paper\.first should be 1 numbers"):
        prepare_experiment(config)
    experiment = prepare_experiment({**tiny(), "claims": claim_spec("error(target) < error(target | target, fgsm)")})
    assert [quantity.attack for quantity in experiment.asked] == ["clean", "fgsm"]


def test_every_operator_means_what_it_means_in_python() -> None:
    signs = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
    for left, right in [(0.1, 0.2), (0.2, 0.1), (0.2, 0.2)]:
        rows = [row(source=name, target=name, attack="clean", error_top1=e) for name, e in (("A", left), ("B", right))]
        for sign, compare in signs.items():
            check = judge_claim(Claim("says", [f"error(A) {sign} error(B)"]), by_seed(rows))[0]
            assert check.holds == compare(left, right)
