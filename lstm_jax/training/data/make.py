"""``make_dataset``, which builds the dataset of an experiment."""

from dataclasses import replace

from lstm_jax.training.config import ConfigError, Data, Experiment, named_source
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.named import named_folder
from lstm_jax.training.registry import TASKS, find


def make_dataset(config: Experiment) -> Dataset:
    """Builds the dataset of an experiment. Resolves ``data.eval_batch_size`` if it is None.

    Raises:
      ConfigError: If the data cannot be used.
    """
    data, task = config.data, TASKS[config.data.task]
    source = None if data.path is None else named_source(data.path)
    if source is not None and task.needs_path:
        kind, name = source
        if kind != "name":
            raise ConfigError(
                f"data.path: expected a file or directory for the task {data.task!r}, got {data.path}: "
                "only texts can be read from the Hugging Face Hub."
            )
        data = replace(data, path=named_folder(name, data.task))
    make = find(task.make)
    if data.eval_batch_size is not None:
        return make(data, config.seed)
    if data.task == "text":  # the default depends on the size of the text
        return make(data, config.seed)
    in_training = max(1, data.batch_size // config.train.grad_accum_steps)
    return make(replace(data, eval_batch_size=in_training), config.seed)


def custom_dataset(data: Data, seed: int) -> Dataset:
    """Raises an error: a custom dataset must be passed to ``fit``.

    Raises:
      ConfigError: Always.
    """
    raise ConfigError(
        "data.task 'custom' requires a dataset: call lstm_jax.training.fit(config, dataset=...), or choose "
        "another task."
    )
