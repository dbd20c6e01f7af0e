"""The compiled functions of an experiment, for real devices or for a topology to compile for."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from lstm_jax.partition import Partition
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.evaluation import Evaluate, make_evaluate
from lstm_jax.training.losses import LOSSES, Loss
from lstm_jax.training.model import ModelOrFunction, Sizes, make_model
from lstm_jax.training.optimizer import make_optimizer, make_schedule
from lstm_jax.training.parallel.layout import Layout, make_layout, with_shardings
from lstm_jax.training.parallel.mesh import make_mesh
from lstm_jax.training.train_state import TrainState, initializer
from lstm_jax.training.train_step import make_train_steps


class Program(NamedTuple):
    """Jitted functions of an experiment. Call and lower them under ``jax.set_mesh(layout.mesh)``.

    Attributes:
      layout: The mesh and the sharding of each array.
      sizes: Input and output sizes of the model, which follow from the data.
      graphdef: The NNX graph definition of the model for one device, without parameters.
      state: Shapes, dtypes and shardings of the training state.
      init: Returns the initial training state.
      train_steps: ``(state, batches) -> (state, metrics)``.
      evaluate: ``(params, batches, should_stop) -> sums``, for batches such as ``dataset.eval``.
      schedule: The learning rate by the number of updates. None for an optimizer that was passed in.
    """

    layout: Layout
    sizes: Sizes
    graphdef: Any
    state: TrainState
    init: Callable[[], TrainState]
    train_steps: Callable[[TrainState, Batch | None], tuple[TrainState, Any]]
    evaluate: Evaluate
    schedule: optax.Schedule | None = None


def make_program(
    config: Experiment,
    dataset: Dataset,
    devices: Sequence[Any],
    *,
    model: ModelOrFunction | None = None,
    loss: Loss | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Program:
    """Returns the functions of an experiment. Creates no arrays on devices.

    Args:
      config: The experiment.
      dataset: The dataset.
      devices: The available devices, or the devices of a topology to compile for.
      model: An NNX module, or a function from the ``Partition`` of its LSTM layers (None on one device)
        to an NNX module. None builds ``config.model``.
      loss: A loss function. None is the loss of the dataset.
      optimizer: An Optax optimizer. None builds ``config.optimizer``.

    Raises:
      ConfigError: If the batch cannot be sharded over the devices.
    """
    layout = make_layout(config, make_mesh(config, devices), not isinstance(model, nnx.Module))
    sizes = Sizes(dataset.vocabulary_size, dataset.input_size, dataset.output_size)

    def make(partition: Partition | None) -> nnx.Module:
        if model is None:
            return make_model(sizes, config.model, config.seed, partition)
        made = model if isinstance(model, nnx.Module) else model(partition)
        if not isinstance(made, nnx.Module):
            raise ConfigError(
                "model must be an nnx.Module or a function from a Partition to an nnx.Module, got "
                f"{type(made).__name__}."
            )
        if dataset.stateful and not hasattr(made, "initialize_carry"):
            raise ConfigError(
                f"model must have a method initialize_carry(batch_size) for a stateful dataset, got "
                f"{type(made).__name__} without it."
            )
        return made

    if loss is None and dataset.loss not in LOSSES:
        raise ConfigError(
            f"dataset.loss must be one of {', '.join(LOSSES)}, got {dataset.loss!r}; or pass loss= to "
            "fit."
        )
    loss = LOSSES[dataset.loss] if loss is None else loss
    schedule = None
    if optimizer is None:
        optimizer = make_optimizer(config.optimizer, config.train)
        schedule = make_schedule(config.optimizer, config.train)
    optimizer = optax.with_extra_args_support(optimizer)
    carry_size = config.data.batch_size if dataset.stateful else None
    graphdef, init = initializer(lambda: make(layout.partition), optimizer, carry_size)
    one_device, _ = initializer(lambda: make(None), optimizer, None)
    shapes = jax.eval_shape(init)
    shardings = layout.state(optimizer, shapes)
    return Program(
        layout=layout,
        sizes=sizes,
        graphdef=one_device,
        state=with_shardings(shapes, shardings),
        init=jax.jit(init, out_shardings=shardings),
        train_steps=make_train_steps(
            config, dataset, graphdef, loss, optimizer, schedule, layout, shardings
        ),
        evaluate=make_evaluate(graphdef, dataset, loss, layout),
        schedule=schedule,
    )


def trace(program: Program, batches: Batch | None) -> Any:
    """Traces the training step, for inspection or lowering.

    Args:
      program: The functions of an experiment.
      batches: Shapes and dtypes of the batches of one call. None if batches are generated on the device.
    """
    if batches is not None and program.layout.mesh.size > 1:
        batches = with_shardings(batches, program.layout.batches(batches))
    with jax.set_mesh(program.layout.mesh):
        return program.train_steps.trace(program.state, batches)  # type: ignore[attr-defined]
