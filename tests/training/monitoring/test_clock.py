"""Measured speed and remaining time."""

import pytest

from lstm_jax.training.monitoring import clock as module
from lstm_jax.training.monitoring.clock import Clock, duration

STRICT = False


@pytest.fixture
def time(monkeypatch):
    """``time(seconds)``: advances the clock of the module."""
    now = {"seconds": 100.0}
    monkeypatch.setattr(module.time, "monotonic", lambda: now["seconds"])

    def advance(seconds):
        now["seconds"] += seconds

    return advance


def test_speed_and_remaining_time(time):
    clock = Clock(steps=100)
    time(50)  # before the start, as for compilation
    clock.start(step=20)
    clock.tokens = 3000.0
    time(10)
    assert clock.tokens_per_second == 300.0
    assert clock.time_left(40) == "0:30"  # 20 steps took 10 s, 60 remain
    with clock.paused():
        time(1000)
    assert clock.tokens_per_second == 300.0
    assert clock.time_left(40) == "0:30"


def test_nothing_is_known_before_the_first_measured_step(time):
    clock = Clock(steps=100)
    assert (clock.tokens_per_second, clock.time_left(0)) == (0.0, "")
    clock.start(step=20)
    assert clock.time_left(20) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3600.0, "1:00:00")])
def test_durations_are_minutes_and_seconds(seconds, text):
    assert duration(seconds) == text
