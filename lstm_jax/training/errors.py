"""Errors of the trainer."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Error in a config, an argument or the data. The message says what is wrong and how to fix it."""


class RunError(RuntimeError):
    """Error after which training cannot continue. The message has the reason and the fix."""


class NotFiniteError(RunError):
    """Error for a loss, a gradient or a parameter that is not finite. Nothing is saved."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Returns a suggestion with the most similar name, or an empty string.

    >>> did_you_mean("hiden_size", ["cell", "hidden_size"])
    ' Did you mean hidden_size?'
    """
    similar = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {similar[0]}?" if similar else ""
