"""The reference backend: :func:`jax.lax.scan` over the step of the cell. It supports all transforms."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.blocks import in_blocks, needs_blocks
from lstm_jax.backends.problem import Operands, Outputs, Settings
from lstm_jax.carry import select
from lstm_jax.cell import add, cast, finish_step
from lstm_jax.notation import LSTMState, at_least_float32


def unsupported_reason(settings: Settings, operands: Operands) -> str | None:
    """Returns None, as this backend can run all cells and settings."""
    return None


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """Runs the recurrence over all time steps, see :mod:`lstm_jax.backends`.

    A long sequence is run in blocks of steps, unless it is differentiated.
    """
    loop = partial(_loop, settings)
    if not needs_blocks(operands):
        return loop(operands)
    function = jax.custom_jvp(partial(in_blocks, settings, loop))

    @function.defjvp
    def jvp(primals: tuple[Operands], tangents: tuple[Operands]) -> Any:
        return jax.jvp(loop, primals, tangents)

    return function(operands)


def _loop(settings: Settings, operands: Operands) -> Outputs:
    spec, precision = settings.spec, settings.precision
    params, xs, state, reset_state, begin, hold = operands.masked()
    # The scan accumulates the gradient of an array that its body closes over in the dtype of that array.
    wide_params = cast(params, at_least_float32(xs.dtype))

    def body(
        carried: LSTMState, inputs: tuple[jax.Array, jax.Array | None, jax.Array | None]
    ) -> tuple[LSTMState, jax.Array | None]:
        gx, begin, hold = inputs
        weights = jax.tree.map(lambda w, p: w.astype(p.dtype), wide_params, params)
        prev = select(begin, reset_state, carried)
        z = add(gx, settings.recur(weights, prev.h))
        state, h = finish_step(spec, weights, prev, z, precision)
        out = select(hold, jnp.zeros_like(h), h)
        return settings.outputs(select(hold, carried, state), out)

    if settings.residuals == "recompute":
        body = jax.checkpoint(body, prevent_cse=False)
    gx = spec.project(params, xs, precision)
    return jax.lax.scan(
        body,
        state,
        (gx, begin, hold),
        reverse=settings.reverse,
        unroll=settings.unroll_at_trace_time,
    )
