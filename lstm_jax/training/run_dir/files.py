"""Operations on the files of a run directory: atomic replacement, appending and renaming."""

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.training.errors import RunError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Records(NamedTuple):
    """The lines of metrics.jsonl.

    Attributes:
      valid: Parsed lines: objects of numbers with an integer ``step``.
      invalid: Other lines, as bytes.
    """

    valid: list[dict[str, Any]]
    invalid: list[bytes]


def write(path: Path, content: str | bytes) -> None:
    """Replaces a file atomically. After a power failure, it has the old or the new content.

    Raises:
      RunError: If the file cannot be written. The old content remains.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(_encoded(content))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def append(path: Path, content: str | bytes) -> None:
    """Appends to a file.

    Raises:
      RunError: If the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(_encoded(content))
    except OSError as error:
        raise unwritable(path, error) from error


def sync(path: Path) -> None:
    """Waits until the content of a file is on disk. Does nothing if the file does not exist.

    Raises:
      RunError: If the file cannot be written.
    """
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(path, error) from error


def read_records(path: Path) -> Records:
    r"""Reads a file of metrics, one JSON object per line. The result is empty if the file does not exist.

    A byte order mark and an incomplete last line, the result of an interrupted write, are skipped.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "metrics.jsonl"
    ...     _ = path.write_text('{"step": 1}\n?\n{"step": 2}\n{"ste')
    ...     read_records(path)
    Records(valid=[{'step': 1}, {'step': 2}], invalid=[b'?'])
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        content = b""
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}.") from error
    *lines, rest = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = Records([], [])
    for line in [*lines, rest] if _record(rest) else lines:
        record = _record(line)
        if record is None:
            found.invalid.append(line)
        else:
            found.valid.append(record)
    return found


def set_aside(path: Path, suffix: str = "corrupt") -> Path:
    """Renames a file or a directory to ``NAME.SUFFIX`` and returns the new path.

    Raises:
      RunError: If it cannot be renamed.
    """
    new, n = path.with_name(f"{path.name}.{suffix}"), 1
    while new.exists():
        n += 1
        new = path.with_name(f"{path.name}.{suffix}-{n}")
    try:
        path.rename(new)
    except OSError as error:
        raise unwritable(path, error) from error
    return new


def unwritable(path: Path, error: OSError) -> RunError:
    """Returns the ``RunError`` for a file that cannot be written."""
    fix = "Free some space" if error.errno in NO_SPACE else "Make it writable"
    return RunError(
        f"cannot write {path}: {error.strerror}. {fix}, then run the same command to resume."
    )


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record if all(type(value) in (int, float) for value in record.values()) else None


def _encoded(content: str | bytes) -> bytes:
    """Encodes text as UTF-8. Surrogates, from invalid bytes on a command line, are escaped."""
    return content if isinstance(content, bytes) else content.encode(errors="backslashreplace")
