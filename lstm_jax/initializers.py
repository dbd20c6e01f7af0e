"""Initializers of packed weights and biases.

Every initializer has the signature of JAX's, ``(key, shape, dtype) -> array``. Initializers of
:mod:`jax.nn.initializers` and Flax can be used in their place.
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
"""Default initializer of input weights. Source: Glorot & Bengio (2010), Understanding the difficulty
of training deep feedforward neural networks, eq. 16."""

orthogonal = jax.nn.initializers.orthogonal()
"""Default initializer of recurrent weights. Source: Saxe, McClelland & Ganguli (2014), Exact
solutions to the nonlinear dynamics of learning in deep linear neural networks."""

zeros = jax.nn.initializers.zeros


def per_gate(initializer: Initializer, gates: int = 4) -> Initializer:
    """Returns an initializer that draws each gate's matrix ``[N, H]`` and packs them to ``[N, gates * H]``.

    Drawing the packed matrix at once would use the wrong fan-out. An orthogonal ``[H, 4H]`` matrix would
    have orthogonal rows, but gates at half the scale of a square orthogonal matrix. Values are drawn in at
    least float32, because JAX has no QR decomposition in bfloat16, and then cast.

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
            if hasattr(
                blocks[0], "raw_value"
            ):  # nnx.VariableMetadata, a dataclass but not a pytree
                return dataclasses.replace(
                    blocks[0], raw_value=pack(*(block.raw_value for block in blocks))
                )
            return jnp.concatenate(blocks, axis=-1).astype(dtype)

        return jax.tree.map(pack, *blocks)  # Linen's metadata boxes are pytrees

    return init


def forget_bias(value: float = 1.0) -> Initializer:
    """Returns an initializer of the bias: ``value`` for the forget gate, zero for the other gates.

    With a positive value, an untrained cell keeps most of its state.

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
    """Returns an initializer of the bias that spreads the memory of the units over up to ``T_max`` steps.

    It draws ``b_f = log(u)`` with ``u ~ U(1, T_max - 1)``, and sets ``b_i = -b_f``. A unit with
    ``b_f = log(u)`` forgets on a time scale of about u steps. Source: Tallec & Ollivier (2018), Can
    recurrent neural networks warp time?, eq. 16.

    Args:
      T_max: The longest expected dependency, in time steps, at least 2.

    Raises:
      ValueError: If ``T_max < 2``, or if it is not finite.

    >>> import jax, jax.numpy as jnp
    >>> b = chrono(100)(jax.random.key(0), (4 * 5,), jnp.float32)
    >>> i, f, g, o = jnp.split(b, 4)
    >>> bool((f == -i).all()), bool((f <= jnp.log(99.0)).all())
    (True, True)
    """
    if not 2 <= T_max < math.inf:
        raise ValueError(
            f"expected T_max of chrono, the longest dependency in time steps, to be finite and at least 2, "
            f"got {T_max}."
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
            f"expected the last axis to be a multiple of {gates}, the number of packed gates, got shape "
            f"{shape}."
        )
    return shape[-1] // gates
