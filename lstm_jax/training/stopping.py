"""Signals that ask training to end: SIGTERM from schedulers, SIGINT from Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Becomes true once a signal has come.

    >>> stop = Stop()
    >>> bool(stop)
    False
    >>> stop.signal = "SIGTERM"
    >>> bool(stop)
    True
    """

    signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def on_signals() -> Iterator[Stop]:
    """While inside, the first signal sets a flag; a second SIGINT interrupts as Python does."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # only there can they be caught
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
