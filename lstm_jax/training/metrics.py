"""Figures as people read them."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax


def bits(nats: float) -> float:
    """Nats to bits.

    >>> round(bits(math.log(8)), 3)
    3.0
    """
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """The number of equally likely symbols that would be as hard to predict.

    >>> round(perplexity(math.log(50)))
    50
    """
    return math.exp(min(nats, 700.0))


METRICS: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "bits": ("bits per symbol", lambda loss, accuracy: bits(loss)),
    "perplexity": ("perplexity", lambda loss, accuracy: perplexity(loss)),
    "nats": ("nats per step", lambda loss, accuracy: loss),
    "mse": ("mean squared error", lambda loss, accuracy: loss),
    "accuracy": ("accuracy", lambda loss, accuracy: accuracy),
}
"""The figures that tasks are compared by: a name for people, and how to get it."""


MACHINE = ("tokens_per_second", "tokens_per_second_per_device", "memory_peak_gib")
"""The figures that depend on the machine and the clock; all others follow from the seed."""


def machine_metrics(tokens_per_second: float, devices: int) -> dict[str, float]:
    """Speed, where it is known, and the most memory a device has held, where the device says so."""
    figures: dict[str, float] = {}
    if tokens_per_second:
        figures |= dict(
            zip(MACHINE, (tokens_per_second, tokens_per_second / devices), strict=False)
        )
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    if known := [peak for peak in peaks if peak is not None]:
        figures["memory_peak_gib"] = max(known) / 2**30
    return figures


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
    >>> clock.tokens_per_second(20), clock.left(20)
    (0.0, '')
    >>> clock.start(step=20)
    >>> clock.running
    True
    """

    def __init__(self, steps: int, tokens_per_step: int):
        self.steps, self.tokens_per_step = steps, tokens_per_step
        self.running, self.first, self.began = False, 0, 0.0

    def start(self, step: int) -> None:
        """Starts the clock after ``step`` steps."""
        self.running, self.first, self.began = True, step, time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens inside."""
        before = time.monotonic()
        yield
        self.began += time.monotonic() - before

    def tokens_per_second(self, step: int) -> float:
        """Since the start; 0 if nothing was measured yet."""
        elapsed = time.monotonic() - self.began
        return (step - self.first) * self.tokens_per_step / elapsed if self.running else 0.0

    def left(self, step: int) -> str:
        """The time left; empty if nothing was measured yet."""
        if not self.running or step == self.first:
            return ""
        elapsed = time.monotonic() - self.began
        return duration(elapsed / (step - self.first) * (self.steps - step))
