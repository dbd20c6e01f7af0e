"""Suppression of messages that Orbax and TensorStore print in addition to the error that they raise."""

import gc
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs every error that it raises


def _is_not_secondary_error(record: logging.LogRecord) -> bool:
    """Returns False for log records about failed arrays. Orbax raises the first of these errors."""
    names = ("tensorstore_spec", "OCDBT")
    return record.exc_info is None or not any(name in str(record.exc_info[1]) for name in names)


logging.getLogger("asyncio").addFilter(_is_not_secondary_error)

SECONDARY_ERRORS = ("Event loop is closed", "Encountered error while reading array index")
"""Parts of the messages about other arrays that follow the first error of a save or a restore."""


@contextmanager
def secondary_errors_suppressed() -> Iterator[list[str]]:
    """Suppresses the warnings about unawaited coroutines that follow a failed save or restore.

    Yields:
      A list to which the caller appends the failure.
    """
    failures: list[str] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield failures
        if failures:
            gc.collect()  # coroutines warn when they are collected, which must happen in this context


def install_unraisable_hook() -> None:
    """Installs a hook that suppresses errors in TensorStore's threads after a failed save or restore.

    The threads may report errors at any later time, so the hook is not removed.
    """
    warnings.filterwarnings("ignore", "coroutine 'async_(de)?serialize", RuntimeWarning)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)  # type: ignore[assignment]


class _UnraisableHook(NamedTuple):
    before: Callable[[Any], Any]

    def __call__(self, event: Any) -> None:
        if not any(text in str(event.exc_value) for text in SECONDARY_ERRORS):
            self.before(event)
