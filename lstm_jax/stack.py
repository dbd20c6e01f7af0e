"""Stacked layers with one or two directions.

Parameters and states are tuples with an entry per layer and direction, in the order (l0f, l0b, l1f, l1b,
...), where f is forward and b is backward.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstm_jax.cell import LSTMSpec, init_lstm
from lstm_jax.checks import check_bool, check_dropout, check_size, check_xs, type_name
from lstm_jax.notation import Hs, Lengths, LSTMParams, LSTMState, Resets, Xs
from lstm_jax.options import OptionKeywords, Options, with_options_signature
from lstm_jax.sequence import lstm

INTERNAL_PACKAGES = ("lstm_jax.", "flax.", "jax.", "jaxtyping", "beartype")
"""Prefixes of modules that are not the user's. A warning points at the first caller outside them."""


def init_stack(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    *,
    bidirectional: bool = False,
    **init_keywords: Any,
) -> tuple[LSTMParams, ...]:
    """Draws the weights of every layer and direction.

    Args:
      key: A PRNG key.
      input_size: Input size I of the first layer. Other layers read the H (or 2H) outputs of the layer below.
      hidden_size: Hidden size H of each layer and direction.
      num_layers: Number of layers L, at least 1.
      bidirectional: Whether each layer has two directions, whose outputs are concatenated.
      **init_keywords: Keyword arguments of :func:`lstm_jax.init_lstm`.

    Returns:
      One ``LSTMParams`` per layer and direction, in the order l0f, l0b, l1f, l1b, ...

    Raises:
      ValueError: If a size is not a positive integer.

    >>> import jax
    >>> params = init_stack(jax.random.key(0), 3, 5, num_layers=2, bidirectional=True)
    >>> [p.w_x.shape for p in params]                     # l0f, l0b, l1f, l1b
    [(3, 20), (3, 20), (10, 20), (10, 20)]
    """
    sizes = input_sizes(input_size, hidden_size, num_layers, bidirectional)
    keys = jax.random.split(key, len(sizes))
    return tuple(
        init_lstm(k, size, hidden_size, **init_keywords)
        for k, size in zip(keys, sizes, strict=True)
    )


def input_sizes(
    input_size: int, hidden_size: int, num_layers: int, bidirectional: bool
) -> list[int]:
    """Returns the input size of each layer and direction.

    >>> input_sizes(3, 5, num_layers=2, bidirectional=True)
    [3, 3, 10, 10]
    """
    num_layers = check_size("num_layers", num_layers)
    D = 2 if bidirectional else 1
    return [input_size] * D + [D * hidden_size] * (D * (num_layers - 1))


@overload
def lstm_stack(
    params: Sequence[LSTMParams],
    xs: Xs,
    states: Sequence[LSTMState | None] | None = None,
    *,
    bidirectional: bool = ...,
    reset_states: Sequence[LSTMState | None] | None = ...,
    dropout: float = ...,
    key: jax.Array | None = ...,
    spec: LSTMSpec = ...,
    lengths: Lengths | None = ...,
    resets: Resets | None = ...,
    reverse: bool = ...,
    dtype: DTypeLike | None = ...,
    final_state_only: Literal[False] = ...,
    **options: Unpack[OptionKeywords],
) -> tuple[tuple[LSTMState, ...], Hs]: ...


@overload
def lstm_stack(
    params: Sequence[LSTMParams],
    xs: Xs,
    states: Sequence[LSTMState | None] | None = None,
    *,
    bidirectional: bool = ...,
    reset_states: Sequence[LSTMState | None] | None = ...,
    dropout: float = ...,
    key: jax.Array | None = ...,
    spec: LSTMSpec = ...,
    lengths: Lengths | None = ...,
    resets: Resets | None = ...,
    reverse: bool = ...,
    dtype: DTypeLike | None = ...,
    final_state_only: Literal[True],
    **options: Unpack[OptionKeywords],
) -> tuple[LSTMState, ...]: ...


@with_options_signature
def lstm_stack(
    params: Sequence[LSTMParams],
    xs: Xs,
    states: Sequence[LSTMState | None] | None = None,
    *,
    bidirectional: bool = False,
    reset_states: Sequence[LSTMState | None] | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    spec: LSTMSpec = LSTMSpec(),
    lengths: Lengths | None = None,
    resets: Resets | None = None,
    reverse: bool = False,
    dtype: DTypeLike | None = None,
    final_state_only: bool = False,
    **options: Unpack[OptionKeywords],
) -> Any:
    """Runs stacked LSTM layers over a sequence, in one direction or two.

    Args:
      params: One :class:`LSTMParams` per layer and direction: l0f, l0b, l1f, l1b, ...
      xs: Inputs ``[T, *B, I]``.
      states: The initial states, in the order of ``params``. None, for all or for an entry, is the entry of
        ``reset_states``.
      bidirectional: Whether every other entry of ``params`` runs backward in time. The outputs of the two
        directions are concatenated, forward first.
      reset_states: The states at the start of a segment, in the order of ``params``. None, for all or for an
        entry, is zeros.
      dropout: Probability of dropping an activation between layers. The remaining activations are scaled by
        ``1 / (1 - dropout)``. The outputs of the last layer have no dropout, so a stack of one layer warns.
      key: A PRNG key, required for dropout. Pass a new key in each training step, and ``dropout=0.0`` to
        evaluate.
      spec: The kind of cell of every layer.
      lengths: Numbers of valid steps ``[*B]``, as in :func:`lstm_jax.lstm`.
      resets: Bool ``[T, *B]``, True where a new segment starts.
      reverse: Whether to reverse the direction of every entry of ``params``.
      dtype: The compute dtype. None is the dtype of xs.
      final_state_only: Whether to return only the final states. The outputs of the last layer are then not
        stored.
      **options: The tuning options of every layer. :class:`lstm_jax.Options` documents them.

    Returns:
      The final states in the order of ``params``, and the last layer's outputs ``[T, *B, H]``, or
      ``[T, *B, 2H]`` if bidirectional. Only the final states if ``final_state_only``.

    Raises:
      ValueError: If the number of entries is wrong, if dropout is not in ``[0, 1)`` or has no key, and in the
        cases of :func:`lstm_jax.lstm`.

    >>> import jax, jax.numpy as jnp
    >>> params = init_stack(jax.random.key(0), 3, 5, num_layers=2, bidirectional=True)
    >>> states, hs = lstm_stack(params, jnp.ones((7, 2, 3)), bidirectional=True)
    >>> len(states), hs.shape
    (4, (7, 2, 10))
    """
    Options.of("lstm_stack", options)
    reverse = check_bool("reverse", reverse)
    final_state_only = check_bool("final_state_only", final_state_only)
    bidirectional = check_bool("bidirectional", bidirectional)
    D = 2 if bidirectional else 1
    if not _is_plain_sequence(params) or not params or len(params) % D:
        raise ValueError(
            f"expected a sequence of LSTMParams, {D} per layer, got {_describe(params)}; for one "
            "layer write (params,), for two directions pass bidirectional=True, from a Linen module "
            'take module.stack_params(variables["params"]), from an NNX module module.params.'
        )
    for name, given in (("states", states), ("reset_states", reset_states)):
        if given is not None:
            _check_states(name, given, len(params))
    dropout = active_dropout("dropout", dropout, len(params) // D)
    if dropout > 0.0 and not hasattr(key, "dtype"):
        raise ValueError(
            f"dropout={dropout} needs a random key, got {type(key).__name__}: pass "
            "key=jax.random.key(...), a new key in each training step, or dropout=0.0 to evaluate."
        )

    hs = check_xs(xs)
    _check_directions(params, hs, bidirectional)
    layer: Callable[..., Any] = partial(
        lstm, spec=spec, lengths=lengths, resets=resets, dtype=dtype, **options
    )
    final_states: list[LSTMState] = []
    for first in range(0, len(params), D):
        if first > 0 and key is not None and dropout > 0.0:
            hs = _dropout(jax.random.fold_in(key, first // D), hs, dropout)
        state_only = final_state_only and first + D == len(params)
        results = [
            layer(
                params[n],
                hs,
                None if states is None else states[n],
                reset_state=None if reset_states is None else reset_states[n],
                reverse=reverse ^ (n > first),
                final_state_only=state_only,
            )
            for n in range(first, first + D)
        ]
        if state_only:
            return (*final_states, *results)
        layer_states, outputs = zip(*results, strict=True)
        final_states.extend(layer_states)
        hs = outputs[0] if D == 1 else jnp.concatenate(outputs, axis=-1)
    return tuple(final_states), hs


def active_dropout(name: str, rate: Any, num_layers: int) -> float:
    """Returns the dropout rate between layers. For one layer it is 0, and a positive ``rate`` warns.

    Raises:
      ValueError: If the rate is not in ``[0, 1)``, or not known at trace time.
    """
    rate = check_dropout(name, rate)
    if rate == 0.0 or num_layers > 1:
        return rate
    warnings.warn(
        f"{name}={rate} has no effect: dropout is applied between layers, and the model has one layer. "
        "Apply dropout to the inputs or outputs instead.",
        stacklevel=_stack_level(sys._getframe()),
    )
    return 0.0


def _stack_level(frame: FrameType) -> int:
    """Returns the ``stacklevel``, from ``frame``, of the first caller outside of this package and JAX."""
    level = 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        INTERNAL_PACKAGES
    ):
        level, frame = level + 1, frame.f_back
    return level


def _check_states(name: str, states: Any, count: int) -> None:
    split = f"[LSTMState(C=C[n], h=h[n]) for n in range({count})]"
    if _is_plain_sequence(states) and len(states) == count:
        invalid = [s for s in states if not isinstance(s, LSTMState | None)]
        if invalid:
            stacked = all(hasattr(state, "shape") for state in invalid)
            hint = "LSTMState(C=cell_state, h=hidden_state) for each, by name"
            if stacked:
                hint = f"{split} if these are stacked arrays [L, *B, H] of h and C"
            kinds = sorted({type_name(state) for state in invalid})
            raise ValueError(
                f"expected {name} to be lstm_jax.LSTMStates, got {', '.join(kinds)}; write {hint}."
            )
        return
    hint = ""
    arrays = _is_plain_sequence(states) and all(hasattr(state, "shape") for state in states)
    if isinstance(states, LSTMState) and count == 1:
        hint = "; write (state,)"
    elif isinstance(states, LSTMState):
        hint = (
            "; for a state with arrays [L, *B, H] write "
            f"[LSTMState(C=state.C[n], h=state.h[n]) for n in range({count})]"
        )
    elif arrays:
        hint = f"; for stacked arrays [L, *B, H] of h and C write {split}"
    raise ValueError(
        f"expected {name} to be a sequence of {count} LSTMStates, one per entry of params, got "
        f"{_describe(states)}{hint}."
    )


def _check_directions(params: Sequence[LSTMParams], xs: jax.Array, bidirectional: bool) -> None:
    """Raises if the layers only fit together with the opposite value of ``bidirectional``."""
    got = [getattr(getattr(p, "w_x", None), "shape", ())[:1] for p in params]
    widths = {getattr(getattr(p, "w_h", None), "shape", ())[:1] for p in params}
    width = widths.pop()
    if len(params) % 2 or not width or widths or xs.ndim == 0:
        return

    def expected(both: bool) -> list[tuple[int]]:
        layers = len(params) // 2 if both else len(params)
        return [(size,) for size in input_sizes(xs.shape[-1], width[0], layers, both)]

    if got == expected(not bidirectional) != expected(bidirectional):
        raise ValueError(
            f"expected bidirectional={not bidirectional} for params with input sizes "
            f"{[size for (size,) in got]}, got bidirectional={bidirectional}; pass the value that "
            "was passed to init_stack."
        )


def _dropout(key: jax.Array, hs: jax.Array, rate: float) -> jax.Array:
    keep = jax.random.bernoulli(key, 1.0 - rate, hs.shape)
    return jnp.where(keep, hs / jnp.asarray(1.0 - rate, hs.dtype), jnp.zeros((), hs.dtype))


def _is_plain_sequence(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, LSTMState)


def _describe(given: Any) -> str:
    return f"{len(given)} entries" if _is_plain_sequence(given) else f"a {type(given).__name__}"
