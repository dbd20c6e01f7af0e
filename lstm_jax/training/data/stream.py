"""A corpus as batches of parallel streams, for truncated backpropagation through time."""

import numpy as np

from lstm_jax.training.config import ConfigError


def training_batch(
    ids: np.ndarray, batch_size: int, sequence_length: int, seed: int, step: int
) -> np.ndarray:
    """The batch of a step, ``[T + 1, B]``: inputs and, one later, targets.

    Each row reads the corpus (as a ring) from a place of its own and goes on where its last batch
    ended, so that the state can be carried; ``seed`` turns the ring. A function of (seed, step).

    >>> ids = np.arange(100)
    >>> first, second = (training_batch(ids, 2, 3, seed=0, step=s) for s in (0, 1))
    >>> bool((first[-1] == second[0]).all()), first.shape
    (True, (4, 2))
    """
    N = len(ids)
    start = np.random.default_rng(seed).integers(N)
    rows = start + np.arange(batch_size) * N // batch_size
    steps = step * sequence_length + np.arange(sequence_length + 1)
    return ids[(steps[:, None] + rows) % N]


def evaluation_batches(
    ids: np.ndarray, batch_size: int, sequence_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a text into rows and chunks that predict each symbol but the first exactly once.

    Returns:
      Chunks ``[N, T + 1, B]`` of inputs and targets, to be read in order with the state carried,
      and weights ``[N, T, B]`` of the targets: 1, and 0 where rows are filled up.

    >>> chunks, weights = evaluation_batches(np.arange(30), batch_size=2, sequence_length=4)
    >>> chunks.shape, sorted(chunks[:, 1:][weights == 1]) == list(range(1, 30))
    ((4, 5, 2), True)
    """
    T, B = sequence_length, batch_size
    targets = len(ids) - 1
    per_row = -(-targets // B)
    chunks = -(-per_row // T)
    starts = np.minimum(np.arange(B) * per_row, targets)
    counts = np.minimum(per_row, targets - starts)
    steps = np.arange(chunks)[:, None] * T + np.arange(T + 1)  # [N, T + 1]
    positions = np.minimum(starts + steps[..., None], targets)  # [N, T + 1, B]
    weights = steps[:, :-1, None] < counts
    return ids[positions], weights.astype(np.float32)


def check_length(ids: np.ndarray, batch_size: int, sequence_length: int) -> None:
    """The training text holds at least one batch.

    Raises:
      ConfigError: if it does not.
    """
    needed = batch_size * sequence_length + 1
    if len(ids) < needed:
        raise ConfigError(
            f"the training text has {len(ids)} characters, but a batch reads {needed}: lower "
            "data.batch_size or data.sequence_length, or bring more text."
        )
