"""Errors while training. An experiment that cannot be started raises a ``ConfigError``."""


class RunError(RuntimeError):
    """Training cannot continue. The message says why, what is left, and how to fix it."""


class NotFiniteError(RunError):
    """Training has diverged, and there is nothing worth saving."""
