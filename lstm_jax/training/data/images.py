"""Images as sequences, from IDX files (the format of MNIST).

Source of the orders ``pixels`` and ``permuted``: Le, Jaitly & Hinton (2015), A simple way to initialize
recurrent networks of rectified linear units, §4.2.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import (
    from_sequences,
    last_step_weights,
    repeat_over_time,
    split_validation,
)

NAMES = {"train": "train", "test": "t10k"}
ONE_IN = 12
"""One training image in 12 is used for validation: 5,000 of the 60,000 of MNIST."""


def images_dataset(data: Data, seed: int) -> Dataset:
    """Builds a dataset for the classification of images after the last step.

    Raises:
      ConfigError: If the files are missing, are not valid IDX files or are inconsistent.
    """
    assert data.path is not None
    images, labels = _split(data.path, "train")
    test_images, test_labels = _split(data.path, "test")
    if images.shape[1:] != test_images.shape[1:]:
        raise ConfigError(
            "data.path: expected training and test images of the same size, got "
            f"{images.shape[1:]} and {test_images.shape[1:]} pixels."
        )
    if len(images) < ONE_IN:
        raise ConfigError(
            f"data.path: expected at least {ONE_IN} training images, got {len(images)}."
        )
    mean, scale = images.mean(), images.std() + 1e-8
    classes = int(max(labels.max(), test_labels.max())) + 1

    def sequences(images: np.ndarray, labels: np.ndarray) -> Batch:
        xs = _steps((images - mean) / scale, data.image_order)
        N, T, _ = xs.shape
        return Batch(xs, repeat_over_time(labels, T), last_step_weights(np.full(N, T), T))

    in_train, in_eval = split_validation(len(images), ONE_IN)
    train = sequences(images[in_train], labels[in_train])
    majority = np.bincount(labels[in_train]).argmax()
    T, features = np.shape(train.inputs)[1:]
    return from_sequences(
        train,
        sequences(images[in_eval], labels[in_eval]),
        test=sequences(test_images, test_labels),
        loss="cross_entropy",
        metric="accuracy",
        output_size=classes,
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        seed=seed,
        summary=f"images of {classes} classes as {T} steps of {features}: {len(in_train):,} for training, "
        f"{len(in_eval):,} for validation, {len(test_images):,} for test",
        baselines={"majority baseline": float((labels[in_eval] == majority).mean())},
        test_baselines={"majority baseline": float((test_labels == majority).mean())},
    )


def _steps(images: np.ndarray, order: str) -> np.ndarray:
    if order == "rows":
        return images.astype(np.float32)
    pixels = images.reshape(len(images), -1, 1).astype(np.float32)
    if order == "permuted":  # the order does not depend on the seed, so that runs are comparable
        pixels = pixels[:, np.random.default_rng(0).permutation(pixels.shape[1])]
    return pixels


def _split(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = NAMES[part]
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", axes=3)
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", axes=1)
    if len(images) != len(labels) or not len(images):
        raise ConfigError(
            f"data.path: expected as many {part} images as labels in {folder}, and at least one, got "
            f"{len(images)} images and {len(labels)} labels."
        )
    return images.astype(np.float32) / 255.0, labels.astype(np.int32)


def _read_idx(folder: Path, name: str, axes: int) -> np.ndarray:
    """Reads an IDX file: two zero bytes, the type (8: unsigned byte), the axes, their sizes, the data."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise ConfigError(f"data.path: {folder} must contain the file {name} or {name}.gz.")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data.path: cannot read {path}: {error}.") from error
    header = raw[: 4 + 4 * axes].ljust(4 + 4 * axes, b"\0")
    sizes = np.frombuffer(header[4:], ">i4")
    if raw[:4] != bytes([0, 0, 8, axes]) or len(raw) != 4 + 4 * axes + int(np.prod(sizes)):
        raise ConfigError(
            f"data.path: {path} is not a complete IDX file of unsigned bytes with the number of axes "
            f"{axes}; download it again."
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(sizes)
