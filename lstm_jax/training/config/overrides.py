"""Overrides: new values of fields by their full names, such as ``{"model.hidden_size": 128}``."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from lstm_jax.training.config.fields import as_python, short_repr, validated
from lstm_jax.training.config.file import Range
from lstm_jax.training.config.schema import Experiment
from lstm_jax.training.errors import ConfigError, did_you_mean

MAX_NAME_LENGTH = 120


def grid(sweep: object) -> list[dict[str, Any]]:
    """Returns the overrides of each run of a sweep.

    Args:
      sweep: A dict of fields to lists (or NumPy arrays) of values: every combination is a run. Or a list
        of dicts of fields to values: every dict is a run.

    Raises:
      ConfigError: If the sweep is neither, or is empty.

    >>> grid({"seed": [0, 1], "model.cell": ["lstm"]})
    [{'seed': 0, 'model.cell': 'lstm'}, {'seed': 1, 'model.cell': 'lstm'}]
    """
    runs: Any = sweep
    if isinstance(sweep, dict):
        columns = {name: _as_list(values) for name, values in sweep.items()}
        for name, values in columns.items():
            if not isinstance(values, list):
                raise ConfigError(
                    f"sweep: {name} must be a list of values, got {short_repr(values)}."
                )
        runs = [
            dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values())
        ]
    if not isinstance(runs, list | tuple) or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(
            "sweep must be a dict of lists, such as {'model.hidden_size': [128, 256]}, or a list of "
            f"dicts, such as [{{'model.hidden_size': 128}}], got {short_repr(sweep)}."
        )
    if not sweep or not runs:
        raise ConfigError(f"sweep must have at least one run, got {short_repr(sweep)}.")
    return [{name: as_python(value) for name, value in run.items()} for run in runs]


def check_names(where: str, names: Iterable[object], given: Experiment, config: Experiment) -> None:
    """Checks that a sweep or a search may set fields.

    Args:
      where: ``sweep`` or ``search``, for the error message.
      names: The full names of the fields.
      given: The experiment of the config file and the command line.
      config: The experiment of the config file.

    Raises:
      ConfigError: If a field does not exist, or is also set on the command line.
    """
    known, before = values(given), values(config)
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known) or " See --help for the fields."
            raise ConfigError(f"{where}: {name} is not a field.{hint}")
        if name == "workdir":
            raise ConfigError(f"{where}: workdir cannot be set: each run has its own directory.")
        if known[name] != before[name]:
            raise ConfigError(
                f"{where}: {name} is also set on the command line. Remove it from one of the two."
            )


def check_space(space: object, given: Experiment, config: Experiment) -> dict[str, Any]:
    """Validates a search space and returns it with NumPy arrays converted to lists.

    Raises:
      ConfigError: If the space is not a dict of ranges and lists, names a field that does not exist, or
        has a value that the field does not accept.
    """
    if not isinstance(space, dict) or not space:
        raise ConfigError(
            "search must be a dict of ranges and lists, such as {'model.dropout': Range(0.0, 0.5)}, "
            f"got {short_repr(space)}."
        )
    check_names("search", space, given, config)
    space = {name: _as_list(values) for name, values in space.items()}
    for name, values in space.items():
        if not isinstance(values, Range | list) or not values:
            raise ConfigError(
                f"search: {name} must be a Range or a list, got {short_repr(values)}."
            )
        group, _, field = name.rpartition(".")
        owner = type(getattr(given, group) if group else given)
        ends = (values.low, values.high) if isinstance(values, Range) else values
        try:
            valid = [validated(owner, field, value) for value in ends]
        except ConfigError as error:
            raise ConfigError(f"search: {error}") from None
        # A range from 4.0 to 9.0 of an integer field is a range of integers.
        space[name] = valid
        if isinstance(values, Range):
            space[name] = Range(low=valid[0], high=valid[1], log=values.log)
    return space


def apply(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """Returns an experiment with overrides applied.

    Raises:
      ConfigError: If the result is not valid.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group, {})[field] = value
    top = groups.pop("", {})
    changed = {g: dataclasses.replace(getattr(experiment, g), **v) for g, v in groups.items()}
    return dataclasses.replace(experiment, **top, **changed)


def folder_name(overrides: Mapping[str, Any]) -> str:
    """Returns the directory name of a run. It does not depend on the order of the overrides.

    >>> folder_name({"optimizer.learning_rate": 3e-3, "model.hidden_size": 128})
    'model.hidden_size=128,optimizer.learning_rate=0.003'
    """
    parts = (f"{name}={_readable(overrides[name])}" for name in sorted(overrides))
    name = ",".join(parts) or "unchanged"
    if len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{name[:MAX_NAME_LENGTH]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def values(experiment: Experiment) -> dict[str, Any]:
    """Returns the value of every field by its full name."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        if dataclasses.is_dataclass(value):
            flat |= {
                f"{field.name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)
            }
        else:
            flat[field.name] = value
    return flat


def _as_list(values: Any) -> Any:
    """Converts a NumPy array, a list or a tuple to a list of Python values. Returns other values unchanged.

    >>> import numpy as np
    >>> _as_list(np.arange(16, 64, 16)), _as_list((np.int64(16), "lstm"))
    ([16, 32, 48], [16, 'lstm'])
    """
    if getattr(values, "shape", ()):
        return values.tolist()
    return [as_python(v) for v in values] if isinstance(values, list | tuple) else values


def _readable(value: object) -> str:
    """Returns a value as part of a file name. Writes 1.0 as 1 and percent-encodes unsafe characters."""
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return quote(text, safe="+")
