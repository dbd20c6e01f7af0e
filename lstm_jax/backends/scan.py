"""The reference: :func:`jax.lax.scan` of the cell's step. Every transform works."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.blocks import in_blocks, needs_blocks
from lstm_jax.backends.problem import Operands, Outputs, Settings
from lstm_jax.carry import select
from lstm_jax.cell import add, cast, finish
from lstm_jax.notation import LSTMState, at_least_float32


def unsupported_reason(settings: Settings, operands: Operands) -> str | None:
    """Returns None: it can run everything."""
    return None


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """The recurrence, as :mod:`lstm_jax.backends` defines it.

    The values of a long sequence are computed in blocks, its derivative is that of the whole.
    """
    whole = partial(_loop, settings)
    if not needs_blocks(operands):
        return whole(operands)
    function = jax.custom_jvp(partial(in_blocks, settings, whole))

    @function.defjvp
    def jvp(primals: tuple[Operands], tangents: tuple[Operands]) -> Any:
        return jax.jvp(whole, primals, tangents)

    return function(operands)


def _loop(settings: Settings, operands: Operands) -> Outputs:
    spec, precision = settings.spec, settings.precision
    params, xs, state, reset_state, begin, hold = operands.masked()
    # The loop adds up the gradient of what it closes over, in the dtype that this has.
    wide = cast(params, at_least_float32(xs.dtype))

    def body(
        carried: LSTMState, inputs: tuple[jax.Array, jax.Array | None, jax.Array | None]
    ) -> tuple[LSTMState, jax.Array | None]:
        gx, begin, hold = inputs
        weights = jax.tree.map(lambda w, p: w.astype(p.dtype), wide, params)
        prev = select(begin, reset_state, carried)
        z = add(gx, settings.recur(weights, prev.h))
        state, h = finish(spec, weights, prev, z, precision)
        out = select(hold, jnp.zeros_like(h), h)
        return settings.outputs(select(hold, carried, state), out)

    if settings.residuals == "recompute":
        body = jax.checkpoint(body, prevent_cse=False)
    gx = spec.project(params, xs, precision)
    return jax.lax.scan(
        body, state, (gx, begin, hold), reverse=settings.reverse, unroll=settings.traced_unroll
    )
