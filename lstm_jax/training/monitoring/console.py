"""Standard output and standard error, whose failures do not end a run.

The reader of a pipe may be gone, the disk of a log full, the encoding too small for a sample;
``sys.stdout`` may be an object with ``write`` alone, or None.
"""

import os
import sys
import threading
from contextlib import suppress
from typing import Any

COLORS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}

_failed: Any = None
"""The last stream that could not be written; it is not written again."""


def say(text: str = "") -> None:
    """Writes a line to ``sys.stdout``, with escapes for characters that its encoding lacks.

    If that fails, a warning goes to ``sys.stderr``, and nothing is written to this stream any more.
    """
    global _failed
    stream = sys.stdout
    if stream is None or stream is _failed:
        return
    try:
        _write(stream, f"{text}\n")
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _failed = stream
        with suppress(OSError, ValueError, AttributeError):  # so that Python can flush it at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print_error(
            f"warning: cannot write to standard output: {reason}. No more is written there."
        )


def print_error(text: str) -> None:
    """Writes a line to ``sys.stderr``, if that is possible. On a terminal its first word is red."""
    if sys.stderr is not None:
        word, colon, rest = text.partition(":")
        text = f"{paint(word + colon, 'red', sys.stderr)}{rest}" if colon else text
        with suppress(OSError, ValueError):
            _write(sys.stderr, f"{text}\n")


def paint(text: str, color: str, stream: Any = None) -> str:
    """Returns text in a color if the stream, by default ``sys.stdout``, is a terminal that has colors.

    The environment variable ``NO_COLOR`` turns colors off.
    """
    off = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if not color or off or not is_terminal(sys.stdout if stream is None else stream):
        return text
    return f"\033[{COLORS[color]}m{text}\033[0m"


def exit_process(code: int) -> None:
    """Ends the process with an exit code.

    After a failed save, threads of Orbax may wait for each other for minutes. They are not waited for.
    """
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    if code and not all(thread.daemon for thread in others):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def has_failed() -> bool:
    """Whether a line could not be written to the current ``sys.stdout``."""
    return sys.stdout is not None and sys.stdout is _failed


def is_terminal(stream: Any = None) -> bool:
    """Whether a stream, by default ``sys.stdout``, is a terminal."""
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
