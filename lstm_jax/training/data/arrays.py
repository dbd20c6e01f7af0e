"""Sequences from an ``.npz`` file.

=============  ===========================  =====================================================
array          shape and dtype              meaning
=============  ===========================  =====================================================
``inputs``     ``[N, T, I]`` floats, or     sequences, padded at the end to the same length, or
               ``[N, T]`` integers          token ids from 0; the padding may have any values
``lengths``    ``[N]`` integers, optional   valid steps, 1 to T (next-step targets: 2 to T)
``labels``     ``[N]`` integers             one class per sequence, from 0, or
``targets``    ``[N, K]`` or ``[N]`` floats numbers to predict for each sequence, or
(neither)                                   the next step is predicted
=============  ===========================  =====================================================

Arrays with the prefix ``test_`` (``test_inputs``, ...) are the test set. A tenth of the other sequences is
used for validation. Object arrays are refused, because reading them would unpickle code.
"""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import (
    from_sequences,
    last_step_weights,
    next_step_weights,
    repeat_over_time,
    split_validation,
)

KNOWN = ("inputs", "lengths", "labels", "targets")


def arrays_dataset(data: Data, seed: int) -> Dataset:
    """Builds a dataset from an .npz file, for classification, regression or next-step prediction.

    Raises:
      ConfigError: If the file cannot be read, or its arrays do not match the table of this module.
    """
    assert data.path is not None
    content = _read(data.path)
    part = _checked(content, "")
    has_test = any(name.startswith("test_") for name in content)
    test_part = _checked(content, "test_") if has_test else None
    parts = [part] if test_part is None else [part, test_part]
    if test_part is not None and _sizes(part) != _sizes(test_part):
        got = f"{_sizes(test_part)} for test and {_sizes(part)} for training"
        _fail(got, "the same arrays with the same numbers of features and targets in both")

    N, T = part["inputs"].shape[:2]
    in_train, in_eval = split_validation(N)
    if not len(in_eval):
        raise ConfigError(
            f"data.path: expected at least 10 sequences, as a tenth is used for validation, got {N}."
        )
    train, validation = (
        _sequences({name: a[rows] for name, a in part.items()}) for rows in (in_train, in_eval)
    )
    test = None if test_part is None else _sequences(test_part)
    if "labels" in part:
        kind, metric = "classes", "accuracy"
        output_size = 1 + max(int(p["labels"].max()) for p in parts)
    elif "targets" not in part and part["inputs"].ndim == 2:
        kind, metric = "next steps", "bits"
        output_size = 1 + max(int(p["inputs"].max()) for p in parts)
    else:
        kind, metric = ("targets" if "targets" in part else "next steps"), "mse"
        output_size = np.shape(train.targets)[-1]
    return from_sequences(
        train,
        validation,
        test=test,
        loss="squared_error" if metric == "mse" else "cross_entropy",
        metric=metric,
        output_size=output_size,
        batch_size=data.batch_size,
        eval_batch_size=data.eval_batch_size,
        seed=seed,
        summary=f"sequences of at most {T} steps with {kind}: {len(in_train):,} for training, "
        f"{len(in_eval):,} for validation"
        + ("" if test is None else f", {len(test.inputs):,} for test"),
        predicts_next=kind == "next steps",
        baselines=_baselines(train, validation, metric),
        test_baselines={} if test is None else _baselines(train, test, metric),
    )


def _sizes(part: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of a sequence of each array, without the number of steps for ``inputs``."""
    sizes = {name: array.shape[1:] for name, array in part.items()}
    return sizes | {"inputs": sizes["inputs"][1:]}


def _sequences(part: dict[str, np.ndarray]) -> Batch:
    inputs, lengths = part["inputs"], part["lengths"]
    T = inputs.shape[1]
    for name in ("labels", "targets"):
        if name in part:
            answers = repeat_over_time(part[name], T)
            return Batch(inputs, answers, last_step_weights(lengths, T), lengths)
    next_inputs = np.concatenate([inputs[:, 1:], np.zeros_like(inputs[:, :1])], axis=1)
    return Batch(inputs, next_inputs, next_step_weights(lengths, T), lengths)


def _baselines(train: Batch, evaluated: Batch, metric: str) -> dict[str, float]:
    """Returns the metric of predicting the majority class, the training mean or token frequencies."""
    known, true = (
        np.asarray(part.targets)[np.asarray(part.weights) == 1] for part in (train, evaluated)
    )
    if metric == "mse":
        return {"predict-the-mean baseline": float(((true - known.mean(0)) ** 2).mean())}
    counts = np.bincount(known, minlength=int(true.max()) + 1)
    if metric == "accuracy":
        return {"majority baseline": float((true == counts.argmax()).mean())}
    p = (counts + 0.5) / (counts + 0.5).sum()
    return {"marginal baseline": float(-np.log2(p[true]).mean())}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it is an .npy file")
            return {name: content[name] for name in content.files}
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        is_pickled = "allow_pickle" in str(error)
        reason = "it has object arrays or is not an .npz file" if is_pickled else str(error)
        raise ConfigError(
            f"data.path: expected an .npz file with arrays of numbers, got {path} ({reason}). Write it with "
            "numpy.savez(path, inputs=..., ...)."
        ) from error


def _checked(content: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Validates the arrays with a prefix and returns them by name, with ``lengths`` added."""
    part = {name: content[prefix + name] for name in KNOWN if prefix + name in content}
    unknown = sorted(set(content) - {p + name for p in ("", "test_") for name in KNOWN})
    if unknown:
        _fail(f"unknown arrays {unknown}", f"only {', '.join(KNOWN)} and the same with test_")
    if "inputs" not in part:
        _fail(f"no array {prefix}inputs", "sequences [N, T, I] or ids [N, T]")
    if "labels" in part and "targets" in part:
        _fail(f"both {prefix}labels and {prefix}targets", "one of them, or neither")

    inputs = part["inputs"]
    floats, ids = np.issubdtype(inputs.dtype, np.floating), np.issubdtype(inputs.dtype, np.integer)
    if not (floats and inputs.ndim == 3) and not (ids and inputs.ndim == 2):
        got = f"{prefix}inputs of shape {inputs.shape} and dtype {inputs.dtype}"
        _fail(got, "floats [N, T, I] or integers [N, T]")
    N, T = inputs.shape[:2]
    if 0 in inputs.shape:
        _fail(f"{prefix}inputs of shape {inputs.shape}", "at least one sequence, step and feature")
    part["lengths"] = part.get("lengths", np.full(N, T))
    _one_each(f"{prefix}lengths", part["lengths"], N, np.integer)
    least = 1 if "labels" in part or "targets" in part else 2
    _within(f"{prefix}lengths", part["lengths"], least, T)
    part["lengths"] = part["lengths"].astype(np.int32)
    padding = np.arange(T) >= part["lengths"][:, None]  # may contain any values, even NaN or -1
    inputs = np.where(padding[..., None] if floats else padding, 0, inputs)
    if floats:
        inputs = _finite(f"{prefix}inputs", inputs)
    else:
        _within(f"{prefix}inputs", inputs, 0, 1_000_000)
    part["inputs"] = inputs.astype(np.float32 if floats else np.int32)

    if "labels" in part:
        _one_each(f"{prefix}labels", part["labels"], N, np.integer)
        _within(f"{prefix}labels", part["labels"], 0, 1_000_000)
        part["labels"] = part["labels"].astype(np.int32)
    if "targets" in part:
        targets = part["targets"]
        if (
            targets.ndim not in (1, 2)
            or len(targets) != N
            or not np.issubdtype(targets.dtype, np.floating)
        ):
            got = f"{prefix}targets of shape {targets.shape} and dtype {targets.dtype}"
            _fail(got, f"floats [{N}, K] or [{N}]")
        part["targets"] = _finite(f"{prefix}targets", targets).reshape(N, -1)
    return part


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        where = ", ".join(str(n) for n in np.argwhere(~np.isfinite(array))[0])
        _fail(
            f"{name}[{where}] that is not finite in float32", "finite numbers in every valid step"
        )
    return array


def _one_each(name: str, array: np.ndarray, N: int, kind: type) -> None:
    if array.shape != (N,) or not np.issubdtype(array.dtype, kind):
        _fail(f"{name} of shape {array.shape} and dtype {array.dtype}", f"integers of shape ({N},)")


def _within(name: str, array: np.ndarray, least: int, most: int) -> None:
    if array.size and not least <= array.min() <= array.max() <= most:
        at = tuple(np.argwhere((array < least) | (array > most))[0])
        where = ", ".join(str(n) for n in at)
        _fail(f"{name}[{where}] = {array[at]}", f"{least} to {most}")


def _fail(got: str, expected: str) -> None:
    raise ConfigError(f"data.path: got {got}; expected {expected}.")
