import errno
import hashlib
import os

import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.corpus import embedded_corpus, files_text
from lstm_jax.training.data.ngram import NGram
from lstm_jax.training.data.text import n_gram_order, rows, text_dataset
from lstm_jax.training.data.vocabulary import UNKNOWN, Vocabulary

STRICT = False


def test_the_embedded_corpus_holds_out_a_tenth_of_its_text():
    corpus = embedded_corpus()
    total = len(corpus.train) + len(corpus.held_out)
    assert total > 300_000
    assert 0.08 < len(corpus.held_out) / total <= 0.101
    digest = hashlib.sha256((corpus.train + corpus.held_out).encode()).hexdigest()
    assert digest[:12] in corpus.name


def test_no_held_out_topic_stands_in_the_training_text():
    """Longer passages occur once: a model cannot win by having read the test."""
    corpus = embedded_corpus()
    train = " ".join(corpus.train.split())
    words = corpus.held_out.split()
    windows = [" ".join(words[n : n + 25]) for n in range(0, len(words) - 25, 25)]
    assert len(windows) > 100
    assert sum(w in train for w in windows) / len(windows) < 0.01


def test_a_file_is_split_nine_to_one(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdefghij" * 10)
    corpus = files_text(path).read()
    assert (len(corpus.train), len(corpus.held_out)) == (90, 10)
    assert corpus.train + corpus.held_out == "abcdefghij" * 10


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, rf"data\.path.*text\.txt.*{os.strerror(errno.ENOENT)}"),
        (b"", r"data\.path.*text\.txt.*\b0\b.*\b10\b"),
        (b"too short", r"data\.path.*text\.txt.*\b9\b.*\b10\b"),
        (b"na\xefve" * 10, r"data\.path.*text\.txt.*UTF-8.*\b2\b"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, names):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=names):
        files_text(path).read()


def test_the_vocabulary_is_that_of_the_training_text():
    vocabulary = Vocabulary.of("hello")
    assert vocabulary.symbols == (UNKNOWN, "e", "h", "l", "o")
    assert vocabulary.decode(vocabulary.encode("hello")) == "hello"
    assert vocabulary.encode("hey").tolist() == [2, 1, 0]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 50, encoding="utf-8")
    return path


def test_each_row_goes_on_where_its_last_batch_ended(text):
    data = Data(path=text, batch_size=4, sequence_length=8)
    task = text_dataset(data, seed=0)
    batches = task.batches(0, 5)
    assert batches.inputs.shape == batches.targets.shape == batches.weights.shape == (5, 8, 4)
    rows = task.vocabulary.decode(np.concatenate(batches.inputs)[:, 1])
    assert rows in text.read_text() * 2
    assert (batches.inputs[1:, 0] == batches.targets[:-1, -1]).all()
    assert (batches.inputs[:, 1:] == batches.targets[:, :-1]).all()


def test_a_batch_is_a_function_of_seed_and_step(text):
    data = Data(path=text, batch_size=4, sequence_length=8)
    first, again = (text_dataset(data, seed=3).batches(7, 1) for _ in range(2))
    assert (first.inputs == again.inputs).all()
    assert (first.inputs == text_dataset(data, seed=3).batches(5, 3).inputs[2]).all()
    assert (first.inputs != text_dataset(data, seed=4).batches(7, 1).inputs).any()


@pytest.mark.parametrize("length", [2, 3, 17, 64, 65, 66, 1000])
@pytest.mark.parametrize(("B", "T"), [(1, 4), (8, 16), (3, 100)])
def test_evaluation_predicts_every_symbol_but_the_first_once(length, B, T):
    chunks = rows(np.arange(length), B, T)
    predicted = chunks.targets[chunks.weights == 1]
    assert sorted(predicted) == list(range(1, length))
    assert (chunks.inputs[chunks.weights == 1] + 1 == predicted).all()
    joined = np.concatenate(chunks.inputs)  # and rows are read in order
    for b in range(B):
        own = joined[: int(chunks.weights[:, :, b].sum()), b]
        assert (np.diff(own) == 1).all()


def test_a_text_shorter_than_a_batch(text):
    with pytest.raises(ConfigError, match=r"\b2025\b.*\b2049\b.*data\.batch_size"):
        text_dataset(Data(path=text, batch_size=32, sequence_length=64), seed=0)


def test_a_folder_of_texts(tmp_path):
    with pytest.raises(ConfigError, match=rf"data\.path.*{tmp_path}.*\.txt"):
        files_text(tmp_path).read()
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name * 50)
    corpus = files_text(tmp_path).read()
    assert corpus.train + corpus.held_out == "a" * 50 + "\n\n" + "b" * 50


def test_words(text):
    task = text_dataset(Data(path=text, unit="word", batch_size=2, sequence_length=8), seed=0)
    assert task.metric == "perplexity"
    assert task.vocabulary_size == 10  # nine words and signs, and the unknown
    assert task.baselines["5-gram baseline"] < 1.5 < task.baselines["unigram baseline"] < 10
    assert task.vocabulary.decode(task.vocabulary.encode("the Lazy fox")) == "the \ufffd fox"


def test_a_vocabulary_can_be_saved(tmp_path):
    vocabulary = Vocabulary.of("to be, or not to be", unit="word")
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(("size", "order"), [(2, 5), (6000, 5), (7000, 4), (60_000, 3)])
def test_the_n_gram_is_as_long_as_fits(size, order):
    assert n_gram_order(size) == (f"{order}-gram", order)


def witten_bell(text, context, symbol, vocabulary_size):
    """The recursion as the paper writes it, by counting in a list."""
    n = len(context)
    seen = [text[k + n] for k in range(len(text) - n) if text[k : k + n] == context]
    lower = (
        1 / vocabulary_size if n == 0 else witten_bell(text, context[1:], symbol, vocabulary_size)
    )
    if not seen:
        return lower
    kinds = len(set(seen))
    return (seen.count(symbol) + kinds * lower) / (len(seen) + kinds)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_n_gram_equals_its_recursion(order):
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 4, 200).tolist(), rng.integers(0, 5, 40).tolist()
    p = [
        witten_bell(train, test[max(0, k - order + 1) : k], test[k], 5) for k in range(1, len(test))
    ]
    got = NGram(np.array(train), 5, order).nats(np.array(test))
    np.testing.assert_allclose(got, -np.log(p).mean(), rtol=1e-12)


def test_an_n_gram_sums_to_one():
    rng = np.random.default_rng(0)
    model = NGram(rng.integers(0, 4, 200), 5, 3)
    for a, b in [(0, 1), (3, 3), (4, 0)]:
        both = [np.exp(-2 * model.nats(np.array([a, b, c]))) for c in range(5)]  # p(b|a) p(c|a b)
        p_b = np.exp(-model.nats(np.array([a, b])))
        np.testing.assert_allclose(sum(both) / p_b, 1.0, rtol=1e-12)


def test_an_n_gram_too_large_for_its_codes():
    with pytest.raises(ValueError, match=r"\b5-gram\b.*\b10000\b"):
        NGram(np.arange(10), 10_000, 5)
