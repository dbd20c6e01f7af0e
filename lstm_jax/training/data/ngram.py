"""Baseline of language models: an interpolated n-gram model with Witten-Bell smoothing."""

import numpy as np


class NGram:
    """An n-gram model of token ids, fitted by counting.

    The estimate of each order is interpolated with the estimate of the next lower order, down to the
    uniform distribution. After a context with ``total`` occurrences and ``new`` distinct successors, the
    weight of the lower order is ``new / (total + new)``. Source: Witten & Bell (1991), The zero-frequency
    problem, method C, in the interpolated form of Chen & Goodman (1998), §2.5.

    Args:
      ids: Token ids of the training text, ``[N]``.
      vocabulary_size: Number of distinct ids.
      order: Length of the longest n-gram.

    >>> ids = np.array([0, 1] * 50)
    >>> round(float(NGram(ids, vocabulary_size=2, order=1).nats(ids) / np.log(2)), 2)
    1.0
    >>> NGram(ids, vocabulary_size=2, order=2).nats(ids) < 0.1
    True
    """

    def __init__(self, ids: np.ndarray, vocabulary_size: int, order: int):
        if vocabulary_size**order >= 2**63:
            raise ValueError(
                f"vocabulary_size**order must be less than 2**63, got a {order}-gram over "
                f"{vocabulary_size} tokens; lower the order."
            )
        self.vocabulary_size = vocabulary_size
        longest = min(order, len(ids))
        self.tables = [_Table(ids, vocabulary_size, n) for n in range(1, longest + 1)]

    def nats(self, ids: np.ndarray) -> float:
        """Returns the mean negative log-likelihood per token in nats, without the first token."""
        p = np.full(len(ids), 1.0 / self.vocabulary_size)
        for n, table in enumerate(self.tables[: len(ids)], start=1):
            p[n - 1 :] = table.interpolate(ids, p[n - 1 :])
        return float(-np.log(p[1:]).mean())


class _Table:
    """Counts of the n-grams of one order. The code of an n-gram has its ids as digits."""

    def __init__(self, ids: np.ndarray, base: int, n: int):
        self.base, self.n = base, n
        self.grams, self.gram_counts = np.unique(self._codes(ids), return_counts=True)
        self.contexts, first = np.unique(self.grams // base, return_index=True)
        self.followers = np.diff(
            np.append(first, len(self.grams))
        )  # distinct tokens after each context
        self.context_counts = np.add.reduceat(self.gram_counts, first)

    def interpolate(self, ids: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Returns P(token | previous n - 1 tokens), given the probabilities of the next lower order."""
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
    """Returns the value of each query in sorted ``keys``, 0 for unknown keys."""
    at = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[at] == queries, values[at], 0)
