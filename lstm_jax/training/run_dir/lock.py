"""One process at a time trains in a run directory."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from lstm_jax.training.config import ConfigError

LOCK, SOFT_LOCK = ".lock", ".lock.soft"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some network and FUSE mounts."""


@contextmanager
def locked(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of a run directory, which must exist.

    The operating system releases the lock when this process ends, however it ends. Where the file
    system has no locks, a file that names this process takes their place.

    Args:
      folder: The run directory.
      warn: Called with a message if the file system has no locks.

    Raises:
      ConfigError: if another process holds the lock.
      OSError: if the lock file cannot be written.
    """
    lock: BaseFileLock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warn(
                f"the file system of {folder} has no locks ({error.strerror}); "
                f"{folder / SOFT_LOCK} keeps other processes out instead."
            )
            lock = SoftFileLock(folder / SOFT_LOCK, timeout=0)
            lock.acquire()
    except Timeout as error:
        raise ConfigError(f"workdir: {_holder(folder, lock)}") from error
    try:
        yield
    finally:
        lock.release()


def _holder(folder: Path, lock: BaseFileLock) -> str:
    if not isinstance(lock, SoftFileLock):
        return (
            f"another process trains in {folder}; wait until it ends, or choose another directory "
            "with --workdir."
        )
    try:
        pid, host, *_ = (folder / SOFT_LOCK).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        pid, host = "unknown", "unknown"
    return (
        f"process {pid} on host {host} trains in {folder}, says {folder / SOFT_LOCK}. If that process "
        "has ended, delete this file; or choose another directory with --workdir."
    )
