"""Training speed and estimated remaining time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


def duration(seconds: float) -> str:
    """Formats seconds as M:SS, or H:MM:SS from one hour on.

    >>> duration(125.4), duration(7325.0)
    ('2:05', '2:02:05')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Clock:
    """A clock for training time, without compilation, evaluation and saving.

    >>> clock = Clock(steps=100)
    >>> clock.tokens_per_second, clock.time_left(20)
    (0.0, '')
    >>> clock.start(step=20)
    >>> clock.running
    True
    """

    def __init__(self, steps: int):
        self.steps, self.tokens = steps, 0.0
        self.running, self.first, self.started = False, 0, 0.0

    def start(self, step: int) -> None:
        """Starts the clock at a step."""
        self.running, self.first, self.started = True, step, time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside the block."""
        before = time.monotonic()
        yield
        self.started += time.monotonic() - before

    @property
    def tokens_per_second(self) -> float:
        """Valid tokens per second since the start. 0 if the clock was not started."""
        return self.tokens / (time.monotonic() - self.started) if self.running else 0.0

    def time_left(self, step: int) -> str:
        """Returns the estimated remaining time at a step. Empty if no step was measured."""
        if not self.running or step == self.first:
            return ""
        elapsed = time.monotonic() - self.started
        return duration(elapsed / (step - self.first) * (self.steps - step))
