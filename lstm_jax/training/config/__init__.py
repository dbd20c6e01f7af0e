"""Experiments: their fields, config files, overrides."""

from lstm_jax.training.config.file import ConfigFile, Range, locate, read_config
from lstm_jax.training.config.paths import local_path, named_source
from lstm_jax.training.config.schema import (
    Data,
    Experiment,
    Log,
    Mesh,
    Model,
    Optimizer,
    Sample,
    Train,
)
from lstm_jax.training.errors import ConfigError

__all__ = [
    "ConfigError",
    "ConfigFile",
    "Data",
    "Experiment",
    "Log",
    "Mesh",
    "Model",
    "Optimizer",
    "Range",
    "Sample",
    "Train",
    "local_path",
    "locate",
    "named_source",
    "read_config",
]
