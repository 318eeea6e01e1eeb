"""Values of a config as words of the command line, and the parts that a word is for."""

from typing import Any

import pytest

from epsball.cli.compose import composed
from epsball.cli.parts import adding, as_value, where_they_fit
from epsball.cli.words import choosing


@pytest.mark.parametrize("value", ["runs", "my runs/it's", "a\\b", 3, 0.1, 1e-9, True, None, [], ["a,b.csv", "c"]])
def test_a_value_is_written_so_that_hydra_reads_it(value: Any) -> None:
    key = "rows" if isinstance(value, list) else "outputs"
    found = composed(f"{key}={as_value(value)}")[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", ["models.B.trainer.epochs=1", "arch@models.B.arch=mnist_d", "models.B=null"])
def test_a_word_that_sets_a_model_or_a_field_of_one_is_for_the_part_that_has_it(word: str) -> None:
    parts = ["tramer/table7", "tramer/table2"]
    words, theirs = where_they_fit(parts, [["scale=smoke", word, f"paper={part}"] for part in parts])
    assert words == [["scale=smoke", "paper=tramer/table7"], ["scale=smoke", word, "paper=tramer/table2"]]
    assert theirs == {("models", "B")}


def test_a_field_of_a_grid_is_for_the_part_that_has_it() -> None:
    parts, word = ["kurakin/table1", "kurakin/figure1"], "grid.natural.values.width=[0.25]"
    words, theirs = where_they_fit(parts, [[word, f"paper={part}"] for part in parts])
    assert words == [["paper=kurakin/table1"], [word, "paper=kurakin/figure1"]]
    assert theirs == {("grid", "natural")}


@pytest.mark.parametrize("word", ["suite.pgd_cw.kappa=40", "suite.pgd_cw=null", "attack@suite.pgd_cw=pgd"])
def test_a_word_that_sets_an_attack_or_a_field_of_one_is_for_the_part_that_has_it(word: str) -> None:
    parts = ["kariyappa/table2_conv3", "kariyappa/figure4_conv3"]
    words, theirs = where_they_fit(parts, [[word, f"paper={part}"] for part in parts])
    assert words == [[word, "paper=kariyappa/table2_conv3"], ["paper=kariyappa/figure4_conv3"]]
    assert theirs == {("suite", "pgd_cw")}


def test_a_field_of_the_attack_is_for_the_parts_that_have_one() -> None:
    parts, word, chosen = ["tramer/table2", "demo"], "attack.eps=0.2", "attack=pgd"
    words, _ = where_they_fit(parts, [[word, "paper=tramer/table2"], [chosen, word, "paper=demo"]])
    assert words == [["paper=tramer/table2"], [chosen, word, "paper=demo"]]
    words, _ = where_they_fit(parts[:1], [[word, "paper=tramer/table2"]])
    assert words == [[word, "paper=tramer/table2"]]  # none has: it is told


@pytest.mark.parametrize(
    ("word", "parts"),
    [  # what the part with iterative attacks, that with one-step attacks and one that crafts none have of it
        ("{iter_ll: 9, step_ll: 7}", ["{iter_ll:9}", "{step_ll:7}", None]),
        ("{iter_ll: 9}", ["{iter_ll: 9}", None, None]),
        ("{iterll: 9}", ["{iterll: 9}", "{iterll: 9}", None]),
        ("9", ["9", "9", "9"]),
    ],
)
def test_the_images_of_an_attack_are_for_the_part_that_runs_it(word: str, parts: list[str | None]) -> None:
    key, names = "+measurement.images=", ["kurakin/table2", "kurakin/table1", "kariyappa/figure4_conv3"]
    words, _ = where_they_fit(names, [["scale=smoke", key + word, f"paper={name}"] for name in names])
    own = [["scale=smoke", *([key + part] if part else [])] for part in parts]
    assert words == [[*each, f"paper={name}"] for each, name in zip(own, names, strict=True)]


def test_the_images_of_one_attack_are_for_the_part_that_runs_it() -> None:
    names, word = ["kurakin/table2", "kurakin/table1"], "+measurement.images.iter_ll=9"
    words, _ = where_they_fit(names, [[word, f"paper={name}"] for name in names])
    assert words == [[word, "paper=kurakin/table2"], ["paper=kurakin/table1"]]


def test_a_group_of_the_measurement_is_for_the_part_that_has_its_field() -> None:
    parts = ["kariyappa/table2_conv3", "kariyappa/figure4_conv3"]
    word = "measurement.bins={low:-1,high:1,number:9,log:false}"
    words, _ = where_they_fit(parts, [[word, f"paper={part}"] for part in parts])
    assert words == [["paper=kariyappa/table2_conv3"], [word, "paper=kariyappa/figure4_conv3"]]


@pytest.mark.parametrize(
    ("word", "added"),
    [
        ("suite.pgd_cw.kappa=40", "++suite.pgd_cw.kappa=40"),  # the run's own suite has none
        ("suite.fgsm.eps=0.1", "suite.fgsm.eps=0.1"),  # it has this one
        ("arch@models.T_div.arch=conv4", "+arch@_global_.models.T_div.arch=conv4"),
        ("attack@suite.pgd_cw=pgd", "+attack@_global_.suite.pgd_cw=pgd"),
        ("models.T_div.trainer.epochs=3", "models.T_div.trainer.epochs=3"),  # Hydra takes any field of a model
        ("eps=0.2", "eps=0.2"),
        ("suite=none", "suite=none"),
    ],
)
def test_a_word_for_what_the_run_itself_lacks_is_added_and_the_parts_take_it_as_typed(word: str, added: str) -> None:
    assert adding(["paper=kariyappa/all", word]) == ["paper=kariyappa/all", added]
    assert choosing(added) == word
    assert adding(["paper=kariyappa/table2_conv3", word]) == ["paper=kariyappa/table2_conv3", word]  # no parts
