"""An experiment as ``config.json`` has it, and what two of them differ in."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lstm_jax.training import config
from lstm_jax.training.config import Experiment
from lstm_jax.training.config.overrides import values

GROUPS = {
    "model": config.Model,
    "data": config.Data,
    "optimizer": config.Optimizer,
    "train": config.Train,
    "log": config.Log,
    "mesh": config.Mesh,
    "sample": config.Sample,
}


def as_json(experiment: Experiment) -> dict[str, Any]:
    """An experiment as JSON has it: paths as strings."""
    return json.loads(json.dumps(dataclasses.asdict(experiment), default=str))


def from_json(content: dict[str, Any]) -> Experiment:
    """The inverse of :func:`as_json`."""
    fields = dict(content)
    for name, group in GROUPS.items():
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.get(name, {}).items()}
        fields[name] = group(**_with_path(given, "path"))
    return Experiment(**_with_path(fields, "workdir"))


def differences(before: Experiment, now: Experiment) -> dict[str, str]:
    """Returns a sentence for each field that differs, by the field's name."""
    old, new = values(before), values(now)
    return {
        name: f"{name} was {old[name]}, now {new[name]}"
        for name in sorted(old)
        if old[name] != new[name]
    }


def _with_path(fields: dict[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return fields | {name: Path(value)} if value is not None else fields
