"""What training carries from step to step."""

from typing import Any, NamedTuple

import jax

from lstm_jax.training.model import Carry


class TrainState(NamedTuple):
    """A pytree: all that a step reads and writes, and all that a checkpoint holds.

    Attributes:
      step: updates made.
      params: the model's parameters.
      opt_state: the optimizer's state.
      carry: the LSTM state at the end of the last batch; empty where sequences are whole.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Carry
