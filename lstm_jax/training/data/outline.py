"""Shapes of datasets for ahead-of-time compilation. Large texts are not read."""

from typing import Any

import jax
import numpy as np

from lstm_jax.training.config import Data, Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.make import make_dataset


def outline(config: Experiment) -> tuple[Dataset, Batch | None]:
    """Returns a dataset for compilation, and the shapes of the batches of one dispatch.

    For a text in words or tokens, the text is not read, and the vocabulary size is
    ``data.vocabulary_size``. The shapes are None if batches are generated on the device.

    Raises:
      ConfigError: If the data of another task cannot be read.

    >>> config = Experiment(data=Data(unit="word", batch_size=4096, sequence_length=256))
    >>> _, batches = outline(config)
    >>> batches.inputs.shape
    (10, 256, 4096)
    """
    if config.data.task == "text" and config.data.unit != "character":
        return _unread(config.data, config.train.steps_per_dispatch)
    dataset = make_dataset(config)
    return dataset, shapes_of(dataset, config)


def shapes_of(dataset: Dataset, config: Experiment) -> Batch | None:
    """Returns shapes and dtypes of the batches of one dispatch. None if batches are generated."""
    if dataset.batch is None:
        return None
    n = config.train.steps_per_dispatch
    batch = dataset.batch(0, np.arange(config.data.batch_size))
    return jax.tree.map(lambda array: _shape(array, n), batch)


def _unread(data: Data, n: int) -> tuple[Dataset, Batch]:
    shape, V = (n, data.sequence_length, data.batch_size), data.vocabulary_size
    ids = jax.ShapeDtypeStruct(shape, np.int32)
    batches = Batch(ids, ids, jax.ShapeDtypeStruct(shape, np.float32))
    dataset = Dataset(
        summary=f"a text with a vocabulary of {V:,} {data.unit}s, not read",
        vocabulary_size=V,
        output_size=V,
        loss="cross_entropy",
        metric="perplexity",
        eval=batches,
        stateful=True,
        predicts_next=True,
    )
    return dataset, batches


def _shape(array: Any, n: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((n, *array.shape), jax.dtypes.canonicalize_dtype(array.dtype))
