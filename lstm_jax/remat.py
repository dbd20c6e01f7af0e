"""Checkpointing in time: keep the state at the start of each chunk, compute the rest again.

Chen, Xu, Zhang & Guestrin (2016), Training deep nets with sublinear memory cost; for recurrent
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


def in_chunks(run: Run, operands: Operands, every: int, reverse: bool) -> Outputs:
    """``run`` over chunks of ``every`` steps, the last one shorter, each under ``jax.checkpoint``."""
    whole = operands.xs.shape[0] // every * every
    chunks, rest = _split(operands, whole)

    def chunk(state: LSTMState, arrays: Any) -> Outputs:
        xs, begin, hold = arrays
        return run(operands._replace(xs=xs, begin=begin, hold=hold, state=state))

    def body(state: LSTMState, arrays: Any) -> Outputs:
        return jax.checkpoint(chunk, prevent_cse=False)(state, arrays)

    def loop(state: LSTMState) -> Outputs:
        stacked = jax.tree.map(lambda a: a.reshape(whole // every, every, *a.shape[1:]), chunks)
        state, hs = jax.lax.scan(body, state, stacked, reverse=reverse)
        return state, jax.tree.map(lambda hs: hs.reshape(whole, *hs.shape[2:]), hs)

    if whole == operands.xs.shape[0]:
        return loop(operands.state)
    tail = partial(jax.checkpoint(chunk), arrays=rest)
    first, second = (tail, loop) if reverse else (loop, tail)
    state, hs = first(operands.state)
    state, hs_after = second(state)
    parts = (hs_after, hs) if reverse else (hs, hs_after)
    return state, jax.tree.map(lambda *hs: jnp.concatenate(hs), *parts)


def _split(operands: Operands, t: int) -> tuple[Any, Any]:
    arrays = (operands.xs, operands.begin, operands.hold)
    return jax.tree.map(lambda a: a[:t], arrays), jax.tree.map(lambda a: a[t:], arrays)
