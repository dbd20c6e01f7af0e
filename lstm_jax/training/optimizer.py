"""The optimizer of an experiment: an Optax chain."""

from typing import Any

import jax
import optax

from lstm_jax.training import config


def make_optimizer(optimizer: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW along a warm-up and cosine schedule.

    Clipping comes first: recurrent gradients explode now and then (Pascanu, Mikolov & Bengio,
    2013, On the difficulty of training recurrent neural networks, §3.2).
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=optimizer.learning_rate,
        warmup_steps=min(optimizer.warmup_steps, steps - 1),
        decay_steps=steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm),
        optax.adamw(schedule, weight_decay=optimizer.weight_decay, mask=decays),
    )


def decays(params: Any) -> Any:
    """True for matrices, False for biases: pulling a forget gate's bias to 0 makes it forget."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any("bias" in jax.tree_util.keystr((key,)) for key in path), params
    )
