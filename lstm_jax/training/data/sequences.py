"""Whole sequences from arrays: shuffled into batches for training, in order for evaluation."""

import hashlib
from collections.abc import Callable

import jax
import numpy as np

from lstm_jax.training.data.batch import Batch

EVALUATION_BATCH = 250


def shuffled(sequences: Batch, batch_size: int, seed: int) -> Callable[..., Batch]:
    """``(first step, n) -> n batches``, each epoch in an order of its own: a function of (seed, step).

    A third argument asks for some rows of each batch.

    ``sequences`` holds all of them, sequence first: inputs ``[N, T, ...]``, lengths ``[N]``.

    >>> numbers = Batch(np.arange(6)[:, None], np.arange(6)[:, None], np.ones((6, 1)))
    >>> batches = shuffled(numbers, batch_size=2, seed=0)
    >>> batches(0, 3).inputs.shape, sorted(batches(0, 3).inputs.ravel().tolist())
    ((3, 1, 2), [0, 1, 2, 3, 4, 5])
    """
    N = len(sequences.inputs)
    orders: dict[int, np.ndarray] = {}

    def order(epoch: int) -> np.ndarray:
        if epoch not in orders:
            if len(orders) > 1:
                orders.pop(min(orders))
            orders[epoch] = np.random.default_rng([seed, epoch]).permutation(N)
        return orders[epoch]

    def batch(step: int, rows: np.ndarray) -> Batch:
        places = step * batch_size + rows
        chosen = np.array([order(int(place) // N)[place % N] for place in places])
        return take(sequences, chosen)

    def batches(first: int, n: int, rows: np.ndarray | None = None) -> Batch:
        rows = np.arange(batch_size) if rows is None else rows
        return stack([batch(step, rows) for step in range(first, first + n)])

    return batches


def digest_of(sequences: Batch) -> str:
    """Returns a hash of all arrays."""
    digest = hashlib.sha256()
    for array in jax.tree.leaves(sequences):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def in_order(sequences: Batch) -> Batch:
    """All sequences as chunks ``[N, T, B]``; rows that fill the last chunk have no weight."""
    N = len(sequences.inputs)
    B = min(N, EVALUATION_BATCH)
    chunks = []
    for first in range(0, N, B):
        places = np.minimum(np.arange(first, first + B), N - 1)
        chunk = take(sequences, places)
        real = (np.arange(first, first + B) < N).astype(np.float32)
        chunks.append(chunk._replace(weights=chunk.weights * real))
    return stack(chunks)


def take(sequences: Batch, chosen: np.ndarray) -> Batch:
    """Some sequences, time first."""

    def pick(name: str) -> np.ndarray | None:
        whole = getattr(sequences, name)
        if whole is None:
            return None
        part = np.asarray(whole)[chosen]
        return part if name == "lengths" else part.swapaxes(0, 1)

    return Batch(**{name: pick(name) for name in Batch._fields})


def stack(batches: list[Batch]) -> Batch:
    """Batches as one, on a new first axis."""
    columns = zip(*batches, strict=True)
    return Batch(*(None if c[0] is None else np.stack(c) for c in columns))


def at_the_last_step(lengths: np.ndarray, T: int) -> np.ndarray:
    """Weights ``[N, T]`` of 1 on each sequence's true last step."""
    return (np.arange(T) == lengths[:, None] - 1).astype(np.float32)


def before_the_last_step(lengths: np.ndarray, T: int) -> np.ndarray:
    """Weights ``[N, T]`` of 1 where there is a next step to predict."""
    return (np.arange(T) < lengths[:, None] - 1).astype(np.float32)


def over_time(answers: np.ndarray, T: int) -> np.ndarray:
    """One answer a sequence, ``[N, ...]``, put at each of its steps: a view ``[N, T, ...]``."""
    return np.broadcast_to(answers[:, None], (len(answers), T, *answers.shape[1:]))


def hold_out(N: int, share: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Which of N sequences to learn from, and the tenth that is held out; the same in every run."""
    order = np.random.default_rng(0).permutation(N)
    return np.sort(order[N // share :]), np.sort(order[: N // share])
