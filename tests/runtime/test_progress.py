"""What a waiting user sees where there is no terminal."""

import logging

import pytest

from epsball.runtime.progress import Progress


def test_a_line_every_half_minute_says_how_long_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """Steps that an earlier process made took none of this one's time."""
    seconds = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    with caplog.at_level(logging.INFO), Progress("A", 100, start=40, clock=lambda: next(seconds)) as progress:
        progress.step(5)
        progress.step(5)
        progress.say("loss 0.5")
        progress.step(5)
        progress.step(5)
    assert caplog.messages == ["A: 50 of 100, 31 s, 155 s left", "A: 60 of 100, 62 s, 124 s left, loss 0.5"]
