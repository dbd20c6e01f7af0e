"""The sizes and hashes of the files in a folder's folders, written beside them: damage is named."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

NAME = "sums.json"
HASHED = 2**30
"""Files beyond so many bytes in all are known by their size alone: a large model would be read twice."""


def seal(folder: Path) -> None:
    """Writes what is there now.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = Path(name)
    ...     (folder / "state").mkdir()
    ...     _ = (folder / "state" / "C").write_text("sound")
    ...     seal(folder)
    ...     before = damage(folder)
    ...     _ = (folder / "state" / "C").write_text("hound")
    ...     before, damage(folder)
    (None, 'state/C has other bytes than were written')
    """
    sums, left = {}, HASHED
    for path in _files(folder):
        size = path.stat().st_size
        left -= size
        sums[str(path.relative_to(folder))] = [size, _digest(path) if left >= 0 else None]
    (folder / NAME).write_text(json.dumps(sums), encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What differs from when the folder was sealed, or None."""
    try:
        sums = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{NAME} is missing"
    except ValueError:
        return f"{NAME} cannot be read"
    for name, (size, digest) in sums.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, {size:,} were written"
        if digest is not None and _digest(path) != digest:
            return f"{name} has other bytes than were written"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.glob("*/**/*")) if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
