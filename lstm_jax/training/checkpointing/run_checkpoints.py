"""Checkpoints of a run: recent training states for resuming, and the best parameters for inference.

A checkpoint of the training state is saved only after all that belongs to it is on the disk: metrics,
samples and best models. A model or a checkpoint is removed only when no checkpoint that a run could be
resumed from needs it. What cannot be read is renamed, not removed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.training.checkpointing.checkpoints import Checkpoint, Checkpoints, steps_in
from lstm_jax.training.config import ConfigError, Train
from lstm_jax.training.errors import NotFiniteError
from lstm_jax.training.metrics import StepMetrics
from lstm_jax.training.parallel import processes as distributed
from lstm_jax.training.run_dir import RunDir, files
from lstm_jax.training.train_state import TrainState


class Start(NamedTuple):
    """The step and the state from which training starts or resumes.

    Attributes:
      step: Number of steps done.
      state: The state after them.
      pending: StepMetrics of steps that are not in metrics.jsonl yet.
      best_loss: Validation loss of the best model; infinite without one.
      corrupt: Reasons why later checkpoints, of states and of models, cannot be read.
      warnings: Messages about what was restored.
    """

    step: int
    state: TrainState
    pending: list[StepMetrics]
    best_loss: float
    corrupt: dict[str, dict[int, str]]
    warnings: list[str]


class RunCheckpoints:
    """The checkpoints in a run directory. Close it, or the last one may be incomplete.

    Args:
      run_dir: The run directory.
      start: What :func:`restore` returned.
      run: How many checkpoints to keep.
      reproducible: Whether training will make the models after the start again. They are removed then, and
        else renamed.
      warn: Called with a message about each checkpoint that is renamed.
    """

    def __init__(
        self,
        run_dir: RunDir,
        start: Start,
        run: Train,
        reproducible: bool,
        warn: Callable[[str], None],
    ):
        self.warn, self.keep_best, self.best_loss = warn, run.keep_best, start.best_loss
        for name, reasons in start.corrupt.items():
            for step, reason in reasons.items():
                path = run_dir.file(name) / str(step)
                aside = files.set_aside(path) if run_dir.writes else path
                warn(f"the checkpoint {path} is corrupt ({reason}); renamed to {aside.name}")
        for step in () if reproducible else steps_in(run_dir.file("best")):
            if step > start.step and run_dir.writes:
                aside = files.set_aside(run_dir.file("best") / str(step), "superseded")
                warn(f"the model of step {step:,} is of other settings; renamed to {aside.name}")
        distributed.wait_for_all("checkpoints were renamed")
        self.run_dir = run_dir
        self.states = Checkpoints(run_dir.file("checkpoints"), keep=run.keep_last)
        self.best = Checkpoints(run_dir.file("best"))
        for checkpoints in (self.states, self.best):
            checkpoints.delete(lambda step: step > start.step)  # training will make them again
        self.keep_last, self.saved = run.keep_last, self.states.steps()

    def save(self, step: int, state: TrainState, pending: StepMetrics) -> None:
        """Saves a state to resume from, after metrics, samples and best models are on the disk."""
        self.run_dir.sync()
        self.best.wait()
        since = {name: values.tolist() for name, values in pending.items()}
        self.states.save(step, state, state.params, {"since_log": since})
        self.saved = [step, *self.saved]
        self._drop_old_models(
            self.saved[: self.keep_last + 1]
        )  # the new one is still being written

    def save_if_best(self, step: int, params: Any, loss: float) -> None:
        """Starts to save a model if it is the best so far."""
        if loss < self.best_loss:
            self.best.delete(lambda other: other >= step)  # a repeated evaluation, on other devices
            self.best.save(step, params, params, {"loss": loss})
            self.best_loss = loss

    def best_model(self, like: Any) -> Checkpoint:
        """Restores the best model.

        Raises:
          NotFiniteError: if no model was saved, as no validation loss was finite.
        """
        self.best.wait()
        best, corrupt = self.best.restore_latest(like)
        for step, reason in corrupt.items():
            self.warn(f"the checkpoint {self.best.folder / str(step)} is corrupt: {reason}")
        if best is None:
            raise NotFiniteError(
                "no evaluation gave a finite loss; lower optimizer.learning_rate or optimizer.clip_norm."
            )
        return best

    def check(self) -> None:
        """Checks whether a save failed in the background.

        Raises:
          RunError: if it failed.
        """
        self.states.check()
        self.best.check()

    def close(self) -> None:
        """Waits until all checkpoints are complete."""
        try:
            self.states.close()
            self._drop_old_models(self.saved[: self.keep_last])
        finally:
            self.best.close()

    def _drop_old_models(self, states: list[int]) -> None:
        """Keeps the latest models, and those that the checkpoints would be resumed with.

        All processes decide alike, as they do not look at the disk, which one of them changes.
        """
        models = self.best.steps()
        needed = {*models[: self.keep_best]}
        for state in states:
            needed |= {*[step for step in models if step <= state][:1]}
        self.best.delete(lambda step: step not in needed)


def restore(run_dir: RunDir, state: TrainState, steps_per_dispatch: int) -> Start:
    """Restores the latest checkpoint that is not corrupt, or returns ``state``. Changes nothing.

    Raises:
      ConfigError: if there are checkpoints but none can be restored, or dispatches of
        ``steps_per_dispatch`` steps cannot start from there.
    """
    for name in ("checkpoints", "best"):
        path = run_dir.file(name)
        if (path.exists() or path.is_symlink()) and not path.is_dir():
            raise ConfigError(
                f"workdir: expected {path} to be a directory. Nothing was changed. Restore it from a "
                "copy, or choose another directory with --workdir."
            )
    found, corrupt = _latest(run_dir, "checkpoints", state)
    if found is None and not corrupt and run_dir.had_checkpoints():
        raise ConfigError(
            f"workdir: {run_dir.path} holds a run without its checkpoints. Nothing was changed. Restore "
            f"{run_dir.file('checkpoints')} from a copy, or choose another directory with --workdir."
        )
    if found is None and corrupt:
        reasons = "; ".join(f"{step}: {reason}" for step, reason in corrupt.items())
        raise ConfigError(
            f"workdir: no checkpoint in {run_dir.file('checkpoints')} can be restored ({reasons}). "
            "Nothing was changed. Restore the files from a copy, or choose another directory with "
            "--workdir."
        )
    step, pending, warnings = 0, [], []
    if found is not None:
        step, state = found.step, found.state
        since = {n: _array(values) for n, values in found.notes.get("since_log", {}).items()}
        pending = [since] if since else []
        if not found.verified:
            warnings.append(_unverified(run_dir, "checkpoints", step))
    if step % steps_per_dispatch:
        raise ConfigError(
            f"train.steps_per_dispatch: expected a divisor of {step}, the step to resume from, got "
            f"{steps_per_dispatch}."
        )
    best, corrupt_models = _latest(run_dir, "best", state.params, up_to=step)
    best_loss = np.inf
    if best is not None:
        best_loss = best.notes.get("loss", _loss_at(run_dir, best.step))
        if not best.verified:
            warnings.append(_unverified(run_dir, "best", best.step))
    both = {"checkpoints": corrupt, "best": corrupt_models}
    return Start(step, state, pending, best_loss, both, warnings)


def _latest(
    run_dir: RunDir, name: str, like: Any, up_to: int | None = None
) -> tuple[Checkpoint | None, dict[int, str]]:
    if not steps_in(run_dir.file(name)):
        return None, {}
    checkpoints = Checkpoints(run_dir.file(name), read_only=True)
    try:
        return checkpoints.restore_latest(like, up_to)
    finally:
        checkpoints.close()


def _unverified(run_dir: RunDir, name: str, step: int) -> str:
    return (
        f"the checkpoint {run_dir.file(name) / str(step)} has no checksums: it was restored, but its "
        "numbers were not verified"
    )


def _loss_at(run_dir: RunDir, step: int) -> float:
    """Returns the validation loss of a step in metrics.jsonl, infinite if it is not there."""
    losses = [m["eval/loss"] for m in run_dir.metrics() if m["step"] == step and "eval/loss" in m]
    return losses[-1] if losses else np.inf


def _array(values: list[Any]) -> np.ndarray:
    """Returns metrics of steps as they were before they became JSON."""
    return np.array(values, bool if isinstance(values[0], bool) else np.float32)
