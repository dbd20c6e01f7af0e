"""Checksums of arrays, computed on the devices of the arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
ODD = 2654435761  # 2**32 / golden ratio: maps consecutive positions to very different words


@jax.jit
def checksums(tree: Any) -> Any:
    """Returns a 32-bit checksum of each array: the sum of its words, hashed with their positions.

    The hash is a bijection of each word (the finalizer of MurmurHash3, Appleby, 2011), so a change of a
    single word always changes the sum. Integer sums do not depend on their order, so the checksum does
    not depend on the sharding.

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
    # A bitcast of an 8-byte type adds a last axis of two words.
    words = lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    place, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):  # no reshape: the words may be sharded along any axis
        place += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = words ^ (place * jnp.uint32(ODD))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
