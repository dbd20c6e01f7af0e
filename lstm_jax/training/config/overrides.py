"""Changes to an experiment: fields by their full names, such as ``model.hidden_size``, to values."""

import dataclasses
import difflib
import hashlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints
from urllib.parse import quote

from lstm_jax.training.config.schema import (
    Experiment,
    Range,
    listed,
    plain,
    type_error,
)
from lstm_jax.training.errors import ConfigError

LONGEST_NAME = 120


def grid(sweep: object) -> list[dict[str, Any]]:
    """The overrides of each run: a dict of lists is a grid, a list of dicts is as it is.

    Raises:
      ConfigError: if it is neither, or empty.

    >>> grid({"seed": [0, 1], "model.cell": ["lstm"]})
    [{'seed': 0, 'model.cell': 'lstm'}, {'seed': 1, 'model.cell': 'lstm'}]
    """
    if isinstance(sweep, dict):
        sweep = {name: listed(values) for name, values in sweep.items()}
    runs = sweep
    if isinstance(sweep, dict):
        for name, values in sweep.items():
            if not isinstance(values, list | tuple):
                raise ConfigError(f"sweep: expected a list of values for {name}, got {values!r}.")
        runs = [dict(zip(sweep, row, strict=True)) for row in itertools.product(*sweep.values())]
    if not isinstance(runs, list | tuple) or not all(isinstance(run, dict) for run in runs):
        raise ConfigError(
            "sweep: expected a dict of lists, such as {'model.hidden_size': [128, 256]}, or a list of "
            f"dicts, such as [{{'model.hidden_size': 128}}], got {sweep!r}."
        )
    if not sweep or not runs:
        raise ConfigError(f"sweep: expected at least one run, got {sweep!r}.")
    return [dict(zip(run, listed(list(run.values())), strict=True)) for run in runs]


def check_names(where: str, names: Iterable[object], given: Experiment, config: Experiment) -> None:
    """Looks whether an experiment has these fields, and leaves them to the sweep.

    Args:
      where: what to call the place that names them.
      names: of the fields.
      given: the experiment with the command line over it.
      config: the experiment of the file.

    Raises:
      ConfigError: if not; it names the nearest field that exists.
    """
    known, before = values(given), values(config)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists them."
            raise ConfigError(f"{where}: there is no field {name}; {hint}")
        if name == "workdir":
            raise ConfigError(f"{where}: workdir is not for it to set: each run gets its own.")
        if known[name] != before[name]:
            raise ConfigError(
                f"{where}: {name} is given on the command line too; leave it out of one of the two."
            )


def check_space(space: object, given: Experiment, config: Experiment) -> dict[str, Any]:
    """A search space, looked at as far as can be before any of its points is drawn.

    Raises:
      ConfigError: if it is not a dict of ranges and lists, names a field that does not exist, or has a
        value that is not of the field's type.
    """
    if not isinstance(space, dict) or not space:
        raise ConfigError(
            "search: expected a dict of ranges and lists, such as {'model.dropout': Range(0.0, 0.5)}, "
            f"got {space!r}."
        )
    check_names("search", space, given, config)
    space = {name: listed(values) for name, values in space.items()}
    for name, values in space.items():
        if not isinstance(values, Range | list | tuple) or not values:
            raise ConfigError(f"search: expected a Range or a list for {name}, got {values!r}.")
        ends = (values.low, values.high) if isinstance(values, Range) else values
        for value in ends:
            hint = _hint(given, name)
            if (expected := type_error(hint, plain(hint, value))) is not None:
                raise ConfigError(f"search: {name}: expected {expected}, got {value!r}.")
    return space


def apply(experiment: Experiment, overrides: Mapping[str, Any]) -> Experiment:
    """The experiment with changes.

    Raises:
      ConfigError: if it cannot be run so.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group, {})[field] = value
    top = groups.pop("", {})
    changed = {g: dataclasses.replace(getattr(experiment, g), **v) for g, v in groups.items()}
    return dataclasses.replace(experiment, **top, **changed)


def folder_name(overrides: Mapping[str, Any]) -> str:
    """What to call a run: the same for the same overrides, whatever their order.

    >>> folder_name({"optimizer.learning_rate": 3e-3, "model.hidden_size": 128})
    'model.hidden_size=128,optimizer.learning_rate=0.003'
    """
    parts = (f"{name}={_readable(overrides[name])}" for name in sorted(overrides))
    name = ",".join(parts) or "unchanged"
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _readable(value: object) -> str:
    """1 and 1.0 are the same; what a file system may not like is percent-encoded."""
    return quote(
        str(value).removesuffix(".0") if isinstance(value, float) else str(value), safe="+"
    )


def values(experiment: Experiment) -> dict[str, Any]:
    """Every field by its full name."""
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


def _hint(experiment: Experiment, name: str) -> Any:
    group, _, field = name.rpartition(".")
    owner = getattr(experiment, group) if group else experiment
    return get_type_hints(type(owner))[field]
