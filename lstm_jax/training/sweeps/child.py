"""Runs of a sweep in child processes.

A run that runs out of memory, crashes or diverges does not affect the next run, which starts in a new
process. The parent process uses no device.
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
    0: "incomplete",
    FAILED: "failed",
    CANNOT_RUN: "cannot be run",
    CRASHED: "crashed",
}
"""Status of a run without result.json, by exit code."""


class Children:
    """Runs experiments in child processes, one at a time, and forwards signals to the current child.

    Attributes:
      stopped: Whether a signal was received, so that no further run should start.
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
        """Trains in a child process. Returns the status to use if the run has no result.json."""
        self._child = multiprocessing.get_context("spawn").Process(
            target=_train, args=(self.train, experiment)
        )
        self._child.start()
        if self.stopped:  # the signal arrived before the child started
            self._child.terminate()
        self._child.join()
        code, self._child = self._child.exitcode, None
        if self.stopped:
            return "stopped"
        return STATUS_BY_EXIT_CODE.get(code, f"crashed (exit code {code})")

    def _forward_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self._child is not None and self._child.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, number)


def _train(train: Callable[[Experiment], int], experiment: Experiment) -> None:
    """Trains in the child process and exits with an exit code."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C then reaches only the parent, which forwards it
    threading.Thread(target=_terminate_with_parent, daemon=True).start()
    try:
        code = exit_code(lambda: train(experiment))
    except Exception:
        traceback.print_exc()
        code = CRASHED
    exit_process(code)


def _terminate_with_parent() -> None:
    """Sends SIGTERM to this process when its parent ends.

    Otherwise, a run whose parent was killed would keep its run directory locked.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
