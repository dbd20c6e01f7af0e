"""The compiled functions: several updates, and an evaluation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.task import Task
from lstm_jax.training.model import Carry
from lstm_jax.training.state import TrainState

Metrics = dict[str, jax.Array]

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
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    *,
    seed: int,
    reset_probability: float,
    n: int,
) -> Callable[[TrainState, Batch | None], tuple[TrainState, Metrics]]:
    """``(state, batches [n, ...]) -> (state, metrics [n])``: n updates in one dispatch.

    The state is donated: its buffers are written over. Every random draw is a function of
    (seed, step). Where the state is carried, a sequence now and then starts from zero, as in Melis,
    Kočiský & Blunsom (2020), Mogrifier LSTM (drop_state_probability).
    """

    def loss(
        params: Any, carry: Carry, batch: Batch, key_dropout: jax.Array, key_resets: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        resets = None
        if task.carried:
            T, B = jnp.shape(batch.weights)
            anew = jax.random.bernoulli(key_resets, reset_probability, (B,))
            resets = jnp.zeros((T, B), bool).at[0].set(anew)
        final, outputs = nnx.merge(graphdef, params)(
            batch.inputs,
            carry if task.carried else None,
            lengths=batch.lengths,
            resets=resets,
            dropout_key=key_dropout,
        )
        weights = jnp.asarray(batch.weights)
        value = (LOSSES[task.loss](outputs, batch.targets) * weights).sum() / weights.sum()
        metrics = {}
        if task.figure == "accuracy":
            hits, scored = count_hits(outputs, batch)
            metrics["accuracy"] = hits / scored
        return value, (final if task.carried else carry, metrics)

    def train_step(state: TrainState, batch: Batch | None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        key_data, key_dropout, key_resets = jax.random.split(key, 3)
        if task.generate is not None:
            batch = task.generate(key_data)
        (value, (carry, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.carry, batch, key_dropout, key_resets
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params, value=value)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, carry), metrics

    def train_steps(state: TrainState, batches: Batch | None) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(train_step, state, batches, length=n)

    return jax.jit(train_steps, donate_argnums=0)


def make_evaluation(graphdef: Any, task: Task) -> Callable[[Any, Batch], Metrics]:
    """``(params, chunks [N, ...]) -> sums`` of loss, weight, hits and scored predictions."""

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
    def evaluate(params: Any, chunks: Batch) -> Metrics:
        model = nnx.merge(graphdef, params)
        if task.carried:
            start = model.initialize_carry(jnp.shape(chunks.weights)[2])
            _, sums = jax.lax.scan(lambda carry, batch: read(model, carry, batch), start, chunks)
        else:
            _, sums = jax.lax.scan(lambda _, batch: ((), read(model, None, batch)[1]), (), chunks)
        return jax.tree.map(lambda s: s.sum(0), sums)

    return evaluate


def count_hits(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """How many of the scored predictions are right, and how many there are."""
    scored = jnp.asarray(batch.weights if batch.scored is None else batch.scored)
    return ((outputs.argmax(-1) == batch.targets) * scored).sum(), scored.sum()
