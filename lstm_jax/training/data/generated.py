"""Synthetic tasks that require long memory, generated on the device.

Hochreiter & Schmidhuber (1997), Long short-term memory: adding (§5.4), temporal order (§5.6), embedded
Reber grammar (§5.1). Arjovsky, Shah & Bengio (2016), Unitary evolution recurrent neural networks: copy
(§4.1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset, evaluation_digest
from lstm_jax.training.data.sequences import batches_in_order


class Generator(NamedTuple):
    """A synthetic task.

    Attributes:
      generate: Function ``(key, batch_size) -> Batch``. It can be traced.
      summary: Description of the task.
      loss: Name of the loss.
      metric: Name of the main metric.
      inputs: Number of input tokens, or of features with squared_error.
      outputs: Number of outputs.
    """

    generate: Callable[[jax.Array, int], Batch]
    summary: str
    loss: str
    metric: str
    inputs: int
    outputs: int


def generated_dataset(data: Data, seed: int) -> Dataset:
    """Builds a dataset with new training sequences in every step and a fixed validation set.

    Raises:
      ConfigError: If the sequences are too short for the task.
    """
    make, min_length = {
        "adding": (adding, 2),
        "copy": (copy, 1),
        "temporal_order": (temporal_order, 20),
        "reber": (reber, 12),
    }[data.task]
    if data.sequence_length < min_length:
        raise ConfigError(
            f"data.sequence_length: expected at least {min_length} for the task {data.task!r}, got "
            f"{data.sequence_length}."
        )
    task = make(data.sequence_length)
    key = jax.random.fold_in(jax.random.key(seed), 2**31)  # differs from the key of every step
    generate = jax.jit(task.generate, static_argnums=1)
    validation = jax.tree.map(np.asarray, generate(key, data.eval_sequences))
    has_ids = task.loss == "cross_entropy"
    return Dataset(
        summary=f"{task.summary}, {data.eval_sequences:,} sequences for validation",
        loss=task.loss,
        metric=task.metric,
        vocabulary_size=task.inputs if has_ids else 0,
        input_size=0 if has_ids else task.inputs,
        output_size=task.outputs,
        generate=lambda key: task.generate(key, data.batch_size),
        eval=batches_in_order(_sequence_major(validation), data.eval_batch_size or data.batch_size),
        baselines={name: f(validation) for name, f in BASELINES[data.task].items()},
        eval_digest=evaluation_digest(None, jax.tree.map(lambda a: a[None], validation), None),
    )


def _sequence_major(batch: Batch) -> Batch:
    """Swaps the time axis and the sequence axis of a batch."""
    return jax.tree.map(lambda a: a if a.ndim == 1 else a.swapaxes(0, 1), batch)


def adding(T: int) -> Generator:
    """Returns the adding problem: predict the sum of two marked numbers, one in each half of T numbers.

    A mean squared error below 0.01 counts as solved. Predicting the mean gives 1/6.
    """

    def generate(key: jax.Array, B: int) -> Batch:
        values, first, second = jax.random.split(key, 3)
        x = jax.random.uniform(values, (T, B))
        a = jax.random.randint(first, (B,), 0, T // 2)
        b = jax.random.randint(second, (B,), T // 2, T)
        t = jnp.arange(T)[:, None]
        marked = ((t == a) | (t == b)).astype(jnp.float32)
        total = jnp.broadcast_to((x * marked).sum(0), (T, B))[..., None]
        return Batch(jnp.stack([x, marked], axis=-1), total, _last_step_weights(T, B))

    summary = f"sums of two marked numbers in {T} steps"
    return Generator(generate, summary, "squared_error", "mse", inputs=2, outputs=1)


NUM_COPIED = 10
"""Number of symbols to copy."""


def copy(T: int) -> Generator:
    """Returns the copy task: repeat ten symbols after a delay of T steps.

    Inputs are ten symbols, blanks and a cue before the last ten steps. Ids: 0 blank, 1 to 8 symbols, 9 cue.
    """
    steps = T + 2 * NUM_COPIED

    def generate(key: jax.Array, B: int) -> Batch:
        word = jax.random.randint(key, (NUM_COPIED, B), 1, 9)
        blanks = jnp.zeros((steps, B), int)
        inputs = blanks.at[:NUM_COPIED].set(word).at[-NUM_COPIED - 1].set(9)
        targets = blanks.at[-NUM_COPIED:].set(word)
        return Batch(
            inputs, targets, jnp.ones((steps, B)), scored=(targets > 0).astype(jnp.float32)
        )

    summary = f"{NUM_COPIED} symbols to repeat after {T} steps"
    return Generator(generate, summary, "cross_entropy", "nats", inputs=10, outputs=10)


def temporal_order(T: int) -> Generator:
    """Returns the temporal order task: classify the order of two symbols among distractors.

    Each of the two symbols is X or Y. As in experiment 6a of the paper, sequences have T / 1.1 to T steps,
    with the first symbol in the second tenth and the second symbol in the sixth tenth. Ids: 0 to 3
    distractors, 4 X, 5 Y, 6 start, 7 end. Classes: XX, XY, YX, YY.
    """

    def generate(key: jax.Array, B: int) -> Batch:
        keys = jax.random.split(key, 5)
        noise = jax.random.randint(keys[0], (T, B), 0, 4)
        first = jax.random.randint(keys[1], (B,), T // 11, 2 * T // 11 + 1)
        second = jax.random.randint(keys[2], (B,), 5 * T // 11, 6 * T // 11 + 1)
        symbols = jax.random.randint(keys[3], (2, B), 0, 2)
        lengths = jax.random.randint(keys[4], (B,), 10 * T // 11, T + 1)
        t = jnp.arange(T)[:, None]
        ids = jnp.where(t == first, 4 + symbols[0], noise)
        ids = jnp.where(t == second, 4 + symbols[1], ids)
        ids = jnp.where(t == 0, 6, jnp.where(t == lengths - 1, 7, ids))
        answer = jnp.broadcast_to(2 * symbols[0] + symbols[1], (T, B))
        return Batch(ids, answer, (t == lengths - 1).astype(jnp.float32), lengths)

    summary = f"the order of two symbols in {T} steps"
    return Generator(generate, summary, "cross_entropy", "accuracy", inputs=8, outputs=4)


REBER = "BTPSXVE"
"""The symbols of the grammar by id."""

_EDGES = {  # state: two equally likely edges (symbol, next state)
    0: (("B", 1), ("B", 1)),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", 7), ("E", 7)),
}


def reber(T: int) -> Generator:
    """Returns the embedded Reber grammar: predict the next symbol of strings B x R x E.

    x is T or P, and R is a string of Reber's grammar. The accuracy counts only the prediction of the second
    x, which must be remembered from the second step. Strings longer than T are truncated and do not count.
    """
    symbols = jnp.array([[REBER.index(s) for s, _ in _EDGES[n]] for n in _EDGES])
    after = jnp.array([[state for _, state in _EDGES[n]] for n in _EDGES])
    B_, T_, P_, E_ = (REBER.index(s) for s in "BTPE")

    def string(key: jax.Array) -> Batch:
        key_x, key_walk = jax.random.split(key)
        x = jnp.where(jax.random.bernoulli(key_x), T_, P_)

        def walk(state: jax.Array, coin: jax.Array) -> tuple[jax.Array, jax.Array]:
            ended = state == 7
            edge = (jnp.minimum(state, 6), coin)
            return jnp.where(ended, 7, after[edge]), jnp.where(ended, -1, symbols[edge])

        coins = jax.random.bernoulli(key_walk, shape=(T - 1,)).astype(int)
        _, inner = jax.lax.scan(walk, jnp.int32(0), coins)
        n = (inner >= 0).sum()  # B x inner x E
        ids = jnp.concatenate([jnp.array([B_, x]), inner])
        t = jnp.arange(T + 1)
        ids = jnp.where(t == n + 2, x, jnp.where(t == n + 3, E_, ids))
        length = jnp.minimum(n + 3, T)
        real = (jnp.arange(T) < length).astype(jnp.float32)
        recalled = (jnp.arange(T) == n + 1) * real
        return Batch(jnp.maximum(ids[:-1], 0), jnp.maximum(ids[1:], 0), real, length, recalled)

    def generate(key: jax.Array, B: int) -> Batch:
        return _sequence_major(jax.vmap(string)(jax.random.split(key, B)))

    summary = "strings of the embedded Reber grammar"
    return Generator(generate, summary, "cross_entropy", "accuracy", inputs=7, outputs=7)


def _last_step_weights(T: int, B: int) -> jax.Array:
    return jnp.zeros((T, B)).at[-1].set(1.0)


def _predict_the_mean(batch: Batch) -> float:
    return float(np.var(np.asarray(batch.targets)[-1]))


def _memoryless_copy(batch: Batch) -> float:
    return float(NUM_COPIED * np.log(8) / len(batch.targets))


def _majority(batch: Batch) -> float:
    scored = batch.weights if batch.scored is None else batch.scored
    answers = np.asarray(batch.targets)[np.asarray(scored) == 1]
    if not len(answers):
        raise ConfigError(
            "data.eval_sequences is too small: no validation sequence counts in the accuracy; raise it, or "
            "raise data.sequence_length."
        )
    return float(np.bincount(answers).max() / len(answers))


BASELINES: dict[str, dict[str, Callable[[Batch], float]]] = {
    "adding": {"predict-the-mean baseline": _predict_the_mean},
    "copy": {"memoryless baseline": _memoryless_copy},
    "temporal_order": {"majority baseline": _majority},
    "reber": {"majority baseline": _majority},
}
