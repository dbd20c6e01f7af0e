"""The table of tasks."""

from collections.abc import Callable
from dataclasses import replace

from lstm_jax.training.config import NEED_A_PATH, ConfigError, Data, named_source
from lstm_jax.training.data.arrays import arrays_task
from lstm_jax.training.data.generated import generated_task
from lstm_jax.training.data.images import images_task
from lstm_jax.training.data.named import named_folder
from lstm_jax.training.data.piano_roll import piano_roll_task
from lstm_jax.training.data.stream import text_task
from lstm_jax.training.data.task import Task

TASKS: dict[str, Callable[[Data, int], Task]] = {
    "text": text_task,
    "adding": generated_task,
    "copy": generated_task,
    "temporal_order": generated_task,
    "reber": generated_task,
    "images": images_task,
    "piano_roll": piano_roll_task,
    "arrays": arrays_task,
}


def make_task(data: Data, seed: int) -> Task:
    """The task of an experiment.

    Raises:
      ConfigError: if its data cannot be used.
    """
    source = None if data.path is None else named_source(data.path)
    if source is not None and data.task in NEED_A_PATH:
        kind, name = source
        if kind != "name":
            raise ConfigError(
                f"data.path: expected files for the task {data.task!r}, got {data.path}: the hub is read "
                "for text alone."
            )
        data = replace(data, path=named_folder(name, data.task))
    return TASKS[data.task](data, seed)
