"""Where data that was fetched or encoded is kept, so that it is made once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lstm_jax.training.config import ConfigError, local_path


def cache_dir() -> Path:
    """``$LSTM_JAX_CACHE``, or ``lstm_jax`` in ``$XDG_CACHE_HOME``, which is ``~/.cache`` by default."""
    if own := os.environ.get("LSTM_JAX_CACHE"):
        return local_path("LSTM_JAX_CACHE", Path(own)).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lstm_jax"


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that becomes ``path`` at the end, if all went well.

    Raises:
      ConfigError: if it cannot be written; what was there before stays.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(
            f"data.path: cannot write {path}: {error.strerror or error}; free some space, or choose "
            "another folder with the environment variable LSTM_JAX_CACHE."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
