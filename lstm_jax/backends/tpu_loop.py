"""A loop over time as one Pallas call on TPU: what every step reads stays in VMEM, the rest streams.

Importing Pallas takes 0.15 s, so the two functions that need it import it.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.notation import LSTMState

MIB = 2**20


class Plan(NamedTuple):
    """The size of a block: ``steps`` of time and ``rows`` of the batch."""

    steps: int
    rows: int


class Loop(NamedTuple):
    """A recurrence over time, without the operands that differ between its parts."""

    step: Callable[..., Any]  # (streams of one step, w_h, carried, reset) -> (carried, outputs)
    reverse: bool
    w_h: jax.Array
    reset: LSTMState | None  # what a step may read in place of the state: the same in all steps
    out: dict[str, tuple[int, Any]]  # width and dtype of the outputs
    plan: Plan
    vmem: int
    interpret: Any


def run_loop(loop: Loop, streams: dict[str, Any], carried: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Runs the whole loop in blocks of time; the steps that do not fill a block are one more block."""
    streams = {k: a for k, a in streams.items() if a is not None}
    T = next(iter(streams.values())).shape[0]
    steps = loop.plan.steps
    whole = T // steps * steps
    parts = [(0, whole, steps), (whole, T, T - whole)]
    done: list[dict[str, jax.Array]] = []
    for start, stop, steps in reversed(parts) if loop.reverse else parts:
        if start == stop:
            continue
        part = {k: a[start:stop] for k, a in streams.items()}
        block = loop._replace(plan=loop.plan._replace(steps=steps))
        carried, streamed = _call(block, part, carried)
        done.append(streamed)
    if len(done) == 1:
        return carried, done[0]
    done = done[::-1] if loop.reverse else done
    return carried, jax.tree.map(lambda *a: jnp.concatenate(a), *done)


def _call(loop: Loop, streams: dict[str, jax.Array], carried: Any) -> tuple[Any, dict[str, Any]]:
    """One ``pallas_call``: a grid over blocks of the batch, in parallel, and of time, in order."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    plan, w_h, out = loop.plan, loop.w_h, loop.out
    T, B, _ = next(iter(streams.values())).shape
    blocks = T // plan.steps
    state, tree = jax.tree.flatten(carried)
    resets = jax.tree.leaves(loop.reset)

    def streamed(n: int) -> Any:
        def index(b: Any, t: Any) -> tuple[Any, ...]:
            return (blocks - 1 - t if loop.reverse else t), b, 0

        return pl.BlockSpec((plan.steps, plan.rows, n), index)

    def of_state(a: jax.Array) -> Any:
        return pl.BlockSpec((plan.rows, a.shape[-1]), lambda b, t: (b, 0))

    def kernel(*refs: Any) -> None:
        given = iter(refs)
        inputs = {k: next(given) for k in streams}
        weights = next(given)
        first, resets_ = _take(given, len(state)), _take(given, len(resets))
        outputs = {k: next(given) for k in out}
        last, scratch = _take(given, len(state)), _take(given, len(state))

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            for ref, value in zip(scratch, first, strict=True):
                ref[...] = value[...]

        for n in range(plan.steps):
            t = plan.steps - 1 - n if loop.reverse else n
            at = {k: ref[t] for k, ref in inputs.items()}
            now = jax.tree.unflatten(tree, [ref[...] for ref in scratch])
            fresh = jax.tree.unflatten(tree, [ref[...] for ref in resets_]) if resets_ else None
            then, written = loop.step(at, weights, now, fresh)
            for ref, value in zip(scratch, jax.tree.leaves(then), strict=True):
                ref[...] = value.astype(ref.dtype)
            for k, ref in outputs.items():
                ref[t] = written[k].astype(ref.dtype)

        @pl.when(pl.program_id(1) == blocks - 1)
        def _() -> None:
            for ref, value in zip(last, scratch, strict=True):
                ref[...] = value[...]

    whole = pl.BlockSpec(w_h.shape, lambda b, t: (0, 0), pipeline_mode=pl.Buffered(1))
    results = pl.pallas_call(
        kernel,
        grid=(B // plan.rows, blocks),
        in_specs=[
            *(streamed(a.shape[-1]) for a in streams.values()),
            whole,
            *(of_state(a) for a in (*state, *resets)),
        ],
        out_specs=[*(streamed(n) for n, _ in out.values()), *(of_state(a) for a in state)],
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


def packed(w: jax.Array) -> jax.Array:
    """16-bit weights as words of two rows each, which is how the matrix unit takes them.

    As 16-bit arrays they would come in tiles of 8 rows, and be put together again in every step.
    """
    if w.dtype.itemsize != 2:
        return w
    rows = w.reshape(-1, 2, w.shape[1])
    return jax.lax.bitcast_convert_type(rows.swapaxes(1, 2), jnp.int32)


def unpacked(ref: Any) -> jax.Array:
    """Reads the weights from VMEM, inside the kernel. Free: they are already resident."""
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.bitcast(ref[...], jnp.bfloat16) if ref.dtype == jnp.int32 else ref[...]


def _take(given: Iterator[Any], n: int) -> list[Any]:
    return [next(given) for _ in range(n)]


def _varying(shape: tuple[int, ...], dtype: Any, like: jax.Array) -> jax.ShapeDtypeStruct:
    """An output that varies over a ``shard_map`` as the operands do, which all vary alike."""
    varying = jax.typeof(like).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying)
