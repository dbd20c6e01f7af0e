"""Datasets for tests."""

import gzip

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


def write_idx(path, array):
    """Writes an array as MNIST's files are written."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_images(directory):
    """Writes 24 images for training and 6 for testing, of 4 x 3 pixels and three classes."""
    directory.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, N, suffix in (("train", 24, ""), ("t10k", 6, ".gz")):
        write_idx(
            directory / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (N, 4, 3))
        )
        write_idx(directory / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(N) % 3)
