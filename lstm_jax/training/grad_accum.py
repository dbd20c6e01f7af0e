"""Gradient accumulation: processes a batch in parts to save memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.training.data.batch import Batch


class Part(NamedTuple):
    """Inputs of one forward and backward pass: a batch, or a part of a batch.

    Attributes:
      batch: The sequences.
      resets: ``[T, B]``, True where a sequence starts from a zero state. None for no resets.
      key: Key for dropout.
      weight: Sum of the weights of the whole batch, the divisor of the loss.
    """

    batch: Batch
    resets: jax.Array | None
    key: jax.Array
    weight: jax.Array


def accumulate(
    gradient_of: Callable[[Any, Part], tuple[Any, tuple[Any, Any]]], carry: Any, whole: Part, n: int
) -> tuple[Any, tuple[Any, Any]]:
    """Returns ``(gradient, (carry, sums))``, summed over the n parts of a batch.

    Part k holds sequences k, k + n, k + 2n, ..., so that the parts need no communication between devices.
    Without dropout, the result is the gradient of the whole batch. Dropout has a key for each part.
    """
    if n == 1:
        return gradient_of(carry, whole)
    batch = Batch(
        **{
            name: None if a is None else _split(a, 0 if name == "lengths" else 1, n)
            for name, a in whole.batch._asdict().items()
        }
    )
    resets = None if whole.resets is None else _split(whole.resets, 1, n)
    carries = jax.tree.map(lambda a: _split(a, 0, n), carry)

    def run(k: jax.Array, parts: Any) -> tuple[Any, tuple[Any, Any]]:
        batch, resets, carry = parts
        key = jax.random.fold_in(whole.key, k)
        return gradient_of(carry, Part(batch, resets, key, whole.weight))

    def body(total: Any, parts: Any) -> tuple[Any, Any]:
        gradient, (carry, sums) = run(*parts)
        return jax.tree.map(jnp.add, total, (gradient, sums)), carry

    parts = (jnp.arange(n), (batch, resets, carries))
    first, rest = jax.tree.map(lambda a: a[0], parts), jax.tree.map(lambda a: a[1:], parts)
    gradient, (carry, sums) = run(*first)  # the carry of the scan needs dtypes and shardings
    (gradient, sums), carries = jax.lax.scan(body, (gradient, sums), rest)
    carries = jax.tree.map(lambda a, b: _merge(jnp.concatenate([a[None], b])), carry, carries)
    return gradient, (carries, sums)


def _split(a: Any, axis: int, n: int) -> jax.Array:
    """Reshapes ``[..., B, ...]`` to ``[n, ..., B / n, ...]``."""
    a = jnp.asarray(a)
    parts = a.reshape(*a.shape[:axis], a.shape[axis] // n, n, *a.shape[axis + 1 :])
    return jnp.moveaxis(parts, axis + 1, 0)


def _merge(parts: jax.Array) -> jax.Array:
    """Reshapes ``[n, B / n, ...]`` to ``[B, ...]``."""
    whole = jnp.moveaxis(parts, 0, 1)
    return whole.reshape(-1, *parts.shape[2:])
