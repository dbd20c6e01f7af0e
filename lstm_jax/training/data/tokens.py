"""Reading of texts as token ids, from any source that ``data.path`` can name."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lstm_jax.training.config import Data, named_source
from lstm_jax.training.data.cache import CacheError
from lstm_jax.training.data.embedded import embedded_text
from lstm_jax.training.data.encoding import cached_ids, ids_in_memory
from lstm_jax.training.data.hub import hub_text
from lstm_jax.training.data.named import named_text
from lstm_jax.training.data.text_files import Text, files_text
from lstm_jax.training.data.vocabulary import Vocabulary

LARGE = 32_000_000
"""Minimum size in bytes of a large text. Evaluations and baselines use only a part of a large text."""


@dataclass(frozen=True)
class Tokens:
    """A text as token ids.

    Attributes:
      name: Name of the text.
      vocabulary: Vocabulary of the training text.
      train: Training ids ``[N]`` of an integer dtype, usually memory-mapped.
      validation: Validation ids.
      test: Test ids, may be empty.
      large: Whether the text has at least ``LARGE`` bytes and must not be read at once.
      digest: Hash of all ids.
    """

    name: str
    vocabulary: Vocabulary
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    large: bool
    digest: str


def read_tokens(data: Data) -> Tokens:
    """Returns the token ids and the vocabulary of a text.

    The ids are written into the cache when a text is first read, and memory-mapped from there. If the
    cache cannot be written, the ids are held in memory, unless the text is large.

    Raises:
      ConfigError: If the text cannot be downloaded, read or encoded.
    """
    text = open_text(data.path)
    large = text.size >= LARGE
    try:
        encoding, ids = cached_ids(text, data)
    except CacheError as error:
        if large:
            raise
        warnings.warn(f"{error} The text is now encoded in memory.", stacklevel=2)
        encoding, ids = ids_in_memory(text, data)
    train, validation, test = np.split(ids, np.cumsum(encoding.counts)[:-1])
    vocabulary = Vocabulary(tuple(encoding.symbols), data.unit)
    digest = encoding.sha256 if large else _digest_as_int32(ids)
    return Tokens(text.name, vocabulary, train, validation, test, large, digest)


def open_text(path: Path | None) -> Text:
    """Returns the text at ``data.path``. Downloads it if necessary.

    Raises:
      ConfigError: If the text is not found.
    """
    if path is None:
        return embedded_text()
    kind, name = named_source(path) or ("", "")
    return {"hf": hub_text, "name": named_text}[kind](name) if kind else files_text(path)


def _digest_as_int32(ids: np.ndarray) -> str:
    """Returns a hash of the ids as int32, as in the fingerprints of earlier versions."""
    return hashlib.sha256(ids.astype(np.int32).data).hexdigest()
