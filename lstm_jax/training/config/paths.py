"""Paths in a config: local paths, and dataset names such as ``name:text8``."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from lstm_jax.training.errors import ConfigError

SOURCES = ("hf", "name")


def expand_user(path: Path) -> Path:
    """Returns a path with ``~`` expanded.

    Raises:
      ValueError: If the path is a URL, or its home directory is unknown. The caller adds the name of the
        field to the message.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", str(path))  # pathlib has turned // into /
    if scheme:
        url = f"{scheme[1]}://{str(path)[scheme.end() :]}"
        raise ValueError(
            f"must be a local path, got {url}. Copy the files, for instance with `aws s3 sync`, "
            "`gcloud storage rsync` or `rclone sync`."
        )
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"must be in a known home directory, got {path}: {error}") from error


LocalPath = Annotated[Path, Field(strict=False), AfterValidator(expand_user)]
"""Type of a local path. A string is converted."""


def local_path(name: str, path: Path) -> Path:
    """Returns a path with ``~`` expanded.

    Args:
      name: The name of the path in an error message.
      path: The path.

    Raises:
      ConfigError: If the path is a URL, or its home directory is unknown.

    >>> local_path("workdir", Path("s3://bucket/run"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lstm_jax.training.errors.ConfigError: workdir must be a local path, got s3://bucket/run. Copy ...
    """
    try:
        return expand_user(path)
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from error


def named_source(path: Path) -> tuple[str, str] | None:
    """Returns the source and the name of a dataset such as ``name:text8``, or None for a local path.

    >>> named_source(Path("name:text8")), named_source(Path("hf:owner/set")), named_source(Path("a.txt"))
    (('name', 'text8'), ('hf', 'owner/set'), None)
    """
    kind, colon, name = path.as_posix().partition(":")
    return (kind, name) if colon and kind in SOURCES else None
