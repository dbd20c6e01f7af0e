"""Images as sequences, from IDX files as MNIST comes in.

By pixels and permuted: Le, Jaitly & Hinton (2015), A simple way to initialize recurrent networks of
rectified linear units, §4.2.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import (
    at_the_last_step,
    digest_of,
    hold_out,
    in_order,
    over_time,
    shuffled,
)

NAMES = {"train": "train", "test": "t10k"}
HELD_OUT = 12
"""One image in twelve of the training files chooses the best model: 5,000 of MNIST's 60,000."""


def images_dataset(data: Data, seed: int) -> Dataset:
    """Says what an image shows after reading it to the end.

    Raises:
      ConfigError: if the files are missing, are no IDX files or do not fit each other.
    """
    assert data.path is not None
    images, labels = _split(data.path, "train")
    test_images, test_labels = _split(data.path, "test")
    if images.shape[1:] != test_images.shape[1:]:
        raise ConfigError(
            f"data.path: training images are {images.shape[1:]} pixels, test images {test_images.shape[1:]}; "
            "expected one size."
        )
    if len(images) < HELD_OUT:
        raise ConfigError(
            f"data.path: expected at least {HELD_OUT} training images, got {len(images)}."
        )
    mean, scale = images.mean(), images.std() + 1e-8
    classes = int(max(labels.max(), test_labels.max())) + 1

    def sequences(images: np.ndarray, labels: np.ndarray) -> Batch:
        xs = _steps((images - mean) / scale, data.image_order)
        N, T, _ = xs.shape
        weights = at_the_last_step(np.full(N, T), T)
        return Batch(xs, over_time(labels, T), weights)

    learn, held_out = hold_out(len(images), HELD_OUT)
    train = sequences(images[learn], labels[learn])
    most = np.bincount(labels[learn]).argmax()
    T, features = np.shape(train.inputs)[1:]
    return Dataset(
        summary=f"{len(learn):,} images of {classes} classes as {T} steps of {features}, "
        f"{len(held_out):,} held out, {len(test_images):,} to test",
        input_size=features,
        output_size=classes,
        loss="cross_entropy",
        metric="accuracy",
        batches=shuffled(train, data.batch_size, seed),
        digest=digest_of(train),
        eval=in_order(sequences(images[held_out], labels[held_out])),
        test=in_order(sequences(test_images, test_labels)),
        baselines={"majority baseline": float((labels[held_out] == most).mean())},
        test_baselines={"majority baseline": float((test_labels == most).mean())},
    )


def _steps(images: np.ndarray, order: str) -> np.ndarray:
    if order == "rows":
        return images.astype(np.float32)
    pixels = images.reshape(len(images), -1, 1).astype(np.float32)
    if order == "permuted":  # one order for every run, so that runs can be compared
        pixels = pixels[:, np.random.default_rng(0).permutation(pixels.shape[1])]
    return pixels


def _split(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    prefix = NAMES[part]
    images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", axes=3)
    labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", axes=1)
    if len(images) != len(labels) or not len(images):
        raise ConfigError(
            f"data.path: {folder} has {len(images)} {part} images and {len(labels)} labels; expected "
            "as many of the one as of the other, and at least one."
        )
    return images.astype(np.float32) / 255.0, labels.astype(np.int32)


def _read_idx(folder: Path, name: str, axes: int) -> np.ndarray:
    """The IDX format: two zero bytes, the type (8: unsigned byte), the axes, their sizes, the data."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise ConfigError(f"data.path: {folder} has no {name} (or {name}.gz).")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"data.path: cannot read {path}: {error}.") from error
    header = raw[: 4 + 4 * axes].ljust(4 + 4 * axes, b"\0")
    sizes = np.frombuffer(header[4:], ">i4")
    if raw[:4] != bytes([0, 0, 8, axes]) or len(raw) != 4 + 4 * axes + int(np.prod(sizes)):
        raise ConfigError(
            f"data.path: {path} is no whole IDX file of unsigned bytes with {axes} axes; fetch it again."
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(sizes)
