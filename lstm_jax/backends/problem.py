"""What a backend is asked to run: what is static, and the arrays."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from lstm_jax.cell import LSTMSpec, Precision
from lstm_jax.notation import LSTMParams, LSTMState


@dataclass(frozen=True)
class Settings:
    """What is static.

    Attributes:
      spec: which cell.
      reverse: from the last step to the first.
      precision: of the matrix products.
      unroll: time steps an iteration of the compiled loop.
      residuals: what the forward pass keeps for the backward pass: "save" or "recompute".
    """

    spec: LSTMSpec
    reverse: bool = False
    precision: Precision = None
    unroll: int = 1
    residuals: str = "save"


class Operands(NamedTuple):
    """The arrays. When traced, shapes are known and values are not.

    Attributes:
      params: the weights, prepared (``spec.prepare``) and in the compute dtype.
      xs: the inputs ``[T, *B, I]`` in the compute dtype.
      state: where the sequence starts.
      reset_state: what a step reads where ``begin`` is True.
      begin: ``[T, *B]``, True where a step reads ``reset_state`` in place of the carried state.
      hold: ``[T, *B]``, True where the state stays as it is and the output is 0; wins over ``begin``.

    None for ``begin`` or ``hold`` stands for False everywhere.
    """

    params: LSTMParams
    xs: jax.Array
    state: LSTMState
    reset_state: LSTMState
    begin: jax.Array | None = None
    hold: jax.Array | None = None


class Saved(NamedTuple):
    """What the backward pass reads besides operands and outputs: 5 arrays of H, or 1.

    Attributes:
      C: the cell state each step read, ``[T, *B, H]``.
      z: the pre-activations ``[T, *B, GH]`` in the compute dtype; None to compute them again.
    """

    C: Any
    z: jax.Array | None
