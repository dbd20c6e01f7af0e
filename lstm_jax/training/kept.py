"""What a run keeps of its training: the newest states, to go on from, and the best models, to use."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.training.checkpoint import Checkpoint, Checkpoints
from lstm_jax.training.config import ConfigError, Train
from lstm_jax.training.errors import NotFiniteError
from lstm_jax.training.evaluation import Metrics
from lstm_jax.training.run import RunFolder
from lstm_jax.training.state import TrainState


class Start(NamedTuple):
    """Where training goes on: after a step, in its state, with the figures that no line has yet."""

    step: int
    state: TrainState
    since_log: list[Metrics]


class Kept:
    """The checkpoints of a run folder. Close it, or the last may not be whole.

    Args:
      folder: the run's.
      run: how many are kept.
      warn: is told of each damaged one.
    """

    def __init__(self, folder: RunFolder, run: Train, warn: Callable[[str], None]):
        self.folder, self.warn = folder, warn
        self.newest = Checkpoints(folder.file("checkpoints"), keep=run.keep_last)
        self.best = Checkpoints(folder.file("best"), keep=run.keep_best)
        self.best_loss = np.inf

    def go_on(self, state: TrainState, steps_per_dispatch: int) -> Start:
        """From the newest state that is whole, or from ``state``; what came after is dropped.

        Raises:
          ConfigError: if dispatches of so many steps would not meet it.
        """
        found = self.newest.newest(state, say=self.warn)
        start = Start(0, state, [])
        if found is not None:
            since = {name: _array(values) for name, values in found.notes["since_log"].items()}
            start = Start(found.step, found.state, [since] if since else [])
        if start.step % steps_per_dispatch:
            raise ConfigError(
                f"train.steps_per_dispatch: expected a divisor of {start.step}, the step to go on from, "
                f"got {steps_per_dispatch}."
            )
        self.folder.cut(start.step)  # it will be made again
        for checkpoints in (self.newest, self.best):
            checkpoints.drop(lambda other: other > start.step)
        best = self.best.newest(start.state.params, say=self.warn)
        if best is not None:
            self.best_loss = best.notes["loss"]
        return start

    def save(self, step: int, state: TrainState, since_log: Metrics) -> None:
        """A state to go on from; what was written before it is on the disk then."""
        self.folder.sync()
        since = {name: values.tolist() for name, values in since_log.items()}
        self.newest.save(step, state, state.params, {"since_log": since})

    def offer(self, step: int, params: Any, loss: float) -> None:
        """A model, kept if it is the best so far."""
        if loss < self.best_loss:
            self.best_loss = loss
            self.best.save(step, params, params, {"loss": loss})

    def best_model(self, like: Any) -> Checkpoint:
        """The best one that is whole.

        Raises:
          NotFiniteError: if there is none.
        """
        best = self.best.newest(like, say=self.warn)
        if best is None:
            raise NotFiniteError(
                "no evaluation gave a finite loss; lower optimizer.learning_rate or optimizer.clip_norm."
            )
        return best

    def check(self) -> None:
        """Looks whether a save failed in the background.

        Raises:
          RunError: if so.
        """
        self.newest.check()
        self.best.check()

    def close(self) -> None:
        """Waits until all is written."""
        self.newest.close()
        self.best.close()


def _array(values: list[Any]) -> np.ndarray:
    """From JSON, as figures of steps are."""
    return np.array(values, bool if isinstance(values[0], bool) else np.float32)
