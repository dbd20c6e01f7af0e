"""Symbols and their ids, from the training text alone."""

from dataclasses import dataclass

import numpy as np

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Vocabulary:
    """Characters by id; id 0 stands for every character that the training text does not have.

    >>> vocabulary = Vocabulary.of("abba")
    >>> vocabulary.encode("abc")
    array([1, 2, 0], dtype=int32)
    >>> vocabulary.decode([1, 2, 0])
    'ab�'
    """

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """All characters of a text, in the order of their code points."""
        return cls((UNKNOWN, *sorted(set(text) - {UNKNOWN})))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text's characters, int32."""
        ids = {symbol: n for n, symbol in enumerate(self.symbols)}
        return np.fromiter((ids.get(c, 0) for c in text), np.int32, len(text))

    def decode(self, ids: np.typing.ArrayLike) -> str:
        """The text of some ids."""
        return "".join(self.symbols[n] for n in np.asarray(ids))
