"""Cached encoding of texts: files of token ids, which are verified and memory-mapped in later runs."""

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.cache import CacheError, atomic_path, cache_dir
from lstm_jax.training.data.text_files import ByteRanges, Text, blocks
from lstm_jax.training.data.vocabulary import Vocabulary, complete_symbols, count

FORMAT = 2
"""Version of the files in the cache. Files of another version are encoded again."""
BLOCK = 1 << 24
"""Number of bytes of a file of ids that are verified at a time."""


@dataclass(frozen=True)
class Encoding:
    """Description of a file of token ids.

    Attributes:
      format: Version of the files.
      name: Name of the text.
      source: Hash of the sizes and modification times of the text's files.
      dtype: Name of the dtype of the ids, the smallest that holds the vocabulary.
      counts: Number of training, validation and test ids.
      sha256: Hash of the file.
      symbols: The tokens of the vocabulary, by id.
    """

    format: int
    name: str
    source: str
    dtype: str
    counts: list[int]
    sha256: str
    symbols: list[str]

    def to_json(self) -> str:
        """Returns the description as JSON, with a hash of itself."""
        fields = asdict(self)
        return json.dumps(fields | {"check": _hash(fields)})

    @classmethod
    def from_json(cls, text: str) -> "Encoding":
        """Parses the result of :meth:`to_json`.

        Raises:
          ValueError, TypeError, KeyError, AttributeError: If the text is corrupt or of another version.
        """
        fields: dict[str, Any] = json.loads(text)
        if fields.pop("check") != _hash(fields) or fields["format"] != FORMAT:
            raise ValueError("corrupt, or of another version")
        return cls(**fields)


def cached_ids(text: Text, data: Data) -> tuple[Encoding, np.ndarray]:
    """Returns memory-mapped token ids. Encodes the text if the cached ids are missing, stale or corrupt.

    Raises:
      CacheError: If the ids cannot be written or mapped.
      ConfigError: If the text cannot be read.
    """
    path, source = _description_path(text, data), _hash_of_source(text)
    encoding = _read(path, source)
    if encoding is None:
        with atomic_path(path.with_suffix(".ids")) as new, new.open("wb") as file:
            encoding = encode(text, data, source, file.write)
        with atomic_path(path) as new:
            new.write_text(encoding.to_json(), encoding="utf-8")
    if not sum(encoding.counts):  # an empty file cannot be mapped
        return encoding, np.zeros(0, encoding.dtype)
    try:
        return encoding, np.memmap(path.with_suffix(".ids"), encoding.dtype, mode="r")
    except OSError as error:
        raise CacheError(f"cannot map {path.with_suffix('.ids')}: {error}.") from error


def ids_in_memory(text: Text, data: Data) -> tuple[Encoding, np.ndarray]:
    """Encodes a text in memory, without using the cache. The result is that of :func:`cached_ids`.

    Raises:
      ConfigError: If the text cannot be read.
    """
    file = io.BytesIO()
    encoding = encode(text, data, _hash_of_source(text), file.write)
    return encoding, np.frombuffer(file.getvalue(), encoding.dtype)


def encode(text: Text, data: Data, source: str, write: Callable[[bytes], object]) -> Encoding:
    """Encodes a text and passes the ids as bytes to ``write``.

    The text is read twice in blocks: to count its tokens, and to write their ids.

    Raises:
      ConfigError: If the text cannot be read, or changes while it is read.
    """
    parts = text.split().parts
    with _progress("counting", text, parts[0]) as progress:
        counts = count(blocks(parts[0], text.encoding, progress), data.unit)
    vocabulary = Vocabulary.of_counts(counts, data.unit, data.vocabulary_size)
    dtype = np.min_scalar_type(len(vocabulary) - 1)
    digest, lengths = hashlib.sha256(), []
    with _progress("encoding", text, *parts) as progress:
        for part in parts:
            lengths.append(0)
            decoded = blocks(part, text.encoding, progress)
            for block in complete_symbols(decoded, data.unit):
                ids = vocabulary.encode(block)
                content = ids.astype(dtype).tobytes()
                digest.update(content)
                write(content)
                lengths[-1] += len(ids)
    _check_unchanged(text, source)
    return Encoding(
        format=FORMAT,
        name=text.name,
        source=source,
        dtype=dtype.name,
        counts=lengths,
        sha256=digest.hexdigest(),
        symbols=list(vocabulary.symbols),
    )


def _description_path(text: Text, data: Data) -> Path:
    """Returns the path of the description. It does not depend on the content of the files."""
    names = [
        [str(p.source if isinstance(p.source, bytes) else p.source.resolve()) for p in part]
        for part in text.parts
    ]
    source = names, text.encoding, data.unit
    size = None if data.unit == "character" else data.vocabulary_size
    key = hashlib.sha256(repr((source, size)).encode()).hexdigest()[:16]
    return cache_dir() / "ids" / f"{key}.json"


def _hash_of_source(text: Text) -> str:
    """Returns a hash of the ranges, sizes and modification times of a text's files."""
    try:
        pieces = [(p.first, p.last, *_times(p.source)) for part in text.parts for p in part]
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {text.name}: {error.strerror}.") from error
    return hashlib.sha256(repr(pieces).encode()).hexdigest()


def _times(source: Path | bytes) -> tuple[int, ...]:
    """Returns the times of the last change of a file and of its entry in the directory."""
    if isinstance(source, bytes):
        return ()
    status = source.stat()
    return status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path, source: str) -> Encoding | None:
    """Returns the description of the cached ids. None if they are missing, stale or corrupt."""
    try:
        encoding = Encoding.from_json(path.read_text(encoding="utf-8"))
        is_valid = encoding.source == source and _is_intact(path.with_suffix(".ids"), encoding)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return encoding if is_valid else None


def _is_intact(ids: Path, encoding: Encoding) -> bool:
    """Returns whether the size, the hash and the range of a file of ids match its description."""
    dtype, digest, size = np.dtype(encoding.dtype), hashlib.sha256(), 0
    with ids.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
            if len(block) % dtype.itemsize:
                return False
            if np.frombuffer(block, dtype).max() >= len(encoding.symbols):
                return False
    expected = sum(encoding.counts) * dtype.itemsize, encoding.sha256
    return (size, digest.hexdigest()) == expected


def _hash(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _check_unchanged(text: Text, source: str) -> None:
    if _hash_of_source(text) != source:
        raise ConfigError(
            f"data.path: {text.name} changed while it was read. Run the same command again."
        )


@contextmanager
def _progress(verb: str, text: Text, *parts: ByteRanges) -> Iterator[Callable[[int], object]]:
    """Shows a progress bar on a terminal, and yields the function that advances it."""
    size = sum(piece.size for part in parts for piece in part)
    hidden = sys.stderr is None or not sys.stderr.isatty()
    with tqdm(
        total=size, desc=f"{verb} {text.name}", unit="B", unit_scale=True, disable=hidden
    ) as bar:
        yield bar.update
