"""Datasets of experiments: the batch size of evaluations, and fingerprints."""

from dataclasses import replace

import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data, Experiment, Train
from lstm_jax.training.data import tokens
from lstm_jax.training.data.make import make_dataset
from tests.training.data.build import build, write_idx

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")

LENGTHS = {"traindata": [7, 3, 5], "validdata": [4, 6], "testdata": [2, 8]}
FINGERPRINTS = {
    "text": "bc7afe10553f7f5afb76e083f334cdcd",
    "words": "f4bdeb6338911b6d7860d4f6945bfc8e",
    "large text": "4a3604d73cc53d92fe88046f4fc3fe8c",
    "images": "eeb1523fcd9822655dcc39d95b1c2fb9",
    "piano_roll": "c97b0de8ff07701748e3c8c6ac1b12de",
    "arrays": "b19e586a00c4a3a2d6c5319823aff674",
    "next steps": "49074c289b39f6d2612b74d227bc59dd",
}
"""Fingerprints that earlier versions have written into run directories."""
GENERATED = ("adding", "copy", "temporal_order", "reber")
KINDS = (*FINGERPRINTS, *GENERATED)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with the files of every task."""
    directory = tmp_path_factory.mktemp("files")
    for prefix, N in (("train", 24), ("t10k", 6)):
        pixels = np.arange(N * 12).reshape(N, 4, 3) % 251
        write_idx(directory / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(directory / f"{prefix}-labels-idx1-ubyte", np.arange(N) % 3)
    (directory / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    rolls = {f"{part}_lengths": np.array(n) for part, n in LENGTHS.items()}
    for part, n in LENGTHS.items():
        keys = np.arange(sum(n) * 5).reshape(-1, 5) % 3 == 0
        rolls[f"{part}_frames"] = keys.astype(np.uint8)
    np.savez(directory / "rolls.npz", **rolls)
    x = (np.arange(300 * 6 * 3).reshape(300, 6, 3) % 17 / 16).astype(np.float32)
    N = np.arange(3000)
    np.savez(
        directory / "own.npz", inputs=np.concatenate([x] * 10), labels=N % 3, lengths=N % 6 + 1,
        test_inputs=x[:7], test_labels=np.arange(7) % 3,
    )  # fmt: skip
    np.savez(directory / "next.npz", inputs=np.arange(3000 * 6).reshape(3000, 6) % 5)
    return directory


@pytest.fixture
def data(files, monkeypatch):
    """Returns the data group for a kind of data."""

    def make(kind, **options):
        if kind == "large text":
            monkeypatch.setattr(tokens, "LARGE", 0)
        text = Data(path=files / "text.txt", batch_size=4, sequence_length=8)
        generated = Data(sequence_length=40, batch_size=4, eval_sequences=30)
        known = {
            "text": text,
            "words": replace(text, unit="word"),
            "large text": text,
            "images": Data(task="images", path=files, batch_size=5),
            "piano_roll": Data(task="piano_roll", path=files / "rolls.npz", batch_size=2),
            "arrays": Data(task="arrays", path=files / "own.npz", batch_size=4),
            "next steps": Data(task="arrays", path=files / "next.npz", batch_size=4),
        } | {task: replace(generated, task=task) for task in GENERATED}
        return replace(known[kind], **options)

    return make


@pytest.mark.parametrize("kind", FINGERPRINTS)
@pytest.mark.parametrize("eval_batch_size", [None, 3])
def test_fingerprints_are_those_of_earlier_versions(data, kind, eval_batch_size):
    dataset = build(data(kind, eval_batch_size=eval_batch_size), seed=3)
    assert dataset.fingerprint() == FINGERPRINTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_does_not_depend_on_batches(data, kind):
    fingerprints = {
        build(data(kind, batch_size=B, eval_batch_size=eval_B)).fingerprint()
        for B, eval_B in [(4, None), (8, None), (4, 1), (4, 1000)]
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_holds_no_more_sequences_than_training(data, kind):
    """A text has as many rows for any number of parts, since its loss depends on them."""
    for n in (1, 2):
        config = Experiment(data=data(kind, batch_size=4), train=Train(grad_accum_steps=n))
        dataset = make_dataset(config)
        limit = 4 if dataset.stateful else 4 // n
        assert np.shape(dataset.eval.weights)[2] <= limit


def each_sequence(batches):
    """Yields inputs, targets, weights, length and scored of each sequence of some batches."""
    N, _, B = np.shape(batches.weights)
    for n in range(N):
        for b in range(B):
            yield tuple(
                None if array is None else array[n, b] if name == "lengths" else array[n, :, b]
                for name, array in batches._asdict().items()
            )


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("text", "words", "large text")]
)
def test_evaluation_sums_do_not_depend_on_the_batch_size(data, kind):
    """All sequences are the same and in the same order, completed with sequences of weight 0."""
    one_batch = build(data(kind, eval_batch_size=1000))
    for B in (1, 3, 4):
        dataset = build(data(kind, eval_batch_size=B))
        assert dataset.baselines == one_batch.baselines
        for part in ("eval", "test"):
            batches, reference = getattr(dataset, part), getattr(one_batch, part)
            if reference is None:
                continue
            sequences, expected = list(each_sequence(batches)), list(each_sequence(reference))
            for got, want in zip(sequences, expected, strict=False):
                for a, b in zip(got, want, strict=True):
                    np.testing.assert_array_equal(a, b)
            for _, _, weights, _, scored in sequences[len(expected) :]:
                assert not weights.any()
                assert scored is None or not scored.any()


@pytest.mark.parametrize("kind", ["text", "words", "large text"])
def test_every_token_is_predicted_once_in_any_number_of_rows(data, kind):
    """The loss is not quite the same: each row starts from a zero state."""
    predicted = []
    for B in (1, 3, 8, 100):
        eval = build(data(kind, eval_batch_size=B)).eval
        assert eval.inputs.shape[2] == B
        pairs = zip(eval.inputs[eval.weights == 1], eval.targets[eval.weights == 1], strict=True)
        predicted.append(sorted(pairs))
    assert all(pairs == predicted[0] for pairs in predicted)


def test_a_batch_size_of_no_sequences():
    with pytest.raises(ConfigError, match=r"data\.eval_batch_size\b.*\b0\b"):
        Data(eval_batch_size=0)
