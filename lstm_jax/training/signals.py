"""Signals that stop training: SIGTERM (schedulers), SIGINT (Ctrl-C) and SIGHUP (a closed terminal)."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class Signal:
    """A flag that is true after a signal was received.

    >>> received = Signal()
    >>> bool(received)
    False
    >>> received.name = "SIGTERM"
    >>> bool(received)
    True
    """

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None


def received_signals() -> list[int]:
    """Returns the signals to handle. Ignored signals are excluded, for instance SIGHUP under ``nohup``."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def on_signals() -> Iterator[Signal]:
    """Yields a flag that the first signal sets. A second SIGINT raises KeyboardInterrupt."""
    received = Signal()
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # Python handles signals only there
        yield received
        return

    def ask(number: int, frame: FrameType | None) -> None:
        received.name = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in received_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
