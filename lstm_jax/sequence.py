"""``lstm``: a whole sequence through one layer, with lengths, resets and direction."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from lstm_jax.backends import choose
from lstm_jax.backends.problem import Operands, Settings
from lstm_jax.carry import broadcast, mask_unread, select, vary_as, zero_state
from lstm_jax.cell import LSTMSpec, Precision, cast
from lstm_jax.checks import (
    check_floating,
    check_lengths,
    check_memory,
    check_params,
    check_resets,
    check_spec,
    check_state,
    check_xs,
)
from lstm_jax.notation import Hs, Lengths, LSTMParams, LSTMState, Resets, Xs
from lstm_jax.partition import Partition, over_mesh
from lstm_jax.remat import in_chunks


def lstm(
    params: LSTMParams,
    xs: Xs,
    state: LSTMState | None = None,
    *,
    spec: LSTMSpec = LSTMSpec(),
    lengths: Lengths | None = None,
    resets: Resets | None = None,
    reset_state: LSTMState | None = None,
    reverse: bool = False,
    dtype: DTypeLike | None = None,
    precision: Precision = None,
    backend: str = "auto",
    remat_every: int | None = None,
    residuals: str = "save",
    unroll: int | None = None,
    partition: Partition | None = None,
) -> tuple[LSTMState, Hs]:
    """Runs an LSTM layer over a sequence.

    Args:
      params: the layer's weights.
      xs: inputs ``[T, *B, I]``, time first; any number of batch axes, none included.
      state: where the sequence starts, ``C`` and ``h`` of shape ``[*B, H]`` (or ``[H]``, shared
        by all sequences). None starts from ``reset_state``. Feed the final state of one chunk
        to the next and the result is that of the whole.
      spec: which cell.
      lengths: true lengths ``[*B]`` of right-padded sequences, clipped to ``[0, T]``. Outputs
        past the end are 0, the padding holds the state, and nothing in it (not even NaN)
        reaches an output or a gradient.
      resets: bool ``[T, *B]``. True at t means that t begins a new segment: a boundary between
        t-1 and t. Going forward, step t reads ``reset_state``; in reverse, the state is reset
        after step t, before t-1 reads it. Resets in the padding do nothing.
      reset_state: what a new segment starts from, shaped like ``state``; zeros if None. A learned
        initial state goes here. It is never ``state``: that is the carry of an earlier chunk.
      reverse: runs from the last step to the first; outputs stay at their own time.
      dtype: the compute dtype; None is that of xs. Weights are cast to it, ``h`` and ``hs`` have
        it, ``C`` is at least float32.
      precision: of the matrix products, as in :func:`jax.numpy.dot`.
      backend: "auto" or a name from :data:`lstm_jax.backends.BACKENDS`.
      remat_every: for the backward pass keep the state every so many steps and compute what lies
        between again: the memory of ``T / k + k`` steps instead of T, for one more forward pass.
        None keeps what every step needs.
      residuals: what a step keeps for its backward pass: "save" the pre-activations of the gates,
        C and h (6 arrays ``[T, *B, H]``), or C and h alone and "recompute" the others.
      unroll: time steps per iteration of the compiled loop. None is 1, and 8 on GPUs under "auto".
      partition: how the layer is split over the devices of a mesh; None leaves it to the sharding of
        the arguments.

    Returns:
      The final state (at the true last step; the earliest, in reverse) and the hidden states
      ``[T, *B, H]``.

    Raises:
      ValueError: if shapes or dtypes do not fit, at trace time; the message says what was
        expected, what came, and how to mend it.

    Source: the equations in :mod:`lstm_jax.cell`.

    >>> import jax, jax.numpy as jnp
    >>> from lstm_jax import init_lstm, lstm
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> xs = jax.random.normal(jax.random.key(1), (7, 2, 3))         # T = 7, B = 2, I = 3
    >>> final_state, hs = lstm(params, xs, lengths=jnp.array([7, 4]))
    >>> hs.shape, bool((hs[4:, 1] == 0).all())
    ((7, 2, 5), True)
    >>> bool((final_state.h[1] == hs[3, 1]).all())
    True
    """
    xs = jnp.asarray(xs)
    check_spec(spec, LSTMSpec)
    check_xs(xs)
    dtype = jnp.dtype(xs.dtype if dtype is None else dtype)
    check_floating("dtype", dtype)
    check_params(spec, params, xs.shape[-1])
    params = jax.tree.map(jnp.asarray, params)  # also from the arrays of other libraries, as xs is
    T, *batch = xs.shape[:-1]
    types = spec.state_types(spec.hidden_size(params), tuple(batch), dtype)
    if state is not None:
        check_state("state", state, types, shared=True)
    if reset_state is not None:
        check_state("reset_state", reset_state, types, shared=True)
    if lengths is not None:
        lengths = jnp.asarray(lengths)
        check_lengths(lengths, xs.shape)
    if resets is not None:
        resets = jnp.asarray(resets)
        check_resets(resets, (T, *batch))
    check_memory(remat_every, residuals, T)
    return _lstm(
        params,
        xs,
        state,
        lengths,
        resets,
        reset_state,
        spec=spec,
        reverse=reverse,
        dtype=dtype,
        precision=precision,
        backend=backend,
        remat_every=remat_every,
        residuals=residuals,
        unroll=unroll,
        partition=partition,
    )


@partial(
    jax.jit,
    static_argnames=(
        "spec",
        "reverse",
        "dtype",
        "precision",
        "backend",
        "remat_every",
        "residuals",
        "unroll",
        "partition",
    ),
)
def _lstm(
    *args: Any, spec: LSTMSpec, dtype: jnp.dtype, partition: Partition | None, **settings: Any
) -> tuple[LSTMState, Hs]:
    """``lstm`` on checked arguments; jitted, so that it compiles once a shape when called bare."""
    run = partial(_on_one_device, dtype=dtype, **settings)
    return (
        run(*args, spec=spec)
        if partition is None
        else over_mesh(run, partition, spec, dtype, *args)
    )


def _on_one_device(
    params: LSTMParams,
    xs: jax.Array,
    state: LSTMState | None,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    reset_state: LSTMState | None,
    *,
    spec: LSTMSpec,
    reverse: bool,
    dtype: jnp.dtype,
    precision: Precision,
    backend: str,
    remat_every: int | None,
    residuals: str,
    unroll: int | None,
    hidden_axis: str | None = None,
) -> tuple[LSTMState, Hs]:
    """The layer, as one program or as the program of each device of a partition."""
    params = cast(params, dtype)
    params = params.replace(w_h=gathered(params.w_h))
    zero = zero_state(spec, spec.hidden_size(params), xs, dtype)
    reset_state = zero if reset_state is None else broadcast(reset_state, zero)
    state = reset_state if state is None else broadcast(state, zero)

    hold = begin = None
    if lengths is not None:
        hold = padding(lengths, xs)
    if resets is not None:
        begin = resets if hold is None else resets & ~hold
        if reverse:
            # A boundary before t is met after step t: by the step t-1, or by the final state.
            boundaries = jnp.pad(begin, [(0, 1)] + [(0, 0)] * (begin.ndim - 1))
            begin, last = boundaries[1:], boundaries[0]

    state = vary_as(state, params, xs, begin, hold, reset_state)
    # A symbolic length cannot be unrolled.
    unroll = unroll if isinstance(xs.shape[0], int) else None
    settings = Settings(spec, reverse, precision, unroll, residuals, hidden_axis)
    read, reset_read, idle = mask_unread(state, reset_state, begin, hold, reverse)
    operands = Operands(params, xs.astype(dtype), read, reset_read, begin, hold)

    def run(operands: Operands) -> tuple[LSTMState, Hs]:
        return choose(backend, settings, operands).unroll(settings, operands)

    if remat_every is None:
        final_state, hs = run(operands)
    else:
        final_state, hs = in_chunks(run, operands, remat_every, reverse)
    chex.assert_trees_all_equal_shapes_and_dtypes(final_state, state)
    chex.assert_equal_shape_prefix((hs, xs), xs.ndim - 1)
    final_state = select(idle, state, final_state)
    if resets is not None and reverse:
        final_state = select(last, reset_state, final_state)
    return final_state, hs


def gathered(w_h: jax.Array) -> jax.Array:
    """``w_h``, whole on every device before the loop starts.

    Where XLA's partitioner may choose (all axes Auto), it would otherwise communicate in every step
    for weights that are sharded over the axis of the batch (FSDP).
    """
    mesh = jax.typeof(w_h).sharding.mesh
    if mesh.empty or mesh.size == 1 or not mesh.are_all_axes_auto:
        return w_h
    return jax.lax.with_sharding_constraint(w_h, NamedSharding(mesh, PartitionSpec()))


def padding(lengths: jax.Array, xs: jax.Array) -> jax.Array:
    """``[T, *B]``, True past the end of each sequence."""
    t = jnp.expand_dims(jnp.arange(xs.shape[0], dtype=jnp.int32), range(1, lengths.ndim + 1))
    return t >= lengths[None].astype(jnp.int32)  # int8 lengths could not be compared with T > 127
