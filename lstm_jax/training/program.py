"""All that is compiled for an experiment, for devices that are there or that are only described."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from lstm_jax.training.config import Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.model import Sizes
from lstm_jax.training.optimizer import make_optimizer, make_schedule
from lstm_jax.training.parallel.layout import (
    DATA,
    abstract,
    filled_up,
    make_mesh,
    partition_of,
    spread,
    state_shardings,
)
from lstm_jax.training.train_state import TrainState, make_start
from lstm_jax.training.train_step import make_evaluation, make_train_steps


class Program(NamedTuple):
    """Jitted functions, to be called and lowered under ``jax.set_mesh(mesh)``.

    Attributes:
      mesh: the devices.
      sizes: what of the task shapes the network.
      undivided: the network without its parameters, for one device.
      state: shapes, dtypes and shardings of the training state.
      start: makes the state before the first step.
      update: ``(state, batches) -> (state, metrics)``.
      evaluate: ``(params, chunks, stop) -> sums``, of chunks as a task has them.
    """

    mesh: Mesh
    sizes: Sizes
    undivided: Any
    state: TrainState
    start: Callable[[], TrainState]
    update: Callable[[TrainState, Batch | None], tuple[TrainState, Any]]
    evaluate: Callable[..., dict[str, float] | None]


def make_program(experiment: Experiment, task: Dataset, devices: Sequence[Any]) -> Program:
    """The functions of an experiment; touches no device, and makes no array.

    Raises:
      ConfigError: if the devices cannot share the experiment out.
    """
    mesh = make_mesh(experiment, devices)
    sizes = Sizes(task.vocabulary_size, task.input_size, task.output_size)
    optimizer = make_optimizer(experiment.optimizer, experiment.train)
    graphdef, start = make_start(experiment, sizes, task.stateful, partition_of(experiment, mesh))
    undivided, _ = make_start(experiment, sizes, task.stateful, None)
    shapes = jax.eval_shape(start)
    shardings = state_shardings(experiment, mesh, optimizer, shapes)
    update = make_train_steps(
        graphdef,
        task,
        optimizer,
        make_schedule(experiment.optimizer, experiment.train),
        seed=experiment.seed,
        reset_probability=experiment.data.reset_probability,
        n=experiment.train.steps_per_dispatch,
        accumulate=experiment.train.grad_accum_steps,
        on_nan=experiment.train.on_nan,
        norms=experiment.log.norms,
        shardings=shardings,
    )

    def place(chunks: Batch) -> Batch:
        chunks = filled_up(chunks, mesh.shape[DATA])
        return spread(mesh, chunks, chunks.weights.shape[2])

    return Program(
        mesh=mesh,
        sizes=sizes,
        undivided=undivided,
        state=abstract(shapes, shardings),
        start=jax.jit(start, out_shardings=shardings),
        update=update,
        evaluate=make_evaluation(graphdef, task, place),
    )
