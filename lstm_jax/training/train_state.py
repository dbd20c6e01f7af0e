"""The training state and its initialization."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lstm_jax.training.model import Carry, merge, split


class TrainState(NamedTuple):
    """The state that a training step reads and writes, and that a checkpoint contains. A pytree.

    Attributes:
      step: Number of completed steps, int32.
      params: Parameters of the model, a dict.
      opt_state: State of the optimizer.
      carry: LSTM state after the previous batch. Empty if the dataset is not ``stateful``.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    carry: Carry


def initializer(
    make_model: Callable[[], Any],
    optimizer: optax.GradientTransformation,
    carry_size: int | None,
) -> tuple[Any, Callable[[], TrainState]]:
    """Returns the graph definition of a model and a function that creates the initial state.

    ``initializer`` itself creates no arrays.

    Args:
      make_model: Function that returns the model, an NNX module.
      optimizer: An Optax optimizer.
      carry_size: Sequences per batch if the LSTM state continues from batch to batch, else None.
    """

    def init() -> TrainState:
        graphdef, params = split(make_model())
        carry: Carry = ()
        if carry_size is not None:
            carry = merge(graphdef, params).initialize_carry(carry_size)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)

    graphdef, _ = jax.eval_shape(lambda: split(make_model()))
    return graphdef, init
