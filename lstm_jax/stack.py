"""Layers and directions, as tuples: layer-major, forward first: (l0f, l0b, l1f, l1b, ...)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstm_jax.cell import LSTMSpec, Precision, init_lstm
from lstm_jax.notation import Hs, Lengths, LSTMParams, LSTMState, Resets, Xs
from lstm_jax.partition import Partition
from lstm_jax.sequence import lstm


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
      key: a PRNG key.
      input_size: I, of the first layer; the others read the H (or 2H) below them.
      hidden_size: H, of each layer and direction.
      num_layers: L, at least 1.
      bidirectional: two directions a layer, concatenated.
      **init_keywords: as in :func:`lstm_jax.init_lstm`.

    Raises:
      ValueError: if ``num_layers < 1``.

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
    """What each layer and direction reads: the input, or the H (or 2H) of the layer below.

    >>> input_sizes(3, 5, num_layers=2, bidirectional=True)
    [3, 3, 10, 10]
    """
    if num_layers < 1:
        raise ValueError(f"expected num_layers >= 1, got {num_layers}.")
    D = 2 if bidirectional else 1
    return [input_size] * D + [D * hidden_size] * (D * (num_layers - 1))


def lstm_stack(
    params: Sequence[LSTMParams],
    xs: Xs,
    states: Sequence[LSTMState] | None = None,
    *,
    bidirectional: bool = False,
    reset_states: Sequence[LSTMState] | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    spec: LSTMSpec = LSTMSpec(),
    lengths: Lengths | None = None,
    resets: Resets | None = None,
    reverse: bool = False,
    dtype: DTypeLike | None = None,
    precision: Precision = None,
    backend: str = "auto",
    remat_every: int | None = None,
    residuals: str = "save",
    unroll: int | None = None,
    partition: Partition | None = None,
) -> tuple[tuple[LSTMState, ...], Hs]:
    """Runs stacked LSTM layers over a sequence, in one direction or two.

    Args:
      params: one :class:`LSTMParams` a layer and direction: l0f, l0b, l1f, l1b, ...
      xs: inputs ``[T, *B, I]``.
      states: initial states in the same order, or None.
      bidirectional: whether every other entry runs backward in time. The directions' outputs
        are concatenated, forward first.
      reset_states: what a new segment starts from, in the same order, or None for zeros.
      dropout: the share of activations set to 0 between layers (the others are scaled up to
        keep the mean); never after the last layer.
      key: a PRNG key, needed when ``dropout > 0``. Without dropout (evaluation) pass 0.
      spec: as in :func:`lstm_jax.lstm`, for every layer; so are those below.
      lengths: true lengths ``[*B]``.
      resets: bool ``[T, *B]``, True where a segment begins.
      reverse: runs the stack backward in time: each direction becomes the other.
      dtype: the compute dtype; None is that of xs.
      precision: of the matrix products.
      backend: "auto" or a name.
      remat_every: None, or the steps between kept states.
      residuals: "save" or "recompute".
      unroll: time steps per iteration of the compiled loop; None leaves it to the platform.
      partition: None, or how each layer is split over the devices of a mesh.

    Returns:
      The final states in the order of ``params``, and the last layer's outputs
      ``[T, *B, H]``, or ``[T, *B, 2H]`` if bidirectional.

    Raises:
      ValueError: if the number of entries does not fit, if dropout is not in ``[0, 1)`` or
        comes without a key, and as :func:`lstm_jax.lstm` does.

    >>> import jax, jax.numpy as jnp
    >>> params = init_stack(jax.random.key(0), 3, 5, num_layers=2, bidirectional=True)
    >>> states, hs = lstm_stack(params, jnp.ones((7, 2, 3)), bidirectional=True)
    >>> len(states), hs.shape
    (4, (7, 2, 10))
    """
    D = 2 if bidirectional else 1
    if not _is_plain_sequence(params) or not params or len(params) % D:
        raise ValueError(
            f"expected a sequence of LSTMParams, {D} a layer, got {_describe(params)}; for one "
            "layer write (params,), for two directions pass bidirectional=True, from a Linen module "
            'take module.stack_params(variables["params"]).'
        )
    for name, given in (("states", states), ("reset_states", reset_states)):
        if given is not None and not (_is_plain_sequence(given) and len(given) == len(params)):
            raise ValueError(
                f"expected {name} to be a sequence of {len(params)} LSTMStates, one for each of "
                f"params, got {_describe(given)}."
            )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"expected dropout in [0, 1), got {dropout}.")
    if dropout > 0.0 and not hasattr(key, "dtype"):
        raise ValueError(
            f"dropout={dropout} needs a random key, got {type(key).__name__}: pass "
            "key=jax.random.key(...), a new one for each step, or dropout=0.0 to evaluate."
        )

    hs = jnp.asarray(xs)
    _check_directions(params, hs, bidirectional)
    final_states: list[LSTMState] = []
    for first in range(0, len(params), D):
        if first > 0 and key is not None and dropout > 0.0:
            hs = _dropout(jax.random.fold_in(key, first // D), hs, dropout)
        outputs = []
        for n in range(first, first + D):
            final_state, out = lstm(
                params[n],
                hs,
                None if states is None else states[n],
                reset_state=None if reset_states is None else reset_states[n],
                spec=spec,
                lengths=lengths,
                resets=resets,
                reverse=reverse ^ (n > first),
                dtype=dtype,
                precision=precision,
                backend=backend,
                remat_every=remat_every,
                residuals=residuals,
                unroll=unroll,
                partition=partition,
            )
            final_states.append(final_state)
            outputs.append(out)
        hs = outputs[0] if D == 1 else jnp.concatenate(outputs, axis=-1)
    return tuple(final_states), hs


def _check_directions(params: Sequence[LSTMParams], xs: jax.Array, bidirectional: bool) -> None:
    """Raises if the layers fit together with the other value of ``bidirectional`` only."""
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
            f"expected bidirectional={not bidirectional} for params whose layers read "
            f"{[size for (size,) in got]} features, got bidirectional={bidirectional}; pass what init_stack "
            "was given."
        )


def _dropout(key: jax.Array, hs: jax.Array, rate: float) -> jax.Array:
    keep = jax.random.bernoulli(key, 1.0 - rate, hs.shape)
    return jnp.where(keep, hs / jnp.asarray(1.0 - rate, hs.dtype), jnp.zeros((), hs.dtype))


def _is_plain_sequence(given: Any) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, LSTMState)


def _describe(given: Any) -> str:
    return f"{len(given)} entries" if _is_plain_sequence(given) else f"one {type(given).__name__}"
