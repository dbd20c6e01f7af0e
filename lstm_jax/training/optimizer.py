"""The default optimizer, an Optax chain built from ``config.optimizer``."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lstm_jax.training import config
from lstm_jax.training.registry import OPTIMIZERS, find


def make_optimizer(
    settings: config.Optimizer, train: config.Train
) -> optax.GradientTransformationExtraArgs:
    """Builds a chain of gradient clipping, an Optax optimizer with its schedule, and reduce-on-plateau.

    Clipping comes first, because recurrent gradients can explode (Pascanu, Mikolov & Bengio, 2013, On
    the difficulty of training recurrent neural networks, §3.2).
    """
    row = OPTIMIZERS[settings.name]
    given = {name: getattr(settings, name, None) for name in row.arguments}
    arguments = {name: value for name, value in given.items() if value is not None}
    if "weight_decay" in arguments:
        arguments["mask"] = is_decayed
    parts = [find(row.make)(make_schedule(settings, train), **arguments)]
    if settings.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(settings.clip_norm))
    if settings.schedule == "plateau":
        parts.append(
            optax.contrib.reduce_on_plateau(
                factor=0.5,
                patience=settings.plateau_patience,
                accumulation_size=train.eval_every,
            )
        )
    return optax.with_extra_args_support(optax.chain(*parts))


def make_schedule(settings: config.Optimizer, train: config.Train) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates."""
    steps = settings.decay_steps or train.steps
    peak, warmup = settings.learning_rate, min(settings.warmup_steps, steps - 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "plateau": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps - warmup),
    }[settings.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def is_decayed(params: Any) -> Any:
    """Returns a mask for weight decay: False for biases, True for all other parameters.

    Decaying the bias of the forget gate would shorten the memory.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "bias" not in jax.tree_util.keystr(path), params
    )


def learning_rate(schedule: optax.Schedule | None, before: Any, after: Any) -> jax.Array | None:
    """Returns the learning rate of an update, or None if it is unknown. The function can be traced.

    Args:
      schedule: The schedule of :func:`make_optimizer`. None for another optimizer, whose learning rate is
        known only with ``optax.inject_hyperparams``.
      before: The optimizer state before the update. It counts updates, without skipped steps.
      after: The optimizer state after the update, with the scale of reduce-on-plateau.
    """
    if schedule is None:
        found = optax.tree_utils.tree_get_all_with_path(after, "learning_rate")
        return jnp.asarray(found[0][1]) if found else None
    (count,) = (part.count for part in _parts(before, optax.ScaleByScheduleState))
    scales = (part.scale for part in _parts(after, optax.contrib.ReduceLROnPlateauState))
    return jnp.asarray(math.prod(scales, start=schedule(count)))


def _parts(opt_state: Any, kind: type) -> list[Any]:
    """Returns the states of a type in the state of a chain."""
    parts = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kind))
    return [part for part in parts if isinstance(part, kind)]
