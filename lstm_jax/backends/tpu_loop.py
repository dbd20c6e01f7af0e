"""A time loop as a Pallas call on TPU. Weights and state stay in VMEM, other arrays are streamed.

Pallas is imported inside the two functions that use it, because the import takes 0.15 s.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.notation import LSTMState

MIB = 2**20


class Plan(NamedTuple):
    """The size of a block: the number of time steps and of rows of the batch."""

    steps: int
    rows: int


class Loop(NamedTuple):
    """The definition of a time loop, without its streamed arrays and its initial carry.

    Attributes:
      step: ``(streams, w_h, carried, reset) -> (carried, outputs)`` for one time step.
      reverse: Whether to run from the last step to the first.
      w_h: The recurrent weights, which stay in VMEM.
      reset: The state that a step may read instead of the carried state, or None.
      out: The size of the last axis and the dtype of each output.
      plan: The size of a block.
      vmem: MiB of VMEM that the kernel may use.
      interpret: The argument of ``pallas_call``.
    """

    step: Callable[..., Any]
    reverse: bool
    w_h: jax.Array
    reset: LSTMState | None
    out: dict[str, tuple[int, Any]]
    plan: Plan
    vmem: int
    interpret: Any


def run_loop(loop: Loop, streams: dict[str, Any], carried: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Runs the time loop. Steps that do not fill a block are a second call with a shorter block."""
    streams = {k: a for k, a in streams.items() if a is not None}
    T = next(iter(streams.values())).shape[0]
    steps = loop.plan.steps
    T_full = T // steps * steps  # the steps in full blocks
    parts = [(0, T_full, steps), (T_full, T, T - T_full)]
    outputs: list[dict[str, jax.Array]] = []
    for start, stop, steps in reversed(parts) if loop.reverse else parts:
        if start == stop:
            continue
        part = {k: a[start:stop] for k, a in streams.items()}
        block = loop._replace(plan=loop.plan._replace(steps=steps))
        carried, streamed = _call(block, part, carried)
        outputs.append(streamed)
    if len(outputs) == 1:
        return carried, outputs[0]
    outputs = outputs[::-1] if loop.reverse else outputs
    return carried, jax.tree.map(lambda *a: jnp.concatenate(a), *outputs)


def _call(loop: Loop, streams: dict[str, jax.Array], carried: Any) -> tuple[Any, dict[str, Any]]:
    """Makes one ``pallas_call``. Its grid has a parallel axis of batch blocks and a serial axis of time."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    plan, w_h, out = loop.plan, loop.w_h, loop.out
    T, B, _ = next(iter(streams.values())).shape
    blocks = T // plan.steps
    state, tree = jax.tree.flatten(carried)
    resets = jax.tree.leaves(loop.reset)

    def stream_spec(n: int) -> Any:
        def index(b: Any, t: Any) -> tuple[Any, ...]:
            return (blocks - 1 - t if loop.reverse else t), b, 0

        return pl.BlockSpec((plan.steps, plan.rows, n), index)

    def state_spec(a: jax.Array) -> Any:
        return pl.BlockSpec((plan.rows, a.shape[-1]), lambda b, t: (b, 0))

    def kernel(*refs: Any) -> None:
        remaining = iter(refs)
        inputs = {k: next(remaining) for k in streams}
        weights = next(remaining)
        initial, reset_refs = _take(remaining, len(state)), _take(remaining, len(resets))
        outputs = {k: next(remaining) for k in out}
        final, scratch = _take(remaining, len(state)), _take(remaining, len(state))

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            for ref, value in zip(scratch, initial, strict=True):
                ref[...] = value[...]

        for n in range(plan.steps):
            t = plan.steps - 1 - n if loop.reverse else n
            step_inputs = {k: ref[t] for k, ref in inputs.items()}
            carry = jax.tree.unflatten(tree, [ref[...] for ref in scratch])
            reset = None
            if reset_refs:
                reset = jax.tree.unflatten(tree, [ref[...] for ref in reset_refs])
            carry, step_outputs = loop.step(step_inputs, weights, carry, reset)
            for ref, value in zip(scratch, jax.tree.leaves(carry), strict=True):
                ref[...] = value.astype(ref.dtype)
            for k, ref in outputs.items():
                ref[t] = step_outputs[k].astype(ref.dtype)

        @pl.when(pl.program_id(1) == blocks - 1)
        def _() -> None:
            for ref, value in zip(final, scratch, strict=True):
                ref[...] = value[...]

    weights_spec = pl.BlockSpec(w_h.shape, lambda b, t: (0, 0), pipeline_mode=pl.Buffered(1))
    results = pl.pallas_call(
        kernel,
        grid=(B // plan.rows, blocks),
        in_specs=[
            *(stream_spec(a.shape[-1]) for a in streams.values()),
            weights_spec,
            *(state_spec(a) for a in (*state, *resets)),
        ],
        out_specs=[*(stream_spec(n) for n, _ in out.values()), *(state_spec(a) for a in state)],
        out_shape=[
            *(_varying((T, B, n), dtype, w_h) for n, dtype in out.values()),
            *(_varying(a.shape, a.dtype, w_h) for a in state),
        ],
        scratch_shapes=[pltpu.VMEM((plan.rows, a.shape[-1]), a.dtype) for a in state],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=int(0.95 * loop.vmem * MIB),
        ),
        interpret=loop.interpret,
        name="lstm_" + ("_".join(out) or "state"),
    )(*streams.values(), w_h, *state, *resets)
    return jax.tree.unflatten(tree, results[len(out) :]), dict(zip(out, results, strict=False))


def pack_weights(w: jax.Array) -> jax.Array:
    """Packs two rows of 16-bit weights to one row of 32-bit words, the layout of the matrix unit.

    The compiler tiles 16-bit arrays by 8 rows, and would combine the tiles in every step.
    """
    if w.dtype.itemsize != 2:
        return w
    rows = w.reshape(-1, 2, w.shape[1])
    return jax.lax.bitcast_convert_type(rows.swapaxes(1, 2), jnp.int32)


def unpack_weights(ref: Any) -> jax.Array:
    """Reads the weights from VMEM, inside the kernel. Free: they are already resident."""
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.bitcast(ref[...], jnp.bfloat16) if ref.dtype == jnp.int32 else ref[...]


def _take(iterator: Iterator[Any], n: int) -> list[Any]:
    return [next(iterator) for _ in range(n)]


def _varying(shape: tuple[int, ...], dtype: Any, like: jax.Array) -> jax.ShapeDtypeStruct:
    """Returns the type of an output that varies over the devices of a ``shard_map`` like ``like``."""
    varying = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
