"""Text to learn from: a file, or the documentation that comes with every Python."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics as pydoc_topics

from lstm_jax.training.config import ConfigError

HELD_OUT = 10
"""One part in ten is held out."""


@dataclass(frozen=True)
class Corpus:
    """A text in two parts.

    Attributes:
      name: what it is, with what identifies its content.
      train: to learn from.
      held_out: to measure on.
    """

    name: str
    train: str
    held_out: str


def read_corpus(path: Path | None) -> Corpus:
    """A text file, or a folder of them, with its last tenth held out; or the embedded corpus.

    Raises:
      ConfigError: if the file is missing, is not UTF-8, or is too short to be split.
    """
    return embedded_corpus() if path is None else _file_corpus(path)


def embedded_corpus() -> Corpus:
    """The Python language reference, from ``pydoc_data.topics``: English prose and code.

    Topics that stand inside others are dropped, and whole topics are held out, so that no held-out
    passage was trained on. The text differs between Python releases: its hash is in the name.
    """
    topics = without_contained(pydoc_topics.topics)
    # The order of hashes is a fixed shuffle: neighbours in the alphabet are often related.
    order = sorted(topics, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    room = sum(map(len, topics.values())) // HELD_OUT
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name in order:
        fits = len(topics[name]) <= room
        parts[fits].append(topics[name])
        room -= len(topics[name]) if fits else 0
    held_out, train = ("\n\n".join(parts[fits]) for fits in (True, False))
    digest = hashlib.sha256((train + held_out).encode()).hexdigest()
    return Corpus(f"pydoc_data.topics, sha256 {digest[:12]}", train, held_out)


def without_contained(topics: dict[str, str]) -> dict[str, str]:
    r"""Drops texts that stand, headings underlined in another style or not, inside other texts.

    >>> inner = "For\n***\n\nIt loops."
    >>> outer = "All\n***\n\nWell.\n\nFor\n===\n\nIt loops."
    >>> list(without_contained({"for": inner, "compound": outer, "if": "If so."}))
    ['compound', 'if']
    """
    bare = {name: _without_underlines(text) for name, text in topics.items()}
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: len(bare[name]), reverse=True):
        if not any(bare[name] in bare[other] for other in kept):
            kept[name] = topics[name]
    return {name: kept[name] for name in sorted(kept)}


def _without_underlines(text: str) -> str:
    return " ".join(re.sub(r"^[*=\-~^\"]{3,}$", "", text, flags=re.MULTILINE).split())


def _file_corpus(path: Path) -> Corpus:
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"data.path: the folder {path} has no .txt files.")
    text = "\n\n".join(_read(file) for file in files)
    split = len(text) - len(text) // HELD_OUT
    if split == len(text):
        raise ConfigError(
            f"data.path: {path} has {len(text)} characters; at least {HELD_OUT} are needed to hold "
            "some out."
        )
    return Corpus(path.name, text[:split], text[split:])


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"data.path: {path} is not UTF-8 (byte {error.start}); convert it, for instance with "
            "iconv -t utf-8."
        ) from error
