"""The training state, and its initial value."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lstm_jax.training.model import Carry, merge, split


class TrainState(NamedTuple):
    """A pytree of everything that a step reads and writes, and that a checkpoint holds.

    Attributes:
      step: Number of steps done, int32.
      params: Parameters of the model, a dict.
      opt_state: State of the optimizer.
      carry: LSTM state at the end of the last batch; empty if sequences are not continued.
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
    """Returns the model without its parameters, and a function that makes the initial state.

    No array is made here: ``jax.eval_shape`` of the function gives their shapes.

    Args:
      make_model: Returns the model, an NNX module.
      optimizer: An Optax optimizer.
      carry_size: Sequences per batch if their LSTM state is carried from batch to batch, else None.
    """

    def init() -> TrainState:
        graphdef, params = split(make_model())
        carry: Carry = ()
        if carry_size is not None:
            carry = merge(graphdef, params).initialize_carry(carry_size)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)

    graphdef, _ = jax.eval_shape(lambda: split(make_model()))
    return graphdef, init
