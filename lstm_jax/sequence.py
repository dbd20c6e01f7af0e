"""``lstm``: one layer over a sequence, with lengths, resets and direction."""

from functools import partial
from typing import Any, Literal, Unpack, overload

import chex
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from lstm_jax.backends import choose
from lstm_jax.backends.problem import Operands, Outputs, Settings
from lstm_jax.carry import broadcast, mask_unread, match_varying_axes, select, zeros_sharded_like
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
from lstm_jax.options import OptionKeywords, Options, with_options_signature
from lstm_jax.partition import over_mesh
from lstm_jax.remat import run_in_chunks


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


@with_options_signature
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
      xs: Inputs ``[T, *B, I]``, time first, with any number of batch axes, possibly none.
      state: The initial state: ``C`` and ``h`` of shape ``[*B, H]``, or ``[H]`` to use one state for all
        sequences. None is ``reset_state``. A sequence may be run in chunks, each from the final state of the
        chunk before, with the same result.
      spec: The kind of cell.
      lengths: Numbers of valid steps ``[*B]`` of right-padded sequences, clipped to ``[0, T]``. Padding steps
        leave the state unchanged, and their outputs are 0. Values in the padding, including NaN, affect
        neither outputs nor gradients.
      resets: Bool ``[T, *B]``. True at t means that a new segment starts at step t. In the forward direction,
        step t reads ``reset_state``. In reverse, the state is reset after step t, before step t-1 reads it.
        Resets in the padding have no effect.
      reset_state: The state at the start of a segment, with the shapes of ``state``. None is zeros. Pass a
        learned initial state here, and not as ``state``, which is for the carry of an earlier chunk.
      reverse: Whether to run from the last step to the first. Outputs keep the time order of the inputs.
      dtype: The compute dtype, to which the weights are cast. None is the dtype of xs. ``h`` and ``hs`` have
        this dtype, ``C`` has at least float32.
      final_state_only: Whether to return only the final state. The outputs ``[T, *B, H]`` are not stored.
      **options: The tuning options: ``precision``, ``backend``, ``remat_every``, ``residuals``, ``unroll``
        and ``partition``. :class:`lstm_jax.Options` documents them.

    Returns:
      The final state (at the last valid step; in reverse, at the first step) and the hidden states
      ``[T, *B, H]``. Only the final state if ``final_state_only``.

    Raises:
      ValueError: If shapes, dtypes or options are invalid. It is raised at trace time. The message says what
        was expected, what was given, and how to fix it.

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
    """Implements ``lstm`` for validated arguments. As it is jitted, eager calls compile once per shape."""
    if options.partition is None:
        return _run_layer(*arrays, settings=settings, dtype=dtype, options=options)
    layer = partial(_run_layer, dtype=dtype, options=options)
    return over_mesh(layer, options.partition, settings, dtype, *arrays)


def _run_layer(
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
    """Runs the layer. With a partition it is called inside ``shard_map``, on the shards of one device."""
    spec, reverse = settings.spec, settings.reverse
    params = cast(params, dtype)
    params = params.replace(w_h=replicate(params.w_h))
    zero = zeros_sharded_like(xs.sum(axis=(0, -1)), spec, spec.hidden_size(params), dtype)
    reset_state = zero if reset_state is None else broadcast(reset_state, zero)
    state = reset_state if state is None else broadcast(state, zero)

    hold = begin = None
    if lengths is not None:
        hold = padding_mask(lengths, xs)
    if resets is not None:
        begin = resets if hold is None else resets & ~hold
        if reverse:
            # The state is reset after step t, so step t-1 or, for t = 0, the final state gets reset_state.
            boundaries = jnp.pad(begin, [(0, 1)] + [(0, 0)] * (begin.ndim - 1))
            begin, reset_at_end = boundaries[1:], boundaries[0]

    state = match_varying_axes(state, params, xs, begin, hold, reset_state)
    masked_state, masked_reset, only_padding = mask_unread(state, reset_state, begin, hold, reverse)
    operands = Operands(params, xs.astype(dtype), masked_state, masked_reset, begin, hold)
    backend = choose(options.backend, settings, operands)
    if options.remat_every is None:
        final_state, hs = backend.unroll(settings, operands)
    else:
        run = partial(backend.unroll, settings)
        final_state, hs = run_in_chunks(run, operands, options.remat_every, reverse)
    chex.assert_trees_all_equal_shapes_and_dtypes(final_state, state)
    final_state = select(only_padding, state, final_state)
    if resets is not None and reverse:
        final_state = select(reset_at_end, reset_state, final_state)
    return final_state, hs


def replicate(w_h: jax.Array) -> jax.Array:
    """Replicates ``w_h`` on all devices before the loop, if all mesh axes are Auto.

    Otherwise XLA's partitioner would gather weights that are sharded over the batch axis (FSDP) in every
    step.
    """
    mesh = jax.typeof(w_h).sharding.mesh
    if mesh.empty or mesh.size == 1 or not mesh.are_all_axes_auto:
        return w_h
    return jax.lax.with_sharding_constraint(w_h, NamedSharding(mesh, PartitionSpec()))


def padding_mask(lengths: jax.Array, xs: jax.Array) -> jax.Array:
    """Returns a mask ``[T, *B]`` that is True at the padding steps of each sequence."""
    t = jnp.expand_dims(jnp.arange(xs.shape[0], dtype=jnp.int32), range(1, lengths.ndim + 1))
    return t >= lengths[None].astype(jnp.int32)  # int8 would overflow for T > 127
