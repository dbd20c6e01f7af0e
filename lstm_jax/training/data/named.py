"""Well-known datasets by name, such as ``name:text8``, downloaded into the cache and verified."""

from itertools import pairwise
from pathlib import Path

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data.cache import cache_dir
from lstm_jax.training.data.download import download_files
from lstm_jax.training.data.named_table import DATASETS
from lstm_jax.training.data.text_files import ByteRange, Text, whole_file


def named_text(name: str) -> Text:
    """Returns a text by its name, with its standard training, validation and test splits.

    Raises:
      ConfigError: As :func:`named_folder`.
    """
    folder = named_folder(name, "text")
    dataset = DATASETS[name]
    pieces = [whole_file(folder / file.name) for file in dataset.files]
    if dataset.cuts:
        (whole,) = pieces
        edges = (0, *dataset.cuts, whole.last)
        pieces = [ByteRange(whole.source, a, b) for a, b in pairwise(edges)]
    train, validation, test = ((piece,) for piece in pieces)
    return Text(f"name:{name}", train, validation, test, dataset.encoding)


def named_folder(name: str, task: str) -> Path:
    """Returns the cache directory with the files of a dataset. Downloads missing files.

    Raises:
      ConfigError: If the task has no dataset with this name, or a file cannot be downloaded, or its
        checksum differs.
    """
    dataset = DATASETS.get(name)
    if dataset is None or dataset.task != task:
        names = [f"name:{n}" for n, d in DATASETS.items() if d.task == task]
        raise ConfigError(
            f"data.path: expected one of {', '.join(names) or 'no names'} for the task {task!r}, got "
            f"name:{name}."
        )
    folder = cache_dir() / "sets" / name
    download_files(dataset.files, folder)
    return folder
