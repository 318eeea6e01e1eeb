"""What a waiting user sees where there is no terminal."""

import logging
import os
import signal

import pytest

from epsball.runtime.progress import Interrupted, Progress, Stop


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


def test_a_stop_is_obeyed_at_once_where_nothing_is_to_be_saved() -> None:
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    try:
        stop.listen()
        with pytest.raises(Interrupted, match="signal 15"), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it goes on")
        later = Stop()
        later.listen()  # the other's handler stays: a launcher's would
        assert signal.getsignal(signal.SIGTERM) == stop.on_signal
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_worker_finishes_its_step_however_often_it_is_asked() -> None:
    """A terminal, or a scheduler, asks the workers, too, and then their parent does: that is one request."""
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    try:
        stop.obey_parent()
        os.kill(os.getpid(), signal.SIGINT)
        stop.check()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="signal 15"):
            stop.check()
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_stop_asked_for_before_is_obeyed_before_anything_begins() -> None:
    stop = Stop()
    stop.on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted), stop.at_once():
        pytest.fail("it begins")
