"""A recurrence in blocks of steps, so that the projected inputs of a block take little memory."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.problem import Operands
from lstm_jax.notation import Hs, LSTMState, at_least_float32

Run = Callable[[Operands], tuple[LSTMState, Hs]]
BYTES = 16 * 2**20
"""The most that the projected inputs of a block take. XLA holds them up to three times."""


def block_steps(operands: Operands) -> int | None:
    """The steps of a block: None if the projected inputs of all steps take at most :data:`BYTES`."""
    T, *batch, _ = operands.xs.shape
    sizes = (*batch, operands.params.w_x.shape[-1], at_least_float32(operands.xs.dtype).itemsize)
    if not all(isinstance(n, int) for n in (T, *sizes)) or T * math.prod(sizes) <= BYTES:
        return None
    most = max(1, BYTES // math.prod(sizes))
    # Blocks of one size need one loop in the program, others two.
    return next((k for k in range(most, most // 2, -1) if T % k == 0), most)


def in_blocks(run: Run, operands: Operands, steps: int, reverse: bool) -> tuple[LSTMState, Hs]:
    """``run``, block by block, writing its outputs into one array. The last block may be shorter.

    Not for a derivative in reverse mode, which would keep that array for every block.
    """
    T = operands.xs.shape[0]
    count, rest = divmod(T, steps)
    h = operands.state.h
    hs = jnp.broadcast_to(jnp.zeros_like(h)[None], (T, *h.shape))

    def block(start: Any, size: int, carried: tuple[LSTMState, Hs]) -> tuple[LSTMState, Hs]:
        state, hs = carried
        state, outputs = run(steps_of(operands, start, size)._replace(state=state))
        return state, jax.lax.dynamic_update_slice_in_dim(hs, outputs, start, 0)

    def whole(n: Any, carried: tuple[LSTMState, Hs]) -> tuple[LSTMState, Hs]:
        return block((count - 1 - n if reverse else n) * steps, steps, carried)

    carried = operands.state, hs
    if rest and reverse:
        carried = block(T - rest, rest, carried)
    carried = jax.lax.fori_loop(0, count, whole, carried)
    if rest and not reverse:
        carried = block(T - rest, rest, carried)
    return carried


def steps_of(operands: Operands, start: Any, size: int) -> Operands:
    """The operands of ``size`` steps from ``start`` on."""

    def cut(a: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(a, start, size)

    xs, begin, hold = jax.tree.map(cut, (operands.xs, operands.begin, operands.hold))
    return operands._replace(xs=xs, begin=begin, hold=hold)
