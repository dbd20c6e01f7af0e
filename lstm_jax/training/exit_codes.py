"""Exit codes of the trainer's commands."""

from collections.abc import Callable

from lstm_jax.training.errors import ConfigError, RunError
from lstm_jax.training.monitoring.console import complain

FAILED, CANNOT_RUN, INTERRUPTED = 1, 2, 130


def exit_code(command: Callable[[], int]) -> int:
    """Runs a command, and writes an expected error to stderr as one line.

    Returns:
      The exit code of the command, 1 after a ``RunError`` or an ``OSError``, 2 after a ``ConfigError``,
      130 after Ctrl-C.
    """
    try:
        return command()
    except ConfigError as error:
        complain(f"error: {error}")
        return CANNOT_RUN
    except RunError as error:
        complain(f"error: {error}")
        return FAILED
    except OSError as error:  # permissions, names that are too long, disks that fail
        where = f"{error.filename}: " if error.filename else ""
        complain(f"error: {where}{error.strerror or error}.")
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
