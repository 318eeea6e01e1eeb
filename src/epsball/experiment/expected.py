"""Describe an experiment to whoever collects many runs: the settings in which jobs can differ, and the cells it should
have."""

from collections.abc import Iterator, Mapping
from typing import Any

from epsball.experiment.prepare import Experiment

NO_SETTINGS = (
    *("experiment", "parts", "seed", "seeds", "tables", "claims", "figures", "objective", "conclusion"),
    *("outputs", "data", "reuse", "rows", "missing", "checkpoint_seconds"),
    *("device", "threads", "workers", "cuda_graphs", "deterministic"),
)
"""config keys in which jobs of one experiment do not differ: seeds, paths, and how it is computed"""
NO_FIELDS = ("seed", "root", "download")
"""the same, of components"""

Cell = tuple[str, str, str, str, str, float]  # as results.rows.KEY: dataset, measurement, source, target, attack, eps


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as a flat dict of plain values: a component's name stands at its key, `trainer: madry`, its
    fields below, `trainer.epochs: 5`; of named components the names, `suite: fgsm,pgd`."""
    return dict(flat({key: value for key, value in config.items() if key not in NO_SETTINGS}))


def flat(group: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what `settings_of` returns of the fields of one group, whose own key is `where`."""
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


def expected_cells(experiment: Experiment) -> list[Cell]:
    """Return the cells with an error that the experiment should have of each seed, clean ones first."""
    dataset, measurements = experiment.data.name, experiment.measurements
    clean = [name for measurement in measurements.values() for name in measurement.clean_models(experiment)]
    cells = [(dataset, "clean", name, name, "clean", 0.0) for name in dict.fromkeys(clean)]
    for label, measurement in measurements.items():
        cells += [(dataset, label, *cell) for cell in measurement.error_cells(experiment)]
    return cells
