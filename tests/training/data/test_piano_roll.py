import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from tests.training.data.build import Trap, build

STRICT = False


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
    dataset = build(Data(task="piano_roll", path=path, batch_size=3), seed=0)
    assert (dataset.input_size, dataset.output_size, dataset.loss) == (5, 5, "bernoulli")
    test = dataset.test
    assert test.lengths.tolist() == [[2, 8]]
    assert test.weights.sum() == (2 - 1) + (8 - 1)
    for b, piece in enumerate(parts["testdata"]):
        np.testing.assert_array_equal(test.inputs[0, : len(piece), b], piece)
        np.testing.assert_array_equal(test.targets[0, : len(piece) - 1, b], piece[1:])
    p = (sum(piece[1:].sum(0) for piece in parts["traindata"]) + 0.5) / (6 + 2 + 4 + 1)
    x = np.concatenate([piece[1:] for piece in parts["validdata"]])
    want = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1).mean()
    np.testing.assert_allclose(dataset.baselines["marginal baseline"], want, rtol=1e-5)


def test_piano_rolls_that_cannot_be_used(tmp_path, parts):
    def check(path, names):
        with pytest.raises(ConfigError, match=rf"data\.path.*{names}"):
            build(Data(task="piano_roll", path=path), seed=0)

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
        build(Data(task="piano_roll", path=path), seed=0)
    assert not (tmp_path / "trapped").exists()
