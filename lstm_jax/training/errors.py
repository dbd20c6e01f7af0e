"""Errors of the trainer."""


class ConfigError(ValueError):
    """An experiment or a command that cannot be run. The message says why, and how to fix it."""


class RunError(RuntimeError):
    """Training cannot continue. The message says why, what is left, and how to fix it."""


class NotFiniteError(RunError):
    """Training has diverged, and there is nothing worth saving."""
