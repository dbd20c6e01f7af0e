"""Exit codes of the trainer's commands."""

from collections.abc import Callable

from lstm_jax.training.errors import ConfigError, RunError
from lstm_jax.training.monitoring.console import print_error

FAILED, CANNOT_RUN, INTERRUPTED = 1, 2, 130


def exit_code(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code. Expected errors become one line on stderr.

    Returns:
      The exit code of the command, 1 after a ``RunError`` or an ``OSError``, 2 after a ``ConfigError``,
      130 after a KeyboardInterrupt.
    """
    try:
        return command()
    except ConfigError as error:
        print_error(f"error: {error}")
        return CANNOT_RUN
    except RunError as error:
        print_error(f"error: {error}")
        return FAILED
    except OSError as error:  # permissions, names that are too long, disks that fail
        where = f"{error.filename}: " if error.filename else ""
        print_error(f"error: {where}{error.strerror or error}.")
        return FAILED
    except KeyboardInterrupt:
        print_error("interrupted")
        return INTERRUPTED
