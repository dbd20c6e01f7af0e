"""Texts of the Hugging Face Hub, ``hf:NAME`` or ``hf:NAME:CONFIG``, through the ``datasets`` package."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data.cache import cache_dir, written
from lstm_jax.training.data.corpus import Pieces, Text, whole_file

PARTS = {
    "test": ("test",),
    "held_out": ("validation", "valid", "val", "dev"),
    "train": ("train",),  # the last to be written: where it is, all is
}
"""The names that the splits of a data set go by."""
COLUMN = "text"
ROWS = 1000


def hub_text(name: str) -> Text:
    """The rows of a data set's column ``text``, a line each, in its own parts.

    They are written into the cache once and read from there. Without a validation part the last tenth
    of the training part is held out.

    Raises:
      ConfigError: if ``datasets`` is not installed, or cannot load it, or it holds no text.
    """
    folder = cache_dir() / "hf" / name.replace("/", "--").replace(":", "---")
    if not _file(folder, "train").is_file():
        _write(name, folder)
    return Text(
        f"hf:{name}", _piece(folder, "train"), _piece(folder, "held_out"), _piece(folder, "test")
    )


def _piece(folder: Path, part: str) -> Pieces:
    file = _file(folder, part)
    return (whole_file(file),) if file.is_file() else ()


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}.txt"


def _write(name: str, folder: Path) -> None:
    splits = _load(name, folder)
    names = {part: next((n for n in known if n in splits), "") for part, known in PARTS.items()}
    if not names["train"]:
        raise ConfigError(f"data.path: hf:{name} has the parts {sorted(splits)}; expected train.")
    columns = splits[names["train"]].column_names
    if COLUMN not in columns:
        raise ConfigError(f"data.path: hf:{name} has the columns {columns}; expected {COLUMN!r}.")
    for part, split in names.items():
        if split:
            _write_part(splits[split], _file(folder, part), f"hf:{name} {split}")


def _load(name: str, folder: Path) -> Mapping[str, Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            f"data.path: hf:{name} needs the package datasets; install it, for instance with "
            "pip install datasets."
        ) from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one message is enough
    path, _, config = name.partition(":")
    try:
        return load_dataset(path, config or None)
    except Exception as error:  # whatever the hub, the network and the data set's files do wrong
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"data.path: hf:{name} cannot be loaded ({reason}); look at its name (with a configuration "
            f"hf:NAME:CONFIG), or put its text as {_file(folder, 'train')} (held_out.txt and test.txt beside "
            "it)."
        ) from error


def _write_part(rows: Any, path: Path, name: str) -> None:
    hidden = sys.stderr is None or not sys.stderr.isatty()
    with (
        written(path) as new,
        new.open("w", encoding="utf-8", newline="") as file,
        tqdm(total=len(rows), desc=f"writing {name}", unit="row", disable=hidden) as bar,
    ):
        for batch in rows.iter(batch_size=ROWS):
            for row in batch[COLUMN]:
                file.write(row if row.endswith("\n") else f"{row}\n")
            bar.update(len(batch[COLUMN]))
