"""Checkpointing in time: stores the state at the start of each chunk, and recomputes the steps.

Sources: Chen, Xu, Zhang & Guestrin (2016), Training deep nets with sublinear memory cost; for recurrent
networks Gruslys et al. (2016), Memory-efficient backpropagation through time.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.problem import Operands, Outputs
from lstm_jax.notation import LSTMState

Run = Callable[[Operands], Outputs]


def run_in_chunks(run: Run, operands: Operands, every: int, reverse: bool) -> Outputs:
    """Applies ``run`` to chunks of ``every`` steps, each under ``jax.checkpoint``.

    The last chunk is shorter if ``every`` does not divide the number of steps.
    """
    T_full = operands.xs.shape[0] // every * every  # the steps in full chunks
    chunks, remainder = _split(operands, T_full)

    def chunk(state: LSTMState, arrays: Any) -> Outputs:
        xs, begin, hold = arrays
        return run(operands._replace(xs=xs, begin=begin, hold=hold, state=state))

    def body(state: LSTMState, arrays: Any) -> Outputs:
        return jax.checkpoint(chunk, prevent_cse=False)(state, arrays)

    def loop(state: LSTMState) -> Outputs:
        stacked = jax.tree.map(lambda a: a.reshape(T_full // every, every, *a.shape[1:]), chunks)
        state, hs = jax.lax.scan(body, state, stacked, reverse=reverse)
        return state, jax.tree.map(lambda hs: hs.reshape(T_full, *hs.shape[2:]), hs)

    if T_full == operands.xs.shape[0]:
        return loop(operands.state)
    short_chunk = partial(jax.checkpoint(chunk), arrays=remainder)
    first, second = (short_chunk, loop) if reverse else (loop, short_chunk)
    state, hs_first = first(operands.state)
    state, hs_second = second(state)
    parts = (hs_second, hs_first) if reverse else (hs_first, hs_second)
    return state, jax.tree.map(lambda *hs: jnp.concatenate(hs), *parts)


def _split(operands: Operands, t: int) -> tuple[Any, Any]:
    arrays = (operands.xs, operands.begin, operands.hold)
    return jax.tree.map(lambda a: a[:t], arrays), jax.tree.map(lambda a: a[t:], arrays)
