"""Text to learn from: files, or the documentation that comes with every Python."""

import codecs
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc_data import topics as pydoc_topics

import numpy as np

from lstm_jax.training.config import ConfigError

HELD_OUT = 10
"""One part in ten is held out."""
BLOCK = 1 << 22
"""Bytes of a file that are looked at together."""


@dataclass(frozen=True)
class Corpus:
    """A text in memory, in two or three parts.

    Attributes:
      name: what it is, with what identifies its content.
      train: to learn from.
      held_out: to measure on.
      test: to report on at the end; empty where there is none.
    """

    name: str
    train: str
    held_out: str
    test: str = ""


@dataclass(frozen=True)
class Piece:
    """Bytes ``first`` to ``last`` of a file, or of some bytes between two files."""

    source: Path | bytes
    first: int
    last: int

    def open(self) -> io.BufferedIOBase:
        """The bytes as a file that stands at ``first``."""
        file = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")
        file.seek(self.first)
        return file


Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class Text:
    """A text in files, whatever its size; nothing is read yet.

    Attributes:
      name: what it is.
      train: to learn from.
      held_out: to measure on; if there is none, :meth:`cut` takes the last tenth.
      test: to report on at the end; may be empty.
      encoding: of its characters.
    """

    name: str
    train: Pieces
    held_out: Pieces = ()
    test: Pieces = ()
    encoding: str = "utf-8"

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(piece.last - piece.first for part in self.parts for piece in part)

    @property
    def parts(self) -> tuple[Pieces, Pieces, Pieces]:
        """All three."""
        return self.train, self.held_out, self.test

    def cut(self) -> "Text":
        """With a held-out part: the last tenth of its characters, if it had none.

        Raises:
          ConfigError: if it is too short.
        """
        if self.held_out:
            return self
        length = _characters(self)
        if length < HELD_OUT:
            raise ConfigError(
                f"data.path: {self.name} has {length} characters; at least {HELD_OUT} are needed to "
                "hold some out."
            )
        train, held_out = _cut(self, length - length // HELD_OUT)
        return replace(self, train=train, held_out=held_out)

    def read(self) -> Corpus:
        """Brings it into memory.

        Raises:
          ConfigError: if a file cannot be read, or is not text in its encoding.
        """
        parts = self.cut().parts
        return Corpus(self.name, *("".join(blocks(part, self.encoding)) for part in parts))


def files_text(path: Path) -> Text:
    """A text file, or a folder of them with a blank line between.

    Raises:
      ConfigError: if there is none.
    """
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"data.path: the folder {path} has no .txt files.")
    pieces = [whole_file(files[0])]
    for file in files[1:]:
        pieces += [Piece(b"\n\n", 0, 2), whole_file(file)]
    return Text(path.name, tuple(pieces))


def whole_file(path: Path) -> Piece:
    """All of a file.

    Raises:
      ConfigError: if there is none.
    """
    try:
        return Piece(path, 0, path.stat().st_size)
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror}.") from error


def blocks(
    pieces: Pieces, encoding: str, progress: Callable[[int], object] = lambda n: None
) -> Iterator[str]:
    """The text of some pieces, a block at a time; ``progress`` is told the bytes of each.

    Raises:
      ConfigError: if a file cannot be read, or is not text in its encoding.
    """
    for piece in pieces:
        decoder = codecs.getincrementaldecoder(encoding)()  # keeps what a border cuts in two
        at = piece.first
        for raw in _raw_blocks(piece):
            at += len(raw)
            try:
                yield decoder.decode(raw, final=at == piece.last)
            except UnicodeDecodeError as error:
                place = at - len(error.object) + error.start
                raise ConfigError(
                    f"data.path: {piece.source!s} is not {encoding.upper()} (byte {place}); convert "
                    f"it, for instance with iconv -t {encoding}."
                ) from error
            progress(len(raw))


def _raw_blocks(piece: Piece) -> Iterator[bytes]:
    try:
        with piece.open() as file:
            for start in range(piece.first, piece.last, BLOCK):
                raw = file.read(min(BLOCK, piece.last - start))
                if start + len(raw) != min(start + BLOCK, piece.last):
                    raise OSError(None, "it became shorter while it was read")
                yield raw
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {piece.source!s}: {error.strerror}.") from error


def _starts(raw: bytes, encoding: str) -> np.ndarray:
    """Where characters begin: True for each such byte."""
    array = np.frombuffer(raw, np.uint8)
    if encoding == "latin-1":
        return np.ones(len(array), bool)
    return (array & 0xC0) != 0x80  # a byte 10xxxxxx goes on with a character of UTF-8


def _characters(text: Text) -> int:
    return sum(
        int(np.count_nonzero(_starts(raw, text.encoding)))
        for piece in text.train
        for raw in _raw_blocks(piece)
    )


def _cut(text: Text, at: int) -> tuple[Pieces, Pieces]:
    """The training pieces before and after ``at`` characters."""
    for n, piece in enumerate(text.train):
        place = piece.first
        for raw in _raw_blocks(piece):
            starts = _starts(raw, text.encoding)
            inside = int(np.count_nonzero(starts))
            if at < inside:
                place += int(np.flatnonzero(starts)[at])
                before, after = replace(piece, last=place), replace(piece, first=place)
                return (*text.train[:n], before), (after, *text.train[n + 1 :])
            at -= inside
            place += len(raw)
    return text.train, ()


def embedded_corpus() -> Corpus:
    """The Python language reference, from ``pydoc_data.topics``: English prose and code.

    Topics that stand inside others are dropped, and whole topics are held out, so that no held-out
    passage was trained on. The text differs between Python releases: its hash is in the name.
    """
    topics = without_contained(pydoc_topics.topics)
    # The order of hashes is a fixed shuffle: neighbours in the alphabet are often related.
    order = sorted(topics, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    room = sum(map(len, topics.values())) // HELD_OUT
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name in order:
        fits = len(topics[name]) <= room
        parts[fits].append(topics[name])
        room -= len(topics[name]) if fits else 0
    held_out, train = ("\n\n".join(parts[fits]) for fits in (True, False))
    digest = hashlib.sha256((train + held_out).encode()).hexdigest()
    return Corpus(f"pydoc_data.topics, sha256 {digest[:12]}", train, held_out)


def without_contained(topics: dict[str, str]) -> dict[str, str]:
    r"""Drops texts that stand, headings underlined in another style or not, inside other texts.

    >>> inner = "For\n***\n\nIt loops."
    >>> outer = "All\n***\n\nWell.\n\nFor\n===\n\nIt loops."
    >>> list(without_contained({"for": inner, "compound": outer, "if": "If so."}))
    ['compound', 'if']
    """
    bare = {name: _without_underlines(text) for name, text in topics.items()}
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: len(bare[name]), reverse=True):
        if not any(bare[name] in bare[other] for other in kept):
            kept[name] = topics[name]
    return {name: kept[name] for name in sorted(kept)}


def _without_underlines(text: str) -> str:
    return " ".join(re.sub(r"^[*=\-~^\"]{3,}$", "", text, flags=re.MULTILINE).split())
