"""Output to stdout and stderr. A failure to write does not end a run.

Handled cases: a closed pipe, a full disk, an encoding without the characters of a sample, and a
``sys.stdout`` that is None or an object with only a ``write`` method.
"""

import os
import sys
import threading
from contextlib import suppress
from typing import Any

COLORS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}

_failed: Any = None
"""The last stream that could not be written. Nothing more is written to it."""


def say(text: str = "") -> None:
    """Writes a line to ``sys.stdout``. Characters that its encoding lacks are escaped.

    If the stream cannot be written, a warning is written to ``sys.stderr`` and the stream is not used again.
    """
    global _failed
    stream = sys.stdout
    if stream is None or stream is _failed:
        return
    try:
        _write(stream, f"{text}\n")
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _failed = stream
        with suppress(OSError, ValueError, AttributeError):  # Python flushes the stream at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print_error(
            f"warning: cannot write to standard output: {reason}. Further output is dropped."
        )


def print_error(text: str) -> None:
    """Writes a line to ``sys.stderr``, ignoring failures. On a terminal, the first word is red."""
    if sys.stderr is not None:
        word, colon, rest = text.partition(":")
        text = f"{paint(word + colon, 'red', sys.stderr)}{rest}" if colon else text
        with suppress(OSError, ValueError):
            _write(sys.stderr, f"{text}\n")


def paint(text: str, color: str, stream: Any = None) -> str:
    """Returns text in a color if the stream (by default ``sys.stdout``) is a terminal with colors.

    The environment variable ``NO_COLOR`` turns colors off.
    """
    off = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if not color or off or not is_terminal(sys.stdout if stream is None else stream):
        return text
    return f"\033[{COLORS[color]}m{text}\033[0m"


def exit_process(code: int) -> None:
    """Exits the process.

    After an error, the process does not wait for threads: after a failed save, threads of Orbax may block
    for minutes.
    """
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    if code and not all(thread.daemon for thread in others):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def has_failed() -> bool:
    """Returns whether writing to the current ``sys.stdout`` has failed."""
    return sys.stdout is not None and sys.stdout is _failed


def is_terminal(stream: Any = None) -> bool:
    """Returns whether a stream (by default ``sys.stdout``) is a terminal."""
    try:
        return bool((sys.stdout if stream is None else stream).isatty())
    except (AttributeError, ValueError):
        return False


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError as error:
        stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
    if hasattr(stream, "flush"):
        stream.flush()
