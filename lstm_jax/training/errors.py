"""Errors of the trainer."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """An experiment or a command that cannot be run. The message says why, and how to fix it."""


class RunError(RuntimeError):
    """Training cannot continue. The message says why, what is left, and how to fix it."""


class NotFiniteError(RunError):
    """Training has diverged, and there is nothing worth saving."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a question with the name that was probably meant, or an empty string.

    >>> did_you_mean("hiden_size", ["cell", "hidden_size"])
    ' Did you mean hidden_size?'
    """
    similar = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {similar[0]}?" if similar else ""
