"""Checkpoints, through Orbax: the only file that imports it.

A checkpoint is a directory that Orbax writes in the background under a temporary name, and renames
once it is complete. Orbax notices files that are missing or cut short, but restores arrays with
flipped bits without an error. Therefore a checkpoint also holds a checksum of each array.
"""

import errno
import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from lstm_jax.training.checkpointing.checksums import checksums
from lstm_jax.training.checkpointing.orbax_noise import (
    install_unraisable_hook,
    secondary_errors_suppressed,
)
from lstm_jax.training.errors import NotFiniteError, RunError

TEMPORARY = [
    os.strerror(number)
    for number in (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE)
] + ["PERMISSION_DENIED", "RESOURCE_EXHAUSTED"]
"""Parts of the messages of errors that say nothing about the content of a file."""


class CorruptError(RunError):
    """A checkpoint that cannot be restored, or holds other numbers than were saved."""


class Checkpoint(NamedTuple):
    """A restored checkpoint.

    Attributes:
      step: Its step.
      state: The arrays.
      notes: JSON that was saved with the arrays.
      verified: False if the checkpoint has no checksums to compare the arrays with.
    """

    step: int
    state: Any
    notes: dict[str, Any]
    verified: bool


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a directory, the latest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdecimal()]
    return sorted((int(name) for name in names if name == str(int(name))), reverse=True)


class Checkpoints:
    """Checkpoints of a state in a directory. Close it, or the last one may be incomplete.

    Args:
      folder: The directory.
      keep: Number of recent checkpoints to keep; older ones are removed once a new one is complete.
        None keeps all.
      read_only: Changes nothing in the directory, in which another process may train.
    """

    def __init__(self, folder: Path, keep: int | None = None, read_only: bool = False):
        install_unraisable_hook()
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            # Processes meet by name; two folders that are saved at once must not meet each other.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=folder.name
            ),
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """Returns the step of the latest checkpoint."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, the latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, params: Any, notes: dict[str, Any]) -> None:
        """Starts to save a state: it is copied at once and written in the background.

        ``params``, a part of the state or all of it, must be finite (an optimizer may keep an
        infinite best loss).

        Raises:
          NotFiniteError: if a number in ``params`` is NaN or infinite.
          RunError: if this or the previous checkpoint cannot be written.
        """
        if not finite(params):
            raise NotFiniteError(
                f"the parameters are not finite after step {step:,}, and were not saved; the latest "
                f"checkpoint is of step {self.latest() or 0:,}. Lower optimizer.learning_rate or "
                "optimizer.clip_norm."
            )
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            notes=ocp.args.JsonSave(_with_checksum(notes | _description(state))),
        )

        def start() -> None:
            self._manager.wait_until_finished()
            if not self._manager.save(step, args=args):
                raise RuntimeError(f"Orbax did not save step {step}; latest {self.latest()}")

        self._try(start)

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
          RunError: if it cannot be written.
        """
        self._try(self._manager.wait_until_finished)

    def check(self) -> None:
        """Checks whether the last save failed in the background, if it has ended.

        Raises:
          RunError: if it failed.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()

    def close(self) -> None:
        """Waits until the last checkpoint is complete, and closes the directory.

        Raises:
          RunError: if it cannot be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def delete(self, unwanted: Callable[[int], bool]) -> None:
        """Removes checkpoints by their step."""
        for step in self.steps():
            if unwanted(step):
                self._manager.delete(step)

    def restore_latest(
        self, like: Any, up_to: int | None = None
    ) -> tuple[Checkpoint | None, dict[int, str]]:
        """Restores the latest checkpoint that is not corrupt. Changes nothing in the directory.

        Args:
          like: A state with the structure, shapes, dtypes and shardings to restore.
          up_to: The last step to consider; None considers all.

        Returns:
          The checkpoint or None, and the reasons why later checkpoints are corrupt, by step.

        Raises:
          RunError: if a checkpoint has another structure or other shapes, or cannot be read now.
        """
        self.wait()
        corrupt: dict[int, str] = {}
        for step in steps_in(self.folder):
            if up_to is not None and step > up_to:
                continue
            try:
                return self._restore(step, like), corrupt
            except CorruptError as error:
                corrupt[step] = str(error)
        return None, corrupt

    def _restore(self, step: int, like: Any) -> Checkpoint:
        folder = self.folder / str(step)
        notes = self._notes(step)
        if "leaves" in notes:
            _compare(notes["leaves"], _array_types(like), folder)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        state = _read(folder, lambda: self._manager.restore(step, args=args)["state"])
        saved = notes.get("checksums")
        if saved is not None:
            differs = [name for name, value in _checksums(state).items() if saved[name] != value]
            if differs:
                raise CorruptError(f"{differs[0]} holds other numbers than were saved")
        return Checkpoint(step, state, notes, verified=saved is not None)

    def _notes(self, step: int) -> dict[str, Any]:
        """Returns the notes of a checkpoint, empty if it has none."""
        folder = self.folder / str(step)
        if not any(path.is_file() for path in (folder / "notes").rglob("*")):
            return {}
        args = ocp.args.Composite(notes=ocp.args.JsonRestore())
        notes = dict(_read(folder, lambda: self._manager.restore(step, args=args)["notes"]))
        if "crc32" in notes and notes.pop("crc32") != _crc(notes):
            raise CorruptError("its notes differ from what was saved")
        return notes

    def _try(self, action: Callable[[], None]) -> None:
        with secondary_errors_suppressed() as failures:
            try:
                action()
            except Exception as error:  # Orbax and TensorStore raise many kinds
                failures.append(_reason(error))
        if not failures:
            return
        steps = steps_in(self.folder)
        left = f"That of step {steps[0]:,} is complete." if steps else "None was saved before."
        raise RunError(
            f"a checkpoint cannot be written in {self.folder}: {failures[0]}. {left} Fix the cause, for "
            "instance by freeing space, then run the same command to resume."
        )


def _read(folder: Path, restore: Callable[[], Any]) -> Any:
    """Restores a part of a checkpoint.

    Raises:
      CorruptError: if its files are corrupt.
      RunError: if they cannot be read now, whatever they hold.
    """
    with secondary_errors_suppressed() as failures:
        try:
            return restore()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            messages = f"{error} {error.__cause__}"
            temporary = isinstance(error, MemoryError) or any(t in messages for t in TEMPORARY)
            failures.append(_reason(error))
    if temporary:
        raise RunError(
            f"the checkpoint {folder} cannot be read: {failures[0]}. Nothing was changed."
        )
    raise CorruptError(failures[0])


def _reason(error: Exception) -> str:
    """Returns the part of a message in which the operating system speaks, else its first line."""
    text = str(error).strip().splitlines()
    match = re.search(r"[^:]*\[os_error_code[^\]]*\]", text[0] if text else "")
    if match:
        return match[0].split(" [")[0].strip()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}".removesuffix(".")


def _description(state: Any) -> dict[str, Any]:
    return {"leaves": _array_types(state), "checksums": _checksums(state)}


def _array_types(tree: Any) -> dict[str, str]:
    """Returns the dtype and shape of every array by its path."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _by_path(tree).items()}


def _checksums(tree: Any) -> dict[str, int]:
    values = jax.device_get(checksums(tree))  # at once, not one wait for each array
    return {name: int(value) for name, value in _by_path(values).items()}


def _by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _with_checksum(notes: dict[str, Any]) -> dict[str, Any]:
    """Returns the notes with a checksum of their text."""
    return notes | {"crc32": _crc(notes)}


def _crc(notes: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def _compare(saved: dict[str, str], expected: dict[str, str], folder: Path) -> None:
    differs = [
        f"{name} is {saved.get(name, 'missing')} there and {expected.get(name, 'missing')} here"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name) != expected.get(name)
    ]
    if differs:
        raise RunError(
            f"the checkpoint {folder} is of another network or optimizer: {'; '.join(differs[:5])}"
            f"{f'; and {len(differs) - 5} more' if len(differs) > 5 else ''}. Was the code changed?"
        )


def finite(tree: Any) -> bool:
    """Whether every number in a tree is finite."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: Any) -> jax.Array:
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in numbers]))
