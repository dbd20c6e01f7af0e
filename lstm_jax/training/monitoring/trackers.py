"""Optional experiment trackers: TensorBoard and Weights & Biases."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lstm_jax.training.config import ConfigError, Log
from lstm_jax.training.run_dir import files


def check_trackers(log: Log) -> None:
    """Checks that the packages of the enabled trackers are installed.

    Raises:
      ConfigError: If a package is not installed.
    """
    for field, enabled, package in (
        ("log.tensorboard", log.tensorboard, "tensorboardX"),
        ("log.wandb", log.wandb is not None, "wandb"),
    ):
        if enabled and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{field} requires the package {package}, which is not installed: pip install {package}."
            )


class TensorBoard:
    """A tracker that writes TensorBoard event files with tensorboardX."""

    def __init__(self, folder: Path, first: int):
        from tensorboardX import SummaryWriter

        self._folder = folder
        with self._errors():
            self._writer = SummaryWriter(str(folder), purge_step=first + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes a scalar for each metric.

        Raises:
          RunError: If the directory cannot be written.
        """
        with self._errors():
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the event file.

        Raises:
          RunError: If the directory cannot be written.
        """
        with self._errors():
            self._writer.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise files.unwritable(self._folder, error) from error


class WeightsAndBiases:
    """A tracker that sends metrics to a project of Weights & Biases. A resumed run keeps its id."""

    def __init__(self, project: str, run_dir: Path, name: str, config: Any):
        import wandb

        identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, dir=str(run_dir), id=identity, name=name, config=config, resume="allow"
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Logs the metrics of a step."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finishes the run."""
        self._run.finish()


Tracker = TensorBoard | WeightsAndBiases


def make_trackers(log: Log, run_dir: Path, name: str, first: int, config: Any) -> list[Tracker]:
    """Returns the enabled trackers. Metrics of steps after ``first`` are overwritten."""
    trackers: list[Tracker] = []
    if log.tensorboard:
        trackers.append(TensorBoard(run_dir / "tensorboard", first))
    if log.wandb is not None:
        trackers.append(WeightsAndBiases(log.wandb, run_dir, name, config))
    return trackers
