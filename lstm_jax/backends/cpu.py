"""The kernels for CPUs, in XLA, with a transposed state ``[H, B]``. They include the backward pass.

In this layout, called columns, each sequence of the batch is a column of the state. The layout ``[B, H]`` is
called rows. The design follows from properties of XLA:CPU:

- A matrix product packs its right operand on every call. The weights are therefore the left operand in the
  time loop, ``z = w_hᵀ h``. They are transposed once, before the loop.
- Element-wise operations run on vectors ``[H·B]``, in loops that LLVM vectorizes. The packed pre-activations
  ``[4·H·B]`` are split into gates like ``[4H]``, so ``spec.pointwise`` needs no change. Extra weights of a
  cell, ``[..., H]``, are repeated to ``[..., H·B]``.
- x is projected in the time loop, and the backward pass computes the gradients of the weights from ``dz`` in
  blocks of steps. Page faults of a new array ``[T, B, 4H]`` would take more time than a large product saves.
"""

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends import elementwise, lowering
from lstm_jax.backends.one_tanh import (
    pointwise,
    pointwise_of_scaled,
    scale_packed,
    scale_weights,
    unscale_packed,
    uses_one_tanh,
)
from lstm_jax.backends.problem import Members, Operands, Outputs, Residuals, Settings
from lstm_jax.backends.xla import AllOutputs
from lstm_jax.carry import match_varying_axes, select
from lstm_jax.cell import LSTMSpec, extra_weights
from lstm_jax.notation import LSTMParams, LSTMState, at_least_float32

COLUMNS = 512
"""Approximate number of columns (steps times rows) of a matrix product in the backward pass."""
ROWS, STATES, STEPS, STEPS_AND_ROWS = 32, 8192, 16, 1536
"""Minimum rows, minimum rows times H (an alternative to the rows when training), minimum steps, and minimum
steps times rows for which the kernels are faster than the XLA form."""


def is_profitable(step: str, operands: Operands, members: Members = None) -> bool:
    """Returns whether the arrays are large enough for the kernels to be faster than the XLA form.

    A call transposes the weights, which pays off for many steps and rows only. ``benchmarks.choice`` measures
    the limits.

    ``operands`` are the operands of one member. A kernel runs the time loop once per member, and the XLA form
    runs one time loop for all members, so each member must be large enough.
    """
    C, steps = operands.state.C, operands.xs.shape[0]
    rows = C.size // C.shape[-1]
    if members is not None and C.size < {"separate weights": 512, "shared weights": 2048}[members]:
        return False
    enough = rows >= ROWS or (step != "infer" and C.size >= STATES)
    return enough and steps >= STEPS and steps * rows >= STEPS_AND_ROWS


def unsupported_reason(
    settings: Settings, operands: Operands, device_kind: str | None = None
) -> str | None:
    """Returns None for element-wise cells with the products and the state of the LSTM, and known shapes."""
    spec, base = type(settings.spec), LSTMSpec
    if (spec.project, spec.recur, spec.emit) != (base.project, base.recur, base.emit):
        return f"{spec.__name__} overrides project, recur or emit"
    reason = elementwise.unsupported_reason(settings.spec)
    if reason is not None:
        return reason
    if settings.hidden_axis is not None:
        return "every step gathers h from other devices"
    C: Any = operands.state.C
    if C is None:
        return f"{spec.__name__} has no cell state"
    h = operands.state.h
    if C.shape != h.shape:
        return f"the shapes of C and h of {spec.__name__} differ"
    if not all(isinstance(n, int) for n in operands.xs.shape):
        return "the shape is not known"
    if 0 in h.shape or operands.xs.shape[-1] == 0:
        return "the batch or the input is empty"
    return None


unroll = partial(lowering.unroll, required="cpu")
"""Runs the recurrence over all time steps, see :mod:`lstm_jax.backends`."""


def infer(settings: Settings, operands: Operands, device_kind: str | None = None) -> Outputs:
    """Runs the recurrence without residuals."""

    def h_or_none(C: jax.Array, z: jax.Array, h: jax.Array) -> jax.Array | None:
        return None if settings.final_state_only else h

    return _loop(settings, operands, h_or_none)


def forward(
    settings: Settings, operands: Operands, device_kind: str | None = None
) -> tuple[AllOutputs, Residuals]:
    """Runs the recurrence and returns residuals.

    The residuals have the layout of all platforms, rows. The loop stores columns, which are transposed after
    it. If :func:`backward` is part of the same program, XLA cancels this transpose and the one in it.
    """
    recompute, dtype = settings.residuals == "recompute", operands.xs.dtype

    def h_and_residuals(C: jax.Array, z: jax.Array, h: jax.Array) -> tuple[jax.Array, Residuals]:
        return h, Residuals(C, None if recompute else z.astype(dtype))

    state, (hs, residuals) = _loop(settings, operands, h_and_residuals)
    if residuals.z is not None and uses_one_tanh(settings.spec):  # as on all platforms
        residuals = residuals._replace(z=unscale_packed(settings.spec, residuals.z))
    batch = operands.xs.shape[1:-1]
    return (state, hs), jax.tree.map(lambda a: _sequence_to_rows(a, batch), residuals)


def _loop(
    settings: Settings, operands: Operands, outputs: Callable[..., Any]
) -> tuple[LSTMState, Any]:
    """Returns the final state, and the stacked ``outputs(C, z, h)`` of all steps.

    C and z have the layout of columns, h has the layout of rows.
    """
    shape = operands.state.h.shape
    operands, pointwise = _scaled(settings.spec, operands)
    params, xs, state, reset_state, begin, hold = _one_batch_axis(operands)
    rows, (H, _), dtype = xs.shape[1], params.w_h.shape, xs.dtype
    weights, project_and_recur = _extra_weights_as_columns(params, rows), _product(settings, params)
    reset_state = jax.tree.map(_to_columns, reset_state)

    def body(carried: LSTMState, inputs: Any) -> tuple[LSTMState, Any]:
        x, begin, hold = inputs
        x = select(hold, jnp.zeros_like(x), x)
        begins, holds = _flag_columns(begin, H), _flag_columns(hold, H)
        prev = select(begins, reset_state, carried)
        z = project_and_recur(x, prev.h.reshape(-1, rows))
        C, h = pointwise(settings.spec, weights, prev.C, z)
        h = h.astype(dtype)
        state = select(holds, carried, LSTMState(C, h))
        out = select(holds, jnp.zeros_like(h), h)
        return state, outputs(prev.C, z, _to_rows(out, rows).reshape(shape))

    state, out = jax.lax.scan(
        body, jax.tree.map(_to_columns, state), (xs, begin, hold), reverse=settings.reverse
    )
    final = jax.tree.map(lambda a: _to_rows(a, rows).reshape(shape), state)
    return final, out


def backward(
    settings: Settings,
    operands: Operands,
    hs: jax.Array,
    residuals: Residuals,
    cts: Outputs,
    device_kind: str | None = None,
) -> Operands:
    """Computes the cotangents of the operands from those of the outputs.

    The outer loop runs over blocks of steps, from the last to the first, and the inner loop over the steps of
    a block. The inner loop stores ``dz``, from which the outer loop computes the gradients of the weights.
    """
    shape, (T, *_) = operands.state.h.shape, operands.xs.shape
    spec = settings.spec
    operands, pointwise = _scaled(spec, operands)
    params, xs, state, reset_state, begin, hold = _one_batch_axis(operands.masked())
    rows, (H, G) = xs.shape[1], params.w_h.shape
    accum_dtype = residuals.C.dtype
    C_read, z_saved = jax.tree.map(lambda a: _sequence_to_columns(a, rows), residuals)
    if z_saved is not None and uses_one_tanh(spec):
        z_saved = scale_packed(spec, z_saved)
    h_left = hs.reshape(T, rows, H)
    # In the padding the output is 0, but the state is the initial state.
    h_left = select(hold, jnp.broadcast_to(state.h[None], h_left.shape), h_left)
    ct_state, ct_hs = cts
    ct_state = jax.tree.map(lambda a: _to_columns(a.reshape(rows, H)).astype(accum_dtype), ct_state)
    zero = jax.tree.map(jnp.zeros_like, ct_state)
    w_x, w_h = params.w_x.astype(accum_dtype), params.w_h.astype(accum_dtype)
    weights, project_and_recur = _extra_weights_as_columns(params, rows), _product(settings, params)
    dot = partial(_dot, precision=settings.precision)
    k, blocks = block_sizes(T, rows)

    def time(s: jax.Array) -> jax.Array:
        return T - 1 - s if settings.reverse else s

    def add_ct_out(s: jax.Array, ct_h: jax.Array) -> jax.Array:
        """Adds the cotangent of the output of step s to ``ct_h``, in columns. For s < 0 it is 0."""
        if ct_hs is None:
            return ct_h
        t = time(jnp.maximum(s, 0))
        ct = _to_columns(_entry_at(ct_hs, t).reshape(rows, H).astype(accum_dtype))
        ct = select(_flag_columns(_entry_at(hold, t), H), jnp.zeros_like(ct), ct)
        return ct_h + jnp.where(s < 0, jnp.zeros_like(ct), ct)

    def h_read(t: jax.Array, n: int) -> jax.Array:
        """Returns the hidden states ``[n, B, H]`` that the n steps from time t on read."""
        left = jax.lax.dynamic_slice_in_dim(h_left, t, n)
        before = t + n if settings.reverse else t - 1
        h = _entry_at(h_left, jnp.clip(before, 0, T - 1))
        h = jnp.where((before < 0) | (before >= T), state.h, h)[None]
        h = jnp.concatenate([left[1:], h] if settings.reverse else [h, left[:-1]])
        if begin is None:
            return h
        starts = jax.lax.dynamic_slice_in_dim(begin, t, n)
        return select(starts, jnp.broadcast_to(reset_state.h, h.shape), h)

    def z_read(t: jax.Array) -> jax.Array:
        if z_saved is not None:
            return _entry_at(z_saved, t).astype(accum_dtype)
        return project_and_recur(_entry_at(xs, t), h_read(t, 1)[0].T)

    def step(s: jax.Array, t: jax.Array, d: LSTMState, d_reset: LSTMState) -> Any:
        """Computes one step of the backward pass.

        ``d`` is the cotangent of the state after step s, and includes the cotangent of its output.
        """
        held, begins = _flag_columns(_entry_at(hold, t), H), _flag_columns(_entry_at(begin, t), H)
        f = partial(pointwise, settings.spec)
        _, pull = jax.vjp(f, weights, _entry_at(C_read, t), z_read(t))
        d_extra, dC, dz = pull(tuple(select(held, zero, d)))
        dz = dz.reshape(G, rows)
        d_prev = LSTMState(dC, dot(w_h, dz).reshape(-1))
        if begin is not None:
            d_reset = jax.tree.map(jnp.add, d_reset, select(begins, d_prev, zero))
        d_prev = select(begins, zero, d_prev)
        d_prev = select(held, d, d_prev)
        return LSTMState(d_prev.C, add_ct_out(s - 1, d_prev.h)), d_reset, dz, d_extra

    def block(j: jax.Array, carried: Any) -> Any:
        d, d_reset, d_extra, d_params, d_xs, dz = carried
        first, end = j * k, jnp.minimum((j + 1) * k, T)
        # The last block runs first. If it is shorter, dz is still zero at the steps outside of it.
        start = jnp.minimum(first, T - k)
        t0 = T - k - start if settings.reverse else start

        def body(u: jax.Array, carried: Any) -> Any:
            d, d_reset, d_extra, dz = carried
            s = end - 1 - u
            t = time(s)
            d, d_reset, dz_t, d_extra_t = step(s, t, d, d_reset)
            dz = jax.lax.dynamic_update_slice_in_dim(dz, dz_t[:, None], t - t0, 1)
            return d, d_reset, jax.tree.map(jnp.add, d_extra, d_extra_t), dz

        carried = d, d_reset, d_extra, dz
        d, d_reset, d_extra, dz = jax.lax.fori_loop(0, end - first, body, carried)
        flat = dz.reshape(G, -1)
        x = jax.lax.dynamic_slice_in_dim(xs, t0, k).astype(accum_dtype).reshape(-1, xs.shape[-1])
        h = h_read(t0, k).astype(accum_dtype).reshape(-1, H)
        d_params = LSTMParams(
            w_x=d_params.w_x + dot(flat, x),
            w_h=d_params.w_h + dot(flat, h),
            bias=None if params.bias is None else d_params.bias + flat.sum(1),
        )
        dx = dot(w_x, flat).astype(xs.dtype).reshape(-1, k, rows).transpose(1, 2, 0)
        d_xs = jax.lax.dynamic_update_slice_in_dim(d_xs, dx, t0, 0)
        return d, d_reset, d_extra, d_params, d_xs, dz

    d = LSTMState(ct_state.C, add_ct_out(jnp.int32(T - 1), ct_state.h)) if T else ct_state
    products = LSTMParams(params.w_x, params.w_h, params.bias)
    sums = jax.tree.map(lambda p: jnp.zeros(p.T.shape, accum_dtype), products)
    extra_sums = jax.tree.map(jnp.zeros_like, weights)
    dz_block = jnp.zeros((G, k, rows), accum_dtype)
    zeros = (zero, extra_sums, sums, jnp.zeros_like(xs), dz_block)
    carried = (d, *match_varying_axes(zeros, d, params, xs))
    if T:
        carried = jax.lax.fori_loop(0, blocks, lambda i, c: block(blocks - 1 - i, c), carried)
    d, d_reset, extra_sums, sums, d_xs, _ = carried
    d_products = jax.tree.map(
        lambda d: scale_packed(spec, d.T) if uses_one_tanh(spec) else d.T, sums
    )
    d_products = jax.tree.map(lambda d, p: d.astype(p.dtype), d_products, products)
    d_extra = jax.tree.map(lambda a: a.reshape(*a.shape[:-1], H, rows).sum(-1), extra_sums)

    def as_rows(d: jax.Array, like: jax.Array) -> jax.Array:
        return _to_rows(d, rows).reshape(shape).astype(like.dtype)

    return Operands(
        d_extra.replace(**vars(d_products)),
        d_xs.reshape(operands.xs.shape),
        jax.tree.map(as_rows, d, operands.state),
        jax.tree.map(as_rows, d_reset, operands.reset_state),
    )


def block_sizes(steps: int, rows: int) -> tuple[int, int]:
    """Returns the number of steps per block, and the number of blocks.

    A block has about :data:`COLUMNS` columns. The last block may be shorter.

    >>> block_sizes(128, 32), block_sizes(100, 16), block_sizes(1, 4), block_sizes(0, 4)
    ((16, 8), (34, 3), (1, 1), (1, 0))
    """
    blocks = max(1, round(steps * rows / COLUMNS))
    k = max(1, -(-steps // blocks))
    return k, -(-steps // k)


def _one_batch_axis(operands: Operands) -> Operands:
    """Merges the batch axes to one axis."""
    params, xs, state, reset_state, begin, hold = operands
    T, *batch, I = xs.shape
    rows = math.prod(batch)
    return Operands(
        params,
        xs.reshape(T, rows, I),
        *jax.tree.map(lambda a: a.reshape(rows, -1), (state, reset_state)),
        *jax.tree.map(lambda a: a.reshape(T, rows), (begin, hold)),
    )


def _scaled(spec: LSTMSpec, operands: Operands) -> tuple[Operands, Callable[..., Any]]:
    """Returns the operands and the ``pointwise`` function of the loops.

    If one tanh can compute all gates, the weights are scaled for it here, once before the loops.
    """
    if not uses_one_tanh(spec):
        return operands, pointwise
    return operands._replace(params=scale_weights(spec, operands.params)), pointwise_of_scaled


def _extra_weights_as_columns(params: LSTMParams, rows: int) -> LSTMParams:
    """Repeats each entry of extra weights ``[..., H]`` for all rows of the batch, to ``[..., H·B]``."""

    def repeat(a: jax.Array) -> jax.Array:
        repeated = jnp.broadcast_to(a[..., None], (*a.shape, rows))
        return repeated.reshape(*a.shape[:-1], a.shape[-1] * rows)

    return jax.tree.map(repeat, extra_weights(params))


def _product(settings: Settings, params: LSTMParams) -> Callable[..., jax.Array]:
    """Returns a function ``(x [B, I], h [H, B]) -> z [4H·B]``, in at least float32."""
    accum_dtype = at_least_float32(params.w_h.dtype)
    w_x, w_h = params.w_x.T.astype(accum_dtype), params.w_h.T.astype(accum_dtype)
    dot = partial(_dot, precision=settings.precision)

    def product(x: jax.Array, h: jax.Array) -> jax.Array:
        z = dot(w_x, x.astype(accum_dtype), contract=(1, 1)) + dot(w_h, h.astype(accum_dtype))
        if params.bias is not None:
            z = z + jnp.broadcast_to(params.bias.astype(accum_dtype)[:, None], z.shape)
        return z.reshape(-1)

    return product


def _dot(a: jax.Array, b: jax.Array, precision: Any, contract: tuple[int, int] = (1, 0)) -> Any:
    """Returns the product of two matrices, contracted over the axes ``contract``."""
    numbers = ((contract[:1], contract[1:]), ((), ()))
    return jax.lax.dot_general(a, b, numbers, precision=precision)


def _to_columns(a: jax.Array) -> jax.Array:
    """Converts ``[B, H]`` to ``[H·B]``."""
    return a.T.reshape(-1)


def _sequence_to_columns(a: jax.Array, rows: int) -> jax.Array:
    """Converts ``[T, *B, N]`` to ``[T, N·B]``."""
    T, N = a.shape[0], a.shape[-1]
    return a.reshape(T, rows, N).transpose(0, 2, 1).reshape(T, N * rows)


def _sequence_to_rows(a: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Converts ``[T, N·B]`` to ``[T, *B, N]``."""
    T, rows = a.shape[0], math.prod(batch)
    N = a.shape[1] // rows
    return a.reshape(T, N, rows).transpose(0, 2, 1).reshape(T, *batch, N)


def _to_rows(a: jax.Array, rows: int) -> jax.Array:
    """Converts ``[H·B]`` to ``[B, H]``."""
    return a.reshape(-1, rows).T


def _flag_columns(flag: jax.Array | None, H: int) -> jax.Array | None:
    """Repeats the flags ``[B]`` for all hidden units, to ``[H·B]``. None stays None."""
    return None if flag is None else jnp.broadcast_to(flag, (H, flag.size)).reshape(-1)


def _entry_at(a: Any, t: jax.Array) -> Any:
    """Returns the entry of step t, or None if ``a`` is None."""
    return None if a is None else jax.lax.dynamic_index_in_dim(a, t, 0, keepdims=False)


lowering.register("cpu", "cpu", sys.modules[__name__])
