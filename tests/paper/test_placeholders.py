"""Placeholders in tables and claims: ten lines say what a hundred would, and a misspelt one is told in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from cells import clean, fgsm

from epsball.build import ConfigError, construct
from epsball.paper.claims import Claim
from epsball.paper.placeholders import expanded, fill, fill_known, looped, repeated
from epsball.paper.tables import Table, compare


def told(action: Callable[[], object]) -> str:
    """The one line that a ValueError says."""
    with pytest.raises(ValueError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- texts


def test_all_placeholders_are_filled_or_the_known_ones_alone() -> None:
    fields = {"model": "A", "attack": "fgsm"}
    assert fill("error({model} | {model}, {attack})", fields) == "error(A | A, fgsm)"
    assert fill("error(A)", {}) == "error(A)"
    assert fill_known("error({model} | B, {other})", fields) == "error(A | B, {other})"
    message = told(lambda: fill("error({modle})", fields))
    assert message == "'error({modle})' has {modle}, for which nothing stands: the placeholders are {model}, {attack}"


def test_values_are_put_in_once() -> None:
    """What stands for one placeholder is not searched for another."""
    assert fill("{a}", {"a": "{b}", "b": "c"}) == "{b}"


def test_a_label_is_repeated_for_each_combination_of_the_loops_that_it_names() -> None:
    loops: dict[str, Any] = {"model": ["A", "B"], "eps": [0.1, 1], "unused": ["x"]}
    found = dict(repeated("{model} at {eps}", {"text": "error({model} | B, fgsm, eps={eps})"}, loops))
    assert list(found) == ["A at 0.1", "A at 1", "B at 0.1", "B at 1"]
    assert found["B at 0.1"] == {"model": "B", "eps": "0.1", "text": "error(B | B, fgsm, eps=0.1)"}
    assert list(repeated("once", {"text": "{model}"}, loops)) == [("once", {"text": "{model}"})]


def test_labels_of_a_dict_are_its_keys() -> None:
    loops: dict[str, Any] = {"eps": {"8/255": 8 / 255, "none": 0}, "model": {"natural": "A"}}
    found = dict(repeated("{model}, {eps}", {"text": "error({model} | B, fgsm, eps={eps})"}, loops))
    assert found["natural, 8/255"]["text"] == "error(A | B, fgsm, eps=0.0313725490196)"
    assert found["natural, none"]["text"] == "error(A | B, fgsm, eps=0)"


def test_a_text_is_looped_over_what_it_names() -> None:
    loops: dict[str, Any] = {"a": ["A", "B"], "b": [1, 2], "c": ["x"]}
    assert looped("error({a}) < {b}", loops) == ["error(A) < 1", "error(A) < 2", "error(B) < 1", "error(B) < 2"]
    assert looped("error(A) < 1", loops) == ["error(A) < 1"]


def test_two_lines_of_one_label_are_refused() -> None:
    loops: dict[str, Any] = {"model": ["A", "B"]}
    assert list(expanded("row", {"{model}": {"row": "{model}"}, "C": "C"}, loops)) == ["A", "B", "C"]
    message = told(lambda: expanded("row", {"{model}": "{model}", "A": {"row": "C"}}, loops))
    assert message == "two of them are called 'A'"


# ---- in a table


def table(text: str) -> Table:
    """A table as YAML has it."""
    found: Table = construct(Table, yaml.safe_load(text), where="tables.t")
    return found


SHORT = """
title: Black-box accuracy (Kariyappa, Table 2)
for:
  model: {ResNet-20: resnet, Conv-4: conv, MIX: mix, VGG: vgg}
  attack: [fgsm, i_fgsm, mi_fgsm, pgd, pgd_cw]
  eps: {eps 0.03: 0.03, eps 0.09: 0.09}
rows: {"{attack}, {eps}": {attack: "{attack}", eps: "{eps}"}}
columns: {"{model}": "accuracy({model} | surrogate, {attack}, eps={eps})"}
paper: {"fgsm, eps 0.03": [70.5, 67.9, null, 61.0], "pgd_cw, eps 0.09": [7.5, 7.4, 0, null]}
unit: percent
best: rows
"""


def test_a_table_of_forty_cells_of_ten_lines_is_the_table_written_out() -> None:
    models = {"ResNet-20": "resnet", "Conv-4": "conv", "MIX": "mix", "VGG": "vgg"}
    attacks = ("fgsm", "i_fgsm", "mi_fgsm", "pgd", "pgd_cw")
    rows = {f"{attack}, eps {eps}": {"attack": attack, "eps": eps} for attack in attacks for eps in ("0.03", "0.09")}
    columns = {name: f"accuracy({model} | surrogate, {{attack}}, eps={{eps}})" for name, model in models.items()}
    short = table(SHORT)
    long = construct(Table, {**yaml.safe_load(SHORT), "for": None, "rows": rows, "columns": columns}, where="t")
    assert len(SHORT.strip().splitlines()) == 10 and len(short.cells) == 40
    assert short.cells == long.cells and list(short.cells) == list(long.cells)
    assert short.published("pgd_cw, eps 0.09", "ResNet-20") == long.published("pgd_cw, eps 0.09", "ResNet-20") == 7.5
    assert short.published("pgd, eps 0.03", "ResNet-20") is None
    row = fgsm("conv", "surrogate", 0.25)
    found, expected = (compare({"t": one}, [row | {"eps": 0.09}]) for one in (short, long))
    assert found.equals(expected) and found["ours"].dropna().tolist() == [75.0]


def test_a_row_has_several_placeholders_and_a_column_what_it_needs_of_them() -> None:
    found = table("""
        title: T
        rows: {own: {model: A, source: A}, other: {model: A, source: B}}
        columns: {clean: "error({model})", FGSM: "error({model} | {source}, fgsm)"}
        paper: null
        unit: percent
        best: none
    """)
    texts = {key: [(q.target, q.source, q.attack) for q in cell.quantities] for key, cell in found.cells.items()}
    assert texts["own", "FGSM"] == [("A", "A", "fgsm")] and texts["other", "FGSM"] == [("A", "B", "fgsm")]
    assert texts["own", "clean"] == texts["other", "clean"] == [("A", "A", "clean")]


def test_a_loop_in_a_column_stands_beside_the_row() -> None:
    rows = [clean("A", 0.1), fgsm("A", "B", 0.5), fgsm("A", "C", 0.25)]
    found = table("""
        title: T
        for: {source: {holdout B: B, holdout C: C}}
        rows: {A: A}
        columns: {clean: "error({row})", "{source}": "error({row} | {source}, fgsm)"}
        paper: {A: [10, 50, 20]}
        unit: percent
        best: none
    """)
    compared = compare({"t": found}, rows)
    assert list(compared["column"]) == ["clean", "holdout B", "holdout C"]
    assert list(compared["ours"]) == [10, 50, 25] and list(compared["difference"]) == [0, 0, 5]


FIELDS = {"title": "T", "rows": {"A": "A"}, "columns": {"clean": "error({row})"}, "paper": None}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"columns": {"clean": "error({rwo})"}}, "columns.clean of row A: 'error({rwo})' has {rwo}"),
    ({"columns": {"{model}": "error({row} | {model}, fgsm)"}}, "columns: '{model}' has {model}, for which nothing"),
    ({"rows": {"{modle}": "A"}, "for": {"model": ["A"]}}, "rows: '{modle}' has {modle}, for which nothing stands: the"),
    ({"rows": {"A": "{model}"}, "for": {"model": ["A"]}}, "columns.clean of row A: error({model})"),
    ({"rows": {"{model}": "{model}"}, "for": {"model": []}}, "for.model should be at least one value, is empty"),
    ({"rows": {"{model}": "{model}"}, "for": {"model": {}}}, "for.model should be at least one value, is empty"),
    ({"for": {"a b": ["A"]}}, "for.a b should be a word: it stands in texts as {a b}"),
    ({"rows": {"{model}": "A", "A": "B"}, "for": {"model": ["A"]}}, "rows: two of them are called 'A'"),
    (
        {"for": {"model": ["A", None]}},
        "for.model should be a list, each a text or a float or {NAME: a text or a float}, is ['A'",
    ),
    ({"for": {"model": "A"}}, "for.model should be a list, each a text or a float or {NAME: a text or a float}"),
    ({"for_": {"model": ["A"]}}, "for_ is not a field (did you mean 'for'?)"),
    (
        {"rows": {"A": {"model": "A"}}},
        "'error({row})' has {row}, for which nothing stands: the placeholders are {model}",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_is_wrong_with_a_placeholder_is_told_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        construct(Table, {**FIELDS, "unit": "percent", "best": "none", **changes}, where="tables.t")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("tables.t.")
    assert message in str(caught.value)


# ---- in a claim


def claim(checks: list[str], **more: Any) -> Claim:
    found: Claim = construct(Claim, {"says": "s", "paper": "p", "checks": checks, **more}, where="claims.c")
    return found


def test_a_check_with_placeholders_stands_for_each_of_their_values() -> None:
    loops = {"model": {"natural": "A", "hardened": "B"}, "attack": ["fgsm", "pgd"], "eps": [0.1, 0.3]}
    checks = ["error({model} | C, {attack}, eps={eps}) < 0.5", "error({model}) < 0.1", "error(C) < 1"]
    found = claim(checks, **{"for": loops})
    texts = [comparison.text for comparison in found.comparisons]
    assert len(texts) == 2 * 2 * 2 + 2 + 1
    assert texts[0] == "error(A | C, fgsm, eps=0.1) < 0.5" and texts[7] == "error(B | C, pgd, eps=0.3) < 0.5"
    assert texts[8:] == ["error(A) < 0.1", "error(B) < 0.1", "error(C) < 1"]


def test_a_chain_in_a_loop_is_as_many_comparisons_each_time() -> None:
    found = claim(["error({a}) < error({b}) < 0.5"], **{"for": {"a": ["A"], "b": ["B", "C"]}})
    assert [c.text for c in found.comparisons] == [
        *("error(A) < error(B)", "error(B) < 0.5"),
        *("error(A) < error(C)", "error(C) < 0.5"),
    ]


@pytest.mark.parametrize(
    ("checks", "loops", "parts"),
    [
        (["error({modle}) < 1"], {"model": ["A"]}, ["checks[0]: ", "has {modle}", "the placeholders are {model}"]),
        (["error(A) < 1", "error({model}) < 1"], None, ["checks[1]: 'error({model}) < 1' has {model}", "are (none)"]),
        (["error(A) < 1"], {"model": []}, ["for.model should be at least one value, is empty"]),
        (["error({model}) < 1"], {"model": ["A", "B C"]}, ["checks[0]: 'error(B C) < 1' cannot be read"]),
    ],
)
def test_what_is_wrong_with_a_claims_placeholder_is_told(checks: list[str], loops: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        claim(checks, **{"for": loops})
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"claims.c.{parts[0]}")
    assert [part for part in parts if part not in message] == []


def test_a_label_has_a_whole_number_without_a_point() -> None:
    assert list(dict(repeated("{epochs} epochs", {}, {"epochs": [2.0, 0.5]}))) == ["2 epochs", "0.5 epochs"]
