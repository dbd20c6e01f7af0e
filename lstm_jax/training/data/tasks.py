"""The table of tasks."""

from collections.abc import Callable
from dataclasses import replace

from lstm_jax.training.config import ConfigError, Data, named_source
from lstm_jax.training.data.arrays import arrays_dataset
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.generated import generated_dataset
from lstm_jax.training.data.images import images_dataset
from lstm_jax.training.data.named import named_folder
from lstm_jax.training.data.piano_roll import piano_roll_dataset
from lstm_jax.training.data.text import text_dataset
from lstm_jax.training.registry import TASKS as ROWS

TASKS: dict[str, Callable[[Data, int], Dataset]] = {
    "text": text_dataset,
    "adding": generated_dataset,
    "copy": generated_dataset,
    "temporal_order": generated_dataset,
    "reber": generated_dataset,
    "images": images_dataset,
    "piano_roll": piano_roll_dataset,
    "arrays": arrays_dataset,
}


def make_dataset(data: Data, seed: int) -> Dataset:
    """The task of an experiment.

    Raises:
      ConfigError: if its data cannot be used.
    """
    source = None if data.path is None else named_source(data.path)
    if source is not None and ROWS[data.task].needs_path:
        kind, name = source
        if kind != "name":
            raise ConfigError(
                f"data.path: expected files for the task {data.task!r}, got {data.path}: the hub is read "
                "for text alone."
            )
        data = replace(data, path=named_folder(name, data.task))
    return TASKS[data.task](data, seed)
