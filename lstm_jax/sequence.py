"""``lstm``: a whole sequence through one layer, with lengths, resets and direction."""

from functools import partial
from typing import Any, Literal, Unpack, overload

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from lstm_jax.backends import choose
from lstm_jax.backends.problem import Operands, Outputs, Settings
from lstm_jax.carry import broadcast, mask_unread, select, vary_as, zeros_beside
from lstm_jax.cell import LSTMSpec, cast
from lstm_jax.checks import (
    check_bool,
    check_floating,
    check_lengths,
    check_params,
    check_resets,
    check_spec,
    check_state,
    check_xs,
)
from lstm_jax.notation import Hs, Lengths, LSTMParams, LSTMState, Resets, Xs
from lstm_jax.options import OptionKeywords, Options, shows_options
from lstm_jax.partition import over_mesh
from lstm_jax.remat import in_chunks


@overload
def lstm(
    params: LSTMParams,
    xs: Xs,
    state: LSTMState | None = None,
    *,
    spec: LSTMSpec = ...,
    lengths: Lengths | None = ...,
    resets: Resets | None = ...,
    reset_state: LSTMState | None = ...,
    reverse: bool = ...,
    dtype: DTypeLike | None = ...,
    final_state_only: Literal[False] = ...,
    **options: Unpack[OptionKeywords],
) -> tuple[LSTMState, Hs]: ...


@overload
def lstm(
    params: LSTMParams,
    xs: Xs,
    state: LSTMState | None = None,
    *,
    spec: LSTMSpec = ...,
    lengths: Lengths | None = ...,
    resets: Resets | None = ...,
    reset_state: LSTMState | None = ...,
    reverse: bool = ...,
    dtype: DTypeLike | None = ...,
    final_state_only: Literal[True],
    **options: Unpack[OptionKeywords],
) -> LSTMState: ...


@shows_options
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
    final_state_only: bool = False,
    **options: Unpack[OptionKeywords],
) -> Any:
    """Runs an LSTM layer over a sequence.

    Args:
      params: The weights of the layer.
      xs: Inputs ``[T, *B, I]``, time first, with any number of batch axes, also none.
      state: The state at the start of the sequence: ``C`` and ``h`` of shape ``[*B, H]``, or ``[H]`` if all
        sequences share it. None starts from ``reset_state``. Running a sequence in chunks, each from the
        final state of the chunk before, gives the result of the whole sequence.
      spec: The kind of cell.
      lengths: True lengths ``[*B]`` of right-padded sequences, clipped to ``[0, T]``. Outputs in the padding
        are 0, and the padding leaves the state as it is. Values in the padding, also NaN, reach neither
        outputs nor gradients.
      resets: Bool ``[T, *B]``. True at t means that step t starts a new segment. Forward, step t reads
        ``reset_state``. In reverse, the state is reset after step t, before step t-1 reads it. Resets in the
        padding have no effect.
      reset_state: The state at the start of a new segment, shaped like ``state``. None is zeros. A learned
        initial state goes here. It is never ``state``, which is the carry of an earlier chunk.
      reverse: Whether to run from the last step to the first. Outputs stay at their own time.
      dtype: The compute dtype. None is that of xs. Weights are cast to it, ``h`` and ``hs`` have it, ``C`` is
        at least float32.
      final_state_only: Whether to return the final state alone. No array ``[T, *B, H]`` is then stored for
        the outputs.
      **options: The tuning options: ``precision``, ``backend``, ``remat_every``, ``residuals``, ``unroll``
        and ``partition``. :class:`lstm_jax.Options` documents them.

    Returns:
      The final state (at the last valid step; in reverse, at the first step) and the hidden states
      ``[T, *B, H]``; or the final state alone.

    Raises:
      ValueError: If shapes, dtypes or options do not fit, at trace time. The message says what was expected,
        what was given, and how to fix it.

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
    >>> lstm(params, xs, final_state_only=True).h.shape
    (2, 5)
    """
    tuning = Options.of("lstm", options)
    check_spec(spec, LSTMSpec)
    reverse = check_bool("reverse", reverse)
    final_state_only = check_bool("final_state_only", final_state_only)
    xs = check_xs(xs)
    dtype = jnp.dtype(xs.dtype if dtype is None else dtype)
    check_floating("dtype", dtype)
    params = check_params(spec, params, xs.shape[-1])
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
    tuning = tuning.for_steps(T)
    settings = Settings(
        spec,
        reverse,
        tuning.precision,
        tuning.unroll,
        tuning.residuals,
        final_state_only,
    )
    final_state, hs = _lstm(
        params,
        xs,
        state,
        lengths,
        resets,
        reset_state,
        settings=settings,
        dtype=dtype,
        options=tuning,
    )
    return final_state if final_state_only else (final_state, hs)


@partial(jax.jit, static_argnames=("settings", "dtype", "options"))
def _lstm(*arrays: Any, settings: Settings, dtype: jnp.dtype, options: Options) -> Outputs:
    """``lstm`` on checked arguments; jitted, so that it compiles once per shape when called eagerly."""
    if options.partition is None:
        return _on_one_device(*arrays, settings=settings, dtype=dtype, options=options)
    layer = partial(_on_one_device, dtype=dtype, options=options)
    return over_mesh(layer, options.partition, settings, dtype, *arrays)


def _on_one_device(
    params: LSTMParams,
    xs: jax.Array,
    state: LSTMState | None,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    reset_state: LSTMState | None,
    *,
    settings: Settings,
    dtype: jnp.dtype,
    options: Options,
) -> Outputs:
    """The layer, as one program or as the program of each device of a partition."""
    spec, reverse = settings.spec, settings.reverse
    params = cast(params, dtype)
    params = params.replace(w_h=replicate(params.w_h))
    zero = zeros_beside(xs.sum(axis=(0, -1)), spec, spec.hidden_size(params), dtype)
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
    read, reset_read, idle = mask_unread(state, reset_state, begin, hold, reverse)
    operands = Operands(params, xs.astype(dtype), read, reset_read, begin, hold)
    backend = choose(options.backend, settings, operands)
    if options.remat_every is None:
        final_state, hs = backend.unroll(settings, operands)
    else:
        run = partial(backend.unroll, settings)
        final_state, hs = in_chunks(run, operands, options.remat_every, reverse)
    chex.assert_trees_all_equal_shapes_and_dtypes(final_state, state)
    final_state = select(idle, state, final_state)
    if resets is not None and reverse:
        final_state = select(last, reset_state, final_state)
    return final_state, hs


def replicate(w_h: jax.Array) -> jax.Array:
    """``w_h``, all of it on every device before the loop starts.

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
