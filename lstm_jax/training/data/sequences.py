"""Datasets of independent sequences in memory, shuffled for training."""

import hashlib
from collections.abc import Callable

import jax
import numpy as np

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset, evaluation_digest

DIGEST_BATCH = 250
"""Batch size for the hash of the evaluation sets. It does not depend on the experiment."""


def from_sequences(
    train: Batch,
    eval: Batch,
    *,
    loss: str,
    metric: str,
    output_size: int,
    batch_size: int,
    seed: int = 0,
    eval_batch_size: int | None = None,
    test: Batch | None = None,
    summary: str = "",
    predicts_next: bool = False,
    baselines: dict[str, float] | None = None,
    test_baselines: dict[str, float] | None = None,
) -> Dataset:
    """Builds a dataset from sequences in memory.

    The training sequences are shuffled in every epoch. See
    :class:`~lstm_jax.training.data.batch.Batch` for padding, lengths and weights.

    Args:
      train: Training sequences: inputs ``[N, T]`` integers or ``[N, T, I]`` floats, targets
        ``[N, T, ...]``, weights ``[N, T]``, and lengths ``[N]`` or None.
      eval: Validation sequences, in the same form.
      loss: Name of the loss: cross_entropy, squared_error or bernoulli.
      metric: Name of the main metric: accuracy, bits, perplexity, nats or mse.
      output_size: Number of outputs per step: classes, tokens or numbers.
      batch_size: Sequences per training batch, ``data.batch_size`` of the experiment.
      seed: Random seed for shuffling, ``seed`` of the experiment.
      eval_batch_size: Sequences per evaluation batch. None is ``batch_size``.
      test: Test sequences, in the same form. None for no test set.
      summary: Description of the data. If empty, the numbers of sequences.
      predicts_next: Whether targets are later inputs, so that a bidirectional model would see them.
      baselines: Values of ``metric`` on the validation set for predictors without a network, by name.
      test_baselines: Values of ``metric`` on the test set for predictors without a network, by name.

    Raises:
      ValueError: If shapes or dtypes are invalid.

    >>> rng = np.random.default_rng(0)
    >>> def waves(N, T=20):
    ...     label = rng.integers(0, 2, N)
    ...     inputs = np.sin(np.arange(T) * (0.3 + 0.1 * label[:, None]))[..., None]
    ...     last = last_step_weights(np.full(N, T), T)
    ...     return Batch(inputs.astype(np.float32), repeat_over_time(label, T), last)
    >>> dataset = from_sequences(waves(100), waves(10), loss="cross_entropy", metric="accuracy",
    ...                          output_size=2, batch_size=4)
    >>> dataset.batch(0, np.arange(4)).inputs.shape
    (20, 4, 1)
    >>> dataset.eval.inputs.shape, float(dataset.eval.weights.sum())
    ((3, 20, 4, 1), 10.0)
    """
    sets = {"train": train, "eval": eval} | ({} if test is None else {"test": test})
    for name, sequences in sets.items():
        _check(name, sequences, train, loss, output_size)
    has_ids = np.ndim(train.inputs) == 2
    N, T = np.shape(train.weights)
    B = batch_size if eval_batch_size is None else eval_batch_size
    in_test = "" if test is None else f", {len(test.inputs):,} for test"
    return Dataset(
        summary=summary
        or f"{N:,} sequences of at most {T} steps for training, {len(eval.inputs):,} for validation"
        + in_test,
        vocabulary_size=1 + max(int(np.max(s.inputs)) for s in sets.values()) if has_ids else 0,
        input_size=0 if has_ids else np.shape(train.inputs)[2],
        output_size=output_size,
        loss=loss,
        metric=metric,
        batch=shuffled_batches(train, batch_size, seed),
        eval=batches_in_order(eval, B),
        test=None if test is None else batches_in_order(test, B),
        predicts_next=predicts_next,
        baselines=baselines or {},
        test_baselines=test_baselines or {},
        digest=digest_of(train),
        eval_digest=evaluation_digest(
            None,
            batches_in_order(eval, DIGEST_BATCH),
            None if test is None else batches_in_order(test, DIGEST_BATCH),
        ),
    )


def shuffled_batches(
    sequences: Batch, batch_size: int, seed: int
) -> Callable[[int, np.ndarray], Batch]:
    """Returns a function ``(step, rows) -> Batch`` that returns every sequence once per epoch.

    Args:
      sequences: All sequences, ``[N, T, ...]``.
      batch_size: Sequences per batch. An epoch may end inside a batch.
      seed: Random seed for shuffling.

    >>> numbers = Batch(np.arange(6)[:, None], np.arange(6)[:, None], np.ones((6, 1)))
    >>> batch = shuffled_batches(numbers, batch_size=2, seed=0)
    >>> epoch = stack([batch(step, np.arange(2)) for step in range(3)])
    >>> epoch.inputs.shape, sorted(epoch.inputs.ravel().tolist())
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
        positions = step * batch_size + rows
        return select(sequences, np.array([order(int(p) // N)[p % N] for p in positions]))

    return batch


def batches_in_order(sequences: Batch, batch_size: int) -> Batch:
    """Splits sequences ``[N, T, ...]`` into batches ``[n, T, B, ...]``, in order.

    B is ``batch_size``, but at most N. The last batch is padded with sequences of weight 0.
    """
    N = len(sequences.inputs)
    B = min(N, batch_size)
    batches = []
    for first in range(0, N, B):
        positions = np.arange(first, first + B)
        batch = select(sequences, np.minimum(positions, N - 1))
        is_real = (positions < N).astype(np.float32)
        scored = None if batch.scored is None else batch.scored * is_real
        batches.append(batch._replace(weights=batch.weights * is_real, scored=scored))
    return stack(batches)


def select(sequences: Batch, indices: np.ndarray) -> Batch:
    """Returns the sequences at some indices of ``[N, T, ...]`` as a time-major batch."""

    def pick(name: str) -> np.ndarray | None:
        array = getattr(sequences, name)
        if array is None:
            return None
        rows = np.asarray(array)[indices]
        return rows if name == "lengths" else rows.swapaxes(0, 1)

    return Batch(**{name: pick(name) for name in Batch._fields})


def stack(batches: list[Batch]) -> Batch:
    """Stacks batches ``[T, B, ...]`` to ``[n, T, B, ...]``."""
    columns = zip(*batches, strict=True)
    return Batch(*(None if c[0] is None else np.stack(c) for c in columns))


def digest_of(sequences: Batch) -> str:
    """Returns a hash of all arrays of sequences."""
    digest = hashlib.sha256()
    for array in jax.tree.leaves(sequences):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def last_step_weights(lengths: np.ndarray, T: int) -> np.ndarray:
    """Returns weights ``[N, T]``: 1 on the last valid step of each sequence, else 0."""
    return (np.arange(T) == lengths[:, None] - 1).astype(np.float32)


def next_step_weights(lengths: np.ndarray, T: int) -> np.ndarray:
    """Returns weights ``[N, T]``: 1 on each step that has a next valid step, else 0."""
    return (np.arange(T) < lengths[:, None] - 1).astype(np.float32)


def repeat_over_time(answers: np.ndarray, T: int) -> np.ndarray:
    """Repeats one answer per sequence ``[N, ...]`` at every step: a view ``[N, T, ...]``."""
    return np.broadcast_to(answers[:, None], (len(answers), T, *answers.shape[1:]))


def split_validation(N: int, one_in: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of training and validation sequences: a fixed random split.

    Args:
      N: Number of sequences.
      one_in: One in ``one_in`` sequences is used for validation.
    """
    order = np.random.default_rng(0).permutation(N)
    return np.sort(order[N // one_in :]), np.sort(order[: N // one_in])


def _check(name: str, sequences: Batch, train: Batch, loss: str, output_size: int) -> None:
    """Validates the shapes and dtypes of a set of sequences.

    Raises:
      ValueError: If a field is invalid. The message names the set and the field.
    """
    inputs, targets = np.asarray(sequences.inputs), np.asarray(sequences.targets)
    kind = np.integer if inputs.ndim == 2 else np.floating
    same = inputs.shape[2:] == np.shape(train.inputs)[2:] and inputs.ndim in (2, 3)
    if not same or not np.issubdtype(inputs.dtype, kind) or not inputs.size:
        raise ValueError(
            f"{name}.inputs must be integers [N, T] or floats [N, T, I], with the same features in all "
            f"sets, got {inputs.dtype} {inputs.shape}."
        )
    N, T = inputs.shape[:2]
    for field, shape in {"weights": (N, T), "scored": (N, T), "lengths": (N,)}.items():
        value = getattr(sequences, field)
        if value is None and field != "weights":
            continue
        if np.shape(value) != shape:
            raise ValueError(f"{name}.{field} must have the shape {shape}, got {np.shape(value)}.")
    lengths = T if sequences.lengths is None else np.asarray(sequences.lengths)
    if np.min(lengths) < 1 or np.max(lengths) > T:
        raise ValueError(
            f"{name}.lengths must be from 1 to {T}, got {np.min(lengths)} to {np.max(lengths)}."
        )
    expected = {
        "cross_entropy": (N, T),
        "squared_error": (N, T, output_size),
        "bernoulli": (N, T, output_size),
    }.get(loss, targets.shape)
    if targets.shape != expected or targets.shape[:2] != (N, T):
        raise ValueError(
            f"{name}.targets must have the shape {expected} for loss {loss!r} and output_size "
            f"{output_size}, got {targets.shape}."
        )
    if loss != "cross_entropy":
        return
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"{name}.targets must be integers for loss {loss!r}, got {targets.dtype}.")
    if not 0 <= targets.min() <= targets.max() < output_size:
        raise ValueError(
            f"{name}.targets must be from 0 to {output_size - 1} (output_size - 1), got "
            f"{targets.min()} to {targets.max()}."
        )
