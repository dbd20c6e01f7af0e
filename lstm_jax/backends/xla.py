"""The recurrence with a custom derivative (``custom_jvp``), in XLA, for all platforms.

The derivative of ``lax.scan`` carries the cotangent of the weights, and adds a ``[H, 4H]`` product
to it in every step. Here the tangent is one product ``h dw_h`` for all steps, followed by a linear scan. Its
transpose is a backward loop with the product ``dz w_hᵀ``, followed by one product each for ``dw_h``,
``dw_x`` and ``dxs``. Source: Appleyard, Kocisky & Blunsom (2016), Optimizing performance of recurrent neural
networks on GPUs, section 3.

With ``jax.custom_jvp``, unlike ``custom_vjp``, JAX derives forward mode, second derivatives, ``vmap``,
``shard_map`` and Explicit axes from the same linear function.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.blocks import in_blocks
from lstm_jax.backends.one_tanh import pointwise
from lstm_jax.backends.problem import Operands, Outputs, Residuals, Settings
from lstm_jax.carry import match_varying_axes, select
from lstm_jax.cell import LSTMSpec, add, extra_weights
from lstm_jax.notation import Hs, LSTMParams, LSTMState

AllOutputs = tuple[LSTMState, Hs]
Forward = Callable[[Settings, Operands], tuple[AllOutputs, Residuals]]
Tangent = Callable[[Settings, Operands, jax.Array, Residuals, Operands], Outputs]


def unsupported_reason(settings: Settings, operands: Operands) -> str | None:
    """Returns None for a cell that does not override ``emit``."""
    spec = type(settings.spec)
    if spec.emit is not LSTMSpec.emit:
        return f"{spec.__name__} overrides emit"
    return None


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """Runs the recurrence over all time steps, see :mod:`lstm_jax.backends`."""
    return differentiable(settings, operands, infer, forward, tangent)


def differentiable(
    settings: Settings,
    operands: Operands,
    infer: Callable[[Settings, Operands], Outputs],
    forward: Forward,
    tangent: Tangent,
) -> Outputs:
    """Runs ``infer``, with a custom derivative: ``tangent`` at the residuals that ``forward`` returns."""
    function = jax.custom_jvp(partial(infer, settings))

    @function.defjvp
    def jvp(primals: tuple[Operands], tangents: tuple[Operands]) -> tuple[Outputs, Outputs]:
        (state, hs), residuals = forward(settings, primals[0])
        d = tangents[0]._replace(begin=None, hold=None)  # flags have no tangents
        d_outputs = tangent(settings, primals[0], hs, residuals, d)
        return settings.outputs(state, hs), d_outputs

    return function(operands)


def infer(settings: Settings, operands: Operands) -> Outputs:
    """Runs the recurrence without residuals. The inputs of a long sequence are projected in blocks."""

    def h_or_none(prev: LSTMState, z: jax.Array, h: jax.Array) -> jax.Array | None:
        return None if settings.final_state_only else h

    return in_blocks(settings, partial(_loop, settings, h_or_none), operands)


def forward(settings: Settings, operands: Operands) -> tuple[AllOutputs, Residuals]:
    """Runs the recurrence and returns residuals. ``hs``, itself a residual, is always among the outputs."""
    recompute = settings.residuals == "recompute"
    dtype = operands.xs.dtype

    def h_and_residuals(prev: LSTMState, z: jax.Array, h: jax.Array) -> tuple[jax.Array, Residuals]:
        return h, Residuals(prev.C, None if recompute else z.astype(dtype))

    state, (hs, residuals) = _loop(settings, h_and_residuals, operands)
    return (state, hs), residuals


def _loop(
    settings: Settings, outputs: Callable[..., Any], operands: Operands
) -> tuple[LSTMState, Any]:
    """Returns the final state, and the stacked ``outputs(prev, z, h)`` of all steps."""
    params, xs, state, reset_state, begin, hold = operands.masked()
    weights = extra_weights(params)

    def body(carried: LSTMState, inputs: tuple[Any, ...]) -> tuple[LSTMState, Any]:
        gx, begin, hold = inputs
        prev = select(begin, reset_state, carried)
        z = add(gx, settings.recur(params, prev.h))
        C, h = pointwise(settings.spec, weights, prev.C, z)
        state = LSTMState(C, h.astype(prev.h.dtype))
        out = select(hold, jnp.zeros_like(state.h), state.h)
        return select(hold, carried, state), outputs(prev, z, out)

    gx = settings.spec.project(params, xs, settings.precision)
    return jax.lax.scan(
        body,
        state,
        (gx, begin, hold),
        reverse=settings.reverse,
        unroll=settings.unroll_at_trace_time,
    )


def tangent(
    settings: Settings, operands: Operands, hs: jax.Array, residuals: Residuals, d: Operands
) -> Outputs:
    """Returns the tangents of the outputs, linear in ``d``, the tangents of the operands."""
    spec, precision = settings.spec, settings.precision
    params, xs, _, _, begin, hold = operands.masked()
    gx, dgx = jax.jvp(partial(spec.project, precision=precision), (params, xs), (d.params, d.xs))
    # h dw_h for all steps at once. The transpose of this product computes dw_h.
    dz_of_weights = add(dgx, recur_all_steps(settings, operands, hs, d.params))
    z = (
        add(gx, recur_all_steps(settings, operands, hs, params))
        if residuals.z is None
        else residuals.z
    )
    weights, d_weights = extra_weights(params), extra_weights(d.params)
    f = partial(pointwise, spec)

    # Recomputes the gates in the backward pass. prevent_cse is not needed inside a scan.
    @partial(jax.checkpoint, prevent_cse=False)
    def body(d_carried: LSTMState, inputs: tuple[Any, ...]) -> tuple[LSTMState, jax.Array | None]:
        C, z, dz_of_weights, begin, hold = inputs
        d_prev = select(begin, d.reset_state, d_carried)
        r = settings.recur(params, d_prev.h)
        dz = dz_of_weights + r.astype(dz_of_weights.dtype)
        z = z.astype(dz.dtype)
        (_, _), (dC, dh) = jax.jvp(f, (weights, C, z), (d_weights, d_prev.C, dz))
        d_state = LSTMState(dC, dh.astype(d_prev.h.dtype))
        out = select(hold, jnp.zeros_like(d_state.h), d_state.h)
        return settings.outputs(select(hold, d_carried, d_state), out)

    inputs = (residuals.C, z, dz_of_weights, begin, hold)
    d_state = match_varying_axes(d.state, d.params, d.xs, d.reset_state, inputs)
    return jax.lax.scan(
        body, d_state, inputs, reverse=settings.reverse, unroll=settings.unroll_at_trace_time
    )


def recur_all_steps(
    settings: Settings, operands: Operands, hs: jax.Array, weights: LSTMParams
) -> jax.Array:
    """Computes ``spec.recur`` of the hidden state that each step reads, for all steps at once.

    A step reads the output of the step before, except after a reset or after padding. The products are
    shifted and selected, and not the states, which would make a copy of ``hs``.
    """
    recur = partial(settings.recur, weights)
    _, _, state, reset_state, begin, hold = operands
    T = hs.shape[0]
    first = recur(state.h)[None]
    if T == 1:
        r = first
    else:
        rest = recur(hs)
        if hold is not None:  # in the padding the output is 0, but the state is the initial state
            rest = select(hold, jnp.broadcast_to(first, rest.shape), rest)
        r = jnp.concatenate([rest, first] if settings.reverse else [first, rest])
        r = r[1:] if settings.reverse else r[:T]
    if begin is None:
        return r
    return select(begin, jnp.broadcast_to(recur(reset_state.h)[None], r.shape), r)
