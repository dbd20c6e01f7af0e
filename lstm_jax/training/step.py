"""The compiled functions: several updates, and an evaluation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike

from lstm_jax.training.model import Carry
from lstm_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


def make_train_steps(
    graphdef: Any, optimizer: optax.GradientTransformation, seed: int, reset_probability: float
) -> Callable[[TrainState, ArrayLike], tuple[TrainState, Metrics]]:
    """``(state, batches [N, T + 1, B]) -> (state, mean metrics)``: N updates in one dispatch.

    The state is donated: its buffers are written over. Now and then a sequence starts from a zero
    state, as in Melis, Kočiský & Blunsom (2020), Mogrifier LSTM (drop_state_probability).
    """

    def loss(
        params: Any, carry: Carry, batch: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Carry]:
        key_dropout, key_resets = jax.random.split(key)
        model, ids = nnx.merge(graphdef, params), batch[:-1]
        anew = jax.random.bernoulli(key_resets, reset_probability, ids.shape[1:])
        resets = jnp.zeros(ids.shape, bool).at[0].set(anew)
        carry, logits = model(carry, ids, resets=resets, dropout_key=key_dropout)
        return cross_entropy(logits, batch[1:]).mean(), carry

    def train_step(state: TrainState, batch: jax.Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, carry), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.carry, batch, key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, carry), metrics

    def train_steps(state: TrainState, batches: jax.Array) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(train_step, state, batches)
        return state, jax.tree.map(jnp.mean, metrics)

    return jax.jit(train_steps, donate_argnums=0)


def make_evaluation(
    graphdef: Any,
) -> Callable[[Any, Carry, ArrayLike, ArrayLike], jax.Array]:
    """``(params, carry, chunks [N, T + 1, B], weights [N, T, B]) -> mean nats a target``."""

    @jax.jit
    def evaluate(params: Any, carry: Carry, chunks: jax.Array, weights: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, params)

        def read(carry: Carry, chunk: tuple[jax.Array, jax.Array]) -> tuple[Carry, jax.Array]:
            ids, weight = chunk
            carry, logits = model(carry, ids[:-1])
            return carry, (weight * cross_entropy(logits, ids[1:])).sum()

        _, nats = jax.lax.scan(read, carry, (chunks, weights))
        return nats.sum() / weights.sum()

    return evaluate


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Nats a target."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
