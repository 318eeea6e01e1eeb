"""What is said of all trainings of a run, from steps timed by a clock of the test's own."""

import logging
from collections.abc import Callable

import pytest

from epsball.training.forecast import TrainingForecast, rough


def forecast_of(steps: dict[str, int], clock: Callable[[], float], **operations: int) -> TrainingForecast:
    """A forecast of trainings whose steps have one operation each, but those of some."""
    return TrainingForecast(steps, {**dict.fromkeys(steps, 1), **operations}, clock)


def test_models_to_come_count_as_the_steps_so_far(caplog: pytest.LogCaptureFixture) -> None:
    """A steps at 2 s, B at 4 s; said once within a model and when one is done, nothing of the last alone."""
    now = 0.0
    forecast = forecast_of({"A": 100, "B": 50, "C": 60}, lambda: now)
    with caplog.at_level(logging.INFO):
        for step in range(1, 101):
            now += 2.0
            forecast.follow("A", step, 100)
        for step in range(1, 51):
            now += 4.0
            forecast.follow("B", step, 50)
        for step in range(1, 61):
            now += 2.0
            forecast.follow("C", step, 60)
    after_6, after_a = 94 * 2 + 110 * 2, 110 * 2  # steps 2 to 6 took 10 s
    after_b = 60 * (99 * 2 + 49 * 4) / (99 + 49)
    told = [
        f"training: about {rough(s)} left for {n} models, at the speed so far" for s, n in ((after_6, 3), (after_a, 2))
    ]
    assert caplog.messages == [*told, f"training: about {rough(after_b)} left for 1 model, at the speed so far"]


def test_a_model_that_goes_on_has_less_left(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    forecast = forecast_of({"A": 100, "B": 10}, lambda: now)
    with caplog.at_level(logging.INFO):
        for step in range(80, 101):
            now += 3.0
            forecast.follow("A", step, 100)
    assert [message.split(" left")[0] for message in caplog.messages] == [
        f"training: about {rough(16 * 3 + 30)}",
        "training: about 30 s",
    ]


def test_one_model_alone_is_left_to_its_own_progress(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    forecast = forecast_of({"A": 100}, lambda: now)
    with caplog.at_level(logging.INFO):
        for step in range(1, 101):
            now += 1.0
            forecast.follow("A", step, 100)
    assert not caplog.messages


def test_models_of_workers_count_as_the_steps_of_those_that_are_done(caplog: pytest.LogCaptureFixture) -> None:
    """A takes 200 s, 2 s a step; then 160 steps are left to two workers, of which D's alone are 200 s.
    D takes 400 s: 3 s a step on average, B's 420 s are more than its steps would take, and C's 10 steps are left.
    Nothing is said where all that are left have begun: their own progress says it."""
    now = 0.0
    forecast = forecast_of({"A": 100, "B": 50, "C": 10, "D": 100}, lambda: now)
    with caplog.at_level(logging.INFO):
        forecast.begin_elsewhere("A")
        now = 180.0
        forecast.begin_elsewhere("B")
        now = 200.0
        forecast.end_elsewhere("A", workers=2)
        forecast.begin_elsewhere("D")
        now = 600.0
        forecast.end_elsewhere("D", workers=2)
        forecast.begin_elsewhere("C")
        now = 601.0
        forecast.end_elsewhere("B", workers=2)
        forecast.end_elsewhere("C", workers=2)
    told = [(100 * 2, "3 models"), (10 * 3, "2 models")]
    assert caplog.messages == [
        f"training: about {rough(seconds)} left for {models}, at the speed so far" for seconds, models in told
    ]


def test_models_to_come_count_by_their_operations(caplog: pytest.LogCaptureFixture) -> None:
    """B's steps have four times A's operations, C's half of them."""
    now = 0.0
    forecast = forecast_of({"A": 100, "B": 50, "C": 40}, lambda: now, A=10, B=40, C=5)
    with caplog.at_level(logging.INFO):
        for step in range(1, 101):
            now += 2.0
            forecast.follow("A", step, 100)
    after_6, after_a = 94 * 2 + 50 * 8 + 40, 50 * 8 + 40
    told = [
        f"training: about {rough(s)} left for {n} models, at the speed so far" for s, n in ((after_6, 3), (after_a, 2))
    ]
    assert caplog.messages == told


def test_workers_take_no_less_than_the_longest_of_the_models_left(caplog: pytest.LogCaptureFixture) -> None:
    """With A's 1 s a step B, of as many steps, takes 400 s, whoever trains C's 10."""
    now = 0.0
    forecast = forecast_of({"A": 100, "B": 100, "C": 10}, lambda: now, B=4)
    with caplog.at_level(logging.INFO):
        forecast.begin_elsewhere("A")
        now = 100.0
        forecast.end_elsewhere("A", workers=2)
    assert caplog.messages == [f"training: about {rough(400)} left for 2 models, at the speed so far"]


def test_a_forest_and_a_damaged_model_say_nothing_of_how_long_steps_take(caplog: pytest.LogCaptureFixture) -> None:
    """The store counted the damaged one as trained when the run began; workers train it again."""
    now = 0.0
    forecast = forecast_of({"forest": 0, "A": 100, "B": 50}, lambda: now)
    with caplog.at_level(logging.INFO):
        for model, seconds in (("forest", 70.0), ("damaged", 30.0), ("A", 200.0)):
            forecast.begin_elsewhere(model)
            now += seconds
            forecast.end_elsewhere(model, workers=2)
    assert caplog.messages == [f"training: about {rough(100)} left for 1 model, at the speed so far"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (9000, "2.5 h")]
)
def test_a_time_as_people_say_it(seconds: float, text: str) -> None:
    assert rough(seconds) == text
