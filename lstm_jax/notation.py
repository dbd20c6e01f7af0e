"""Notation: the dimensions, the types of arrays, the state and the parameters.

Dimensions, in signatures and in names of intermediate arrays:

    T  time steps              B  batch; ``*B`` is any number of batch axes, possibly none
    I  input size              H  hidden size
    G  gates (4 for the LSTM)  L  layers        D  directions        V  vocabulary

Core functions are time-major, ``[T, *B, ...]``, as :func:`jax.lax.scan` is. Packed
arrays hold the gates side by side on their last axis, in the field's order i, f, g, o
(input, forget, candidate C̃, output).
"""

import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Bool, Float, Integer

P = TypeVar("P", bound="LSTMParams")
Shape = tuple[Any, ...]
"""A shape. Its sizes are integers, or symbolic dimensions when a function is exported for any size."""
Xs = Float[ArrayLike, "T *B I"]
"""A sequence of inputs."""
Hs = Float[jax.Array, "T *B H"]
"""A sequence of hidden states, the outputs of a layer."""
Projected = Float[jax.Array, "*TB GH"]
"""``gx``: the part of the pre-activations that depends on the inputs, including the bias."""
Recurrent = Float[jax.Array, "*B GH"]
"""``r``: the part of the pre-activations that depends on the hidden state."""
Resets = Bool[ArrayLike, "T *B"]
"""Flags of new segments. True at t means that a segment starts at t."""
Lengths = Integer[ArrayLike, "*B"]
"""Numbers of valid steps of right-padded sequences."""


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """Returns float32 for 16-bit types, and ``dtype`` for float32 and float64."""
    return jnp.dtype(jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype)


class LSTMState(NamedTuple):
    """The carry of the recurrence.

    Attributes:
      C: Cell state ``[*B, H]``, at least float32 for every compute dtype. It is a sum over many steps,
        which would lose small addends in 16 bits.
      h: Hidden state ``[*B, H]`` in the compute dtype.
    """

    C: jax.Array
    h: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LSTMParams:
    """The weights of one layer and direction, packed in gate order i, f, g, o. It is a pytree.

    A cell with extra weights subclasses it, see :attr:`lstm_jax.LSTMSpec.Params`. The fields are annotated
    ``Any``, because tree transformations put values into them that are not arrays.

    Attributes:
      w_x: Input weights ``[I, 4H]``.
      w_h: Recurrent weights ``[H, 4H]``.
      bias: Bias ``[4H]``, or None for no bias.

    >>> import jax, jax.numpy as jnp
    >>> params = LSTMParams(jnp.ones((2, 12)), jnp.ones((3, 12)), jnp.zeros(12))
    >>> jax.tree.map(jnp.shape, params)
    LSTMParams(w_x=(2, 12), w_h=(3, 12), bias=(12,))
    >>> params.replace(bias=None).bias is None
    True
    """

    w_x: Any
    w_h: Any
    bias: Any = None

    def replace(self: P, **changes: Any) -> P:
        """Returns a copy with the given fields changed."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_gates(
        cls,
        W_f: Float[ArrayLike, "H HI"],
        W_i: Float[ArrayLike, "H HI"],
        W_C: Float[ArrayLike, "H HI"],
        W_o: Float[ArrayLike, "H HI"],
        b_f: Float[ArrayLike, " H"],
        b_i: Float[ArrayLike, " H"],
        b_C: Float[ArrayLike, " H"],
        b_o: Float[ArrayLike, " H"],
    ) -> "LSTMParams":
        """Packs the matrices of the equations, each ``[H, H + I]``, which multiply ``[h, x]``.

        Source: the six equations in :mod:`lstm_jax.cell`.

        Raises:
          ValueError: If the shape of a matrix is not ``[H, H + I]``, or the shape of a bias is not ``[H]``.

        >>> import jax.numpy as jnp
        >>> W, b = jnp.ones((3, 3 + 2)), jnp.zeros(3)          # H = 3, I = 2
        >>> params = LSTMParams.from_gates(W, W, W, W, b, b, b, b)
        >>> params.w_x.shape, params.w_h.shape, params.bias.shape
        ((2, 12), (3, 12), (12,))
        """
        matrices = [jnp.asarray(W) for W in (W_i, W_f, W_C, W_o)]
        biases = [jnp.asarray(b) for b in (b_i, b_f, b_C, b_o)]
        shape = matrices[0].shape
        if len(shape) != 2 or shape[1] <= shape[0] or any(W.shape != shape for W in matrices):
            raise ValueError(
                "expected four matrices of the same shape [H, H + I] with I >= 1, got "
                f"{[W.shape for W in matrices]} for W_i, W_f, W_C, W_o; transpose matrices that multiply "
                "from the right."
            )
        H = shape[0]
        if any(b.shape != (H,) for b in biases):
            raise ValueError(
                f"expected four biases of shape ({H},), the number of rows of the matrices, "
                f"got {[b.shape for b in biases]} for b_i, b_f, b_C, b_o."
            )
        packed = jnp.concatenate(matrices).T  # [H + I, 4H]
        return cls(w_x=packed[H:], w_h=packed[:H], bias=jnp.concatenate(biases))

    def to_gates(self) -> dict[str, jax.Array]:
        """Returns the keyword arguments of :meth:`from_gates` for these parameters.

        Raises:
          ValueError: If the parameters are not those of a cell with four gates.

        >>> import jax.numpy as jnp
        >>> params = LSTMParams(jnp.ones((2, 12)), jnp.ones((3, 12)), jnp.zeros(12))
        >>> gates = params.to_gates()
        >>> gates["W_f"].shape, gates["b_f"].shape
        ((3, 5), (3,))
        """
        if self.w_h.shape[1] != 4 * self.w_h.shape[0]:
            raise ValueError(
                f"expected w_h of shape [H, 4H], a cell with four gates, got {self.w_h.shape}."
            )
        packed = jnp.concatenate([self.w_h, self.w_x]).T  # [4H, H + I]
        bias = jnp.zeros_like(packed[:, 0]) if self.bias is None else self.bias
        matrices = dict(zip(("W_i", "W_f", "W_C", "W_o"), jnp.split(packed, 4), strict=True))
        biases = dict(zip(("b_i", "b_f", "b_C", "b_o"), jnp.split(bias, 4), strict=True))
        return matrices | biases


# Exported functions may take and return states and parameters. Serializing such a function needs the package
# flatbuffers (extra `export`).
jax.export.register_namedtuple_serialization(LSTMState, serialized_name="lstm_jax.LSTMState")
jax.export.register_pytree_node_serialization(
    LSTMParams,
    serialized_name="lstm_jax.LSTMParams",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)
