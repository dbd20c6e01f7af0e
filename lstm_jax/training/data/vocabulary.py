"""Symbols and their ids, from the training text alone."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
Unit = Literal["character", "word"]


@dataclass(frozen=True)
class Vocabulary:
    """Symbols by id; id 0 stands for every symbol that is not in the vocabulary.

    Words are runs of letters and digits, single other signs, and line ends.

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
        """All characters of a text, or its ``size - 1`` most frequent words that occur twice.

        Words that occur once become the unknown symbol, so that it is met in training.
        """
        counts = Counter(split(text, unit))
        counts.pop(UNKNOWN, None)
        if unit == "word":
            frequent = sorted(counts, key=lambda word: (-counts[word], word))
            kept = [word for word in frequent if counts[word] > 1][: size and size - 1]
        else:
            kept = list(counts)
        return cls((UNKNOWN, *sorted(kept)), unit)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text's symbols, int32."""
        ids = {symbol: n for n, symbol in enumerate(self.symbols)}
        return np.array([ids.get(symbol, 0) for symbol in split(text, self.unit)], np.int32)

    def decode(self, ids: ArrayLike) -> str:
        """The text of some ids; words are joined with spaces."""
        return self.join(self.symbols[n] for n in np.asarray(ids))

    def join(self, symbols: Iterable[str]) -> str:
        """Symbols as a text."""
        return "".join(symbols) if self.unit == "character" else " ".join(symbols)

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads what :meth:`save` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(fields["symbols"]), fields["unit"])


def split(text: str, unit: Unit) -> Iterable[str]:
    """A text as symbols."""
    return text if unit == "character" else re.findall(r"\w+|[^\w\s]|\n", text)
