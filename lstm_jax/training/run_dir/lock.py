"""The lock of a run directory, so that only one process at a time trains in it."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from lstm_jax.training.config import ConfigError

LOCK, SOFT_LOCK = ".lock", ".lock.soft"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that do not support locks, such as some network and FUSE mounts."""


@contextmanager
def locked(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of an existing run directory.

    The operating system releases the lock when this process ends. If the file system does not support
    locks, a lock file with the id of this process is used instead.

    Args:
      folder: The run directory.
      warn: Called with a message if the file system does not support locks.

    Raises:
      ConfigError: If another process holds the lock.
      OSError: If the lock file cannot be written.
    """
    lock: BaseFileLock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warn(
                f"the file system of {folder} does not support locks ({error.strerror}); using the lock "
                f"file {folder / SOFT_LOCK} instead."
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
        f"process {pid} on host {host} trains in {folder}, according to {folder / SOFT_LOCK}. If the "
        "process has ended, delete the file. Otherwise choose another directory with --workdir."
    )
