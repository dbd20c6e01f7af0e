"""The recurrence with a derivative rule of its own, in XLA, on every platform.

The derivative of ``lax.scan`` carries the cotangent of the weights and adds a ``[H, 4H]`` product
to it in every step. Here the tangent of the recurrence is a linear scan before which ``h dw_h`` of
all steps is one product; its transpose is a backward loop with only ``dz w_hᵀ`` in it, and after it
``dw_h``, ``dw_x`` and ``dxs`` as one product each (Appleyard, Kocisky & Blunsom 2016, Optimizing
performance of recurrent neural networks on GPUs, section 3).

A ``jax.custom_jvp`` and not a ``custom_vjp``: forward mode, reverse over reverse, ``vmap``,
``shard_map`` and Explicit axes all follow from the one linear function.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends.blocks import in_blocks
from lstm_jax.backends.one_tanh import pointwise
from lstm_jax.backends.problem import Operands, Outputs, Residuals, Settings
from lstm_jax.carry import select, vary_as
from lstm_jax.cell import LSTMSpec, add, own_weights
from lstm_jax.notation import Hs, LSTMParams, LSTMState

AllOutputs = tuple[LSTMState, Hs]
Forward = Callable[[Settings, Operands], tuple[AllOutputs, Residuals]]
Tangent = Callable[[Settings, Operands, jax.Array, Residuals, Operands], Outputs]


def unsupported_reason(settings: Settings, operands: Operands) -> str | None:
    """Every cell whose hidden state is what its element-wise map gives."""
    spec = type(settings.spec)
    if spec.emit is not LSTMSpec.emit:
        return f"the hidden state of {spec.__name__} is a product of its own, spec.emit"
    return None


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""
    return differentiable(settings, operands, infer, forward, tangent)


def differentiable(
    settings: Settings,
    operands: Operands,
    infer: Callable[[Settings, Operands], Outputs],
    forward: Forward,
    tangent: Tangent,
) -> Outputs:
    """``infer``, whose derivative is ``tangent`` at the residuals that ``forward`` stores."""
    function = jax.custom_jvp(partial(infer, settings))

    @function.defjvp
    def jvp(primals: tuple[Operands], tangents: tuple[Operands]) -> tuple[Outputs, Outputs]:
        (state, hs), saved = forward(settings, primals[0])
        d = tangents[0]._replace(begin=None, hold=None)  # flags have no tangents
        d_outputs = tangent(settings, primals[0], hs, saved, d)
        return settings.outputs(state, hs), d_outputs

    return function(operands)


def infer(settings: Settings, operands: Operands) -> Outputs:
    """The loop alone. A long sequence is projected in blocks, as nothing needs all of it."""

    def h_or_none(prev: LSTMState, z: jax.Array, h: jax.Array) -> jax.Array | None:
        return None if settings.final_state_only else h

    return in_blocks(settings, partial(_loop, settings, h_or_none), operands)


def forward(settings: Settings, operands: Operands) -> tuple[AllOutputs, Residuals]:
    """The loop, and what each step read. Its outputs always have ``hs``, a residual as well."""
    recompute = settings.residuals == "recompute"
    dtype = operands.xs.dtype

    def h_and_residuals(prev: LSTMState, z: jax.Array, h: jax.Array) -> tuple[jax.Array, Residuals]:
        return h, Residuals(prev.C, None if recompute else z.astype(dtype))

    state, (hs, saved) = _loop(settings, h_and_residuals, operands)
    return (state, hs), saved


def _loop(
    settings: Settings, outputs: Callable[..., Any], operands: Operands
) -> tuple[LSTMState, Any]:
    """Returns the final state, and ``outputs(prev, z, h)`` of all steps."""
    params, xs, state, reset_state, begin, hold = operands.masked()
    weights = own_weights(params)

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
        body, state, (gx, begin, hold), reverse=settings.reverse, unroll=settings.traced_unroll
    )


def tangent(
    settings: Settings, operands: Operands, hs: jax.Array, saved: Residuals, d: Operands
) -> Outputs:
    """Linear in ``d``, the tangents of the operands, at the point that ``forward`` went through."""
    spec, precision = settings.spec, settings.precision
    params, xs, _, _, begin, hold = operands.masked()
    gx, dgx = jax.jvp(partial(spec.project, precision=precision), (params, xs), (d.params, d.xs))
    # h dw_h for all steps at once. Transposed, it is the product that gives dw_h.
    dz_of_weights = add(dgx, recur_all(settings, operands, hs, d.params))
    z = add(gx, recur_all(settings, operands, hs, params)) if saved.z is None else saved.z
    weights, d_weights = own_weights(params), own_weights(d.params)
    f = partial(pointwise, spec)

    # Keep what is saved, not what follows from it. A loop needs no barriers for that.
    @partial(jax.checkpoint, prevent_cse=False)
    def body(d_carried: LSTMState, inputs: tuple[Any, ...]) -> tuple[LSTMState, jax.Array | None]:
        C, z, dz_of_weights, begin, hold = inputs
        d_prev = select(begin, d.reset_state, d_carried)
        r = settings.recur(params, d_prev.h)
        dz = dz_of_weights + r.astype(dz_of_weights.dtype)
        wide = z.astype(dz.dtype)
        (_, _), (dC, dh) = jax.jvp(f, (weights, C, wide), (d_weights, d_prev.C, dz))
        d_state = LSTMState(dC, dh.astype(d_prev.h.dtype))
        out = select(hold, jnp.zeros_like(d_state.h), d_state.h)
        return settings.outputs(select(hold, d_carried, d_state), out)

    inputs = (saved.C, z, dz_of_weights, begin, hold)
    d_state = vary_as(d.state, d.params, d.xs, d.reset_state, inputs)
    return jax.lax.scan(
        body, d_state, inputs, reverse=settings.reverse, unroll=settings.traced_unroll
    )


def recur_all(
    settings: Settings, operands: Operands, hs: jax.Array, weights: LSTMParams
) -> jax.Array:
    """``spec.recur`` of the hidden state that each step read, for all steps at once.

    Those states are ``hs``, one step late, but where a segment began or the state had been held; the
    products are selected and not the states, so that ``hs`` is used where it lies.
    """
    recur = partial(settings.recur, weights)
    _, _, state, reset_state, begin, hold = operands
    T = hs.shape[0]
    first = recur(state.h)[None]
    if T == 1:
        r = first
    else:
        late = recur(hs)
        if hold is not None:  # the output is 0 there, the state still the initial one
            late = select(hold, jnp.broadcast_to(first, late.shape), late)
        r = jnp.concatenate([late, first] if settings.reverse else [first, late])
        r = r[1:] if settings.reverse else r[:T]
    if begin is None:
        return r
    return select(begin, jnp.broadcast_to(recur(reset_state.h)[None], r.shape), r)
