"""The cache directory for downloaded and encoded data."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lstm_jax.training.config import ConfigError, local_path


class CacheError(ConfigError):
    """Error for a cache directory that is unknown or cannot be written."""


def cache_dir() -> Path:
    """Returns ``$LSTM_JAX_CACHE``. If it is unset, ``$XDG_CACHE_HOME/lstm_jax`` or ``~/.cache/lstm_jax``.

    Raises:
      CacheError: If the variable holds a URL, or the home directory is unknown.
    """
    try:
        if own := os.environ.get("LSTM_JAX_CACHE"):
            return local_path("LSTM_JAX_CACHE", Path(own)).absolute()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except ConfigError as error:
        raise CacheError(str(error)) from error
    except RuntimeError as error:
        raise CacheError(
            f"the home directory is unknown ({error}); set the environment variable LSTM_JAX_CACHE to "
            "a directory for downloaded and encoded data."
        ) from error
    return Path(base) / "lstm_jax"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which is renamed to ``path`` if the block succeeds.

    Raises:
      CacheError: If the file cannot be written. An existing file at ``path`` remains.
    """
    # Random instead of the process id, because containers with a common home directory share ids.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise CacheError(
            f"data.path: cannot write {path}: {error.strerror or error}; free some space, or choose "
            "another directory with the environment variable LSTM_JAX_CACHE."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
