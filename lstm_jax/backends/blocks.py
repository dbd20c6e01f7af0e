"""A recurrence in blocks of steps, so that the projected inputs of a block take little memory.

On an H100, blocks of 16 MiB made inference 15 % slower, so blocks are larger there.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.problem import Operands, Outputs, Settings
from lstm_jax.notation import at_least_float32

Run = Callable[[Operands], Outputs]
CPU_BYTES = 16 * 2**20
"""The most that the projected inputs of a block take on CPU. XLA holds them up to three times."""
BYTES, STEPS = 128 * 2**20, 32
"""The same on other platforms, and the least steps of a block there."""


def in_blocks(settings: Settings, run: Run, operands: Operands) -> Outputs:
    """``run``, block by block if the projected inputs of all steps would take too much memory.

    Not for a derivative in reverse mode, which would keep the outputs once for every block.
    """
    on_cpu, elsewhere = block_steps(operands, CPU_BYTES), block_steps(operands, BYTES, STEPS)
    if on_cpu is None:
        return run(operands)
    return jax.lax.platform_dependent(
        operands,
        cpu=partial(_in_blocks, settings, run, on_cpu),
        default=run if elsewhere is None else partial(_in_blocks, settings, run, elsewhere),
    )


def needs_blocks(operands: Operands) -> bool:
    """Whether :func:`in_blocks` runs more than one block on some platform."""
    return block_steps(operands, CPU_BYTES) is not None


def block_steps(operands: Operands, most_bytes: int, least_steps: int = 1) -> int | None:
    """The steps of a block, or None if there is but one, as the projected inputs take at most ``most_bytes``.

    None also where XLA partitions the program: shapes are those of all devices, and each block could
    communicate.
    """
    mesh = jax.typeof(operands.xs).sharding.mesh
    if mesh.size > 1 and (mesh.auto_axes or mesh.explicit_axes):
        return None
    T, *batch, _ = operands.xs.shape
    sizes = (*batch, operands.params.w_x.shape[-1], at_least_float32(operands.xs.dtype).itemsize)
    if not all(isinstance(n, int) for n in (T, *sizes)) or T * math.prod(sizes) <= most_bytes:
        return None
    most = max(least_steps, most_bytes // math.prod(sizes))
    if most >= T:
        return None
    # Blocks of one size need one loop in the program, others two.
    least = max(least_steps, most // 2 + 1)
    return next((k for k in range(most, least - 1, -1) if T % k == 0), most)


def _in_blocks(settings: Settings, run: Run, steps: int, operands: Operands) -> Outputs:
    """Writes the outputs of all blocks into one array, if there are any. The last block may be shorter."""
    T = operands.xs.shape[0]
    count, rest = divmod(T, steps)
    h = operands.state.h
    hs = jnp.broadcast_to(jnp.zeros_like(h)[None], (T, *h.shape))
    reverse = settings.reverse

    def block(start: Any, size: int, carried: Outputs) -> Outputs:
        state, hs = carried
        state, new = run(_steps_of(operands, start, size)._replace(state=state))
        write = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return state, jax.tree.map(write, hs, new)

    def whole(carried: tuple[Any, Outputs]) -> tuple[Any, Outputs]:
        n, outputs = carried
        return n + 1, block((count - 1 - n if reverse else n) * steps, steps, outputs)

    carried = settings.outputs(operands.state, hs)
    if rest and reverse:
        carried = block(T - rest, rest, carried)
    # A while loop, by which `unrolled` tells it from the loop over time.
    _, carried = jax.lax.while_loop(lambda c: c[0] < count, whole, (jnp.int32(0), carried))
    if rest and not reverse:
        carried = block(T - rest, rest, carried)
    return carried


def _steps_of(operands: Operands, start: Any, size: int) -> Operands:
    """The operands of ``size`` steps from ``start`` on."""

    def cut(a: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(a, start, size)

    xs, begin, hold = jax.tree.map(cut, (operands.xs, operands.begin, operands.hold))
    return operands._replace(xs=xs, begin=begin, hold=hold)
