"""What a backend is asked to run."""

from typing import NamedTuple

import jax

from lstm_jax.cell import LSTMSpec, Precision
from lstm_jax.notation import LSTMParams, LSTMState, Projected


class Problem(NamedTuple):
    """The arguments of ``unroll``, in its order; when traced, shapes are known and values are not.

    Attributes:
      spec: which cell.
      params: its weights, in the compute dtype.
      gx: the projected inputs ``[T, *B, GH]``.
      state: where the sequence starts.
      begin: ``[T, *B]``, True where a step reads ``reset_state`` in place of the carried state.
      reset_state: what such a step reads.
      hold: ``[T, *B]``, True where the state stays as it is and the output is 0; wins over ``begin``.
      reverse: from the last step to the first.
      precision: of the matrix products.
      unroll: time steps an iteration of the compiled loop.

    None for ``begin`` or ``hold`` stands for False everywhere.
    """

    spec: LSTMSpec
    params: LSTMParams
    gx: Projected
    state: LSTMState
    begin: jax.Array | None
    reset_state: LSTMState
    hold: jax.Array | None
    reverse: bool
    precision: Precision
    unroll: int
