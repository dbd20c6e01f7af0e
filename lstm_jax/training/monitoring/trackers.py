"""Metrics for TensorBoard and Weights & Biases, both optional."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lstm_jax.training.config import ConfigError, Log
from lstm_jax.training.run_dir import files


def check_writers(log: Log) -> None:
    """Checks that the packages of the requested writers are installed.

    Raises:
      ConfigError: if not, with how to install it.
    """
    for field, wanted, package in (
        ("log.tensorboard", log.tensorboard, "tensorboardX"),
        ("log.wandb", log.wandb is not None, "wandb"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
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

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Adds a scalar for each metric.

        Raises:
          RunError: if the directory cannot be written.
        """
        with self._errors():
            for name, value in figures.items():
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
    """A run of a project; a run folder that is gone on with goes on in the same one."""

    def __init__(self, project: str, run_dir: Path, name: str, config: Any):
        import wandb

        identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, dir=str(run_dir), id=identity, name=name, config=config, resume="allow"
        )

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Logs them."""
        self._run.log(figures, step=step)

    def close(self) -> None:
        """Ends the run there."""
        self._run.finish()


Writer = TensorBoard | WeightsAndBiases


def make_writers(log: Log, run_dir: Path, name: str, first: int, config: Any) -> list[Writer]:
    """Those that are asked for. What they hold past step ``first`` will be written again."""
    writers: list[Writer] = []
    if log.tensorboard:
        writers.append(TensorBoard(run_dir / "tensorboard", first))
    if log.wandb is not None:
        writers.append(WeightsAndBiases(log.wandb, run_dir, name, config))
    return writers
