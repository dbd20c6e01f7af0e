"""The optimizer of an experiment: an Optax chain."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lstm_jax.training import config


def make_optimizer(
    optimizer: config.Optimizer, train: config.Train
) -> optax.GradientTransformationExtraArgs:
    """Clipping by global norm, the rule along its schedule, and plateaus if asked for.

    Clipping comes first: recurrent gradients explode now and then (Pascanu, Mikolov & Bengio,
    2013, On the difficulty of training recurrent neural networks, §3.2).
    """
    rate = make_schedule(optimizer, train)
    decay = {"weight_decay": optimizer.weight_decay, "mask": decays}
    rules = {
        "adamw": lambda: optax.adamw(rate, **decay),
        "adam": lambda: optax.adam(rate),
        "sgd": lambda: optax.sgd(rate, momentum=optimizer.momentum),
        "rmsprop": lambda: optax.rmsprop(rate, momentum=optimizer.momentum),
        "lion": lambda: optax.lion(rate, **decay),
    }
    parts = [rules[optimizer.name]()]
    if optimizer.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip_norm))
    if optimizer.schedule == "plateau":
        parts.append(
            optax.contrib.reduce_on_plateau(
                factor=0.5,
                patience=optimizer.plateau_patience,
                accumulation_size=train.eval_every,
            )
        )
    return optax.with_extra_args_support(optax.chain(*parts))


def decays(params: Any) -> Any:
    """True for matrices, False for biases: pulling a forget gate's bias to 0 makes it forget."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" not in jax.tree_util.keystr(path), params
    )


def learning_rate(schedule: optax.Schedule, before: Any, after: Any) -> jax.Array:
    """Returns the learning rate of an update. It can be traced.

    Args:
      schedule: That of the optimizer.
      before: The state of the optimizer before the update, which counts updates. They are fewer than
        steps if some were skipped.
      after: The state after it, with the factor by which plateaus have lowered the rate.
    """
    (count,) = (part.count for part in _parts(before, optax.ScaleByScheduleState))
    scales = (part.scale for part in _parts(after, optax.contrib.ReduceLROnPlateauState))
    return jnp.asarray(math.prod(scales, start=schedule(count)))


def _parts(opt_state: Any, kind: type) -> list[Any]:
    """Returns the states of one kind in the state of a chain."""
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kind))
    return [part for part in parts if isinstance(part, kind)]


def make_schedule(optimizer: config.Optimizer, train: config.Train) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates."""
    steps = optimizer.decay_steps or train.steps
    peak, warmup = optimizer.learning_rate, min(optimizer.warmup_steps, steps - 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "plateau": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps - warmup),
    }[optimizer.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
