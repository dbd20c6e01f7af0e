"""Runs a recurrence in blocks of time steps, to limit the memory of the projected inputs.

Blocks are larger on accelerators. On an H100, blocks of 16 MiB made inference 15 % slower.
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
"""Maximum size of the projected inputs of a block on CPU. XLA may keep up to three copies."""
DEFAULT_BYTES, MIN_STEPS = 128 * 2**20, 32
"""Maximum size of the projected inputs of a block on other platforms, and the minimum steps per block."""


def in_blocks(settings: Settings, run: Run, operands: Operands) -> Outputs:
    """Applies ``run``, in blocks of steps if the projected inputs of all steps exceed the maximum size.

    It must not be differentiated in reverse mode, which would store all outputs once per block.
    """
    cpu_steps = block_steps(operands, CPU_BYTES)
    steps = block_steps(operands, DEFAULT_BYTES, MIN_STEPS)
    if cpu_steps is None:
        return run(operands)
    return jax.lax.platform_dependent(
        operands,
        cpu=partial(_loop_over_blocks, settings, run, cpu_steps),
        default=run if steps is None else partial(_loop_over_blocks, settings, run, steps),
    )


def needs_blocks(operands: Operands) -> bool:
    """Returns whether :func:`in_blocks` runs more than one block on any platform."""
    return block_steps(operands, CPU_BYTES) is not None


def block_steps(operands: Operands, max_bytes: int, min_steps: int = 1) -> int | None:
    """Returns the number of steps per block, or None to run all steps at once.

    It is None if the projected inputs of all steps take at most ``max_bytes``. It is also None if XLA
    partitions the program, because the shapes of the shards are not known, and each block could communicate.
    """
    mesh = jax.typeof(operands.xs).sharding.mesh
    if mesh.size > 1 and (mesh.auto_axes or mesh.explicit_axes):
        return None
    T, *batch, _ = operands.xs.shape
    sizes = (*batch, operands.params.w_x.shape[-1], at_least_float32(operands.xs.dtype).itemsize)
    if not all(isinstance(n, int) for n in (T, *sizes)) or T * math.prod(sizes) <= max_bytes:
        return None
    most = max(min_steps, max_bytes // math.prod(sizes))
    if most >= T:
        return None
    # Prefers a divisor of T: a shorter last block would need a second time loop in the program.
    least = max(min_steps, most // 2 + 1)
    return next((k for k in range(most, least - 1, -1) if T % k == 0), most)


def _loop_over_blocks(settings: Settings, run: Run, steps: int, operands: Operands) -> Outputs:
    """Runs the blocks, and writes their outputs into one array. The last block may be shorter."""
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

    def full_block(carried: tuple[Any, Outputs]) -> tuple[Any, Outputs]:
        n, outputs = carried
        return n + 1, block((count - 1 - n if reverse else n) * steps, steps, outputs)

    carried = settings.outputs(operands.state, hs)
    if rest and reverse:
        carried = block(T - rest, rest, carried)
    # A while loop and not a scan, because `unrolled` unrolls scans.
    _, carried = jax.lax.while_loop(lambda c: c[0] < count, full_block, (jnp.int32(0), carried))
    if rest and not reverse:
        carried = block(T - rest, rest, carried)
    return carried


def _steps_of(operands: Operands, start: Any, size: int) -> Operands:
    """Returns the operands of the steps ``start`` to ``start + size - 1``."""

    def slice_steps(a: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(a, start, size)

    xs, begin, hold = jax.tree.map(slice_steps, (operands.xs, operands.begin, operands.hold))
    return operands._replace(xs=xs, begin=begin, hold=hold)
