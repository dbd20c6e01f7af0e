import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.sequences import split_validation
from tests.training.data.build import Trap, batches, build

STRICT = False


def save(tmp_path, **arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return Data(task="arrays", path=tmp_path / "own.npz", batch_size=4)


N, T, I = 20, 6, 3
RNG = np.random.default_rng(0)
FLOATS = RNG.standard_normal((N, T, I))
IDS = RNG.integers(0, 5, (N, T))
LENGTHS = RNG.integers(2, T + 1, N)
LABELS = np.arange(N) % 3


def test_arrays_with_labels(tmp_path):
    dataset = build(save(tmp_path, inputs=FLOATS, lengths=LENGTHS, labels=LABELS), seed=0)
    assert (dataset.input_size, dataset.output_size, dataset.metric) == (I, 3, "accuracy")
    batch = batches(dataset, 0, 1, 4)
    assert batch.inputs.shape == (1, T, 4, I)
    last = np.argmax(batch.weights[0], axis=0)
    assert (last == batch.lengths[0] - 1).all()
    assert dataset.eval.weights.sum() == 2


def test_arrays_with_targets(tmp_path):
    targets = RNG.standard_normal(N)
    dataset = build(save(tmp_path, inputs=IDS, targets=targets), seed=0)
    assert (dataset.vocabulary_size, dataset.output_size, dataset.metric) == (5, 1, "mse")
    assert dataset.loss == "squared_error"
    in_train, in_eval = split_validation(N)
    want = ((targets[in_eval] - targets[in_train].mean()) ** 2).mean()
    np.testing.assert_allclose(dataset.baselines["predict-the-mean baseline"], want, rtol=1e-5)


@pytest.mark.parametrize("inputs", [FLOATS, IDS])
def test_arrays_with_next_steps(tmp_path, inputs):
    dataset = build(save(tmp_path, inputs=inputs, lengths=LENGTHS), seed=0)
    assert dataset.metric == ("mse" if inputs is FLOATS else "bits")
    assert dataset.output_size == (I if inputs is FLOATS else 5)
    batch = batches(dataset, 0, 1, 4)
    inside = batch.weights[0, :-1] == 1
    assert (batch.targets[0, :-1][inside] == batch.inputs[0, 1:][inside]).all()
    assert (batch.weights[0].sum(0) == batch.lengths[0] - 1).all()


def test_arrays_with_a_test_set(tmp_path):
    data = save(
        tmp_path, inputs=FLOATS, labels=LABELS, test_inputs=FLOATS[:7], test_labels=LABELS[:7]
    )
    assert build(data, seed=0).test.weights.sum() == 7


def test_ids_may_be_padded_with_anything(tmp_path):
    padded = np.where(np.arange(T) >= LENGTHS[:, None], -1, IDS)
    dataset = build(save(tmp_path, inputs=padded, lengths=LENGTHS, labels=LABELS), seed=0)
    assert dataset.vocabulary_size == 5
    assert batches(dataset, 0, 5, 4).inputs.min() == 0


def test_nan_in_the_padding_is_ignored(tmp_path):
    inputs = np.where((np.arange(T) >= LENGTHS[:, None])[..., None], np.nan, FLOATS)
    dataset = build(save(tmp_path, inputs=inputs, lengths=LENGTHS, labels=LABELS), seed=0)
    assert np.isfinite(batches(dataset, 0, 5, 4).inputs).all()


def with_nan():
    inputs = FLOATS.copy()
    inputs[3, 2, 1] = np.nan
    return inputs


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"labels": LABELS}, r"\binputs\b.*\[N, T, I\].*\[N, T\]"),
        ({"inputs": FLOATS, "label": LABELS}, r"\['label'\]"),
        ({"inputs": FLOATS[0]}, r"\binputs\b.*\(6, 3\).*\bfloat64\b"),
        ({"inputs": FLOATS > 0}, r"\binputs\b.*\bbool\b.*\[N, T, I\].*\[N, T\]"),
        ({"inputs": FLOATS[:, :0]}, r"\binputs\b.*\(20, 0, 3\)"),
        ({"inputs": -IDS}, r"\binputs\[\d+, \d+\] = -\d\b.*\b0\b.*\b1000000\b"),
        ({"inputs": with_nan()}, r"\binputs\[3, 2, 1\].*\bfloat32\b"),
        (
            {"inputs": FLOATS, "lengths": LENGTHS + T},
            rf"\blengths\[0\] = {LENGTHS[0] + T}\b.*\b2\b.*\b6\b",
        ),
        (
            {"inputs": FLOATS, "lengths": LENGTHS * 0, "labels": LABELS},
            r"\blengths\[0\] = 0\b.*\b1\b.*\b6\b",
        ),
        (
            {"inputs": FLOATS, "lengths": LENGTHS * 0 + 1},
            r"\blengths\[0\] = 1\b.*\b2\b.*\b6\b",
        ),
        ({"inputs": FLOATS, "lengths": LENGTHS * 1.0}, r"\blengths\b.*\bfloat64\b.*\(20,\)"),
        ({"inputs": FLOATS, "labels": LABELS[:5]}, r"\blabels\b.*\(5,\)"),
        ({"inputs": FLOATS, "labels": LABELS - 1}, r"\blabels\[0\] = -1\b.*\b0\b"),
        ({"inputs": FLOATS, "labels": LABELS * 1.0}, r"\blabels\b.*\bfloat64\b"),
        ({"inputs": FLOATS, "targets": LABELS}, r"\btargets\b.*\(20,\).*\bint64\b"),
        ({"inputs": FLOATS, "targets": LABELS * np.nan}, r"\btargets\[0\].*\bfloat32\b"),
        (
            {"inputs": FLOATS, "targets": LABELS * 1.0, "labels": LABELS},
            r"^(?!.*\blengths\b).*\blabels\b.*\btargets\b",
        ),
        ({"inputs": FLOATS[:5]}, r"\b10\b.*\b5\b"),
        ({"inputs": FLOATS, "test_inputs": IDS}, r"'inputs': \(\).*'inputs': \(3,\)"),
        ({"inputs": np.array([1, "a"], object)}, r"own\.npz.*numpy\.savez"),
        ({"inputs": FLOATS, "targets": np.full(N, 1e300)}, r"\btargets\[0\].*\bfloat32\b"),
        ({"inputs": FLOATS, "labels": LABELS, "test_labels": LABELS}, r"\btest_inputs\b"),
        (
            {
                "inputs": FLOATS,
                "targets": FLOATS[:, 0],
                "test_inputs": FLOATS,
                "test_targets": FLOATS[:, 0, :2],
            },
            r"'targets': \(2,\).*'targets': \(3,\)",
        ),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, arrays, names):
    with pytest.raises(ConfigError, match=names) as error:
        build(save(tmp_path, **arrays), seed=0)
    assert "data.path" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"data\.path.*own\.npz"):
        build(Data(task="arrays", path=tmp_path / "own.npz"), seed=0)


def test_a_bare_npy_is_refused(tmp_path):
    np.save(tmp_path / "own.npy", FLOATS)
    with pytest.raises(ConfigError, match=r"data\.path.*\.npz\b.*own\.npy\b"):
        build(Data(task="arrays", path=tmp_path / "own.npy"), seed=0)


def test_an_unpickled_object_is_never_run(tmp_path):
    np.savez(tmp_path / "own.npz", inputs=np.array([Trap(tmp_path / "trapped")], object))
    with pytest.raises(ConfigError, match=r"data\.path.*own\.npz.*numpy\.savez"):
        build(Data(task="arrays", path=tmp_path / "own.npz"), seed=0)
    assert not (tmp_path / "trapped").exists()
