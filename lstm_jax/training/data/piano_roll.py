"""Polyphonic music: predicts the keys of the next frame.

Source: Boulanger-Lewandowski, Bengio & Vincent (2012), Modeling temporal dependencies in high-dimensional
sequences. The metric is the negative log-likelihood in nats per frame, summed over the keys and averaged
over all predicted frames of a set (every frame except the first of each piece). Long pieces have more
weight than short ones, as in Bai, Kolter & Koltun (2018, the TCN paper).
"""

from pathlib import Path

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import from_sequences, next_step_weights

PARTS = ("traindata", "validdata", "testdata")


def piano_roll_dataset(data: Data, seed: int) -> Dataset:
    """Builds a dataset for the prediction of the keys of each frame from the previous frames.

    Raises:
      ConfigError: If the file cannot be read or does not contain piano rolls.
    """
    assert data.path is not None
    pieces = _read(data.path)
    train, validation, test = (_sequences(pieces[part]) for part in PARTS)
    keys = np.shape(train.inputs)[-1]
    count = [len(pieces[part]) for part in PARTS]
    return from_sequences(
        train,
        validation,
        test=test,
        loss="bernoulli",
        metric="nats",
        output_size=keys,
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        seed=seed,
        summary=f"{count[0]} pieces of {keys} keys for training, {count[1]} for validation, {count[2]} for "
        "test",
        predicts_next=True,
        baselines={"marginal baseline": _marginal(train, validation)},
        test_baselines={"marginal baseline": _marginal(train, test)},
    )


def _sequences(pieces: list[np.ndarray]) -> Batch:
    lengths = np.array([len(piece) for piece in pieces])
    T = int(lengths.max())
    rolls = np.stack([np.pad(piece, [(0, T - len(piece)), (0, 0)]) for piece in pieces])
    targets = np.concatenate([rolls[:, 1:], np.zeros_like(rolls[:, :1])], axis=1)
    return Batch(rolls, targets, next_step_weights(lengths, T), lengths)


def _marginal(train: Batch, evaluated: Batch) -> float:
    """Returns the nats per frame of predicting each key with its frequency in the training set."""
    frames = np.asarray(train.targets)[np.asarray(train.weights) == 1]
    p = (frames.sum(0) + 0.5) / (len(frames) + 1)
    x = np.asarray(evaluated.targets)[np.asarray(evaluated.weights) == 1]
    return float(-(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1).mean())


def _read(path: Path) -> dict[str, list[np.ndarray]]:
    """Reads a .mat file with cells ``[T, keys]``, or an .npz file with NAME_frames and NAME_lengths."""
    if path.suffix not in (".mat", ".npz"):
        raise ConfigError(f"data.path: expected a .mat or .npz file, got {path}.")
    try:
        parts = _read_mat(path) if path.suffix == ".mat" else _read_npz(path)
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # corrupt files raise errors of scipy, zipfile or zlib
        raise ConfigError(
            f"data.path: {path} must contain piano rolls ({error}); expected {', '.join(PARTS)}."
        ) from error
    keys = parts[PARTS[0]][0].shape[-1] if parts[PARTS[0]] else 0
    for part, pieces in parts.items():
        if not pieces:
            raise ConfigError(f"data.path: {path} must have at least one piece in {part}, got 0.")
        for n, piece in enumerate(pieces):
            if piece.ndim != 2 or piece.shape[1] != keys or len(piece) < 2:
                raise ConfigError(
                    f"data.path: piece {n} of {part} has the shape {piece.shape}; expected [T, {keys}] "
                    "with T of at least 2."
                )
            if not np.isin(piece, (0, 1)).all():
                raise ConfigError(
                    f"data.path: piece {n} of {part} must have only the values 0 and 1."
                )
    return parts


def _read_mat(path: Path) -> dict[str, list[np.ndarray]]:
    from scipy.io import loadmat

    content = loadmat(str(path))
    return {part: [np.asarray(p, np.float32) for p in content[part][0]] for part in PARTS}


def _read_npz(path: Path) -> dict[str, list[np.ndarray]]:
    with np.load(path, allow_pickle=False) as content:
        parts = {}
        for part in PARTS:
            frames, lengths = content[f"{part}_frames"], content[f"{part}_lengths"]
            if lengths.sum() != len(frames):
                raise ValueError(
                    f"{part}_lengths sum to {lengths.sum()}, but it has {len(frames)} frames"
                )
            parts[part] = np.split(frames.astype(np.float32), np.cumsum(lengths)[:-1])
        return parts
