"""A task as the compiler needs it: shapes, and a large text unread."""

from typing import Any

import jax
import numpy as np

from lstm_jax.training.config import Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.tasks import make_dataset


def outline(data: Data, seed: int, n: int) -> tuple[Dataset, Batch | None]:
    """A task to compile for, and the shapes of n of its batches; None where it makes them itself.

    A text in words is taken to have ``data.vocabulary_size`` of them and is not read.

    Raises:
      ConfigError: if the data of other tasks cannot be used.

    >>> _, batches = outline(Data(unit="word", batch_size=4096, sequence_length=256), seed=0, n=1)
    >>> batches.inputs.shape
    (1, 256, 4096)
    """
    if data.task == "text" and data.unit != "character":
        return _unread(data, n)
    task = make_dataset(data, seed)
    return task, shapes_of(task, n)


def shapes_of(task: Dataset, n: int) -> Batch | None:
    """Shapes and dtypes of n of its batches; None where it makes them itself."""
    return None if task.batches is None else jax.tree.map(_shape, task.batches(0, n, None))


def _unread(data: Data, n: int) -> tuple[Dataset, Batch]:
    shape, V = (n, data.sequence_length, data.batch_size), data.vocabulary_size
    ids = jax.ShapeDtypeStruct(shape, np.int32)
    batches = Batch(ids, ids, jax.ShapeDtypeStruct(shape, np.float32))
    summary = f"a text of {V:,} {data.unit}s, not read"
    task = Dataset(
        summary, V, "cross_entropy", "perplexity", batches, vocabulary_size=V,
        stateful=True, predicts_next=True,
    )  # fmt: skip
    return task, batches


def _shape(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(array), jax.dtypes.canonicalize_dtype(array.dtype))
