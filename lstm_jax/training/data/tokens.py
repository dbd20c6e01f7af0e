"""A text as ids: in memory if it is small, else encoded once into a file that is memory-mapped."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lstm_jax.training.config import ConfigError, Data, named_source
from lstm_jax.training.data.cache import cache_dir, written
from lstm_jax.training.data.corpus import Corpus, Pieces, Text, blocks, embedded_corpus, files_text
from lstm_jax.training.data.hub import hub_text
from lstm_jax.training.data.named import named_text
from lstm_jax.training.data.vocabulary import Unit, Vocabulary, count, whole_symbols

IN_MEMORY = 32_000_000
"""Bytes from which on a text is not brought into memory."""
FORMAT = 2
"""Version of the files in the cache. Files of another version are encoded again."""
BLOCK = 1 << 24
"""Bytes of a file of ids that are verified together."""


@dataclass(frozen=True)
class Tokens:
    """A text as ids, in three parts.

    Attributes:
      name: what it is.
      vocabulary: symbols of the training part.
      train: to learn from, ``[N]`` integers, perhaps memory-mapped.
      held_out: to measure on.
      test: to report on at the end; may be empty.
      large: whether they lie in a file; then no more than a bounded part of them may be read at once.
      digest: of all of them.
    """

    name: str
    vocabulary: Vocabulary
    train: np.ndarray
    held_out: np.ndarray
    test: np.ndarray
    large: bool
    digest: str


def read_tokens(data: Data) -> Tokens:
    """The ids of a text and its vocabulary.

    Raises:
      ConfigError: if the text cannot be fetched, read or encoded.
    """
    if data.path is None:
        return _in_memory(embedded_corpus(), data)
    text = _text(data.path)
    return _in_memory(text.read(), data) if text.size < IN_MEMORY else _from_cache(text, data)


def _text(path: Path) -> Text:
    kind, name = named_source(path) or ("", "")
    return {"hf": hub_text, "name": named_text}[kind](name) if kind else files_text(path)


def _in_memory(corpus: Corpus, data: Data) -> Tokens:
    vocabulary = Vocabulary.of(corpus.train, data.unit, data.vocabulary_size)
    train, held_out, test = map(vocabulary.encode, (corpus.train, corpus.held_out, corpus.test))
    digest = hashlib.sha256()
    for part in (train, held_out, test):
        digest.update(part.data)
    name, of_all = corpus.name, digest.hexdigest()
    return Tokens(name, vocabulary, train, held_out, test, large=False, digest=of_all)


def _from_cache(text: Text, data: Data) -> Tokens:
    """Returns the ids from the cache, encoded again if they are missing, stale or corrupt."""
    path, source = _place(text, data), _source(text)
    found = _found(path, source) or _encoded(text, data, path, source)
    ids = np.zeros(0, found["dtype"])
    if sum(found["counts"]):  # no empty file can be mapped
        ids = np.memmap(path.with_suffix(".ids"), found["dtype"], mode="r")
    train, held_out, test = np.split(ids, np.cumsum(found["counts"])[:-1])
    vocabulary = Vocabulary(tuple(found["symbols"]), data.unit)
    return Tokens(text.name, vocabulary, train, held_out, test, large=True, digest=found["sha256"])


def _place(text: Text, data: Data) -> Path:
    """A name for a text under a vocabulary, the same when the text has changed."""
    what = [[str(p.source) for p in part] for part in text.parts], text.encoding, data.unit
    size = None if data.unit == "character" else data.vocabulary_size
    key = hashlib.sha256(repr((what, size)).encode()).hexdigest()[:16]
    return cache_dir() / "ids" / f"{key}.json"


def _source(text: Text) -> str:
    """What must be the same for the ids to be: sizes and times of change of all files."""
    pieces = [
        (p.first, p.last, 0 if isinstance(p.source, bytes) else p.source.stat().st_mtime_ns)
        for part in text.parts
        for p in part
    ]
    return hashlib.sha256(repr(pieces).encode()).hexdigest()


def _found(path: Path, source: str) -> dict[str, Any] | None:
    """Returns the description of the ids in the cache, None if it or they are not what was written."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        check = found.pop("check")
        valid = check == _check(found) and (found["format"], found["source"]) == (FORMAT, source)
        return found if valid and _is_intact(path.with_suffix(".ids"), found) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_intact(ids: Path, found: dict[str, Any]) -> bool:
    """Reads a file of ids, and compares size, hash and range with its description."""
    dtype, digest, size = np.dtype(found["dtype"]), hashlib.sha256(), 0
    with ids.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
            if len(block) % dtype.itemsize or np.frombuffer(block, dtype).max() >= len(
                found["symbols"]
            ):
                return False
    expected = sum(found["counts"]) * dtype.itemsize, found["sha256"]
    return (size, digest.hexdigest()) == expected


def _check(found: dict[str, Any]) -> str:
    """Returns a hash of the description of some ids."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _encoded(text: Text, data: Data, path: Path, source: str) -> dict[str, Any]:
    """Reads the text twice, block by block: to know its symbols, and to write their ids."""
    cut = text.cut()
    with _bar("counting", text, cut.train) as progress:
        counts = count(blocks(cut.train, text.encoding, progress), data.unit)
    vocabulary = Vocabulary.of_counts(counts, data.unit, data.vocabulary_size)
    dtype = np.min_scalar_type(len(vocabulary) - 1)
    digest, lengths = hashlib.sha256(), []
    with (
        written(path.with_suffix(".ids")) as new,
        new.open("wb") as file,
        _bar("encoding", text, *cut.parts) as progress,
    ):
        for part in cut.parts:
            lengths.append(0)
            for ids in _ids(part, text.encoding, vocabulary, data.unit, progress):
                content = ids.astype(dtype).tobytes()
                digest.update(content)
                file.write(content)
                lengths[-1] += len(ids)
        _check_still(text, source)
    found = {
        "format": FORMAT,
        "name": text.name,
        "source": source,
        "dtype": dtype.name,
        "counts": lengths,
        "sha256": digest.hexdigest(),
        "symbols": list(vocabulary.symbols),
    }
    with written(path) as new:
        new.write_text(json.dumps(found | {"check": _check(found)}), encoding="utf-8")
    return found


def _ids(
    part: Pieces,
    encoding: str,
    vocabulary: Vocabulary,
    unit: Unit,
    progress: Callable[[int], object],
) -> Iterator[np.ndarray]:
    for block in whole_symbols(blocks(part, encoding, progress), unit):
        yield vocabulary.encode(block)


def _check_still(text: Text, source: str) -> None:
    if _source(text) != source:
        raise ConfigError(f"data.path: {text.name} changed while it was read; start again.")


@contextmanager
def _bar(doing: str, text: Text, *parts: Pieces) -> Iterator[Callable[[int], object]]:
    size = sum(piece.last - piece.first for part in parts for piece in part)
    hidden = sys.stderr is None or not sys.stderr.isatty()
    with tqdm(
        total=size, desc=f"{doing} {text.name}", unit="B", unit_scale=True, disable=hidden
    ) as bar:
        yield bar.update
