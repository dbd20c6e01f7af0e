"""The vocabulary of a text: its characters, words or tokens and their ids."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import repeat
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
Unit = Literal["character", "word", "token"]

CODE_POINTS = 0x110000


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a training text by id. Id 0 is the unknown token, for all other tokens.

    A token is a ``unit`` of the text. The unit ``word`` is a run of letters and digits, a punctuation mark
    or a line end. The unit ``token`` is a string between spaces or a line end.

    Attributes:
      symbols: The tokens by id.
      unit: Unit of the text.

    >>> vocabulary = Vocabulary.of("abba")
    >>> vocabulary.encode("abc")
    array([1, 2, 0], dtype=int32)
    >>> vocabulary.decode([1, 2, 0])
    'ab�'
    >>> words = Vocabulary.of("to be, or not to be; to", unit="word", size=4)
    >>> words.symbols
    ('�', 'be', 'to')
    >>> words.decode(words.encode("to be or"))
    'to be �'
    """

    symbols: tuple[str, ...]
    unit: Unit = "character"

    @classmethod
    def of(cls, text: str, unit: Unit = "character", size: int | None = None) -> "Vocabulary":
        """Returns the vocabulary of a training text.

        The vocabulary has all characters, or the ``size - 1`` most frequent words that occur at least
        twice. Words that occur once become the unknown token, so that it occurs in training.
        """
        return cls.of_counts(count([text], unit), unit, size)

    @classmethod
    def of_counts(
        cls, counts: Mapping[str, int], unit: Unit = "character", size: int | None = None
    ) -> "Vocabulary":
        """Returns the vocabulary of a training text from the counts of its tokens."""
        known = {symbol: n for symbol, n in counts.items() if symbol != UNKNOWN}
        if unit != "character":
            frequent = sorted(known, key=lambda word: (-known[word], word))
            kept = [word for word in frequent if known[word] > 1][: size and size - 1]
        else:
            kept = list(known)
        return cls((UNKNOWN, *sorted(kept)), unit)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Encodes a text as token ids, int32."""
        if self.unit == "character":
            return self._id_of_code_point[_code_points(text)]
        symbols = split(text, self.unit)
        return np.fromiter(map(self._ids.get, symbols, repeat(0)), np.int32)

    def unknown(self, text: str) -> list[str]:
        """Returns the tokens of a text that are not in the vocabulary.

        >>> Vocabulary.of("abba").unknown("abc")
        ['c']
        """
        return [token for token in dict.fromkeys(split(text, self.unit)) if token not in self._ids]

    def decode(self, ids: ArrayLike) -> str:
        """Decodes token ids to a text. Words are joined with spaces."""
        return self.join(self.symbols[n] for n in np.asarray(ids))

    def join(self, symbols: Iterable[str]) -> str:
        """Joins tokens to a text, with spaces between words."""
        return "".join(symbols) if self.unit == "character" else " ".join(symbols)

    def changes(self, before: "Vocabulary") -> str:
        """Describes the differences from an earlier vocabulary. Empty if there are no differences.

        >>> Vocabulary.of("abd").changes(Vocabulary.of("abc"))
        "the vocabulary had 4 tokens, now 4; added: 'd'; removed: 'c'"
        """
        if self == before:
            return ""
        sizes = f"the vocabulary had {len(before)} tokens, now {len(self)}"
        added, removed = (
            sorted(set(a.symbols) - set(b.symbols)) for a, b in ((self, before), (before, self))
        )
        return "; ".join(
            [sizes, *(f"{n}: {_some(s)}" for n, s in (("added", added), ("removed", removed)) if s)]
        )

    def to_json(self) -> str:
        """Returns the vocabulary as JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Parses the result of :meth:`to_json`.

        Raises:
          ValueError, TypeError, KeyError: If the text is not a valid vocabulary.
        """
        fields = json.loads(text)
        symbols, unit = tuple(fields["symbols"]), fields["unit"]
        if unit not in get_args(Unit) or not all(isinstance(s, str) for s in symbols):
            raise ValueError(f"invalid vocabulary of unit {unit!r}")
        return cls(symbols, unit)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: n for n, symbol in enumerate(self.symbols)}

    @cached_property
    def _id_of_code_point(self) -> np.ndarray:
        table = np.zeros(CODE_POINTS, np.int32)
        table[[ord(symbol) for symbol in self.symbols]] = range(len(self))
        return table


def split(text: str, unit: Unit) -> Iterable[str]:
    """Splits a text into tokens."""
    if unit == "character":
        return text
    return re.findall(r"\w+|[^\w\s]|\n" if unit == "word" else r"\S+|\n", text)


def count(blocks: Iterable[str], unit: Unit) -> dict[str, int]:
    """Counts the tokens of a text that is given in blocks."""
    if unit != "character":
        words: Counter[str] = Counter()
        for block in complete_symbols(blocks, unit):
            words.update(split(block, unit))
        return words
    counts = np.zeros(CODE_POINTS, np.int64)
    for block in blocks:
        found = np.bincount(_code_points(block))
        counts[: len(found)] += found
    return {chr(n): int(counts[n]) for n in np.flatnonzero(counts)}


def complete_symbols(blocks: Iterable[str], unit: Unit) -> Iterator[str]:
    """Splits a text into other blocks, so that no token is split between two blocks.

    >>> list(complete_symbols(["to b", "e or", " not", ""], "word"))
    ['to ', 'be ', 'or ', 'not']
    """
    if unit == "character":
        yield from blocks
        return
    rest = ""
    for block in blocks:
        text = rest + block
        end = 1 + max(text.rfind(" "), text.rfind("\n"))  # no word contains a space or a line end
        rest = text[end:]
        if end:
            yield text[:end]
    if rest:
        yield rest


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _some(symbols: list[str], most: int = 5) -> str:
    more = f" and {len(symbols) - most:,} more" if len(symbols) > most else ""
    return ", ".join(map(repr, symbols[:most])) + more
