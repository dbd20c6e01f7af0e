"""Downloads of files into the cache, with unpacking and verification of checksums."""

import gzip
import hashlib
import shutil
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, cast

from tqdm import tqdm

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data.cache import atomic_path
from lstm_jax.training.data.named_table import File

TIMEOUT = 30
"""Seconds without a response after which a download fails."""


def download_files(files: Sequence[File], folder: Path) -> None:
    """Verifies existing files in a directory and downloads missing files.

    Raises:
      ConfigError: If a file cannot be downloaded or has another checksum.
    """
    for file in files:
        if (folder / file.name).is_file():  # the user may have copied it there
            _verify(folder / file.name, file)
    missing = [f for f in files if not (folder / f.name).is_file()]
    for archive_name in dict.fromkeys(f.archive for f in missing):
        members = [f for f in missing if f.archive == archive_name]
        with _archive(folder, members[0], missing) as archive:
            for file in members:
                _unpack(archive, file, folder / file.name)


@contextmanager
def _archive(folder: Path, file: File, missing: list[File]) -> Iterator[Path]:
    """Yields the archive in the directory, or downloads it and removes it afterwards."""
    provided, downloaded = folder / file.archive, folder / f"downloaded-{file.archive}"
    if provided.is_file():
        yield provided
        return
    try:
        with atomic_path(downloaded) as new, new.open("wb") as content:
            for block in _download(file, missing, folder):
                content.write(block)
        yield downloaded
    finally:
        downloaded.unlink(missing_ok=True)


def _download(file: File, missing: list[File], folder: Path) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as answer:
            size = int(answer.headers.get("Content-Length", 0))
            got = 0
            with _bar(file.archive, size) as bar:
                while block := answer.read(1 << 20):
                    yield block
                    got += len(block)
                    bar.update(len(block))
            if got < size:
                raise HTTPException(f"got {got} of {size} bytes")
    except (OSError, HTTPException) as error:
        urls = " and ".join(dict.fromkeys(f.url for f in missing))
        raise ConfigError(
            f"data.path: cannot download {file.url} ({getattr(error, 'reason', error)}); download {urls} "
            f"manually into the directory {folder}."
        ) from error


def _bar(name: str, size: int) -> tqdm:
    hidden = sys.stderr is None or not sys.stderr.isatty()
    return tqdm(
        total=size or None, desc=f"downloading {name}", unit="B", unit_scale=True, disable=hidden
    )


def _unpack(archive: Path, file: File, path: Path) -> None:
    """Unpacks and verifies a file. A file with another checksum is not added to the cache."""
    try:
        with atomic_path(path) as new:
            with _opened(archive, file) as packed, new.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
            _verify(new, file, archive)
    except (zipfile.BadZipFile, gzip.BadGzipFile, KeyError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"data.path: {archive} is not the content of {file.url} ({error}); remove it, and download "
            f"it again to {path.with_name(file.archive)}."
        ) from error


@contextmanager
def _opened(archive: Path, file: File) -> Iterator[IO[bytes]]:
    if file.archive.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed, packed.open(file.member) as member:
            yield member
    elif file.archive.endswith(".gz"):
        with gzip.open(archive) as content:
            yield cast(IO[bytes], content)
    else:
        with archive.open("rb") as plain:
            yield plain


def _verify(path: Path, file: File, archive: Path | None = None) -> None:
    algorithm, expected = file.checksum.split(":")
    with path.open("rb") as content:
        digest = hashlib.file_digest(
            content, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
    if digest != expected:
        raise ConfigError(
            f"data.path: {archive or path} is not the content of {file.url}: expected {algorithm} "
            f"{expected} of {file.name}, got {digest}. Remove it and start again, or replace it."
        )
