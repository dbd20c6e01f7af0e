"""Evaluation of a model on the validation and test sets of a dataset."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.losses import Loss, count_correct, is_classification
from lstm_jax.training.metrics import METRICS
from lstm_jax.training.model import Carry, merge
from lstm_jax.training.monitoring.lines import values
from lstm_jax.training.parallel.layout import Layout

Evaluate = Callable[..., dict[str, float] | None]
BATCHES_PER_CALL = 16
"""Evaluation batches per call of the compiled function. A signal can stop the evaluation between calls."""


class Split(NamedTuple):
    """The validation or the test set of a dataset.

    Attributes:
      name: ``eval`` or ``test``, the prefix of metric names.
      batches: Batches ``[N, T, B, ...]``.
      baselines: Values of the main metric for predictors without a network, by name.
    """

    name: str
    batches: Batch
    baselines: dict[str, float]


def splits(dataset: Dataset) -> list[Split]:
    """Returns the validation set and, if the dataset has one, the test set."""
    found = [Split("eval", dataset.eval, dataset.baselines)]
    if dataset.test is not None:
        found.append(Split("test", dataset.test, dataset.test_baselines))
    return found


def make_evaluate(graphdef: Any, dataset: Dataset, loss: Loss, layout: Layout) -> Evaluate:
    """Returns a function ``(params, batches [N, ...], should_stop=lambda: False) -> sums``.

    ``sums`` maps ``loss`` and ``weight``, and ``correct`` and ``scored`` for classification, to their sums
    over all predictions. The function evaluates ``BATCHES_PER_CALL`` batches at a time. It returns None
    as soon as ``should_stop()`` is true.
    """

    def run(model: Any, carry: Carry | None, batch: Batch) -> tuple[Carry, dict[str, jax.Array]]:
        carry, outputs = model(batch.inputs, carry, lengths=batch.lengths)
        weights = jnp.asarray(batch.weights)
        sums = {
            "loss": (loss(outputs, batch.targets) * weights).sum(),
            "weight": weights.sum(),
        }
        if is_classification(outputs, batch.targets):
            sums["correct"], sums["scored"] = count_correct(outputs, batch)
        return carry, sums

    @jax.jit
    def run_some(params: Any, carry: Carry, batches: Batch) -> tuple[Carry, dict[str, jax.Array]]:
        model = merge(graphdef, layout.gather_params(params))
        if dataset.stateful:
            return jax.lax.scan(lambda carry, batch: run(model, carry, batch), carry, batches)
        return jax.lax.scan(lambda _, batch: ((), run(model, None, batch)[1]), (), batches)

    @partial(jax.jit, static_argnums=1)
    def initial_carry(params: Any, batch_size: int) -> Carry:
        if not dataset.stateful:
            return ()
        return layout.constrain_carry(merge(graphdef, params).initialize_carry(batch_size))

    def evaluate(
        params: Any, batches: Batch, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        carry: Carry | None = None
        parts = []
        for first in range(0, np.shape(batches.weights)[0], BATCHES_PER_CALL):
            some = jax.tree.map(lambda a, n=first: a[n : n + BATCHES_PER_CALL], batches)
            some = layout.shard_eval_batches(some)
            if carry is None:
                carry = initial_carry(params, np.shape(some.weights)[2])
            carry, sums = run_some(params, carry, some)
            parts.append(jax.device_get(sums))
            if should_stop():
                return None
        return {
            name: sum(float(part[name].sum(dtype=np.float64)) for part in parts)
            for name in parts[0]
        }

    return evaluate


def eval_metrics(sums: dict[str, float], dataset: Dataset, split: str) -> dict[str, float]:
    """Returns the metrics ``split/...``, computed from the sums of :func:`make_evaluate`."""
    loss = sums["loss"] / sums["weight"]
    metrics = {f"{split}/loss": loss}
    accuracy = float("nan")
    if "correct" in sums:
        accuracy = metrics[f"{split}/accuracy"] = sums["correct"] / sums["scored"]
    return metrics | {f"{split}/{dataset.metric}": METRICS[dataset.metric].of(loss, accuracy)}


def describe_best(step: int, metrics: dict[str, float], dataset: Dataset, split: Split) -> str:
    """Formats the metrics of the best checkpoint on a split, with all baselines."""
    shown = values(metrics, dataset.metric, split.name, split.baselines)
    return f"best checkpoint: step {step:,}  {split.name:<4}  {shown}"
