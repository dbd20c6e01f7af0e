"""Your own sequences, from an ``.npz`` file.

=============  ===========================  =====================================================
array          shape and dtype              meaning
=============  ===========================  =====================================================
``inputs``     ``[N, T, I]`` floats, or     the sequences, padded at the end to one length
               ``[N, T]`` integers          (or ids from 0 on); the padding may hold anything
``lengths``    ``[N]`` integers, optional   true lengths, 1 to T (next-step targets: 2 to T)
``labels``     ``[N]`` integers             a class from 0 on for each sequence, or
``targets``    ``[N, K]`` or ``[N]`` floats numbers to predict for each sequence, or
(neither)                                   the next step is predicted
=============  ===========================  =====================================================

The same names with ``test_`` in front make a test part. A tenth of the sequences is held out to choose
the best model by. Arrays of objects are refused: nothing is ever unpickled.
"""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import (
    at_the_last_step,
    before_the_last_step,
    digest_of,
    hold_out,
    in_order,
    over_time,
    shuffled,
)

KNOWN = ("inputs", "lengths", "labels", "targets")


def arrays_dataset(data: Data, seed: int) -> Dataset:
    """Classes, numbers or next steps, by what the file holds.

    Raises:
      ConfigError: if the file cannot be read or its arrays do not fit the table above.
    """
    assert data.path is not None
    content = _read(data.path)
    part = _checked(content, "")
    has_test = any(name.startswith("test_") for name in content)
    test = _checked(content, "test_") if has_test else None
    both = [part] if test is None else [part, test]
    if test is not None and _kinds(part) != _kinds(test):
        got = f"a test part of {_kinds(test)} beside {_kinds(part)}"
        _fail(got, "the same arrays, features and numbers to predict")

    ids = part["inputs"].ndim == 2
    symbols = 1 + max(int(p["inputs"].max()) for p in both) if ids else 0
    N, T = part["inputs"].shape[:2]
    learn, held_out = hold_out(N)
    if not len(held_out):
        raise ConfigError(
            f"data.path: expected at least 10 sequences, to hold out a tenth, got {N}."
        )

    train, valid = (
        _sequences({name: a[rows] for name, a in part.items()}) for rows in (learn, held_out)
    )
    classes = 1 + max(int(p["labels"].max()) for p in both) if "labels" in part else 0
    output_size = classes or (
        symbols if ids and "targets" not in part else np.shape(train.targets)[-1]
    )
    is_class = "labels" in part or (ids and "targets" not in part)
    figure = "mse" if not is_class else "accuracy" if "labels" in part else "bits"
    kind = "classes" if "labels" in part else "targets" if "targets" in part else "next steps"
    return Dataset(
        summary=f"{len(learn):,} sequences of at most {T} steps with {kind}, {len(held_out):,} held out"
        + (f", {len(test['inputs']):,} to test" if test is not None else ""),
        vocabulary_size=symbols,
        input_size=0 if ids else part["inputs"].shape[2],
        output_size=output_size,
        loss="cross_entropy" if is_class else "squared_error",
        metric=figure,
        batches=shuffled(train, data.batch_size, seed),
        digest=digest_of(train),
        eval=in_order(valid),
        test=None if test is None else in_order(_sequences(test)),
        predicts_next=kind == "next steps",
        baselines=_baselines(train, valid, figure),
        test_baselines={} if test is None else _baselines(train, _sequences(test), figure),
    )


def _kinds(part: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Names of arrays, with the sizes of what they hold for each sequence and step."""
    sizes = {name: array.shape[1:] for name, array in part.items()}
    return sizes | {"inputs": sizes["inputs"][1:]}


def _sequences(part: dict[str, np.ndarray]) -> Batch:
    inputs, lengths = part["inputs"], part["lengths"]
    T = inputs.shape[1]
    if "labels" in part:
        return Batch(inputs, over_time(part["labels"], T), at_the_last_step(lengths, T), lengths)
    if "targets" in part:
        return Batch(inputs, over_time(part["targets"], T), at_the_last_step(lengths, T), lengths)
    following = np.concatenate([inputs[:, 1:], np.zeros_like(inputs[:, :1])], axis=1)
    return Batch(inputs, following, before_the_last_step(lengths, T), lengths)


def _baselines(train: Batch, held_out: Batch, figure: str) -> dict[str, float]:
    """The most frequent class, the training mean, or symbols by their frequency."""
    known, asked = (
        np.asarray(part.targets)[np.asarray(part.weights) == 1] for part in (train, held_out)
    )
    if figure == "mse":
        return {"predict-the-mean baseline": float(((asked - known.mean(0)) ** 2).mean())}
    counts = np.bincount(known, minlength=int(asked.max()) + 1)
    if figure == "accuracy":
        return {"majority baseline": float((asked == counts.argmax()).mean())}
    p = (counts + 0.5) / (counts + 0.5).sum()
    return {"marginal baseline": float(-np.log2(p[asked]).mean())}


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array without a name")
            return {name: content[name] for name in content.files}
    except OSError as error:
        raise ConfigError(f"data.path: cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        reason = "it holds objects, or is none" if "allow_pickle" in str(error) else str(error)
        raise ConfigError(
            f"data.path: {path} is no usable .npz file ({reason}); write it with "
            "numpy.savez(path, inputs=..., ...) from arrays of numbers: nothing is unpickled."
        ) from error


def _checked(content: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """One part's arrays, checked against the table, with lengths filled in."""
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
    padding = np.arange(T) >= part["lengths"][:, None]  # may hold anything, even NaN or -1
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
        _fail(f"{name}[{where}] that is not finite in float32", "numbers in every real step")
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
