"""The table of losses, and the number of correct predictions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lstm_jax.training.data.batch import Batch

Loss = Callable[[jax.Array, Any], jax.Array]
"""``(outputs [T, B, K], targets [T, B] or [T, B, K]) -> losses [T, B]``, one for each prediction."""


def squared_error(outputs: jax.Array, targets: Any) -> jax.Array:
    """Returns the squared error of each prediction, averaged over its K outputs."""
    return ((outputs - targets) ** 2).mean(-1)


def bernoulli(outputs: jax.Array, targets: Any) -> jax.Array:
    """Returns the negative log-likelihood of K independent binary predictions in nats, summed over K."""
    return optax.sigmoid_binary_cross_entropy(outputs, targets).sum(-1)


LOSSES: dict[str, Loss] = {
    "cross_entropy": optax.softmax_cross_entropy_with_integer_labels,
    "squared_error": squared_error,
    "bernoulli": bernoulli,
}
"""Losses by name, for ``Dataset.loss``."""


def is_classification(outputs: jax.Array, targets: Any) -> bool:
    """Returns whether targets are class ids ``[T, B]`` and outputs are logits ``[T, B, K]``."""
    return jnp.ndim(targets) == outputs.ndim - 1 and jnp.issubdtype(
        jnp.result_type(targets), jnp.integer
    )


def count_correct(outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the number of correct predictions and the number of scored predictions."""
    scored = jnp.asarray(batch.weights if batch.scored is None else batch.scored)
    return ((outputs.argmax(-1) == batch.targets) * scored).sum(), scored.sum()
