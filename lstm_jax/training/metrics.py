"""Figures as people read them."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


def bits(nats: float) -> float:
    """Nats to bits.

    >>> round(bits(math.log(8)), 3)
    3.0
    """
    return nats / math.log(2)


def duration(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> duration(125.4)
    '2:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


class Clock:
    """Times training: tokens a second and time left, without compilation and evaluation.

    >>> clock = Clock(steps=100, tokens_per_step=10)
    >>> clock.start(step=20)
    >>> clock.running
    True
    """

    def __init__(self, steps: int, tokens_per_step: int):
        self.steps, self.tokens_per_step = steps, tokens_per_step
        self.running = False

    def start(self, step: int) -> None:
        """Starts the clock after ``step`` steps."""
        self.running, self.first, self.began = True, step, time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside."""
        before = time.monotonic()
        yield
        self.began += time.monotonic() - before

    def reading(self, step: int) -> str:
        """Tokens a second since the start, and the time left."""
        elapsed, done = time.monotonic() - self.began, step - self.first
        if not done or not elapsed:
            return ""
        left = duration(elapsed / done * (self.steps - step))
        return f"{done * self.tokens_per_step / elapsed:,.0f} characters a second, {left} left"
