"""The ``group`` decorator for config dataclasses, and the types of their fields.

Pydantic validates values when a group is constructed, replaced or parsed, and when a sweep or a search
sets a field. Every error is a one-line ``ConfigError`` with the full name of the field.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lstm_jax.training.errors import ConfigError, did_you_mean

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
MAX_VALUE_LENGTH = 100


def as_int(value: Any) -> Any:
    """Returns a float with an integral value as an int, and other values unchanged.

    ``np.logspace`` returns sizes as floats.

    >>> as_int(64.0), as_int(64.5), as_int("64")
    (64, 64.5, '64')
    """
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(as_int)]
PositiveInt = Annotated[int, Field(gt=0), BeforeValidator(as_int)]
NonNegativeInt = Annotated[int, Field(ge=0), BeforeValidator(as_int)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def group(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass that validates its fields.

    NumPy numbers become Python numbers. The docstring of a field is its help on the command line.
    """
    validated: Any = dataclass(frozen=True, config=STRICT)(cls)
    for field in dataclasses.fields(validated):
        # tyro would keep the line breaks of the docstring itself.
        text = validated.__pydantic_fields__[field.name].description or ""
        if text:
            field.metadata = MappingProxyType({"help": " ".join(text.split())})
    validate: Callable[..., None] = validated.__init__

    @functools.wraps(validate)
    def __init__(self: Any, *args: Any, **fields: Any) -> None:
        try:
            validate(self, *map(as_python, args), **{k: as_python(v) for k, v in fields.items()})
        except ValidationError as error:
            raise ConfigError(explain(error, validated, group_name(validated))) from None

    validated.__init__ = __init__
    return cast(type[T], validated)


def group_name(cls: type) -> str:
    """Returns the field name of a group in an experiment, such as ``model``. Empty for the experiment."""
    return "" if cls.__name__ == "Experiment" else cls.__name__.lower()


def as_python(value: Any) -> Any:
    """Converts a NumPy scalar, or NumPy scalars in a tuple, to Python. Returns other values unchanged.

    >>> import numpy as np
    >>> as_python(np.int64(64)), as_python((np.float32(0.5), 1)), as_python("lstm")
    (64, (0.5, 1), 'lstm')
    """
    if type(value) is tuple:
        return tuple(map(as_python, value))
    return value.item() if getattr(value, "shape", None) == () else value


def validated(cls: type, field: str, value: object) -> Any:
    """Returns a value as one field of a group holds it. Constraints that relate fields do not apply.

    Raises:
      ConfigError: If the field does not accept the value.
    """
    try:
        return _validator(cls, field)(as_python(value))
    except ValidationError as error:
        prefix = f"{group_name(cls)}.{field}".lstrip(".")
        raise ConfigError(explain(error, None, prefix)) from None


@functools.cache
def _validator(cls: type, field: str) -> Callable[[object], Any]:
    """Returns the validator of one field, with its constraints."""
    hint = get_type_hints(cls, include_extras=True)[field]
    return TypeAdapter[Any](hint, config=STRICT).validate_python


def explain(error: ValidationError, cls: type | None, prefix: str) -> str:
    """Returns a one-line message for a validation error.

    Args:
      error: The error.
      cls: The group that was validated, or None for the value of a field.
      prefix: The full name of the validated group or field.
    """
    messages = {}
    for e in error.errors(include_url=False):
        name, owner = _name(prefix, cls, e["loc"])
        reason = e.get("ctx", {}).get("error")
        if isinstance(reason, ConfigError):  # its message already names the fields
            text = str(reason)
        elif e["type"] == "value_error":
            text = f"{name} {reason}"
        elif e["type"] == "unexpected_keyword_argument":
            hint = did_you_mean(str(e["loc"][-1]), _field_names(owner))
            text = f"{name} is not a field.{hint}"
        elif e["type"] == "path_type":
            text = f"{name} must be a path, got {short_repr(e['input'])}."
        elif e["type"] == "missing":
            text = f"{name} is missing."
        else:
            must, found = re.subn(r"^\w+ should", " must", e["msg"])
            expected = must if found else f": {must}"
            text = f"{name or 'the experiment'}{expected}, got {short_repr(e['input'])}."
        messages[name] = text  # for a union, the message of its last member wins
    return " ".join(messages.values())


def _name(prefix: str, cls: Any, loc: Sequence[int | str]) -> tuple[str, Any]:
    """Returns the full name of the field with the error, and the group that contains the field, or None."""
    name, owner, inner = prefix, None, cls
    for part in loc:
        if dataclasses.is_dataclass(inner):
            names, owner = _field_names(inner), inner
            part = names[part] if isinstance(part, int) and part < len(names) else str(part)
            name, inner = f"{name}.{part}".lstrip("."), get_type_hints(inner).get(part)
        elif isinstance(part, int):
            name, owner = f"{name}[{part}]", None
    return name, owner


def _field_names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)] if cls is not None else []


def short_repr(value: object) -> str:
    """Returns the ``repr`` of a value in one line, truncated to ``MAX_VALUE_LENGTH`` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."
