"""Metrics for TensorBoard and Weights & Biases, both optional."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lstm_jax.training.config import ConfigError, Log
from lstm_jax.training.run_dir import files


def check_trackers(log: Log) -> None:
    """Checks that the packages of the requested trackers are installed.

    Raises:
      ConfigError: if not, with how to install it.
    """
    for field, enabled, package in (
        ("log.tensorboard", log.tensorboard, "tensorboardX"),
        ("log.wandb", log.wandb is not None, "wandb"),
    ):
        if enabled and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{field}: needs the package {package}, which is not installed: pip install {package}."
            )


class TensorBoard:
    """Event files, through tensorboardX."""

    def __init__(self, folder: Path, first: int):
        from tensorboardX import SummaryWriter

        self._folder = folder
        with self._errors():
            self._writer = SummaryWriter(str(folder), purge_step=first + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds a scalar for each metric.

        Raises:
          RunError: if the directory cannot be written.
        """
        with self._errors():
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes the rest.

        Raises:
          RunError: if the directory cannot be written.
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
    """A run of a project. A run directory that is resumed continues the same run."""

    def __init__(self, project: str, run_dir: Path, name: str, config: Any):
        import wandb

        identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, dir=str(run_dir), id=identity, name=name, config=config, resume="allow"
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Logs metrics."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finishes the run."""
        self._run.finish()


Tracker = TensorBoard | WeightsAndBiases


def make_trackers(log: Log, run_dir: Path, name: str, first: int, config: Any) -> list[Tracker]:
    """Returns the requested trackers. Metrics that they hold after step ``first`` are written again."""
    trackers: list[Tracker] = []
    if log.tensorboard:
        trackers.append(TensorBoard(run_dir / "tensorboard", first))
    if log.wandb is not None:
        trackers.append(WeightsAndBiases(log.wandb, run_dir, name, config))
    return trackers
