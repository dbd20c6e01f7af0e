"""Experiments: their fields, config files, overrides."""

from lstm_jax.training.config.schema import (
    ConfigFile,
    Data,
    Experiment,
    Log,
    Mesh,
    Model,
    Optimizer,
    Range,
    Sample,
    Train,
    local_path,
    locate,
    named_source,
    read_config,
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
