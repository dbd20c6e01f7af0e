"""Checksums of arrays, computed where the arrays are."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
ODD = 2654435761  # 2**32 / golden ratio: consecutive places get very different weights


@jax.jit
def checksums(tree: Any) -> Any:
    """Returns a 32-bit checksum of each array: the sum of its words with odd weights, modulo 2**32.

    An odd weight is invertible modulo 2**32, so a single flipped bit always changes the sum. Integer
    sums do not depend on their order, so neither the sharding nor the number of devices matters.

    >>> a = jnp.arange(6.0).reshape(2, 3)
    >>> before, after = checksums((a, a.at[1, 2].add(1e-6)))
    >>> bool(before == after)
    False
    """
    return jax.tree.map(_checksum, tree)


def _checksum(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    # Types of 8 bytes become pairs of words along a new last axis.
    words = lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # no reshape: the words may be sharded along any axis
        place += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    weights = place * jnp.uint32(ODD) | jnp.uint32(1)
    return jnp.sum(words * weights, dtype=jnp.uint32)
