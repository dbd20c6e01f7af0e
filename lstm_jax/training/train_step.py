"""The compiled functions: several updates, and an evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.grad_accum import Part, accumulated
from lstm_jax.training.model import Carry
from lstm_jax.training.optimizer import learning_rate
from lstm_jax.training.parallel.layout import by_row, carry_specs, in_use, over_devices
from lstm_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]
CHUNKS = 16
"""Chunks of the held-out data in one call: between calls an evaluation can be stopped."""

LOSSES: dict[str, Callable[[jax.Array, Any], jax.Array]] = {
    "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
    "squared_error": lambda outputs, targets: ((outputs - targets) ** 2).mean(-1),
    "bernoulli": lambda outputs, targets: optax.sigmoid_binary_cross_entropy(outputs, targets).sum(
        -1
    ),
}
"""Of one prediction, ``[T, B]``: nats, squared error, nats summed over the outputs."""


def make_train_steps(
    graphdef: Any,
    task: Dataset,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: optax.Schedule,
    *,
    seed: int,
    reset_probability: float,
    n: int,
    accumulate: int = 1,
    on_nan: str = "stop",
    norms: bool = False,
    shardings: TrainState | None = None,
) -> Callable[[TrainState, Batch | None], tuple[TrainState, Metrics]]:
    """``(state, batches [n, ...]) -> (state, metrics [n])``: n updates in one dispatch.

    The state is donated: its buffers are written over. Every random draw is a function of
    (seed, step). Where the state is carried, a sequence now and then starts from zero, as in Melis,
    Kočiský & Blunsom (2020), Mogrifier LSTM (drop_state_probability).

    With ``accumulate``, a batch is run in so many parts, whose gradients add up to that of the whole
    (dropout draws others). With ``on_nan="skip"`` a step whose loss or gradient is not finite leaves
    all as it was, and is counted in ``skipped``; with ``norms`` there is a figure for each parameter
    and its gradient.

    On a mesh, run and lower it under ``jax.set_mesh``; ``shardings`` are where the state stays.
    """

    def loss(params: Any, carry: Carry, part: Part) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        """Of a part of a batch, as its share in the mean over the whole one."""
        batch = part.batch
        final, outputs = nnx.merge(graphdef, in_use(params))(
            batch.inputs,
            carry if task.stateful else None,
            lengths=batch.lengths,
            resets=part.resets,
            dropout_key=part.key,
        )
        weights = jnp.asarray(batch.weights)
        value = (LOSSES[task.loss](outputs, batch.targets) * weights).sum() / part.weight
        sums = {"loss": value}
        if task.metric == "accuracy":
            sums["hits"], sums["scored"] = count_hits(outputs, batch)
        return value, (final if task.stateful else carry, sums)

    gradient_of = jax.grad(loss, has_aux=True)

    def train_step(state: TrainState, batch: Batch | None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key_data, key_dropout, key_resets = jax.random.split(key, 3)
        if task.generate is not None:
            batch = task.generate(key_data)
        assert batch is not None
        batch = over_devices(batch, by_row(batch))
        weight = jnp.asarray(batch.weights).sum()
        resets = _resets(batch, key_resets, reset_probability) if task.stateful else None
        part = Part(batch, resets, key_dropout, weight)
        if accumulate == 1:
            gradient, (carry, sums) = gradient_of(state.params, state.carry, part)
        else:
            gradient, (carry, sums) = accumulated(
                partial(gradient_of, state.params), state.carry, part, accumulate
            )
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.params, value=sums["loss"]
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": sums["loss"],
            "gradient_norm": optax.tree.norm(gradient),
            "learning_rate": learning_rate(schedule, state.opt_state, opt_state),
        }
        if "hits" in sums:
            metrics["accuracy"] = sums["hits"] / sums["scored"]
        if norms:
            metrics |= _norms("gradient_norm", gradient) | _norms("parameter_norm", params)
        after = TrainState(state.step, params, opt_state, carry)
        if on_nan == "skip":
            fine = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            after = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, state)
            metrics["skipped"] = ~fine
        return after._replace(step=state.step + 1), metrics

    def train_steps(state: TrainState, batches: Batch | None) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(train_step, state, batches, length=n)

    if shardings is None:
        return jax.jit(train_steps, donate_argnums=0)
    out = (shardings, shardings.step)  # metrics everywhere, as the step number
    return jax.jit(train_steps, donate_argnums=0, out_shardings=out)


def _resets(batch: Batch, key: jax.Array, probability: float) -> jax.Array:
    """``[T, B]``: True on the first step of the sequences that start from zero."""
    T, B = jnp.shape(batch.weights)
    anew = jax.random.bernoulli(key, probability, (B,))
    return (jnp.arange(T) == 0)[:, None] & anew[None]


def _norms(name: str, tree: Any) -> Metrics:
    """The norm of each array by its path."""
    return {
        f"{name}/{jax.tree_util.keystr(path, simple=True, separator='.')}": optax.tree.norm(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def make_evaluation(
    graphdef: Any, task: Dataset, place: Callable[[Batch], Batch] = lambda chunks: chunks
) -> Callable[..., dict[str, float] | None]:
    """``(params, chunks [N, ...], stop=lambda: False) -> sums``.

    Of loss, weight, hits and scored predictions. The chunks are read a few at a time; once ``stop()``
    is true no more are, and the answer is None. ``place`` puts chunks where they are computed.
    """

    def read(model: Any, carry: Carry | None, batch: Batch) -> tuple[Carry, Metrics]:
        carry, outputs = model(batch.inputs, carry, lengths=batch.lengths)
        weights = jnp.asarray(batch.weights)
        sums = {
            "loss": (LOSSES[task.loss](outputs, batch.targets) * weights).sum(),
            "weight": weights.sum(),
        }
        if task.loss == "cross_entropy":
            hits, scored = count_hits(outputs, batch)
            sums |= {"hits": hits, "scored": scored}
        return carry, sums

    @jax.jit
    def read_some(params: Any, carry: Carry, chunks: Batch) -> tuple[Carry, Metrics]:
        model = nnx.merge(graphdef, in_use(params))
        if task.stateful:
            return jax.lax.scan(lambda carry, batch: read(model, carry, batch), carry, chunks)
        return jax.lax.scan(lambda _, batch: ((), read(model, None, batch)[1]), (), chunks)

    @partial(jax.jit, static_argnums=1)
    def begin(params: Any, B: int) -> Carry:
        if not task.stateful:
            return ()
        carry = nnx.merge(graphdef, params).initialize_carry(B)
        return over_devices(carry, carry_specs(jax.sharding.get_abstract_mesh(), carry))

    def evaluate(
        params: Any, chunks: Batch, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        carry: Carry | None = None
        parts = []
        for first in range(0, np.shape(chunks.weights)[0], CHUNKS):
            some = place(jax.tree.map(lambda a, first=first: a[first : first + CHUNKS], chunks))
            if carry is None:
                carry = begin(params, np.shape(some.weights)[2])
            carry, sums = read_some(params, carry, some)
            parts.append(jax.device_get(sums))
            if stop():
                return None
        return {
            name: sum(float(part[name].sum(dtype=np.float64)) for part in parts)
            for name in parts[0]
        }

    return evaluate


def count_hits(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """How many of the scored predictions are right, and how many there are."""
    scored = jnp.asarray(batch.weights if batch.scored is None else batch.scored)
    return ((outputs.argmax(-1) == batch.targets) * scored).sum(), scored.sum()
