"""Conversion of an experiment to and from JSON (``config.json``), and the diff of two experiments."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lstm_jax.training.config.fields import explain
from lstm_jax.training.config.overrides import values
from lstm_jax.training.config.schema import Experiment
from lstm_jax.training.errors import ConfigError

ADAPTER = TypeAdapter(Experiment)


def as_json(experiment: Experiment) -> dict[str, Any]:
    """Returns an experiment as JSON values, paths as strings."""
    return ADAPTER.dump_python(experiment, mode="json")


def from_json(content: Any) -> Experiment:
    """Returns an experiment from JSON values. The inverse of :func:`as_json`.

    Raises:
      ConfigError: If the content is not an experiment, or has unknown fields or invalid values.
    """
    try:
        return ADAPTER.validate_json(json.dumps(content))
    except ValidationError as error:
        raise ConfigError(explain(error, Experiment, "")) from None


def differences(before: Experiment, now: Experiment) -> dict[str, str]:
    """Returns the fields that differ: a dict of field names to ``FIELD was OLD, now NEW``."""
    old, new = values(before), values(now)
    return {
        name: f"{name} was {old[name]}, now {new[name]}"
        for name in sorted(old)
        if old[name] != new[name]
    }
