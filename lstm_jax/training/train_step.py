"""The compiled training step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lstm_jax.training.config import Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.grad_accum import Part, accumulate
from lstm_jax.training.losses import Loss, count_correct
from lstm_jax.training.model import Carry, merge
from lstm_jax.training.optimizer import learning_rate
from lstm_jax.training.parallel.layout import Layout
from lstm_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]


def make_train_steps(
    config: Experiment,
    dataset: Dataset,
    graphdef: Any,
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: optax.Schedule | None,
    layout: Layout,
    shardings: TrainState,
) -> Callable[[TrainState, Batch | None], tuple[TrainState, Metrics]]:
    """Returns a function ``(state, batches [n, ...]) -> (state, metrics [n])`` that runs n steps.

    n is ``train.steps_per_dispatch``. The state is donated. Every random number is a function of
    (seed, step). For a ``stateful`` dataset, a sequence starts from a zero state with the probability
    ``data.reset_probability``, as in Melis, Kočiský & Blunsom (2020), Mogrifier LSTM. With
    ``train.on_nan="skip"``, a step whose loss or gradient is not finite only increments the step number,
    and is counted in ``skipped``.

    Args:
      config: The experiment.
      dataset: The dataset.
      graphdef: The NNX graph definition of the model.
      loss: Per-step losses.
      optimizer: An Optax optimizer.
      schedule: The learning rate as a function of the number of updates. None if it is unknown.
      layout: The mesh and the shardings. Call the function under ``jax.set_mesh(layout.mesh)``.
      shardings: Shardings of the state.
    """
    run = config.train

    def loss_of_part(params: Any, carry: Carry, part: Part) -> tuple[jax.Array, Any]:
        """Returns the contribution of a part to the mean loss of its batch."""
        batch = part.batch
        final, outputs = merge(graphdef, layout.gather_params(params))(
            batch.inputs,
            carry if dataset.stateful else None,
            lengths=batch.lengths,
            resets=part.resets,
            dropout_key=part.key,
        )
        weights = jnp.asarray(batch.weights)
        value = (loss(outputs, batch.targets) * weights).sum() / part.weight
        sums = {"loss": value}
        if dataset.metric == "accuracy":
            sums["correct"], sums["scored"] = count_correct(outputs, batch)
        return value, (final if dataset.stateful else carry, sums)

    gradient_of_part = jax.grad(loss_of_part, has_aux=True)

    def train_step(state: TrainState, batch: Batch | None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        key_data, key_dropout, key_resets = jax.random.split(key, 3)
        if dataset.generate is not None:
            batch = dataset.generate(key_data)
        assert batch is not None
        batch = layout.constrain_batch(batch)
        resets = None
        if dataset.stateful:
            resets = _resets(batch, key_resets, config.data.reset_probability)
        part = Part(batch, resets, key_dropout, jnp.asarray(batch.weights).sum())
        gradient, (carry, sums) = accumulate(
            partial(gradient_of_part, state.params), state.carry, part, run.grad_accum_steps
        )
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.params, value=sums["loss"]
        )
        params = optax.apply_updates(state.params, updates)
        metrics = {
            "loss": sums["loss"],
            "gradient_norm": optax.tree.norm(gradient),
            "tokens": count_tokens(batch),
        }
        rate = learning_rate(schedule, state.opt_state, opt_state)
        if rate is not None:
            metrics["learning_rate"] = rate
        if "correct" in sums:
            metrics["accuracy"] = sums["correct"] / sums["scored"]
        if config.log.norms:
            metrics |= _norms("gradient_norm", gradient) | _norms("parameter_norm", params)
        after = TrainState(state.step, params, opt_state, carry)
        if run.on_nan == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
            metrics["skipped"] = ~finite
        return after._replace(step=state.step + 1), metrics

    def train_steps(state: TrainState, batches: Batch | None) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(train_step, state, batches, length=run.steps_per_dispatch)

    out = (shardings, shardings.step)  # metrics are replicated like the step number
    return jax.jit(train_steps, donate_argnums=0, out_shardings=out)


def count_tokens(batch: Batch) -> jax.Array:
    """Returns the number of valid time steps of a batch, without padding, float32."""
    if batch.lengths is None:
        return jnp.float32(jnp.size(batch.weights))
    return jnp.asarray(batch.lengths).sum(dtype=jnp.float32)


def _resets(batch: Batch, key: jax.Array, probability: float) -> jax.Array:
    """Returns resets ``[T, B]``: True at the first step of sequences that start from a zero state."""
    T, B = jnp.shape(batch.weights)
    restart = jax.random.bernoulli(key, probability, (B,))
    return (jnp.arange(T) == 0)[:, None] & restart[None]


def _norms(name: str, tree: Any) -> Metrics:
    """Returns the norm of each array of a tree, by name."""
    return {
        f"{name}/{jax.tree_util.keystr(path, simple=True, separator='.')}": optax.tree.norm(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
