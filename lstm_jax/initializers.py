"""Initial weights for packed gates, each with its paper.

Every initializer is an ordinary JAX one, ``(key, shape, dtype) -> array``, so that those of
:mod:`jax.nn.initializers` and Flax can be passed wherever ours can.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.notation import at_least_float32

Initializer = Callable[..., jax.Array]

glorot = jax.nn.initializers.glorot_uniform()
"""Input weights: Glorot & Bengio (2010), Understanding the difficulty of training deep
feedforward neural networks, eq. 16."""

orthogonal = jax.nn.initializers.orthogonal()
"""Recurrent weights: Saxe, McClelland & Ganguli (2014), Exact solutions to the nonlinear
dynamics of learning in deep linear neural networks."""

zeros = jax.nn.initializers.zeros


def per_gate(initializer: Initializer, gates: int = 4) -> Initializer:
    """Draws each gate's matrix ``[N, H]`` by itself and packs them to ``[N, gates * H]``.

    A joint draw would see the wrong fan-out, and an orthogonal ``[H, 4H]`` matrix has
    orthogonal rows but gates whose scale is half of what a square orthogonal matrix gives.
    Drawn in at least float32 (there is no QR in bfloat16), then cast.

    >>> import jax, jax.numpy as jnp
    >>> w = per_gate(orthogonal)(jax.random.key(0), (8, 32), jnp.bfloat16)
    >>> w.shape, w.dtype
    ((8, 32), dtype(bfloat16))
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        block = (*shape[:-1], _gate_size(shape, gates))
        keys = jax.random.split(key, gates)
        blocks = [initializer(k, block, at_least_float32(dtype)) for k in keys]

        def pack(*blocks: Any) -> Any:
            if hasattr(blocks[0], "raw_value"):  # nnx.VariableMetadata, a dataclass and no pytree
                return dataclasses.replace(
                    blocks[0], raw_value=pack(*(block.raw_value for block in blocks))
                )
            return jnp.concatenate(blocks, axis=-1).astype(dtype)

        return jax.tree.map(pack, *blocks)  # Linen's boxes, which name the axes, are pytrees

    return init


def forget_bias(value: float = 1.0) -> Initializer:
    """Zero biases but for the forget gate's, so that an untrained cell keeps its state.

    Sources: Gers, Schmidhuber & Cummins (2000), Learning to forget; Jozefowicz, Zaremba &
    Sutskever (2015), An empirical exploration of recurrent network architectures, §4.

    >>> import jax, jax.numpy as jnp
    >>> print(forget_bias(1.0)(jax.random.key(0), (8,), jnp.float32))  # i, f, g, o
    [0. 0. 1. 1. 0. 0. 0. 0.]
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        H = _gate_size(shape, 4)
        return jnp.zeros(shape, dtype).at[..., H : 2 * H].set(value)

    return init


def chrono(T_max: int | float) -> Initializer:
    """Biases that spread the units' memory over up to ``T_max`` steps.

    ``b_f = log(u)``, ``u ~ U(1, T_max - 1)``, and ``b_i = -b_f``: a unit with ``b_f = log(u)``
    forgets at a time scale of about u steps. Source: Tallec & Ollivier (2018), Can recurrent
    neural networks warp time?, eq. 16.

    Args:
      T_max: the longest dependency to expect, in time steps; at least 2.

    Raises:
      ValueError: if ``T_max < 2``.

    >>> import jax, jax.numpy as jnp
    >>> b = chrono(100)(jax.random.key(0), (4 * 5,), jnp.float32)
    >>> i, f, g, o = jnp.split(b, 4)
    >>> bool((f == -i).all()), bool((f <= jnp.log(99.0)).all())
    (True, True)
    """
    if not 2 <= T_max < math.inf:
        raise ValueError(
            f"chrono expects a finite T_max >= 2, the longest dependency in time steps, got {T_max}."
        )

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        H = _gate_size(shape, 4)
        b_f = jnp.log(jax.random.uniform(key, (*shape[:-1], H), minval=1.0, maxval=T_max - 1.0))
        rest = jnp.zeros((*shape[:-1], 2 * H), b_f.dtype)
        return jnp.concatenate([-b_f, b_f, rest], axis=-1).astype(dtype)

    return init


def _gate_size(shape: tuple[int, ...], gates: int) -> int:
    if shape[-1] % gates:
        raise ValueError(
            f"expected a last axis that holds {gates} gates side by side, got shape {shape}: "
            f"{shape[-1]} is no multiple of {gates}."
        )
    return shape[-1] // gates
