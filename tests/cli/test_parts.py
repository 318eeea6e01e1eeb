"""Values of a config as words of the command line."""

from typing import Any

import pytest

from epsball.cli.compose import composed
from epsball.cli.parts import as_value


@pytest.mark.parametrize("value", ["runs", "my runs/it's", "a\\b", 3, 0.1, 1e-9, True, None, [], ["a,b.csv", "c"]])
def test_a_value_is_written_so_that_hydra_reads_it(value: Any) -> None:
    key = "rows" if isinstance(value, list) else "outputs"
    found = composed(f"{key}={as_value(value)}")[key]
    assert found == value and type(found) is type(value)
