"""The recurrence laid out for CPUs: the state lies in columns, with a backward pass of its own.

What each choice is for, on XLA:CPU:

- A matrix product packs its right operand on every call. In the time loop the weights are therefore
  the left one: ``z = w_hᵀ h`` with h as ``[H, B]``, transposed once, outside.
- Element-wise maths runs on vectors ``[H·B]``, in loops that vectorize. The packed gates of all
  rows, ``[4·H·B]``, split into four as ``[4H]`` does, so ``spec.pointwise`` serves as it is, and so do a
  cell's own weights ``[..., H]`` as ``[..., H·B]``.
- x is projected in the loop, and the backward pass hands ``dz`` to the products of the weights in
  blocks of steps: a fresh ``[T, B, 4H]`` costs more in page faults than a large product saves.
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
    packs,
    pointwise,
    pointwise_of_scaled,
    scale_packed,
    scale_weights,
    unscale_packed,
)
from lstm_jax.backends.problem import Members, Operands, Outputs, Residuals, Settings
from lstm_jax.backends.xla import AllOutputs
from lstm_jax.carry import select, vary_as
from lstm_jax.cell import LSTMSpec, own_weights
from lstm_jax.notation import LSTMParams, LSTMState, at_least_float32

COLUMNS = 512
"""About how many columns, steps times rows, one product of the backward pass takes."""
ROWS, STATES, STEPS, STEPS_AND_ROWS = 32, 8192, 16, 1536
"""The least rows (or, for training, hidden units of all rows), steps, and steps times rows that pay."""


def is_profitable(step: str, operands: Operands, members: Members = None) -> bool:
    """Whether the problem is large enough for this to be faster than rows.

    A call transposes the weights, which takes many steps and rows to pay off. With few rows each row of
    weights, packed or not, is used too seldom for the layout to matter. ``benchmarks.choice`` measures this.

    Member by member, the loop over time starts again for each member, where the XLA form computes all of them
    in one: a member must have enough to do. ``operands`` are those of one member.
    """
    C, steps = operands.state.C, operands.xs.shape[0]
    rows = C.size // C.shape[-1]
    if members is not None and C.size < {"own weights": 512, "shared weights": 2048}[members]:
        return False
    enough = rows >= ROWS or (step != "infer" and C.size >= STATES)
    return enough and steps >= STEPS and steps * rows >= STEPS_AND_ROWS


def unsupported_reason(
    settings: Settings, operands: Operands, device_kind: str | None = None
) -> str | None:
    """Cells with the LSTM's own products and state, of known shape."""
    spec, own = type(settings.spec), LSTMSpec
    if (spec.project, spec.recur, spec.emit) != (own.project, own.recur, own.emit):
        return f"{spec.__name__} has products of its own"
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
        return f"{spec.__name__} has a cell state of another shape than h"
    if not all(isinstance(n, int) for n in operands.xs.shape):
        return "the shape is not known"
    if 0 in h.shape or operands.xs.shape[-1] == 0:
        return "there are no rows or no inputs"
    return None


unroll = partial(lowering.unroll, required="cpu")
"""Runs the recurrence, as :mod:`lstm_jax.backends` defines it."""


def infer(settings: Settings, operands: Operands, device_kind: str | None = None) -> Outputs:
    """The loop alone."""

    def h_or_none(C: jax.Array, z: jax.Array, h: jax.Array) -> jax.Array | None:
        return None if settings.final_state_only else h

    return _loop(settings, operands, h_or_none)


def forward(
    settings: Settings, operands: Operands, device_kind: str | None = None
) -> tuple[AllOutputs, Residuals]:
    """The loop, and what each step read.

    Returned in rows, as on every platform. The loop stores columns, and all steps are transposed after it:
    where :func:`backward` is part of the same program, XLA then drops that transpose and the one back.
    """
    recompute, dtype = settings.residuals == "recompute", operands.xs.dtype

    def h_and_residuals(C: jax.Array, z: jax.Array, h: jax.Array) -> tuple[jax.Array, Residuals]:
        return h, Residuals(C, None if recompute else z.astype(dtype))

    state, (hs, saved) = _loop(settings, operands, h_and_residuals)
    if saved.z is not None and packs(settings.spec):  # as every platform saves it
        saved = saved._replace(z=unscale_packed(settings.spec, saved.z))
    batch = operands.xs.shape[1:-1]
    return (state, hs), jax.tree.map(lambda a: _all_rows(a, batch), saved)


def _loop(
    settings: Settings, operands: Operands, outputs: Callable[..., Any]
) -> tuple[LSTMState, Any]:
    """Returns the final state, and ``outputs(C, z, h)`` of all steps: C and z in columns, h in rows."""
    shape = operands.state.h.shape
    operands, pointwise = _scaled(settings.spec, operands)
    params, xs, state, reset_state, begin, hold = _one_batch_axis(operands)
    rows, (H, _), dtype = xs.shape[1], params.w_h.shape, xs.dtype
    weights, project_and_recur = _own_columns(params, rows), _product(settings, params)
    reset_state = jax.tree.map(_columns, reset_state)

    def body(carried: LSTMState, inputs: Any) -> tuple[LSTMState, Any]:
        x, begin, hold = inputs
        x = select(hold, jnp.zeros_like(x), x)
        begins, holds = _flags(begin, H), _flags(hold, H)
        prev = select(begins, reset_state, carried)
        z = project_and_recur(x, prev.h.reshape(-1, rows))
        C, h = pointwise(settings.spec, weights, prev.C, z)
        h = h.astype(dtype)
        state = select(holds, carried, LSTMState(C, h))
        out = select(holds, jnp.zeros_like(h), h)
        return state, outputs(prev.C, z, _rows(out, rows).reshape(shape))

    state, out = jax.lax.scan(
        body, jax.tree.map(_columns, state), (xs, begin, hold), reverse=settings.reverse
    )
    final = jax.tree.map(lambda a: _rows(a, rows).reshape(shape), state)
    return final, out


def backward(
    settings: Settings,
    operands: Operands,
    hs: jax.Array,
    saved: Residuals,
    cts: Outputs,
    device_kind: str | None = None,
) -> Operands:
    """From the cotangents of the outputs to those of the operands.

    Two loops: over blocks of steps from the last to the first, and over the steps of a block,
    which leave their ``dz`` to the block's products.
    """
    shape, (T, *_) = operands.state.h.shape, operands.xs.shape
    spec = settings.spec
    operands, pointwise = _scaled(spec, operands)
    params, xs, state, reset_state, begin, hold = _one_batch_axis(operands.masked())
    rows, (H, G) = xs.shape[1], params.w_h.shape
    wide = saved.C.dtype
    C_read, z_saved = jax.tree.map(lambda a: _all_columns(a, rows), saved)
    if z_saved is not None and packs(spec):
        z_saved = scale_packed(spec, z_saved)
    h_left = hs.reshape(T, rows, H)
    # Where the state is held, the output is 0, and the state still the initial one.
    h_left = select(hold, jnp.broadcast_to(state.h[None], h_left.shape), h_left)
    ct_state, ct_hs = cts
    ct_state = jax.tree.map(lambda a: _columns(a.reshape(rows, H)).astype(wide), ct_state)
    zero = jax.tree.map(jnp.zeros_like, ct_state)
    w_x, w_h = params.w_x.astype(wide), params.w_h.astype(wide)
    weights, project_and_recur = _own_columns(params, rows), _product(settings, params)
    dot = partial(_dot, precision=settings.precision)
    k, blocks = block_sizes(T, rows)

    def time(s: jax.Array) -> jax.Array:
        return T - 1 - s if settings.reverse else s

    def add_ct_out(s: jax.Array, ct_h: jax.Array) -> jax.Array:
        """Adds the cotangent of the output of step s, in columns. Before the first step it is 0."""
        if ct_hs is None:
            return ct_h
        t = time(jnp.maximum(s, 0))
        ct = _columns(_at(ct_hs, t).reshape(rows, H).astype(wide))
        ct = select(_flags(_at(hold, t), H), jnp.zeros_like(ct), ct)
        return ct_h + jnp.where(s < 0, jnp.zeros_like(ct), ct)

    def h_read(t: jax.Array, n: int) -> jax.Array:
        """``[n, B, H]``: the hidden states that the steps from time t on read."""
        left = jax.lax.dynamic_slice_in_dim(h_left, t, n)
        before = t + n if settings.reverse else t - 1
        h = _at(h_left, jnp.clip(before, 0, T - 1))
        h = jnp.where((before < 0) | (before >= T), state.h, h)[None]
        h = jnp.concatenate([left[1:], h] if settings.reverse else [h, left[:-1]])
        if begin is None:
            return h
        starts = jax.lax.dynamic_slice_in_dim(begin, t, n)
        return select(starts, jnp.broadcast_to(reset_state.h, h.shape), h)

    def z_read(t: jax.Array) -> jax.Array:
        if z_saved is not None:
            return _at(z_saved, t).astype(wide)
        return project_and_recur(_at(xs, t), h_read(t, 1)[0].T)

    def step(s: jax.Array, t: jax.Array, d: LSTMState, d_reset: LSTMState) -> Any:
        """``d`` is the cotangent of the state after step s, its output's included."""
        held, begins = _flags(_at(hold, t), H), _flags(_at(begin, t), H)
        f = partial(pointwise, settings.spec)
        _, pull = jax.vjp(f, weights, _at(C_read, t), z_read(t))
        d_own, dC, dz = pull(tuple(select(held, zero, d)))
        dz = dz.reshape(G, rows)
        d_prev = LSTMState(dC, dot(w_h, dz).reshape(-1))
        if begin is not None:
            d_reset = jax.tree.map(jnp.add, d_reset, select(begins, d_prev, zero))
        d_prev = select(begins, zero, d_prev)
        d_prev = select(held, d, d_prev)
        return LSTMState(d_prev.C, add_ct_out(s - 1, d_prev.h)), d_reset, dz, d_own

    def block(j: jax.Array, carried: Any) -> Any:
        d, d_reset, d_own, d_params, d_xs, dz = carried
        first, end = j * k, jnp.minimum((j + 1) * k, T)
        # The last block is the first to run. If it is shorter, it finds zeros in the rest of dz.
        start = jnp.minimum(first, T - k)
        t0 = T - k - start if settings.reverse else start

        def body(u: jax.Array, carried: Any) -> Any:
            d, d_reset, d_own, dz = carried
            s = end - 1 - u
            t = time(s)
            d, d_reset, dz_t, d_own_t = step(s, t, d, d_reset)
            dz = jax.lax.dynamic_update_slice_in_dim(dz, dz_t[:, None], t - t0, 1)
            return d, d_reset, jax.tree.map(jnp.add, d_own, d_own_t), dz

        carried = d, d_reset, d_own, dz
        d, d_reset, d_own, dz = jax.lax.fori_loop(0, end - first, body, carried)
        flat = dz.reshape(G, -1)
        x = jax.lax.dynamic_slice_in_dim(xs, t0, k).astype(wide).reshape(-1, xs.shape[-1])
        h = h_read(t0, k).astype(wide).reshape(-1, H)
        d_params = LSTMParams(
            w_x=d_params.w_x + dot(flat, x),
            w_h=d_params.w_h + dot(flat, h),
            bias=None if params.bias is None else d_params.bias + flat.sum(1),
        )
        dx = dot(w_x, flat).astype(xs.dtype).reshape(-1, k, rows).transpose(1, 2, 0)
        d_xs = jax.lax.dynamic_update_slice_in_dim(d_xs, dx, t0, 0)
        return d, d_reset, d_own, d_params, d_xs, dz

    d = LSTMState(ct_state.C, add_ct_out(jnp.int32(T - 1), ct_state.h)) if T else ct_state
    products = LSTMParams(params.w_x, params.w_h, params.bias)
    sums = jax.tree.map(lambda p: jnp.zeros(p.T.shape, wide), products)
    own = jax.tree.map(jnp.zeros_like, weights)
    zeros = (zero, own, sums, jnp.zeros_like(xs), jnp.zeros((G, k, rows), wide))
    carried = (d, *vary_as(zeros, d, params, xs))
    if T:
        carried = jax.lax.fori_loop(0, blocks, lambda i, c: block(blocks - 1 - i, c), carried)
    d, d_reset, own, sums, d_xs, _ = carried
    d_products = jax.tree.map(lambda d: scale_packed(spec, d.T) if packs(spec) else d.T, sums)
    d_products = jax.tree.map(lambda d, p: d.astype(p.dtype), d_products, products)
    d_own = jax.tree.map(lambda a: a.reshape(*a.shape[:-1], H, rows).sum(-1), own)

    def as_rows(d: jax.Array, like: jax.Array) -> jax.Array:
        return _rows(d, rows).reshape(shape).astype(like.dtype)

    return Operands(
        d_own.replace(**vars(d_products)),
        d_xs.reshape(operands.xs.shape),
        jax.tree.map(as_rows, d, operands.state),
        jax.tree.map(as_rows, d_reset, operands.reset_state),
    )


def block_sizes(steps: int, rows: int) -> tuple[int, int]:
    """Steps a block, and how many blocks: about :data:`COLUMNS` columns each, the last the shortest.

    >>> block_sizes(128, 32), block_sizes(100, 16), block_sizes(1, 4), block_sizes(0, 4)
    ((16, 8), (34, 3), (1, 1), (1, 0))
    """
    blocks = max(1, round(steps * rows / COLUMNS))
    k = max(1, -(-steps // blocks))
    return k, -(-steps // k)


def _one_batch_axis(operands: Operands) -> Operands:
    """``*B`` as one axis."""
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
    """With one tanh for all gates, the weights are scaled for it once, outside of the loops."""
    if not packs(spec):
        return operands, pointwise
    return operands._replace(params=scale_weights(spec, operands.params)), pointwise_of_scaled


def _own_columns(params: LSTMParams, rows: int) -> LSTMParams:
    """A cell's own weights ``[..., H]`` as ``[..., H·B]``: each entry once per row of the batch."""

    def repeat(a: jax.Array) -> jax.Array:
        wide = jnp.broadcast_to(a[..., None], (*a.shape, rows))
        return wide.reshape(*a.shape[:-1], a.shape[-1] * rows)

    return jax.tree.map(repeat, own_weights(params))


def _product(settings: Settings, params: LSTMParams) -> Callable[..., jax.Array]:
    """``(x [B, I], h [H, B]) -> [4H·B]``, the pre-activations in columns, in at least float32."""
    wide = at_least_float32(params.w_h.dtype)
    w_x, w_h = params.w_x.T.astype(wide), params.w_h.T.astype(wide)
    dot = partial(_dot, precision=settings.precision)

    def product(x: jax.Array, h: jax.Array) -> jax.Array:
        z = dot(w_x, x.astype(wide), contract=(1, 1)) + dot(w_h, h.astype(wide))
        if params.bias is not None:
            z = z + jnp.broadcast_to(params.bias.astype(wide)[:, None], z.shape)
        return z.reshape(-1)

    return product


def _dot(a: jax.Array, b: jax.Array, precision: Any, contract: tuple[int, int] = (1, 0)) -> Any:
    """A product of two matrices over the axes ``contract``."""
    numbers = ((contract[:1], contract[1:]), ((), ()))
    return jax.lax.dot_general(a, b, numbers, precision=precision)


def _columns(a: jax.Array) -> jax.Array:
    """``[B, H] -> [H·B]``."""
    return a.T.reshape(-1)


def _all_columns(a: jax.Array, rows: int) -> jax.Array:
    """``[T, *B, N] -> [T, N·B]``."""
    T, N = a.shape[0], a.shape[-1]
    return a.reshape(T, rows, N).transpose(0, 2, 1).reshape(T, N * rows)


def _all_rows(a: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """``[T, N·B] -> [T, *B, N]``."""
    T, rows = a.shape[0], math.prod(batch)
    N = a.shape[1] // rows
    return a.reshape(T, N, rows).transpose(0, 2, 1).reshape(T, *batch, N)


def _rows(a: jax.Array, rows: int) -> jax.Array:
    """``[H·B] -> [B, H]``."""
    return a.reshape(-1, rows).T


def _flags(flag: jax.Array | None, H: int) -> jax.Array | None:
    """``[B] -> [H·B]``: the flag of a row for each of its units. None is False."""
    return None if flag is None else jnp.broadcast_to(flag, (H, flag.size)).reshape(-1)


def _at(a: Any, t: jax.Array) -> Any:
    """The entry of step t; None has none."""
    return None if a is None else jax.lax.dynamic_index_in_dim(a, t, 0, keepdims=False)


lowering.register("cpu", "cpu", sys.modules[__name__])
