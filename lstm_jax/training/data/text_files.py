"""Texts as byte ranges of files, which are read in blocks to save memory."""

import codecs
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lstm_jax.training.config import ConfigError

ONE_IN = 10
"""If a text has no validation set, one in ``ONE_IN`` characters is used for validation."""
BLOCK = 1 << 22
"""Block size in bytes for reading."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``first`` to ``last - 1`` of a file or of a bytes object."""

    source: Path | bytes
    first: int
    last: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.last - self.first

    def open(self) -> io.BufferedIOBase:
        """Opens the source at ``first``."""
        file = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source.open("rb")
        file.seek(self.first)
        return file


ByteRanges = tuple[ByteRange, ...]


@dataclass(frozen=True)
class Text:
    """A text with training, validation and test parts, given by byte ranges.

    Attributes:
      name: Name of the text in messages and summaries.
      train: Training text.
      validation: Validation text. If it is empty, :meth:`split` uses the last tenth of ``train``.
      test: Test text, may be empty.
      encoding: Encoding of the characters, utf-8 or latin-1.
    """

    name: str
    train: ByteRanges
    validation: ByteRanges = ()
    test: ByteRanges = ()
    encoding: str = "utf-8"

    @property
    def parts(self) -> tuple[ByteRanges, ByteRanges, ByteRanges]:
        """The training, validation and test text."""
        return self.train, self.validation, self.test

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(piece.size for part in self.parts for piece in part)

    def split(self) -> "Text":
        """Returns the text with a validation part, split off from ``train`` if necessary.

        Raises:
          ConfigError: If the text is too short.
        """
        if self.validation:
            return self
        length = _count_characters(self)
        if length < ONE_IN:
            raise ConfigError(
                f"data.path: expected a text of at least {ONE_IN} characters, of which one in {ONE_IN} "
                f"is used for validation, got {length} in {self.name}."
            )
        train, validation = _split_at(self, length - length // ONE_IN)
        return replace(self, train=train, validation=validation)


def files_text(path: Path) -> Text:
    """Returns the text of a file, or of all .txt files in a directory with blank lines between them.

    Raises:
      ConfigError: If no file is found.
    """
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"data.path: the directory {path} has no .txt files.")
    pieces = [whole_file(files[0])]
    for file in files[1:]:
        pieces += [ByteRange(b"\n\n", 0, 2), whole_file(file)]
    return Text(path.name, tuple(pieces))


def whole_file(path: Path) -> ByteRange:
    """Returns all bytes of a file.

    Raises:
      ConfigError: If the file is not found.
    """
    try:
        return ByteRange(path, 0, path.stat().st_size)
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror}.") from error


def blocks(
    pieces: ByteRanges, encoding: str, progress: Callable[[int], object] = lambda n: None
) -> Iterator[str]:
    """Yields decoded text in blocks of at most ``BLOCK`` bytes.

    Args:
      pieces: Byte ranges to read one after the other.
      encoding: Encoding of the characters.
      progress: Called with the number of bytes of each block.

    Raises:
      ConfigError: If a file cannot be read or decoded.
    """
    for piece in pieces:
        decoder = codecs.getincrementaldecoder(encoding)()  # a block may end inside a character
        position = piece.first
        for raw in _raw_blocks(piece):
            position += len(raw)
            try:
                yield decoder.decode(raw, final=position == piece.last)
            except UnicodeDecodeError as error:
                place = position - len(error.object) + error.start
                raise ConfigError(
                    f"data.path: {piece.source!s} is not {encoding.upper()} (byte {place}); convert "
                    f"it, for instance with iconv -t {encoding}."
                ) from error
            progress(len(raw))


def _raw_blocks(piece: ByteRange) -> Iterator[bytes]:
    try:
        with piece.open() as file:
            for start in range(piece.first, piece.last, BLOCK):
                raw = file.read(min(BLOCK, piece.last - start))
                if start + len(raw) != min(start + BLOCK, piece.last):
                    raise OSError(None, "the file became shorter while it was read")
                yield raw
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {piece.source!s}: {error.strerror}.") from error


def _is_first_byte(raw: bytes, encoding: str) -> np.ndarray:
    """Returns a mask that is True for each byte that starts a character."""
    array = np.frombuffer(raw, np.uint8)
    if encoding == "latin-1":
        return np.ones(len(array), bool)
    return (array & 0xC0) != 0x80  # in UTF-8, all other bytes of a character are 10xxxxxx


def _count_characters(text: Text) -> int:
    return sum(
        int(np.count_nonzero(_is_first_byte(raw, text.encoding)))
        for piece in text.train
        for raw in _raw_blocks(piece)
    )


def _split_at(text: Text, character: int) -> tuple[ByteRanges, ByteRanges]:
    """Splits the training text before the character with this index."""
    for n, piece in enumerate(text.train):
        position = piece.first
        for raw in _raw_blocks(piece):
            is_first = _is_first_byte(raw, text.encoding)
            count = int(np.count_nonzero(is_first))
            if character < count:
                position += int(np.flatnonzero(is_first)[character])
                before, after = replace(piece, last=position), replace(piece, first=position)
                return (*text.train[:n], before), (after, *text.train[n + 1 :])
            character -= count
            position += len(raw)
    return text.train, ()
