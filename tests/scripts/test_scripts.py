"""Every script of scripts/ finds what it imports; what dump_configs.py says of two dumps."""

import importlib
from pathlib import Path

import dump_configs
import pytest

SCRIPTS = sorted(path.stem for path in Path(dump_configs.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_what_it_imports(name: str) -> None:
    importlib.import_module(name)


def test_a_dump_is_compared_by_value_and_by_order_where_it_shows() -> None:
    before = {"a=1": {"eps": 0.1, "suite": {"fgsm": 1, "pgd": 2}, "old": 3}, "b=1": {"eps": 1}, "c=1": {"eps": 1}}
    after = {"a=1": {"eps": 0.2, "suite": {"pgd": 2, "fgsm": 1}, "new": 3}, "b=1": {"eps": 1}}
    assert dump_configs.compared(before, before) == {}
    assert dump_configs.compared(before, after) == {
        ".old is missing, was 3": ["a=1"],
        ".new is new: 3": ["a=1"],
        ".eps was 0.1, is 0.2": ["a=1"],
        ".suite: order was ['fgsm', 'pgd'], is ['pgd', 'fgsm']": ["a=1"],
        "does not compose any more": ["c=1"],
    }
