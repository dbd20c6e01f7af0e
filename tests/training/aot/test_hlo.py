"""Collectives in the text of compiled programs. For TPUs see ``tests/test_tpu_aot.py``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from lstm_jax.training.aot.hlo import Collective, collectives

STRICT = False


def found_in(function, x, axis="d"):
    """Returns the collectives of a function of which each of four devices computes a part."""
    mesh = Mesh(np.array(jax.devices()[:4]), (axis,))
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=P(axis), out_specs=P(axis), check_vma=False
    )
    return collectives(jax.jit(mapped).lower(x).compile().as_text())


def test_a_scatter_and_a_permutation_outside_of_loops():
    """The bytes of a collective are those of the full array on one device, before or after."""

    def program(x):
        part = jax.lax.psum_scatter(x, "d", tiled=True)
        return jax.lax.ppermute(part, "d", [(n, (n + 1) % 4) for n in range(4)])

    found = found_in(program, jnp.ones((64, 32), jnp.float32))
    assert sorted(found, key=lambda c: c.kind) == [
        Collective("collective-permute", 4 * 32 * 4, 1, ()),
        Collective("reduce-scatter", 16 * 32 * 4, 1, ()),
    ]


def test_a_loop_of_unknown_length_is_counted_once():

    def program(x):
        return jax.lax.while_loop(
            lambda h: h.sum() < 100, lambda h: h + jax.lax.psum(h, "d"), jnp.abs(x)
        )

    (found,) = found_in(program, jnp.ones((4, 2), jnp.float32))
    assert (found.kind, found.bytes, found.times, found.exact) == ("all-reduce", 2 * 4, 1, False)
    assert len(found.loops) == 1


@pytest.mark.parametrize("length", [7, 1])
def test_a_gather_before_loops_and_a_sum_in_them(length):
    """The gather is outside of two nested loops, the sum is inside. A loop of one step is no loop."""

    def program(x):
        y = jax.lax.all_gather(x, "d", axis=0, tiled=True)

        def step(h, _):
            return jnp.sin(jax.lax.psum(h, "d")) + y[:4].sum(), None

        def steps(h, _):
            return jax.lax.scan(step, h, length=length)

        return jax.lax.scan(steps, x, length=3)[0]

    every = found_in(program, jnp.ones((16, 2), jnp.float32))
    found = {c.kind: c for c in every}
    assert len(every) == 2
    assert (found["all-gather"].bytes, found["all-gather"].times) == (16 * 2 * 4, 1)
    assert found["all-gather"].loops == ()
    assert (found["all-reduce"].bytes, found["all-reduce"].times) == (4 * 2 * 4, 3 * length)
    assert len(found["all-reduce"].loops) == (2 if length > 1 else 1)
    assert all(c.exact for c in found.values())
