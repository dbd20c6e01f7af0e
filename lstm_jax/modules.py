"""What the Flax façades share: names of layers, zero carries, batch-major runs. No Flax here."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from lstm_jax.cell import LSTMSpec
from lstm_jax.notation import LSTMParams, LSTMState, Shape
from lstm_jax.stack import lstm_stack


def layer_names(num_layers: int, bidirectional: bool) -> list[str]:
    """Names of layers and directions, in the order of :func:`lstm_jax.init_stack`.

    >>> layer_names(2, bidirectional=True)
    ['l0f', 'l0b', 'l1f', 'l1b']
    """
    return [f"l{layer}{d}" for layer in range(num_layers) for d in ("fb" if bidirectional else "f")]


def zero_carry(spec: LSTMSpec, hidden_size: int, batch: Shape, dtype: DTypeLike) -> LSTMState:
    """A zero carry where there are no inputs yet to derive it from, as Flax's modules make it."""
    types = spec.state_types(hidden_size, batch, dtype)
    return jax.tree.map(lambda type_: jnp.zeros(type_.shape, type_.dtype), types)


def check_seq_lengths(seq_lengths: jax.Array, xs_shape: Shape, time_major: bool) -> None:
    """``seq_lengths`` is ``[*B]``, integers."""
    shape = seq_lengths.shape
    if not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
        raise ValueError(
            f"expected seq_lengths to be integers, got {seq_lengths.dtype}; for a mask that is True at valid "
            f"steps pass mask.sum(axis={0 if time_major else -1})."
        )
    batch_first, time_first = xs_shape[:-2], xs_shape[1:-1]
    want, other = (time_first, batch_first) if time_major else (batch_first, time_first)
    if shape != want:
        layout = "[T, *B, I]" if time_major else "[*B, T, I]"
        hint = f" Set time_major={not time_major} for the other order." if shape == other else ""
        raise ValueError(
            f"expected seq_lengths of shape {want}, one per sequence of inputs, whose shape {xs_shape} "
            f"is read as {layout}, got {shape}.{hint}"
        )


def run_layers(
    params: Sequence[LSTMParams],
    xs: ArrayLike,
    *,
    initial_carry: Sequence[LSTMState] | None,
    seq_lengths: ArrayLike | None,
    resets: ArrayLike | None,
    return_carry: bool,
    time_major: bool,
    dropout: float,
    key: jax.Array | None,
    **stack_keywords: Any,
) -> Any:
    """Runs :func:`lstm_jax.lstm_stack`, batch first by default, returning what ``nn.RNN`` does."""
    xs = jnp.asarray(xs)
    if xs.ndim < 2:
        layout = "[T, *B, I]" if time_major else "[*B, T, I]"
        raise ValueError(f"expected inputs of shape {layout}, got shape {xs.shape}.")
    if dropout > 0.0 and key is None:
        raise ValueError(
            f"dropout_rate={dropout} needs random numbers: pass rngs=key, a new key for each step, such as "
            "jax.random.fold_in(key, step), or deterministic=True to evaluate."
        )
    if initial_carry is not None:
        is_sequence = isinstance(initial_carry, tuple | list) and not isinstance(
            initial_carry, LSTMState
        )
        if not is_sequence or len(initial_carry) != len(params):
            raise ValueError(
                f"expected initial_carry to be a tuple of {len(params)} LSTMStates, one a layer and "
                "direction, as return_carry=True gives it; for one layer write (state,)."
            )
    if resets is not None:
        resets = jnp.asarray(resets)
        if resets.shape != xs.shape[:-1]:
            raise ValueError(
                f"expected resets of shape {xs.shape[:-1]}, that of the inputs without their "
                f"features, got {resets.shape}."
            )
    if seq_lengths is not None:
        check_seq_lengths(jnp.asarray(seq_lengths), xs.shape, time_major)
    if not time_major:
        xs = jnp.moveaxis(xs, -2, 0)
        resets = None if resets is None else jnp.moveaxis(resets, -1, 0)
    carry, hs = lstm_stack(
        params,
        xs,
        initial_carry,
        lengths=seq_lengths,
        resets=resets,
        dropout=dropout,
        key=key,
        **stack_keywords,
    )
    if not time_major:
        hs = jnp.moveaxis(hs, 0, -2)
    return (carry, hs) if return_carry else hs
