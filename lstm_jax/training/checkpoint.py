"""Checkpoints, through Orbax: the only file that knows it.

A checkpoint is a folder that Orbax writes under another name, in the background, and renames when
it is whole. It is sealed (:mod:`lstm_jax.training.sums`) just before, so what has its name is whole,
and what was damaged since is found out.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from lstm_jax.training.errors import NotFiniteError, RunError
from lstm_jax.training.sums import damage, seal

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it raises, in full, thrice


class Checkpoint(NamedTuple):
    """A state, its step, and what was noted with it (JSON)."""

    step: int
    state: Any
    notes: dict[str, Any]


class Checkpoints:
    """The newest ``keep`` checkpoints of a state in a folder. Close it, or the last may not be whole.

    Args:
      folder: where; None of what others have there is touched.
      keep: how many; older ones are removed once a new one is whole.
      read_only: for a look at a run that may still be training.
    """

    def __init__(self, folder: Path, keep: int, read_only: bool = False):
        self.folder = folder.absolute()
        self._saving = 0
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            # Processes meet by name; two folders that are saved at once must not meet each other.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=folder.name
            ),
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, params: Any, notes: dict[str, Any]) -> None:
        """Begins to save a state: it is copied at once and written in the background.

        Those of this step and later, left by a run that was cut off, are replaced. ``params``, a part
        of the state or all, must be finite (an optimizer may keep an infinite best loss).

        Raises:
          NotFiniteError: if a number in ``params`` is NaN or infinite.
          RunError: if this or the checkpoint before it cannot be written.
        """
        if not finite(params):
            raise NotFiniteError(
                f"the parameters are not finite after step {step:,}, and were not saved; the newest "
                f"checkpoint is of step {self.latest() or 0:,}. Lower optimizer.learning_rate or "
                "optimizer.clip_norm."
            )
        notes = notes | {"leaves": _leaves(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
        )

        def begin() -> None:
            self._manager.wait_until_finished()
            self.drop(lambda other: other >= step)
            self._saving = step
            self._manager.save(step, args=args)

        self._try(begin)

    def check(self) -> None:
        """Looks whether the last save failed in the background, if it is over.

        Raises:
          RunError: if so.
        """
        if not self._manager.is_saving_in_progress():
            self._try(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits until all is written.

        Raises:
          RunError: if it cannot be.
        """
        self._try(self._manager.wait_until_finished)
        self._manager.close()

    def drop(self, unwanted: Callable[[int], bool]) -> None:
        """Removes checkpoints by their step."""
        for step in list(self._manager.all_steps()):
            if unwanted(step):
                self._manager.delete(step)

    def newest(self, like: Any, say: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is whole; the damaged ones before it are named and passed over.

        Args:
          like: the structure, shapes, dtypes and shardings to restore.
          say: is told of each damaged one.

        Raises:
          RunError: if one is whole, but of another structure or other shapes.
        """
        self._try(self._manager.wait_until_finished)
        for step in sorted(self._manager.all_steps(), reverse=True):
            folder = self.folder / str(step)
            if (why := damage(folder)) is None:
                return self._restore(step, like)
            say(f"the checkpoint {folder} is damaged, and not used: {why}")
        return None

    def _restore(self, step: int, like: Any) -> Checkpoint:
        notes = self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))
        notes = dict(notes["notes"])
        _compare(notes.pop("leaves"), _leaves(like), self.folder / str(step))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return Checkpoint(step, self._manager.restore(step, args=args)["state"], notes)

    def _seal(self) -> None:
        """In the background, when all files are written and before the folder gets its name."""
        if jax.process_index() == 0:
            for folder in self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
                seal(folder)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            steps = sorted(p.name for p in self.folder.glob("*") if p.name.isdigit())
            newest = max(map(int, steps), default=None)
            left = (
                "none was saved before" if newest is None else f"that of step {newest:,} is whole"
            )
            raise RunError(
                f"a checkpoint cannot be written in {self.folder}: {_reason(error)}; {left}. Mend that, "
                "and the same command goes on."
            ) from error


def _reason(error: Exception) -> str:
    """The end of the message, where the operating system speaks."""
    text = str(error).strip().splitlines()
    match = re.search(r"[^:]*\[os_error_code[^\]]*\]", text[0] if text else "")
    return match[0].split(" [")[0].strip() if match else f"{type(error).__name__}: {error}"


def _leaves(tree: Any) -> dict[str, str]:
    """Path, dtype and shape of every array."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _compare(saved: dict[str, str], wanted: dict[str, str], folder: Path) -> None:
    differs = [
        f"{name} is {saved.get(name, 'missing')} there, and {wanted.get(name, 'not wanted')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if differs:
        raise RunError(
            f"the checkpoint {folder} is of another network or optimizer: {'; '.join(differs[:5])}"
            f"{f'; and {len(differs) - 5} more' if len(differs) > 5 else ''}. Was the code changed?"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what TensorStore leaves to Python to report, write by write, when a save has failed."""
    before = sys.unraisablehook

    def report(event: Any) -> None:
        if "Event loop is closed" not in str(event.exc_value):
            before(event)

    sys.unraisablehook = report
    try:
        yield
    finally:
        sys.unraisablehook = before


def finite(tree: Any) -> bool:
    """Whether every number in a tree is finite."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: Any) -> jax.Array:
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in numbers]))
