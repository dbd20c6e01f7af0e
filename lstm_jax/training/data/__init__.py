"""Datasets: training, validation and test batches for every task.

``make_dataset`` builds the dataset of an experiment. ``from_sequences`` builds a dataset from arrays in
memory. Imports are lazy, so that reading a config does not import JAX.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_jax.training.data.batch import Batch as Batch
    from lstm_jax.training.data.dataset import Dataset as Dataset
    from lstm_jax.training.data.make import make_dataset as make_dataset
    from lstm_jax.training.data.sequences import from_sequences as from_sequences

MODULES = {
    "Batch": "batch",
    "Dataset": "dataset",
    "from_sequences": "sequences",
    "make_dataset": "make",
}
__all__ = ["Batch", "Dataset", "from_sequences", "make_dataset"]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
