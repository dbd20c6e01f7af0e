"""What a backend is asked whether it can run."""

from typing import NamedTuple

import jax

from lstm_jax.cell import LSTMSpec
from lstm_jax.notation import LSTMParams, LSTMState, Projected


class Problem(NamedTuple):
    """The operands of ``unroll``; shapes and dtypes are known, values are not."""

    spec: LSTMSpec
    params: LSTMParams
    gx: Projected
    state: LSTMState
    begin: jax.Array | None
    hold: jax.Array | None
