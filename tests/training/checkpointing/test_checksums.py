"""Checksums of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.checkpointing.checksums import checksums

STRICT = False


def checksum(array):
    """Returns the checksum of one array as an int."""
    return int(checksums(array))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "uint16", "bool"])
def test_a_checksum_changes_with_every_bit(dtype):
    """A checksum is the sum of the mixed words, modulo 2**32. Negating all numbers changes it, too."""
    array = np.array(jnp.array(np.random.default_rng(1).integers(0, 2, (3, 4)), dtype))
    words = array.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[array.itemsize]).astype(np.uint64)
    mixed = words ^ (np.arange(12, dtype=np.uint64).reshape(3, 4) * 2654435761 % 2**32)
    mixed = (mixed ^ (mixed >> 16)) * 0x85EBCA6B % 2**32
    mixed = (mixed ^ (mixed >> 13)) * 0xC2B2AE35 % 2**32
    want = int((mixed ^ (mixed >> 16)).sum() % 2**32)
    assert checksum(array) == want
    if dtype == "bool":
        return
    if "float" in dtype:
        assert checksum(-array) != want
    for byte in range(array.nbytes):
        for bit in range(8):
            changed = array.copy()
            changed.view(np.uint8).reshape(-1)[byte] ^= 1 << bit
            assert checksum(changed) != want


def test_a_checksum_does_not_depend_on_the_sharding():
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    array = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    want = checksum(array)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
        with jax.set_mesh(mesh):
            for spec in (P(), P("data"), P(None, "data")):
                assert checksum(jax.device_put(array, NamedSharding(mesh, spec))) == want
