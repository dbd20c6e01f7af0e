"""Config files: Python files that define an experiment and, optionally, a sweep or a search."""

import dataclasses
import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from lstm_jax.training.config.fields import group
from lstm_jax.training.config.paths import local_path, named_source
from lstm_jax.training.config.schema import Experiment
from lstm_jax.training.errors import ConfigError, did_you_mean


@group
class Range:
    """A search range from ``low`` to ``high``. Values are integers if both bounds are integers."""

    low: int | float
    high: int | float
    log: bool = False
    """Sample the logarithm uniformly, so that each order of magnitude is equally likely."""

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if self.low >= self.high:
            raise ConfigError(
                f"range.high must be greater than range.low ({self.low}), got {self.high}."
            )
        if self.log and self.low <= 0:
            raise ConfigError(f"range.low must be greater than 0 with log=True, got {self.low}.")
        return self


@dataclass(frozen=True)
class ConfigFile:
    """Definitions in a config file. ``sweep`` and ``search`` are validated when they are used."""

    path: Path
    config: Experiment
    sweep: Any = None
    """A dict of fields to lists of values (a grid), or a list of dicts of fields to values."""
    search: Any = None
    """A dict of fields to a :class:`Range` or a list of values."""


def read_config(path: Path) -> ConfigFile:
    """Runs a config file and returns its definitions.

    Raises:
      ConfigError: If the file is missing, raises an error, or does not define ``config``.
    """
    path = local_path("config file", path)
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"config file {path} not found.{did_you_mean(str(path), siblings)}")
    if path.suffix != ".py":  # a text passed by mistake must not run as Python
        raise ConfigError(
            f"config file must be a .py file, got {path}. To train on it pass --data.path {path}."
        )
    names = _run(path)
    config = names.get("config")
    if not isinstance(config, Experiment):
        raise ConfigError(
            f"config file {path} must define config = Experiment(...), got "
            f"{'no config' if config is None else f'config of type {type(config).__name__}'}."
        )
    return ConfigFile(path, config, names.get("sweep"), names.get("search"))


def _run(path: Path) -> dict[str, Any]:
    """Runs a config file and returns its global names."""
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # like a script, a config may import modules from its directory
    try:
        return runpy.run_path(str(path))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f"config file {path}{f', line {lines[-1]}' if lines else ''}"
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"{where}: {kind}{error}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def locate(experiment: Experiment) -> Experiment:
    """Returns the experiment with an absolute ``data.path``.

    Raises:
      ConfigError: If the path does not exist.
    """
    path = experiment.data.path
    if path is None or named_source(path):
        return experiment
    if not path.exists():
        raise ConfigError(
            f"data.path must be an existing file or directory, name:NAME or hf:NAME, got {path}."
        )
    data = dataclasses.replace(experiment.data, path=path.resolve())
    return dataclasses.replace(experiment, data=data)
