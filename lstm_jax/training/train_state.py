"""What training carries from step to step, and where it starts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.partition import Partition
from lstm_jax.training.config import Experiment
from lstm_jax.training.model import Carry, Sizes, make_model
from lstm_jax.training.optimizer import make_optimizer


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


def make_start(
    experiment: Experiment, sizes: Sizes, carried: bool, partition: Partition | None
) -> tuple[Any, Callable[[], TrainState]]:
    """The network without its parameters, and a function that draws the state before the first step.

    No array is made here: ``jax.eval_shape`` of the function has their shapes.
    """
    optimizer = make_optimizer(experiment.optimizer, experiment.train)

    def network() -> tuple[Any, Any]:
        return make_model(sizes, experiment.model, experiment.seed, partition)

    def start() -> TrainState:
        graphdef, params = network()
        carry: Carry = ()
        if carried:
            carry = nnx.merge(graphdef, params).initialize_carry(experiment.data.batch_size)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)

    graphdef, _ = jax.eval_shape(network)
    return graphdef, start
