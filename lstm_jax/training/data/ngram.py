"""The baseline of a language model: an interpolated n-gram model with Witten-Bell smoothing."""

import numpy as np


class NGram:
    """Counts of contexts and of the symbols after them, for orders 1 to ``order``.

    The estimate of each order is interpolated with that of the order below, down to the uniform
    distribution; the weight of the lower order is the share of symbols that were new when they
    followed the context. Source: Witten & Bell (1991), The zero-frequency problem, method C, in the
    interpolated form of Chen & Goodman (1998), §2.5.

    >>> ids = np.array([0, 1] * 50)
    >>> round(float(NGram(ids, vocabulary_size=2, order=1).nats(ids) / np.log(2)), 2)
    1.0
    >>> NGram(ids, vocabulary_size=2, order=2).nats(ids) < 0.1
    True
    """

    def __init__(self, ids: np.ndarray, vocabulary_size: int, order: int):
        if vocabulary_size**order >= 2**63:
            raise ValueError(
                f"a {order}-gram over {vocabulary_size} symbols does not fit 64-bit codes; lower "
                "the order."
            )
        self.vocabulary_size = vocabulary_size
        longest = min(order, len(ids))
        self.tables = [_Table(ids, vocabulary_size, n) for n in range(1, longest + 1)]

    def nats(self, ids: np.ndarray) -> float:
        """Returns the mean nats per symbol of a text, without its first symbol."""
        p = np.full(len(ids), 1.0 / self.vocabulary_size)
        for n, table in enumerate(self.tables[: len(ids)], start=1):
            p[n - 1 :] = table.interpolate(ids, p[n - 1 :])
        return float(-np.log(p[1:]).mean())


class _Table:
    """Counts of one order by code. A code is n symbols read as digits."""

    def __init__(self, ids: np.ndarray, base: int, n: int):
        self.base, self.n = base, n
        self.grams, self.gram_counts = np.unique(self._codes(ids), return_counts=True)
        self.contexts, first = np.unique(self.grams // base, return_index=True)
        self.followers = np.diff(np.append(first, len(self.grams)))  # distinct symbols after each
        self.context_counts = np.add.reduceat(self.gram_counts, first)

    def interpolate(self, ids: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Returns P(symbol | n - 1 symbols before) from the probabilities of the next lower order."""
        codes = self._codes(ids)
        count = _look_up(self.grams, self.gram_counts, codes)
        total = _look_up(self.contexts, self.context_counts, codes // self.base)
        new = _look_up(self.contexts, self.followers, codes // self.base)
        seen = total > 0
        return np.where(seen, (count + new * lower) / np.where(seen, total + new, 1), lower)

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64), self.n)
        return windows @ self.base ** np.arange(self.n - 1, -1, -1, dtype=np.int64)


def _look_up(keys: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Returns the values of some of the sorted ``keys``, 0 for unknown keys."""
    at = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[at] == queries, values[at], 0)
