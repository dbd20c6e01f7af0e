"""What the Flax façades share: names of layers, zero carries, batch-major runs. No Flax here."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from lstm_jax.cell import LSTMSpec
from lstm_jax.notation import LSTMParams, LSTMState, Shape
from lstm_jax.stack import lstm_stack


def layer_sizes(
    in_features: int, hidden_features: int, num_layers: int, bidirectional: bool
) -> dict[str, int]:
    """Input sizes by name of layer and direction, in the order of :func:`lstm_jax.init_stack`.

    >>> layer_sizes(3, 5, num_layers=2, bidirectional=True)
    {'l0f': 3, 'l0b': 3, 'l1f': 10, 'l1b': 10}
    """
    directions = "fb" if bidirectional else "f"
    above = len(directions) * hidden_features
    return {
        f"l{layer}{direction}": above if layer else in_features
        for layer in range(num_layers)
        for direction in directions
    }


def zero_carry(spec: LSTMSpec, hidden_size: int, batch: Shape, dtype: DTypeLike) -> LSTMState:
    """A zero carry: one buffer for C and one for h, so that both can be donated."""
    types = spec.state_types(hidden_size, batch, dtype)
    return jax.tree.map(lambda type_: jnp.zeros(type_.shape, type_.dtype), types)


def run_layers(
    params: Sequence[LSTMParams],
    xs: ArrayLike,
    *,
    initial_carry: Sequence[LSTMState] | None,
    seq_lengths: ArrayLike | None,
    resets: ArrayLike | None,
    return_carry: bool,
    time_major: bool,
    **stack_keywords: Any,
) -> Any:
    """Runs :func:`lstm_jax.lstm_stack`, batch first by default, returning what ``nn.RNN`` does."""
    xs = jnp.asarray(xs)
    if xs.ndim < 2:
        layout = "[T, *B, I]" if time_major else "[*B, T, I]"
        raise ValueError(f"expected inputs of shape {layout}, got shape {xs.shape}.")
    if resets is not None:
        resets = jnp.asarray(resets)
        if resets.shape != xs.shape[:-1]:
            raise ValueError(
                f"expected resets of shape {xs.shape[:-1]}, that of the inputs without their "
                f"features, got {resets.shape}."
            )
    if not time_major:
        xs = jnp.moveaxis(xs, -2, 0)
        resets = None if resets is None else jnp.moveaxis(resets, -1, 0)
    carry, hs = lstm_stack(
        params, xs, initial_carry, lengths=seq_lengths, resets=resets, **stack_keywords
    )
    if not time_major:
        hs = jnp.moveaxis(hs, 0, -2)
    return (carry, hs) if return_carry else hs
