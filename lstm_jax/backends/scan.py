"""The reference: :func:`jax.lax.scan` of the cell's step. Every transform works."""

import jax
import jax.numpy as jnp

from lstm_jax.backends.problem import Problem
from lstm_jax.carry import select
from lstm_jax.cell import LSTMSpec, Precision, step
from lstm_jax.notation import Hs, LSTMParams, LSTMState, Projected


def why_not(problem: Problem) -> str | None:
    """It can run everything."""
    return None


def unroll(
    spec: LSTMSpec,
    params: LSTMParams,
    gx: Projected,
    state: LSTMState,
    begin: jax.Array | None,
    reset_state: LSTMState,
    hold: jax.Array | None,
    reverse: bool,
    precision: Precision,
    unroll: int,
) -> tuple[LSTMState, Hs]:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""

    def body(
        carried: LSTMState, inputs: tuple[jax.Array, jax.Array | None, jax.Array | None]
    ) -> tuple[LSTMState, jax.Array]:
        gx, begin, hold = inputs
        state, h = step(spec, params, select(begin, reset_state, carried), gx, precision)
        return select(hold, carried, state), select(hold, jnp.zeros_like(h), h)

    return jax.lax.scan(body, state, (gx, begin, hold), reverse=reverse, unroll=unroll)
