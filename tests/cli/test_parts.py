"""Values of a config as words of the command line, and the parts that a word is for."""

from typing import Any

import pytest

from epsball.cli.compose import composed
from epsball.cli.parts import as_value, where_they_fit


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
