"""Checkpoints with Orbax. Only this module imports Orbax.

Orbax writes a checkpoint in the background into a directory with a temporary name, and renames the
directory when it is complete. Orbax detects missing and truncated files, but restores arrays with flipped
bits without an error. Therefore a checkpoint also contains a checksum of each array.
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
"""Parts of error messages that do not imply that a file is corrupt."""


class CorruptError(RunError):
    """Error for a checkpoint that cannot be restored, or whose checksums do not match."""


class Checkpoint(NamedTuple):
    """A restored checkpoint.

    Attributes:
      step: The step at which it was saved.
      state: The arrays.
      notes: The JSON object that was saved with the arrays.
      verified: Whether the checksums were compared. False if the checkpoint has no checksums.
    """

    step: int
    state: Any
    notes: dict[str, Any]
    verified: bool


def steps_in(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a directory, latest first."""
    if not folder.is_dir():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdecimal()]
    return sorted((int(name) for name in names if name == str(int(name))), reverse=True)


class Checkpoints:
    """The checkpoints in a directory. Call :meth:`close`, or the latest checkpoint may be incomplete.

    Args:
      folder: The directory.
      keep: Number of recent checkpoints to keep. Older checkpoints are removed when a new one is
        complete. None keeps all.
      read_only: Whether to change nothing in the directory, because another process may train in it.
    """

    def __init__(self, folder: Path, keep: int | None = None, read_only: bool = False):
        install_unraisable_hook()
        self.folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=not read_only,
            # Barriers are global: two directories that are saved at once need different names.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=folder.name
            ),
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """Returns the step of the latest checkpoint, None if the directory has none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, latest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, step: int, state: Any, params: Any, notes: dict[str, Any]) -> None:
        """Copies a state and starts to write it in the background.

        Args:
          step: The step of the state.
          state: The arrays to save.
          params: The part of the state that must be finite. (The optimizer state may contain infinity.)
          notes: JSON to save with the arrays.

        Raises:
          NotFiniteError: If ``params`` has a NaN or an infinity.
          RunError: If this or the previous checkpoint cannot be written.
        """
        if not is_finite(params):
            raise NotFiniteError(
                f"the parameters are not finite after step {step:,} and were not saved. The latest "
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
        """Waits until the latest checkpoint is complete.

        Raises:
          RunError: If it cannot be written.
        """
        self._try(self._manager.wait_until_finished)

    def check(self) -> None:
        """Raises the error of a background save that has failed. Does not wait.

        Raises:
          RunError: If the latest save has failed.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()

    def close(self) -> None:
        """Waits until the latest checkpoint is complete, and releases the resources of Orbax.

        Raises:
          RunError: If the checkpoint cannot be written.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def delete(self, predicate: Callable[[int], bool]) -> None:
        """Deletes the checkpoints whose step satisfies a predicate."""
        for step in self.steps():
            if predicate(step):
                self._manager.delete(step)

    def restore_latest(
        self, like: Any, up_to: int | None = None
    ) -> tuple[Checkpoint | None, dict[int, str]]:
        """Restores the latest checkpoint that is not corrupt. Changes nothing in the directory.

        Args:
          like: A state with the structure, shapes, dtypes and shardings to restore.
          up_to: Ignores checkpoints after this step. None ignores none.

        Returns:
          The checkpoint or None, and the reasons why later checkpoints are corrupt, by step.

        Raises:
          RunError: If a checkpoint has another structure or other shapes, or cannot be read for a
            reason other than corruption.
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
                raise CorruptError(f"the checksum of {differs[0]} does not match")
        return Checkpoint(step, state, notes, verified=saved is not None)

    def _notes(self, step: int) -> dict[str, Any]:
        """Returns the notes of a checkpoint. Empty if its files of notes are missing."""
        folder = self.folder / str(step)
        if not any(path.is_file() for path in (folder / "notes").rglob("*")):
            return {}
        args = ocp.args.Composite(notes=ocp.args.JsonRestore())
        notes = dict(_read(folder, lambda: self._manager.restore(step, args=args)["notes"]))
        if "crc32" in notes and notes.pop("crc32") != _crc(notes):
            raise CorruptError("its notes do not match their checksum")
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
        latest = (
            f"The latest complete checkpoint is of step {steps[0]:,}."
            if steps
            else "No checkpoint is complete."
        )
        raise RunError(
            f"cannot write a checkpoint to {self.folder}: {failures[0]}. {latest} Fix the cause, for "
            "instance by freeing space, then run the same command to resume."
        )


def _read(folder: Path, restore: Callable[[], Any]) -> Any:
    """Restores the arrays or the notes of a checkpoint.

    Raises:
      CorruptError: If the files are corrupt.
      RunError: If the files cannot be read for another reason, such as permissions.
    """
    with secondary_errors_suppressed() as failures:
        try:
            return restore()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            messages = f"{error} {error.__cause__}"
            temporary = isinstance(error, MemoryError) or any(t in messages for t in TEMPORARY)
            failures.append(_reason(error))
    if temporary:
        raise RunError(f"cannot read the checkpoint {folder}: {failures[0]}. Nothing was changed.")
    raise CorruptError(failures[0])


def _reason(error: Exception) -> str:
    """Returns the message of the operating system in an error, else the first line of the error."""
    text = str(error).strip().splitlines()
    match = re.search(r"[^:]*\[os_error_code[^\]]*\]", text[0] if text else "")
    if match:
        return match[0].split(" [")[0].strip()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}".removesuffix(".")


def _description(state: Any) -> dict[str, Any]:
    """Returns the dtype, shape and checksum of every array, for the notes."""
    return {"leaves": _array_types(state), "checksums": _checksums(state)}


def _array_types(tree: Any) -> dict[str, str]:
    """Returns the dtype and shape of every array, by name."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _by_path(tree).items()}


def _checksums(tree: Any) -> dict[str, int]:
    values = jax.device_get(checksums(tree))  # one transfer for all arrays
    return {name: int(value) for name, value in _by_path(values).items()}


def _by_path(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _with_checksum(notes: dict[str, Any]) -> dict[str, Any]:
    """Adds a checksum of the notes to the notes."""
    return notes | {"crc32": _crc(notes)}


def _crc(notes: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def _compare(saved: dict[str, str], expected: dict[str, str], folder: Path) -> None:
    differs = [
        f"{name}: saved {saved.get(name, 'no array')}, expected {expected.get(name, 'no array')}"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name) != expected.get(name)
    ]
    if differs:
        raise RunError(
            f"the checkpoint {folder} does not match the model or the optimizer: "
            f"{'; '.join(differs[:5])}{f'; and {len(differs) - 5} more' if len(differs) > 5 else ''}. "
            "Use the code that saved it, or choose another directory with --workdir."
        )


def is_finite(tree: Any) -> bool:
    """Returns whether every floating-point number in a tree is finite."""
    return bool(_finite(tree))


@jax.jit
def _finite(tree: Any) -> jax.Array:
    numbers = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in numbers]))
