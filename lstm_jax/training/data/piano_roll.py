"""Polyphonic music: which keys sound in the next frame?

Boulanger-Lewandowski, Bengio & Vincent (2012), Modeling temporal dependencies in high-dimensional
sequences. The figure is the negative log likelihood in nats a frame: summed over the keys, averaged over
all predicted frames of a part together (every frame but each piece's first), so that long pieces count
for more; as Bai, Kolter & Koltun (2018, the TCN paper) average it.
"""

from pathlib import Path

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import before_the_last_step, digest_of, in_order, shuffled

PARTS = ("traindata", "validdata", "testdata")


def piano_roll_dataset(data: Data, seed: int) -> Dataset:
    """Predicts each frame's keys from the frames before.

    Raises:
      ConfigError: if the file cannot be read or is not made of frames of keys.
    """
    assert data.path is not None
    pieces = _read(data.path)
    train, valid, test = (_sequences(pieces[part]) for part in PARTS)
    keys = np.shape(train.inputs)[-1]
    count = [len(pieces[part]) for part in PARTS]
    return Dataset(
        summary=f"{count[0]} pieces of {keys} keys, {count[1]} held out, {count[2]} to test",
        input_size=keys,
        output_size=keys,
        loss="bernoulli",
        metric="nats",
        batches=shuffled(train, data.batch_size, seed),
        digest=digest_of(train),
        eval=in_order(valid),
        test=in_order(test),
        predicts_next=True,
        baselines={"marginal baseline": _marginal(train, valid)},
        test_baselines={"marginal baseline": _marginal(train, test)},
    )


def _sequences(pieces: list[np.ndarray]) -> Batch:
    lengths = np.array([len(piece) for piece in pieces])
    T = int(lengths.max())
    rolls = np.stack([np.pad(piece, [(0, T - len(piece)), (0, 0)]) for piece in pieces])
    targets = np.concatenate([rolls[:, 1:], np.zeros_like(rolls[:, :1])], axis=1)
    return Batch(rolls, targets, before_the_last_step(lengths, T), lengths)


def _marginal(train: Batch, held_out: Batch) -> float:
    """Each key by its frequency in the training part."""
    frames = np.asarray(train.targets)[np.asarray(train.weights) == 1]
    p = (frames.sum(0) + 0.5) / (len(frames) + 1)
    x = np.asarray(held_out.targets)[np.asarray(held_out.weights) == 1]
    return float(-(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1).mean())


def _read(path: Path) -> dict[str, list[np.ndarray]]:
    """``.mat`` with cells of ``[T, keys]``, or ``.npz`` with ``NAME_frames`` and ``NAME_lengths``."""
    if path.suffix not in (".mat", ".npz"):
        raise ConfigError(f"data.path: expected a .mat or .npz file, got {path}.")
    try:
        parts = _read_mat(path) if path.suffix == ".mat" else _read_npz(path)
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # whatever scipy, zipfile and zlib find wrong with the bytes
        raise ConfigError(
            f"data.path: {path} does not hold piano rolls ({error}); expected {', '.join(PARTS)}."
        ) from error
    keys = parts[PARTS[0]][0].shape[-1] if parts[PARTS[0]] else 0
    for part, pieces in parts.items():
        if not pieces:
            raise ConfigError(f"data.path: {path} has no pieces in {part}; expected at least one.")
        for n, piece in enumerate(pieces):
            if piece.ndim != 2 or piece.shape[1] != keys or len(piece) < 2:
                raise ConfigError(
                    f"data.path: piece {n} of {part} has shape {piece.shape}; expected [T, {keys}] with "
                    "at least 2 frames."
                )
            if not np.isin(piece, (0, 1)).all():
                raise ConfigError(f"data.path: piece {n} of {part} has values other than 0 and 1.")
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
