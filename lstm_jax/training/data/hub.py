"""Texts of the Hugging Face Hub, ``hf:NAME`` or ``hf:NAME:CONFIG``, read with the ``datasets`` package."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data.cache import atomic_path, cache_dir
from lstm_jax.training.data.text_files import ByteRanges, Text, whole_file

PARTS = {
    "test": ("test",),
    "validation": ("validation", "valid", "val", "dev"),
    "train": ("train",),  # written last: its file marks the directory as complete
}
"""Names of splits on the hub, by the names of the files in the cache."""
COLUMN = "text"
ROWS = 1000


def hub_text(name: str) -> Text:
    """Returns the column ``text`` of a dataset, one row per line, with the splits of the dataset.

    The text is written into the cache once and read from there. If the dataset has no validation split,
    the last tenth of the training text is used for validation.

    Raises:
      ConfigError: If ``datasets`` is not installed, or the dataset cannot be loaded or has no column
        ``text``.
    """
    folder = cache_dir() / "hf" / name.replace("/", "--").replace(":", "---")
    if not _file(folder, "train").is_file():
        _write(name, folder)
    return Text(
        f"hf:{name}", _piece(folder, "train"), _piece(folder, "validation"), _piece(folder, "test")
    )


def _piece(folder: Path, part: str) -> ByteRanges:
    files = [_file(folder, part)]
    if part == "validation":
        files.append(_file(folder, "held_out"))  # its name in earlier versions
    return next(((whole_file(file),) for file in files if file.is_file()), ())


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}.txt"


def _write(name: str, folder: Path) -> None:
    splits = _load(name, folder)
    names = {part: next((n for n in known if n in splits), "") for part, known in PARTS.items()}
    if not names["train"]:
        raise ConfigError(
            f"data.path: hf:{name} has the splits {sorted(splits)}; expected a split 'train'."
        )
    columns = splits[names["train"]].column_names
    if COLUMN not in columns:
        raise ConfigError(
            f"data.path: hf:{name} has the columns {columns}; expected a column {COLUMN!r}."
        )
    for part, split in names.items():
        if split:
            _write_part(splits[split], _file(folder, part), f"hf:{name} {split}")


def _load(name: str, folder: Path) -> Mapping[str, Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            f"data.path: hf:{name} requires the package datasets, which is not installed: "
            "pip install datasets."
        ) from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warning repeats the error
    path, _, config = name.partition(":")
    try:
        return load_dataset(path, config or None)
    except Exception as error:  # errors of the hub, the network or the dataset have many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"data.path: cannot load hf:{name} ({reason}); check the name (with a configuration "
            f"hf:NAME:CONFIG), or save the text as {_file(folder, 'train')} (optionally with "
            "validation.txt and test.txt in the same directory)."
        ) from error


def _write_part(rows: Any, path: Path, name: str) -> None:
    hidden = sys.stderr is None or not sys.stderr.isatty()
    with (
        atomic_path(path) as new,
        new.open("w", encoding="utf-8", newline="") as file,
        tqdm(total=len(rows), desc=f"writing {name}", unit="row", disable=hidden) as bar,
    ):
        for batch in rows.iter(batch_size=ROWS):
            for row in batch[COLUMN]:
                file.write(row if row.endswith("\n") else f"{row}\n")
            bar.update(len(batch[COLUMN]))
