"""Persistent Pallas kernels for TPU, which read the recurrent weights once per sequence.

``lax.scan`` reads ``w_h`` from HBM in every step, because XLA keeps nothing in VMEM from one iteration to the
next. Here the time loop is the last axis of a Pallas grid. The block of the weights has a constant index, so
it is fetched once and stays in VMEM. The state is carried in VMEM scratch. Only ``gx`` and the outputs are
transferred in every step. Source: Diamos et al. (2016), Persistent RNNs: stashing recurrent weights on-chip.

The kernels trace ``spec.pointwise`` and its ``jax.vjp`` on blocks in VMEM, so a variant of the cell needs no
new kernel. The gradients of the weights are matrix products after the loop, in XLA.
"""

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.backends import elementwise, lowering
from lstm_jax.backends.one_tanh import pointwise
from lstm_jax.backends.problem import Members, Operands, Outputs, Residuals, Settings
from lstm_jax.backends.tpu_loop import MIB, Loop, Plan, pack_weights, run_loop, unpack_weights
from lstm_jax.backends.xla import recur_all_steps
from lstm_jax.carry import select
from lstm_jax.cell import LSTMSpec, add, extra_weights
from lstm_jax.notation import LSTMParams, LSTMState

VMEM = {"TPU v4": 16, "TPU v5 lite": 128, "TPU v5": 64, "TPU v6 lite": 128, "TPU7x": 64}
"""MiB of VMEM per core, by ``device_kind``. For an unknown chip the smallest value is used."""
LANES, SUBLANES = 128, 16
TILE = {"TPU v6 lite": 128}
"""Hidden units per tile of the backward pass, by ``device_kind``, 256 for others. According to the
compiler's schedules (benchmarks/NOTES.md), 256 takes 5 % longer on v6e, and 128 takes 4 % longer on v5e."""
NO_WEIGHTS = LSTMParams(None, None)  # cells with extra weights are not supported
BEGIN, HOLD = 1, 2  # values of the mask; HOLD takes precedence


def vmem_of(device_kind: str | None) -> int:
    """Returns the MiB of VMEM per core."""
    return VMEM.get(device_kind or "", min(VMEM.values()))


def _tile_size(device_kind: str | None, H: int) -> int:
    tile = TILE.get(device_kind or "", 256)
    return tile if H % tile == 0 else LANES


def unsupported_reason(
    settings: Settings, operands: Operands, device_kind: str | None = "TPU v5 lite"
) -> str | None:
    """Returns why the kernels cannot run the arguments, or None if they can.

    The default of ``device_kind``, for calls before the chip is known, is a chip with the most VMEM.
    """
    spec, params, xs = settings.spec, operands.params, operands.xs
    kind = type(spec)
    if kind.recur is not LSTMSpec.recur or kind.emit is not LSTMSpec.emit:
        return f"{kind.__name__} overrides recur or emit"
    reason = elementwise.unsupported_reason(spec)
    if reason is not None:
        return reason
    if settings.hidden_axis is not None:
        return "every step gathers h from other devices"
    if operands.state.C is None or operands.state.C.shape != operands.state.h.shape:
        return f"{kind.__name__} has no cell state, or the shapes of C and h differ"
    if jax.tree.leaves(extra_weights(params)):
        return f"{type(params).__name__} has extra weights"
    if not all(isinstance(n, int) for n in xs.shape):
        return f"the shape {xs.shape} is not known"
    if xs.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it supports float32 and bfloat16, got {xs.dtype}"
    if settings.precision not in (None, "default", "highest", *_PRECISIONS):
        return f"it supports the precisions default and highest, got {settings.precision}"
    H, B = params.w_h.shape[0], math.prod(xs.shape[1:-1])
    if H % LANES:
        return f"H = {H} is not a multiple of {LANES}"
    if 0 in xs.shape:
        return f"the shape {xs.shape} is empty"
    vmem = vmem_of(device_kind)
    if _choose_plan(operands, vmem) is None:
        need = min(_vmem_bytes(operands, Plan(1, rows)) for rows in _batch_block_sizes(B)) / MIB
        return (
            f"H = {H}, B = {B}, {xs.dtype} needs {need:.0f} MiB of VMEM, and "
            f"{device_kind or 'an unknown chip'} has {vmem}"
        )
    return None


_PRECISIONS = (jax.lax.Precision.DEFAULT, jax.lax.Precision.HIGHEST)


def is_profitable(step: str, operands: Operands, members: Members = None) -> bool:
    """Returns True. By the compiler's schedules the kernels are the fastest for all sizes that fit."""
    return True


def _batch_block_sizes(B: int) -> list[int]:
    """Returns the allowed sizes of a batch block, best first. About 128 rows fill the matrix unit."""
    divisors = [n for n in range(SUBLANES, min(B, 256) + 1, SUBLANES) if B % n == 0]
    return sorted(divisors, key=lambda n: (abs(n - 128), n)) or [B]


def _vmem_bytes(operands: Operands, plan: Plan) -> int:
    """Returns an estimate of the VMEM, in bytes, of the largest kernel: the backward kernel with masks.

    It counts the weights once, the blocks of streamed arrays twice (double buffering), and the temporaries of
    a step, which include each tile's contribution to dh. Each of the four carried arrays is counted five
    times: initial and final value, twice each, and scratch.
    """
    H = operands.params.w_h.shape[0]
    width = operands.xs.dtype.itemsize
    streams = plan.steps * plan.rows * H * (4 * width + 4 * width + 4 + width)
    arrays = 4 * (2 + 2 + 1) + 16 + H // LANES
    return 4 * H * H * width + 2 * streams + plan.rows * H * 4 * arrays


def _choose_plan(operands: Operands, vmem: int) -> Plan | None:
    """Returns the largest blocks that fit in VMEM, or None if no block fits.

    The number of unrolled products is limited, so that the kernel compiles in seconds.
    """
    H, B = operands.params.w_h.shape[0], math.prod(operands.xs.shape[1:-1])
    for rows in _batch_block_sizes(B):
        for steps in (8, 4, 2, 1):
            unrolled = steps * max(rows, 128) * H * H / (4 * 128 * 1024**2)
            if steps > 1 and (unrolled > 1 or steps > operands.xs.shape[0]):
                continue
            plan = Plan(steps, rows)
            if _vmem_bytes(operands, plan) <= 0.9 * vmem * MIB:
                return plan
    return None


unroll = partial(lowering.unroll, required="tpu")
"""Runs the recurrence over all time steps, see :mod:`lstm_jax.backends`."""


def infer(settings: Settings, operands: Operands, **keywords: Any) -> Outputs:
    """Runs the recurrence without residuals. ``keywords`` are ``device_kind`` and ``interpret``."""
    return _run_forward(settings, operands, save=False, **keywords)[0]


def forward(settings: Settings, operands: Operands, **keywords: Any) -> tuple[Outputs, Residuals]:
    """Runs the recurrence and returns residuals. ``keywords`` are ``device_kind`` and ``interpret``."""
    return _run_forward(settings, operands, save=True, **keywords)


def _run_forward(
    settings: Settings,
    operands: Operands,
    save: bool,
    device_kind: str | None = None,
    interpret: Any = False,
) -> tuple[Outputs, Residuals]:
    params, xs, *_ = operands.masked()
    gx = settings.spec.project(params, xs, settings.precision)
    H, dtype = params.w_h.shape[0], xs.dtype
    mask = _mask(operands)
    carried = _merge_state_batch_axes(operands.state)
    out = {} if settings.final_state_only and not save else {"hs": (H, dtype)}
    if save:
        out |= {"C": (H, carried.C.dtype)}
        if settings.residuals == "save":
            out |= {"z": (gx.shape[-1], dtype)}
    vmem = vmem_of(device_kind)
    loop = Loop(
        step=partial(_forward_step, settings),
        reverse=settings.reverse,
        w_h=pack_weights(params.w_h),
        reset=None if mask is None else _merge_state_batch_axes(operands.reset_state),
        out=out,
        plan=_require_plan(operands, vmem),
        vmem=vmem,
        interpret=interpret,
    )
    state, streamed = run_loop(loop, {"gx": _merge_batch_axes(gx), "mask": mask}, carried)
    batch = xs.shape[1:-1]
    arrays = {name: a.reshape(a.shape[0], *batch, a.shape[-1]) for name, a in streamed.items()}
    state = jax.tree.map(lambda a: a.reshape(*batch, a.shape[-1]), state)
    return (state, arrays.get("hs")), Residuals(arrays.get("C"), arrays.get("z"))


def _forward_step(
    settings: Settings, blocks: dict[str, Any], w_h: Any, carried: LSTMState, reset: Any
) -> tuple[LSTMState, dict[str, Any]]:
    mask = blocks.get("mask")
    prev = carried if mask is None else select(mask == BEGIN, reset, carried)
    r = _dot(settings, prev.h, unpack_weights(w_h))
    z = blocks["gx"].astype(jnp.float32) + r
    C, h = pointwise(settings.spec, NO_WEIGHTS, prev.C, z)
    state = LSTMState(C, h.astype(prev.h.dtype))
    hs = state.h
    if mask is not None:
        hs = select(mask == HOLD, jnp.zeros_like(hs), hs)
        state = select(mask == HOLD, carried, state)
    return state, {"hs": hs, "C": prev.C, "z": z}


def backward(
    settings: Settings,
    operands: Operands,
    hs: jax.Array,
    residuals: Residuals,
    cts: Outputs,
    device_kind: str | None = None,
    interpret: Any = False,
) -> Operands:
    """Computes the cotangents of the operands from those of the outputs."""
    params, xs, state, reset_state, _, _ = operands.masked()
    spec, precision = settings.spec, settings.precision
    z = residuals.z
    if z is None:
        z = add(
            spec.project(params, xs, precision), recur_all_steps(settings, operands, hs, params)
        )
        z = z.astype(xs.dtype)
    ct_state, ct_hs = cts
    streams = {
        "z": _merge_batch_axes(z),
        "C": _merge_batch_axes(residuals.C),
        "ct_hs": None if ct_hs is None else _merge_batch_axes(ct_hs),
        "mask": _mask(operands),
    }
    carried = _merge_state_batch_axes(ct_state)
    carried = LSTMState(carried.C, carried.h.astype(jnp.float32))
    zeros = jax.tree.map(jnp.zeros_like, carried)
    # The cotangent of reset_state is a sum over the steps that read it. It is carried only with a mask.
    reset = None if streams["mask"] is None else zeros
    vmem = vmem_of(device_kind)
    loop = Loop(
        step=partial(_backward_step, settings, _tile_size(device_kind, params.w_h.shape[0])),
        reverse=not settings.reverse,
        w_h=pack_weights(params.w_h.T),
        reset=None,
        out={"dz": (z.shape[-1], xs.dtype)},
        plan=_require_plan(operands, vmem),
        vmem=vmem,
        interpret=interpret,
    )
    (d_state, d_reset), streamed = run_loop(loop, streams, (carried, reset))
    dz = streamed["dz"].reshape(z.shape)

    def like(ct: LSTMState, state: LSTMState) -> LSTMState:
        return jax.tree.map(lambda c, s: c.reshape(s.shape).astype(s.dtype), ct, state)

    def products(weights: LSTMParams, xs: jax.Array) -> jax.Array:
        z = spec.project(weights, xs, precision)
        return z + recur_all_steps(settings, operands, hs, weights).astype(z.dtype)

    d_params, d_xs = jax.vjp(products, params, xs)[1](dz)
    d_reset = zeros if d_reset is None else d_reset
    return Operands(d_params, d_xs, like(d_state, state), like(d_reset, reset_state))


def _backward_step(
    settings: Settings, tile: int, blocks: dict[str, Any], w_hT: Any, carried: Any, _: None
) -> tuple[Any, dict[str, Any]]:
    """Computes one step of the backward pass, in tiles of hidden units.

    The element-wise operations of a tile can overlap with the matrix product of another tile.
    """
    (ct, d_reset), mask = carried, blocks.get("mask")
    z, C = blocks["z"].astype(jnp.float32), blocks["C"]
    zeros = jax.tree.map(jnp.zeros_like, ct)
    d_state = ct
    if "ct_hs" in blocks:
        d_state = LSTMState(ct.C, ct.h + blocks["ct_hs"].astype(jnp.float32))
    if mask is not None:
        d_state = select(mask == HOLD, zeros, d_state)
    H, w = C.shape[-1], unpack_weights(w_hT)

    def backward_tile(n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns dC and dz of the tile of units from n on, and its contribution to dh of all units."""
        units = slice(n, n + tile)
        _, transpose = jax.vjp(
            partial(pointwise, settings.spec, NO_WEIGHTS),
            C[:, units],
            _gates_of(z, n, tile, H, axis=1),
        )
        dC, dz = transpose((d_state.C[:, units], d_state.h[:, units]))
        dz = dz.astype(w.dtype)
        return dC, dz, _dot(settings, dz, _gates_of(w, n, tile, H, axis=0))

    dCs, dzs, dhs = zip(*map(backward_tile, range(0, H, tile)), strict=True)
    # A single sum, because the compiler fuses a chain of additions to one product that waits for all dz.
    dC, dh = jnp.concatenate(dCs, axis=1), jnp.stack(dhs).sum(0)
    dz = _pack_gates(dzs, tile)
    d_prev = LSTMState(dC, dh)
    if mask is None:
        return (d_prev, d_reset), {"dz": dz}
    summed = jax.tree.map(jnp.add, d_reset, select(mask == BEGIN, d_prev, zeros))
    d_prev = select(mask == BEGIN, zeros, d_prev)
    return (select(mask == HOLD, ct, d_prev), summed), {"dz": dz}


def _dot(settings: Settings, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision=settings.precision, preferred_element_type=jnp.float32)


def _gates_of(a: jax.Array, n: int, tile: int, H: int, axis: int) -> jax.Array:
    """Returns the packed gates of the units n to n + tile - 1, from the packed gates of all H units."""
    starts = range(n, a.shape[axis], H)
    parts = [jax.lax.slice_in_dim(a, k, k + tile, axis=axis) for k in starts]
    return jnp.concatenate(parts, axis)


def _pack_gates(tiles: Sequence[jax.Array], tile: int) -> jax.Array:
    """Inverts :func:`_gates_of`: packs the gates of all hidden units, from the packed gates of all tiles."""
    gates = range(0, tiles[0].shape[1], tile)
    return jnp.concatenate([a[:, k : k + tile] for k in gates for a in tiles], axis=1)


def _merge_batch_axes(a: jax.Array) -> jax.Array:
    """Converts ``[T, *B, N]`` to ``[T, rows, N]``."""
    return a.reshape(a.shape[0], -1, a.shape[-1])


def _merge_state_batch_axes(state: LSTMState) -> LSTMState:
    return jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), state)


def _mask(operands: Operands) -> jax.Array | None:
    """Returns the mask ``[T, rows, 1]`` of BEGIN, HOLD or 0, or None without resets and lengths."""
    begin, hold = operands.begin, operands.hold
    if begin is None and hold is None:
        return None
    shape = operands.xs.shape[:-1]
    mask = jnp.zeros(shape, jnp.int32)
    if begin is not None:
        mask = jnp.where(begin, BEGIN, mask)
    if hold is not None:
        mask = jnp.where(hold, HOLD, mask)
    return mask.reshape(shape[0], -1, 1)


def _require_plan(operands: Operands, vmem: int) -> Plan:
    plan = _choose_plan(operands, vmem)
    assert plan is not None  # otherwise unsupported_reason has returned a reason
    return plan


lowering.register("tpu", "tpu", sys.modules[__name__])
