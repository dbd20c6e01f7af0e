"""Datasets for tests."""

import numpy as np

from lstm_jax.training.config import Experiment
from lstm_jax.training.data.make import make_dataset
from lstm_jax.training.data.sequences import stack
from lstm_jax.training.data.text_files import blocks


def build(data, seed=0):
    """Returns the dataset of an experiment with this data group."""
    return make_dataset(Experiment(data=data, seed=seed))


def batches(dataset, first, n, size):
    """Returns n training batches of this size as ``[n, T, B, ...]``."""
    return stack([dataset.batch(step, np.arange(size)) for step in range(first, first + n)])


def decoded(text):
    """Returns the training, validation and test text as strings."""
    return ["".join(blocks(part, text.encoding)) for part in text.split().parts]


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))
