"""Describe an experiment to whoever collects many runs: the settings in which jobs can differ."""

from collections.abc import Iterator, Mapping
from typing import Any

from epsball.experiment.settings import COMPUTED, FILES, STATED

NO_SETTINGS = (
    *("experiment", "parts", "seed", "seeds", *STATED, "objective", "conclusion"),
    *(*COMPUTED, *FILES, "reuse", "rows", "missing"),
)
"""config keys in which jobs of one experiment do not differ: seeds, paths, and how it is computed"""
NO_FIELDS = ("seed", "root", "download")
"""the same, of components"""


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as a flat dict of plain values: a component's name stands at its key, `trainer: madry`, its
    fields below, `trainer.epochs: 5`; of named components the names, `suite: fgsm,pgd`."""
    return dict(flat({key: value for key, value in config.items() if key not in NO_SETTINGS}))


def flat(group: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what `flat_settings` returns of the fields of one group, whose own key is `where`."""
    for key, value in group.items():
        if key in NO_FIELDS or (key == "name" and where):
            continue
        at = f"{where}.{key}" if where else str(key)
        if not isinstance(value, Mapping):
            yield at, value
            continue
        if "name" in value:
            yield at, value["name"]
        elif all(part is None or isinstance(part, Mapping) for part in value.values()):
            yield at, ",".join(str(name) for name, part in value.items() if part is not None) or "none"
        yield from flat(value, at)
