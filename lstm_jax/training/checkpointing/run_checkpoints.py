"""Checkpoints of a run: recent training states for resuming, and the best parameters for inference.

A checkpoint of the training state is saved only after the metrics, samples and best models up to its step
are on disk. A model is deleted only if no checkpoint from which the run may be resumed needs it. Corrupt
checkpoints are renamed, not deleted.
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
      step: Number of completed steps.
      state: The training state after these steps.
      pending: Metrics of steps that are not in metrics.jsonl yet.
      best_loss: Validation loss of the best model. Infinity if no model was saved.
      corrupt: Reasons why later checkpoints are corrupt: ``{directory: {step: reason}}``.
      warnings: Warnings about the restored checkpoints.
    """

    step: int
    state: TrainState
    pending: list[StepMetrics]
    best_loss: float
    corrupt: dict[str, dict[int, str]]
    warnings: list[str]


class RunCheckpoints:
    """The checkpoints in a run directory. Call :meth:`close`, or the latest may be incomplete.

    Args:
      run_dir: The run directory.
      start: The result of :func:`restore`.
      run: The numbers of checkpoints to keep.
      reproducible: Whether training will reproduce the models of later steps. They are deleted if True,
        and renamed if False.
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
                warn(
                    f"the model of step {step:,} was trained with other settings; renamed to {aside.name}"
                )
        distributed.wait_for_all("checkpoints were renamed")
        self.run_dir = run_dir
        self.states = Checkpoints(run_dir.file("checkpoints"), keep=run.keep_last)
        self.best = Checkpoints(run_dir.file("best"))
        for checkpoints in (self.states, self.best):
            checkpoints.delete(lambda step: step > start.step)  # training reproduces them
        self.keep_last, self.saved = run.keep_last, self.states.steps()

    def save(self, step: int, state: TrainState, pending: StepMetrics) -> None:
        """Saves a training state, after metrics, samples and best models are on disk."""
        self.run_dir.sync()
        self.best.wait()
        since = {name: values.tolist() for name, values in pending.items()}
        self.states.save(step, state, state.params, {"since_log": since})
        self.saved = [step, *self.saved]
        # One more than keep_last, because the new checkpoint is not complete yet.
        self._delete_old_models(self.saved[: self.keep_last + 1])

    def save_if_best(self, step: int, params: Any, loss: float) -> None:
        """Starts to save a model if its validation loss is the lowest so far."""
        if loss < self.best_loss:
            self.best.delete(lambda other: other >= step)  # exists if the evaluation is repeated
            self.best.save(step, params, params, {"loss": loss})
            self.best_loss = loss

    def best_model(self, like: Any) -> Checkpoint:
        """Restores the best model.

        Raises:
          NotFiniteError: If no model was saved, because no validation loss was finite.
        """
        self.best.wait()
        best, corrupt = self.best.restore_latest(like)
        for step, reason in corrupt.items():
            self.warn(f"the checkpoint {self.best.folder / str(step)} is corrupt: {reason}")
        if best is None:
            raise NotFiniteError(
                "no validation loss was finite. Lower optimizer.learning_rate or optimizer.clip_norm."
            )
        return best

    def check(self) -> None:
        """Raises the error of a background save that has failed. Does not wait.

        Raises:
          RunError: If a save has failed.
        """
        self.states.check()
        self.best.check()

    def close(self) -> None:
        """Waits until all checkpoints are complete."""
        try:
            self.states.close()
            self._delete_old_models(self.saved[: self.keep_last])
        finally:
            self.best.close()

    def _delete_old_models(self, states: list[int]) -> None:
        """Deletes all models but the latest ones and the best model at each checkpoint in ``states``.

        The decision does not depend on the content of the disk, so that all processes agree.
        """
        models = self.best.steps()
        needed = {*models[: self.keep_best]}
        for state in states:
            needed |= {*[step for step in models if step <= state][:1]}
        self.best.delete(lambda step: step not in needed)


def restore(run_dir: RunDir, state: TrainState, steps_per_dispatch: int) -> Start:
    """Restores the latest checkpoint that is not corrupt. Changes nothing in the run directory.

    Args:
      run_dir: The run directory.
      state: The initial training state, which is returned if the run has no checkpoint.
      steps_per_dispatch: ``train.steps_per_dispatch``, a divisor of the restored step.

    Raises:
      ConfigError: If no checkpoint can be restored although some exist, or ``steps_per_dispatch`` is no
        divisor of the step.
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
            f"workdir: the checkpoints of the run in {run_dir.path} are missing. Nothing was changed. "
            f"Restore {run_dir.file('checkpoints')} from a copy, or choose another directory with "
            "--workdir."
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
        "values were not verified"
    )


def _loss_at(run_dir: RunDir, step: int) -> float:
    """Returns the validation loss of a step in metrics.jsonl, infinity if the step is missing."""
    losses = [m["eval/loss"] for m in run_dir.metrics() if m["step"] == step and "eval/loss" in m]
    return losses[-1] if losses else np.inf


def _array(values: list[Any]) -> np.ndarray:
    """Converts per-step metrics from JSON to an array."""
    return np.array(values, bool if isinstance(values[0], bool) else np.float32)
