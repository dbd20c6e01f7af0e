"""Tasks made on the device that ask for a long memory; each with its paper.

Hochreiter & Schmidhuber (1997), Long short-term memory: adding (§5.4), temporal order (§5.6), embedded
Reber grammar (§5.1). Arjovsky, Shah & Bengio (2016), Unitary evolution recurrent neural networks: copy
(§4.1).
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset

Generate = Callable[[jax.Array, int], Batch]
"""``(key, batch size) -> Batch``."""


def generated_dataset(data: Data, seed: int) -> Dataset:
    """The task by its name; fresh sequences in every step, others held out.

    Raises:
      ConfigError: if the sequences are too short for the task.
    """
    make, least = {
        "adding": (adding, 2),
        "copy": (copy, 1),
        "temporal_order": (temporal_order, 20),
        "reber": (reber, 12),
    }[data.task]
    if data.sequence_length < least:
        raise ConfigError(
            f"data.sequence_length: expected at least {least} for the task {data.task!r}, got "
            f"{data.sequence_length}."
        )
    task, generate = make(data.sequence_length)
    key = jax.random.fold_in(jax.random.key(seed), 2**31)  # no step's key
    held_out = jax.tree.map(
        np.asarray, jax.jit(generate, static_argnums=1)(key, data.eval_sequences)
    )
    return replace(
        task,
        summary=f"{task.summary}, {data.eval_sequences:,} fresh ones held out",
        generate=lambda key: generate(key, data.batch_size),
        eval=jax.tree.map(lambda a: a[None], held_out),
        baselines={name: f(held_out) for name, f in BASELINES[data.task].items()},
    )


def adding(T: int) -> tuple[Dataset, Generate]:
    """Two of T numbers are marked, one in each half: what is their sum?

    Solved = mean squared error under 0.01; the mean alone gives 1/6.
    """

    def generate(key: jax.Array, B: int) -> Batch:
        values, first, second = jax.random.split(key, 3)
        x = jax.random.uniform(values, (T, B))
        a = jax.random.randint(first, (B,), 0, T // 2)
        b = jax.random.randint(second, (B,), T // 2, T)
        t = jnp.arange(T)[:, None]
        marked = ((t == a) | (t == b)).astype(jnp.float32)
        total = jnp.broadcast_to((x * marked).sum(0), (T, B))[..., None]
        return Batch(jnp.stack([x, marked], axis=-1), total, _last(T, B))

    task = _task(
        f"sums of two marked numbers in {T} steps", "squared_error", "mse", inputs=2, outputs=1
    )
    return task, generate


COPIED = 10
"""Symbols to remember."""


def copy(T: int) -> tuple[Dataset, Generate]:
    """Ten symbols out of eight, T blanks, a cue: say the ten symbols again.

    Ids: 0 blank, 1 to 8 symbols, 9 cue.
    """
    steps = T + 2 * COPIED

    def generate(key: jax.Array, B: int) -> Batch:
        word = jax.random.randint(key, (COPIED, B), 1, 9)
        blanks = jnp.zeros((steps, B), int)
        inputs = blanks.at[:COPIED].set(word).at[-COPIED - 1].set(9)
        targets = blanks.at[-COPIED:].set(word)
        return Batch(
            inputs, targets, jnp.ones((steps, B)), scored=(targets > 0).astype(jnp.float32)
        )

    task = _task(f"{COPIED} symbols to repeat after {T} steps", "cross_entropy", "nats", 10, 10)
    return task, generate


def temporal_order(T: int) -> tuple[Dataset, Generate]:
    """X or Y, twice, far apart and far from the end among a, b, c, d: in which order did they come?

    Experiment 6a: sequences of T / 1.1 to T steps, the first sign in their second tenth, the second
    in their sixth. Ids: 0 to 3 distractors, 4 and 5 X and Y, 6 start, 7 end; classes XX, XY, YX, YY.
    """

    def generate(key: jax.Array, B: int) -> Batch:
        keys = jax.random.split(key, 5)
        noise = jax.random.randint(keys[0], (T, B), 0, 4)
        first = jax.random.randint(keys[1], (B,), T // 11, 2 * T // 11 + 1)
        second = jax.random.randint(keys[2], (B,), 5 * T // 11, 6 * T // 11 + 1)
        signs = jax.random.randint(keys[3], (2, B), 0, 2)
        lengths = jax.random.randint(keys[4], (B,), 10 * T // 11, T + 1)
        t = jnp.arange(T)[:, None]
        ids = jnp.where(t == first, 4 + signs[0], noise)
        ids = jnp.where(t == second, 4 + signs[1], ids)
        ids = jnp.where(t == 0, 6, jnp.where(t == lengths - 1, 7, ids))
        answer = jnp.broadcast_to(2 * signs[0] + signs[1], (T, B))
        return Batch(ids, answer, (t == lengths - 1).astype(jnp.float32), lengths)

    task = _task(f"the order of two signs in {T} steps", "cross_entropy", "accuracy", 8, 4)
    return task, generate


REBER = "BTPSXVE"
"""The symbols; an id is a place in this string."""

_EDGES = {  # state: its two edges (symbol, next state), equally likely
    0: (("B", 1), ("B", 1)),
    1: (("T", 2), ("P", 3)),
    2: (("S", 2), ("X", 4)),
    3: (("T", 3), ("V", 5)),
    4: (("X", 3), ("S", 6)),
    5: (("P", 4), ("V", 6)),
    6: (("E", 7), ("E", 7)),
}


def reber(T: int) -> tuple[Dataset, Generate]:
    """Strings B x R x E with x one of T and P and R from Reber's grammar: the last x must be remembered.

    The next symbol is predicted at each step; accuracy is counted at that last x. Strings longer than T
    are cut before it, and are then not counted in the accuracy.
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
        many = jax.vmap(string)(jax.random.split(key, B))
        return jax.tree.map(lambda a: a.swapaxes(0, 1) if a.ndim == 2 else a, many)

    task = _task("strings of the embedded Reber grammar", "cross_entropy", "accuracy", 7, 7)
    return task, generate


def _task(summary: str, loss: str, figure: str, inputs: int, outputs: int) -> Dataset:
    ids = loss == "cross_entropy"
    return Dataset(
        summary=summary,
        loss=loss,  # type: ignore[arg-type]
        metric=figure,
        vocabulary_size=inputs if ids else 0,
        input_size=0 if ids else inputs,
        output_size=outputs,
        eval=Batch(0, 0, 0),  # made by generated_dataset
    )


def _last(T: int, B: int) -> jax.Array:
    return jnp.zeros((T, B)).at[-1].set(1.0)


def _guess_the_mean(held_out: Batch) -> float:
    return float(np.var(np.asarray(held_out.targets)[-1]))


def _memoryless_copy(held_out: Batch) -> float:
    return float(COPIED * np.log(8) / len(held_out.targets))


def _majority(held_out: Batch) -> float:
    scored = held_out.weights if held_out.scored is None else held_out.scored
    answers = np.asarray(held_out.targets)[np.asarray(scored) == 1]
    if not len(answers):
        raise ConfigError("data.eval_sequences: expected enough that one is whole; raise it.")
    return float(np.bincount(answers).max() / len(answers))


BASELINES: dict[str, dict[str, Callable[[Batch], float]]] = {
    "adding": {"predict-the-mean baseline": _guess_the_mean},
    "copy": {"memoryless baseline": _memoryless_copy},
    "temporal_order": {"majority baseline": _majority},
    "reber": {"majority baseline": _majority},
}
