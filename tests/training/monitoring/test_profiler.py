"""Profiles of some steps."""

from pathlib import Path

import pytest

from lstm_jax.training.monitoring.profiler import Profiler

STRICT = False


@pytest.fixture
def calls(monkeypatch):
    """The calls of JAX's profiler."""
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda path: calls.append(path))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    return calls


@pytest.mark.parametrize(
    ("steps", "dispatches"),
    [
        ((1, 1), [1]),
        ((4, 5), [4]),  # dispatches of three steps: 1 to 3, 4 to 6, 7 to 9
        ((3, 7), [1, 4, 7]),
        ((10, 12), []),
        (None, []),
    ],
)
def test_dispatches_with_a_profiled_step_are_traced(calls, steps, dispatches):
    profiler, traced = Profiler(steps), []
    for first in (1, 4, 7):
        profiler.before(first, 3, Path("profile"))
        if profiler.running:
            traced.append(first)
        profiler.after(first + 2, ())
    profiler.close()
    assert traced == dispatches
    assert calls == (["profile", "stop"] if dispatches else [])


def test_a_profile_is_stopped_if_the_run_ends_first(calls):
    profiler = Profiler((2, 100))
    profiler.before(1, 3, Path("profile"))
    profiler.close()
    profiler.close()
    assert calls == ["profile", "stop"]
