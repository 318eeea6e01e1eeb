"""What a run makes of one measurement: its rows beside those of clean images, and its files."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import measure
from epsball.measurements.measurement import Measurement, Rows, Setup

Measure = Callable[[Measurement, Setup], Rows]


@pytest.fixture(scope="session")
def measured(tiny: Callable[..., dict[str, Any]]) -> Measure:
    """`measured(measurement, setup)`: the rows that a run has of it, those of clean images first."""
    experiment = prepare_experiment(tiny())

    def measured(measurement: Measurement, setup: Setup) -> Rows:
        models = {"sources": list(setup.sources), "targets": list(setup.targets)}
        return measure(replace(experiment, measurements={"mine": measurement}, **models), setup)

    return measured
