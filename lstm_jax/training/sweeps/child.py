"""A run in a process of its own.

A run that is killed for its memory, crashes in a compiler or diverges does not affect the next one, which
starts with a clean device. The process that starts them touches no device.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from lstm_jax.training.config import Experiment
from lstm_jax.training.exit_codes import CANNOT_RUN, FAILED, exit_code
from lstm_jax.training.monitoring.console import exit_process
from lstm_jax.training.signals import received_signals

CRASHED = 3
STATUS_BY_EXIT_CODE = {
    0: "not finished",
    FAILED: "broke off",
    CANNOT_RUN: "cannot be run",
    CRASHED: "failed",
}
"""What the exit codes of a run mean, if it left no result."""


class Children:
    """Runs experiments one after the other, and passes signals on to the one that runs.

    Attributes:
      stopped: Whether a signal was received; no other run should start then.
    """

    def __init__(self, train: Callable[[Experiment], int]):
        self.train, self.stopped = train, False
        self._child: Any = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Children":
        for number in received_signals():
            self._before[number] = signal.signal(number, self._forward_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, experiment: Experiment) -> str:
        """Trains, and says how it ended, if it left no result."""
        self._child = multiprocessing.get_context("spawn").Process(
            target=_train, args=(self.train, experiment)
        )
        self._child.start()
        if self.stopped:  # the signal came before there was a child
            self._child.terminate()
        self._child.join()
        code, self._child = self._child.exitcode, None
        if self.stopped:
            return "stopped"
        return STATUS_BY_EXIT_CODE.get(code, f"failed (exit code {code})")

    def _forward_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._child is not None and self._child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, number)


def _train(train: Callable[[Experiment], int], experiment: Experiment) -> None:
    """Trains in the child process, and ends it."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C on a terminal reaches the parent alone, which passes it on
    threading.Thread(target=_terminate_with_parent, daemon=True).start()
    try:
        code = exit_code(lambda: train(experiment))
    except Exception:
        traceback.print_exc()
        code = CRASHED
    exit_process(code)


def _terminate_with_parent() -> None:
    """A parent that was killed takes the run with it, or its successor would meet it in the folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
