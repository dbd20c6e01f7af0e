"""Checks of a dataset, a model and a loss that are passed to ``fit``."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.losses import LOSSES, Loss
from lstm_jax.training.metrics import METRICS
from lstm_jax.training.model import merge
from lstm_jax.training.program import Program


def check_parts(config: Experiment, dataset: Dataset, program: Program, loss: Loss | None) -> None:
    """Checks that dataset, model and loss fit each other. Computes nothing on a device.

    Raises:
      ConfigError: If a shape, a name or a number of sequences is wrong.
    """
    batch = _training_batch(config, dataset)
    _check_evaluation_sets(dataset)
    if loss is None and dataset.loss == "cross_entropy":  # another loss may use other integers
        _check_classes("dataset.batch", batch, dataset)
        _check_classes("dataset.eval", dataset.eval, dataset)
        _check_classes("dataset.test", dataset.test, dataset)
    outputs = _outputs(dataset, program, batch)
    T, B = jnp.shape(batch.weights)
    expected = (T, B, dataset.output_size)
    if jnp.shape(outputs) != expected:
        raise ConfigError(
            f"model must return outputs of shape {expected} [T, B, dataset.output_size], got "
            f"{jnp.shape(outputs)}."
        )
    of = LOSSES[dataset.loss] if loss is None else loss
    losses = _described("loss", lambda: jax.eval_shape(of, outputs, batch.targets))
    if jnp.shape(losses) != (T, B):
        raise ConfigError(
            f"loss must return a loss for each prediction, of shape {(T, B)} [T, B], got "
            f"{jnp.shape(losses)} for targets of shape {jnp.shape(batch.targets)}."
        )


def _training_batch(config: Experiment, dataset: Dataset) -> Batch:
    """Returns the first training batch, or the shapes of generated batches."""
    if (dataset.batch is None) == (dataset.generate is None):
        raise ConfigError("dataset must have either batch or generate.")
    if dataset.metric not in METRICS:
        raise ConfigError(
            f"dataset.metric must be one of {', '.join(METRICS)}, got {dataset.metric!r}."
        )
    B = config.data.batch_size
    batch: Batch
    if dataset.batch is None:
        generate: Any = dataset.generate
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch = _described("dataset.generate", lambda: jax.eval_shape(generate, key))
    else:
        batch = dataset.batch(0, np.arange(B))
        if B > 1:
            _check_batch("dataset.batch", dataset.batch(0, np.arange(B - 1)), dataset, B - 1)
    _check_batch(
        "dataset.generate" if dataset.batch is None else "dataset.batch", batch, dataset, B
    )
    return batch


def _check_batch(name: str, batch: Batch, dataset: Dataset, B: int) -> None:
    """Checks the first axes of all arrays of a batch of B sequences."""
    shape = jnp.shape(batch.weights)
    if len(shape) != 2 or shape[1] != B:
        raise ConfigError(
            f"{name} must return weights of shape [T, {B}] if {B} sequences are requested, got {shape}."
        )
    for field in ("inputs", "targets", "scored", "lengths"):
        array = getattr(batch, field)
        expected = shape[1:] if field == "lengths" else shape
        if array is not None and jnp.shape(array)[: len(expected)] != expected:
            raise ConfigError(
                f"{name} must return {field} whose first axes are {list(expected)}, got the shape "
                f"{jnp.shape(array)}."
            )


def _check_classes(name: str, batch: Batch | None, dataset: Dataset) -> None:
    """Checks that targets are class ids, if they are arrays and not only shapes."""
    targets = None if batch is None else batch.targets
    if not isinstance(targets, np.ndarray | jax.Array):
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= dataset.output_size:
        raise ConfigError(
            f"{name} must return targets from 0 to {dataset.output_size - 1} (dataset.output_size - "
            f"1), got {low} to {high}."
        )


def _check_evaluation_sets(dataset: Dataset) -> None:
    """Checks the validation set, and the test set if there is one."""
    for name, batches in (("eval", dataset.eval), ("test", dataset.test)):
        if batches is None:
            continue
        if jnp.ndim(batches.weights) != 3:
            raise ConfigError(
                f"dataset.{name} must hold batches [N, T, B, ...], stacked along a first axis, got "
                f"weights of shape {jnp.shape(batches.weights)}."
            )
        if not np.sum(batches.weights) > 0:
            raise ConfigError(f"dataset.{name} must have a positive weight, got weights of 0.")


def _outputs(dataset: Dataset, program: Program, batch: Batch) -> Any:
    """Returns the shapes of the outputs of the model for a batch."""

    def call(params: Any, batch: Batch) -> Any:
        model = merge(program.graphdef, params)
        carry = model.initialize_carry(jnp.shape(batch.weights)[1]) if dataset.stateful else None
        return model(batch.inputs, carry, lengths=batch.lengths, resets=None, dropout_key=None)

    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), program.state.params
    )
    found = _described("model", lambda: jax.eval_shape(call, params, batch))
    if not isinstance(found, tuple) or len(found) != 2:
        raise ConfigError(f"model must return a pair (carry, outputs), got {type(found).__name__}.")
    return found[1]


def _described(name: str, call: Any) -> Any:
    """Calls a part. Its error is raised again, with the name of the part."""
    try:
        return call()
    except ConfigError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ConfigError(f"{name} cannot be traced: {type(error).__name__}: {reason}") from error
