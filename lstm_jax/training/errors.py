"""What can go wrong while training; what cannot be begun is a ``ConfigError``."""


class RunError(RuntimeError):
    """Training cannot go on; the message says why, what is left, and how to mend it."""


class NotFiniteError(RunError):
    """Training has diverged: there is nothing good to save."""
