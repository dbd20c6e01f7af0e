"""Gradient accumulation: a batch in parts, one after the other, for the memory of one part."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.training.data.batch import Batch


class Part(NamedTuple):
    """What one pass reads, beside the parameters and the carry.

    Attributes:
      batch: its sequences.
      resets: ``[T, B]`` where they start from zero, or None.
      key: for dropout.
      weight: of all predictions of the whole batch.
    """

    batch: Batch
    resets: jax.Array | None
    key: jax.Array
    weight: jax.Array


def accumulated(
    gradient_of: Callable[[Any, Part], tuple[Any, tuple[Any, Any]]], carry: Any, whole: Part, n: int
) -> tuple[Any, tuple[Any, Any]]:
    """``gradient_of(carry, part)`` summed over n parts: ``(gradient, (carry, sums))``.

    Part k has every n-th sequence, from k on: so each device cuts the sequences that it has.
    """
    batch = Batch(
        **{
            name: None if a is None else _cut(a, 0 if name == "lengths" else 1, n)
            for name, a in whole.batch._asdict().items()
        }
    )
    resets = None if whole.resets is None else _cut(whole.resets, 1, n)
    carries = jax.tree.map(lambda a: _cut(a, 0, n), carry)

    def run(k: jax.Array, parts: Any) -> tuple[Any, tuple[Any, Any]]:
        batch, resets, carry = parts
        key = jax.random.fold_in(whole.key, k)
        return gradient_of(carry, Part(batch, resets, key, whole.weight))

    def body(total: Any, parts: Any) -> tuple[Any, Any]:
        gradient, (carry, sums) = run(*parts)
        return jax.tree.map(jnp.add, total, (gradient, sums)), carry

    parts = (jnp.arange(n), (batch, resets, carries))
    first, rest = jax.tree.map(lambda a: a[0], parts), jax.tree.map(lambda a: a[1:], parts)
    gradient, (carry, sums) = run(*first)  # so that the sums start with its types
    (gradient, sums), carries = jax.lax.scan(body, (gradient, sums), rest)
    carries = jax.tree.map(lambda a, b: _joined(jnp.concatenate([a[None], b])), carry, carries)
    return gradient, (carries, sums)


def _cut(a: Any, axis: int, n: int) -> jax.Array:
    """``[..., B, ...]`` as ``[n, ..., B / n, ...]``."""
    a = jnp.asarray(a)
    apart = a.reshape(*a.shape[:axis], a.shape[axis] // n, n, *a.shape[axis + 1 :])
    return jnp.moveaxis(apart, axis + 1, 0)


def _joined(parts: jax.Array) -> jax.Array:
    """``[n, B / n, ...]`` as ``[B, ...]`` again."""
    together = jnp.moveaxis(parts, 0, 1)
    return together.reshape(-1, *parts.shape[2:])
