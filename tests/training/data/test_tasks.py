import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.generated import REBER
from lstm_jax.training.data.sequences import hold_out, in_order, shuffled
from lstm_jax.training.data.tasks import make_dataset

STRICT = False


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def generated(name, T, B=64):
    task = make_dataset(
        Data(task=name, sequence_length=T, batch_size=B, eval_sequences=500), seed=0
    )
    return task, jax.tree.map(np.asarray, task.generate(jax.random.key(1)))


def test_adding():
    task, batch = generated("adding", 30)
    values, marked = np.moveaxis(batch.inputs, -1, 0)
    assert (marked[:15].sum(0) == 1).all()
    assert (marked[15:].sum(0) == 1).all()
    np.testing.assert_allclose(batch.targets[-1, :, 0], (values * marked).sum(0), rtol=1e-6)
    assert batch.weights.sum(0).tolist() == batch.weights[-1].tolist() == [1] * 64
    np.testing.assert_allclose(task.baselines["predict-the-mean baseline"], 1 / 6, rtol=0.1)


def test_copy():
    task, batch = generated("copy", 20)
    assert batch.inputs.shape == (40, 64)
    assert (batch.targets[-10:] == batch.inputs[:10]).all()
    assert set(np.unique(batch.inputs[:10])) == set(range(1, 9))
    assert (batch.inputs[29] == 9).all()
    assert (batch.inputs == 9).sum() == 64
    assert not batch.targets[:30].any()
    assert (batch.scored == (batch.targets > 0)).all()
    np.testing.assert_allclose(
        task.baselines["memoryless baseline"], 10 * np.log(8) / 40, rtol=1e-6
    )


def test_temporal_order():
    _, batch = generated("temporal_order", 110)
    for b, n in enumerate(batch.lengths):
        ids = batch.inputs[:, b]
        assert 100 <= n <= 110
        assert (ids[0], ids[n - 1]) == (6, 7)
        (places,) = np.nonzero(np.isin(ids, (4, 5)))
        assert 10 <= places[0] <= 20
        assert 50 <= places[1] <= 60
        assert len(places) == 2
        assert batch.targets[n - 1, b] == 2 * (ids[places[0]] - 4) + ids[places[1]] - 4
        assert batch.weights[:, b].sum() == batch.weights[n - 1, b] == 1
    assert set(np.unique(batch.targets)) == {0, 1, 2, 3}


def legal(word):
    """Reber's grammar, as a set of states walked by hand."""
    edges = {
        (0, "B"): 1, (1, "T"): 2, (1, "P"): 3, (2, "S"): 2, (2, "X"): 4, (3, "T"): 3, (3, "V"): 5,
        (4, "X"): 3, (4, "S"): 6, (5, "P"): 4, (5, "V"): 6, (6, "E"): 7,
    }  # fmt: skip
    state = 0
    for symbol in word:
        state = edges.get((state, symbol), -1)
    return state == 7


def test_reber():
    _, batch = generated("reber", 60, B=200)
    whole = 0
    for b, n in enumerate(batch.lengths):
        word = "".join(REBER[i] for i in [*batch.inputs[:n, b], batch.targets[n - 1, b]])
        assert (batch.inputs[1:n, b] == batch.targets[: n - 1, b]).all()
        assert batch.weights[:, b].tolist() == [1] * n + [0] * (60 - n)
        if n == 60:  # cut
            assert not batch.scored[:, b].any()
            continue
        whole += 1
        assert word[0] + word[-1] == "BE"
        assert word[1] == word[-2]
        assert word[1] in "TP"
        assert legal(word[2:-2]), word
        assert batch.scored[:, b].sum() == batch.scored[n - 2, b] == 1
        assert REBER[batch.targets[n - 2, b]] == word[1]
    assert whole > 190
    assert len({tuple(batch.inputs[:, b]) for b in range(200)}) > 50


@pytest.mark.parametrize("name", ["adding", "copy", "temporal_order", "reber"])
def test_generated_tasks_follow_their_seed_and_hold_out_fresh_sequences(name):
    data = Data(task=name, sequence_length=40, batch_size=4, eval_sequences=4)
    first, again, other = (make_dataset(data, seed=s) for s in (0, 0, 1))
    assert (first.held_out.inputs == again.held_out.inputs).all()
    assert (first.held_out.inputs != other.held_out.inputs).any()
    step = first.generate(jax.random.fold_in(jax.random.key(0), 0))
    assert (jnp.asarray(first.held_out.inputs[0]) != step.inputs).any()


@pytest.mark.parametrize(("name", "T"), [("adding", 1), ("temporal_order", 19), ("reber", 11)])
def test_sequences_too_short_for_the_task(name, T):
    with pytest.raises(ConfigError, match=rf"data\.sequence_length.*\b{T + 1}\b.*\b{T}\b"):
        make_dataset(Data(task=name, sequence_length=T), seed=0)


def test_shuffled_reads_everything_once_an_epoch():
    numbers = Batch(np.arange(10)[:, None], np.arange(10)[:, None], np.ones((10, 1)))
    batches = shuffled(numbers, batch_size=4, seed=0)
    seen = batches(0, 5).inputs.ravel()  # two epochs, the first ends inside a batch
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert (batches(3, 1).inputs[0] == batches(0, 5).inputs[3]).all()
    assert (shuffled(numbers, 4, seed=1)(0, 5).inputs.ravel() != seen).any()


@pytest.mark.parametrize("N", [1, 249, 250, 251, 600])
def test_in_order_weighs_each_sequence_once(N):
    numbers = np.arange(N)[:, None]
    chunks = in_order(Batch(numbers, numbers, np.ones((N, 1), np.float32), np.ones(N, int)))
    real = chunks.inputs[chunks.weights == 1]
    assert real.tolist() == list(range(N))
    assert chunks.lengths.shape == (chunks.inputs.shape[0], chunks.inputs.shape[2])


def test_hold_out_parts_are_disjoint():
    learn, held_out = hold_out(100)
    assert sorted([*learn, *held_out]) == list(range(100))
    assert len(held_out) == 10


# Images


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, N, suffix in (("train", 24, ""), ("t10k", 6, ".gz")):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (N, 4, 3)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(N) % 3)
    return tmp_path


@pytest.mark.parametrize(
    ("order", "T", "I"), [("rows", 4, 3), ("pixels", 12, 1), ("permuted", 12, 1)]
)
def test_images(images, order, T, I):
    task = make_dataset(Data(task="images", path=images, image_order=order, batch_size=5), seed=0)
    assert (task.input_size, task.output_size, task.metric) == (I, 3, "accuracy")
    batch = task.batches(0, 2)
    assert batch.inputs.shape == (2, T, 5, I)
    assert batch.weights[:, -1].all()
    assert not batch.weights[:, :-1].any()
    assert task.eval.inputs.shape == (1, T, 2, I)
    assert task.test.inputs.shape == (1, T, 6, I)
    assert task.test.targets[0, -1].tolist() == [0, 1, 2, 0, 1, 2]


def test_image_orders_hold_the_same_pixels(images):
    rows, pixels, permuted = (
        make_dataset(Data(task="images", path=images, image_order=order), seed=0).test.inputs[0]
        for order in ("rows", "pixels", "permuted")
    )
    flat = rows.swapaxes(0, 1).reshape(6, 12)
    np.testing.assert_array_equal(pixels[..., 0].T, flat)
    assert (flat != permuted[..., 0].T).any()
    np.testing.assert_array_equal(np.sort(permuted[..., 0].T), np.sort(flat))


def test_images_that_cannot_be_used(images):
    labels = images / "train-labels-idx1-ubyte"
    write_idx(labels, np.arange(23))
    with pytest.raises(ConfigError, match=rf"{images}.*\b24\b.*\b23\b"):
        make_dataset(Data(task="images", path=images), seed=0)
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=rf"{labels}.*\bIDX\b.*\b1\b"):
        make_dataset(Data(task="images", path=images), seed=0)
    (images / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not gzip")
    write_idx(labels, np.arange(24))
    with pytest.raises(ConfigError, match=r"data\.path.*t10k-labels-idx1-ubyte\.gz"):
        make_dataset(Data(task="images", path=images), seed=0)
    write_idx(images / "t10k-images-idx3-ubyte.gz", np.zeros((6, 5, 5)))
    write_idx(images / "t10k-labels-idx1-ubyte.gz", np.arange(6))
    with pytest.raises(ConfigError, match=r"data\.path.*\(4, 3\).*\(5, 5\)"):
        make_dataset(Data(task="images", path=images), seed=0)
    labels.write_bytes(b"\0\0")
    with pytest.raises(ConfigError, match=rf"{labels}.*\bIDX\b"):
        make_dataset(Data(task="images", path=images), seed=0)
    labels.unlink()
    with pytest.raises(ConfigError, match=rf"{images}.*{labels.name}\b.*{labels.name}\.gz"):
        make_dataset(Data(task="images", path=images), seed=0)


# Piano rolls


def rolls(rng, lengths, keys=5):
    return [(rng.random((n, keys)) < 0.3).astype(np.uint8) for n in lengths]


def write_rolls(path, parts):
    if path.suffix == ".npz":
        content = {f"{k}_frames": np.concatenate(v) for k, v in parts.items()}
        content |= {f"{k}_lengths": np.array([len(p) for p in v]) for k, v in parts.items()}
        np.savez(path, **content)
    else:
        from scipy.io import savemat

        cells = {}
        for part, pieces in parts.items():
            cells[part] = np.empty((1, len(pieces)), object)
            cells[part][0, :] = pieces
        savemat(path, cells)
    return path


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    lengths = {"traindata": [7, 3, 5], "validdata": [4, 6], "testdata": [2, 8]}
    return {part: rolls(rng, n) for part, n in lengths.items()}


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_piano_rolls(tmp_path, parts, suffix):
    path = write_rolls(tmp_path / f"rolls{suffix}", parts)
    task = make_dataset(Data(task="piano_roll", path=path, batch_size=3), seed=0)
    assert (task.input_size, task.output_size, task.loss) == (5, 5, "bernoulli")
    test = task.test
    assert test.lengths.tolist() == [[2, 8]]
    assert test.weights.sum() == (2 - 1) + (8 - 1)
    for b, piece in enumerate(parts["testdata"]):
        np.testing.assert_array_equal(test.inputs[0, : len(piece), b], piece)
        np.testing.assert_array_equal(test.targets[0, : len(piece) - 1, b], piece[1:])
    p = (sum(piece[1:].sum(0) for piece in parts["traindata"]) + 0.5) / (6 + 2 + 4 + 1)
    x = np.concatenate([piece[1:] for piece in parts["validdata"]])
    want = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1).mean()
    np.testing.assert_allclose(task.baselines["marginal baseline"], want, rtol=1e-5)


def test_piano_rolls_that_cannot_be_used(tmp_path, parts):
    def check(path, names):
        with pytest.raises(ConfigError, match=rf"data\.path.*{names}"):
            make_dataset(Data(task="piano_roll", path=path), seed=0)

    check(tmp_path / "a.mid", r"\.mat\b.*\.npz\b.*a\.mid")
    check(tmp_path / "none.npz", r"none\.npz")
    for content in (b"nothing of the kind" * 20, b"", b"x" * 50):
        for name in ("bad.mat", "bad.npz"):
            (tmp_path / name).write_bytes(content)
            check(tmp_path / name, f"{name}.*traindata.*validdata.*testdata")
    empty = parts | {"validdata": []}
    check(write_rolls(tmp_path / "empty.mat", empty), r"empty\.mat.*validdata")
    path = write_rolls(tmp_path / "sums.npz", parts)
    content = dict(np.load(path))
    np.savez(path, **content | {"testdata_lengths": np.array([2, 3])})
    check(path, r"sums\.npz.*testdata_lengths.*\b5\b.*\b10\b")
    short = parts | {"testdata": [np.zeros((1, 5), np.uint8)] * 2}
    path = write_rolls(tmp_path / "short.npz", short)
    check(path, r"\b0\b.*testdata.*\(1, 5\).*\[T, 5\]")
    loud = parts | {"validdata": [2 * piece for piece in parts["validdata"]]}
    check(write_rolls(tmp_path / "loud.npz", loud), r"\b0\b.*validdata.*\b0\b.*\b1\b")


def test_objects_among_piano_rolls_are_never_unpickled(tmp_path, parts):
    path = write_rolls(tmp_path / "rolls.npz", parts)
    trap = np.array([Trap(tmp_path / "trapped")], object)
    np.savez(path, **dict(np.load(path)) | {"testdata_frames": trap})
    with pytest.raises(ConfigError, match=r"rolls\.npz.*allow_pickle"):
        make_dataset(Data(task="piano_roll", path=path), seed=0)
    assert not (tmp_path / "trapped").exists()


# Own arrays


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
    task = make_dataset(save(tmp_path, inputs=FLOATS, lengths=LENGTHS, labels=LABELS), seed=0)
    assert (task.input_size, task.output_size, task.metric) == (I, 3, "accuracy")
    batch = task.batches(0, 1)
    assert batch.inputs.shape == (1, T, 4, I)
    last = np.argmax(batch.weights[0], axis=0)
    assert (last == batch.lengths[0] - 1).all()
    assert task.eval.weights.sum() == 2


def test_arrays_with_targets(tmp_path):
    targets = RNG.standard_normal(N)
    task = make_dataset(save(tmp_path, inputs=IDS, targets=targets), seed=0)
    assert (task.vocabulary_size, task.output_size, task.metric) == (5, 1, "mse")
    assert task.loss == "squared_error"
    learn, held_out = hold_out(N)
    want = ((targets[held_out] - targets[learn].mean()) ** 2).mean()
    np.testing.assert_allclose(task.baselines["predict-the-mean baseline"], want, rtol=1e-5)


@pytest.mark.parametrize("inputs", [FLOATS, IDS])
def test_arrays_with_next_steps(tmp_path, inputs):
    task = make_dataset(save(tmp_path, inputs=inputs, lengths=LENGTHS), seed=0)
    assert task.metric == ("mse" if inputs is FLOATS else "bits")
    assert task.output_size == (I if inputs is FLOATS else 5)
    batch = task.batches(0, 1)
    inside = batch.weights[0, :-1] == 1
    assert (batch.targets[0, :-1][inside] == batch.inputs[0, 1:][inside]).all()
    assert (batch.weights[0].sum(0) == batch.lengths[0] - 1).all()


def test_arrays_with_a_test_part(tmp_path):
    data = save(
        tmp_path, inputs=FLOATS, labels=LABELS, test_inputs=FLOATS[:7], test_labels=LABELS[:7]
    )
    assert make_dataset(data, seed=0).test.weights.sum() == 7


def test_ids_may_be_padded_with_anything(tmp_path):
    padded = np.where(np.arange(T) >= LENGTHS[:, None], -1, IDS)
    task = make_dataset(save(tmp_path, inputs=padded, lengths=LENGTHS, labels=LABELS), seed=0)
    assert task.vocabulary_size == 5
    assert task.batches(0, 5).inputs.min() == 0


def test_nan_in_the_padding_of_arrays_is_nothing(tmp_path):
    inputs = np.where((np.arange(T) >= LENGTHS[:, None])[..., None], np.nan, FLOATS)
    task = make_dataset(save(tmp_path, inputs=inputs, lengths=LENGTHS, labels=LABELS), seed=0)
    assert np.isfinite(task.batches(0, 5).inputs).all()


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
        make_dataset(save(tmp_path, **arrays), seed=0)
    assert "data.path" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"data\.path.*own\.npz"):
        make_dataset(Data(task="arrays", path=tmp_path / "own.npz"), seed=0)


def test_a_bare_npy_is_refused(tmp_path):
    np.save(tmp_path / "own.npy", FLOATS)
    with pytest.raises(ConfigError, match=r"data\.path.*own\.npy\b.*\.npz\b"):
        make_dataset(Data(task="arrays", path=tmp_path / "own.npy"), seed=0)


def test_an_unpickled_object_is_never_run(tmp_path):
    np.savez(tmp_path / "own.npz", inputs=np.array([Trap(tmp_path / "trapped")], object))
    with pytest.raises(ConfigError, match=r"data\.path.*own\.npz.*numpy\.savez"):
        make_dataset(Data(task="arrays", path=tmp_path / "own.npz"), seed=0)
    assert not (tmp_path / "trapped").exists()
