"""Checkpoints, through Orbax: the only file that knows it."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

logging.getLogger("absl").setLevel(logging.ERROR)


class NotFiniteError(RuntimeError):
    """Training has diverged: there is nothing good to save."""


class Checkpoints:
    """The newest ``keep`` checkpoints of a state in a folder."""

    def __init__(self, folder: Path, keep: int):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, params: Any) -> None:
        """Saves a state; those of this step and later, left by a run that was cut off, are replaced.

        ``params``, a part of it or all, must be finite (an optimizer may keep an infinite best loss).

        Raises:
          NotFiniteError: if a number in it is NaN or infinite.
        """
        if not finite(params):
            raise NotFiniteError(
                f"the parameters are not finite after step {step}, and were not saved; the newest good "
                f"checkpoint is of step {self.latest()}. Lower optimizer.learning_rate or "
                "optimizer.clip_norm."
            )
        for later in self._manager.all_steps():
            if later >= step:
                self._manager.delete(later)
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, with the structure, shapes and dtypes of ``like``."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))


def finite(tree: Any) -> bool:
    """Whether every number in a tree is finite."""
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return bool(jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in numbers])))
