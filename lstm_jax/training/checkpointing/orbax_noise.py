"""Silences what Orbax and TensorStore report besides the error that they raise."""

import gc
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it raises, in full, thrice


def _is_not_secondary_error(record: logging.LogRecord) -> bool:
    """Whether a log record is not about an array that failed, of which Orbax raises the first."""
    names = ("tensorstore_spec", "OCDBT")
    return record.exc_info is None or not any(name in str(record.exc_info[1]) for name in names)


logging.getLogger("asyncio").addFilter(_is_not_secondary_error)

SECONDARY_ERRORS = ("Event loop is closed", "Encountered error while reading array index")
"""Parts of the messages that remain of other arrays after the first error of a save or a restore."""


@contextmanager
def secondary_errors_suppressed() -> Iterator[list[str]]:
    """Drops what Orbax leaves to Python to report, array by array, after a failure.

    Yields:
      A list to which the caller adds the failure.
    """
    failures: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield failures
        if failures:  # nothing refers to the error any more
            gc.collect()  # coroutines report when they are collected


def install_unraisable_hook() -> None:
    """Installs a hook that drops what TensorStore's threads report after a failed save or restore.

    They may report at any time later, so the hook stays.
    """
    warnings.filterwarnings("ignore", "coroutine 'async_(de)?serialize", RuntimeWarning)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)  # type: ignore[assignment]


class _UnraisableHook(NamedTuple):
    before: Callable[[Any], Any]

    def __call__(self, event: Any) -> None:
        if not any(text in str(event.exc_value) for text in SECONDARY_ERRORS):
            self.before(event)
