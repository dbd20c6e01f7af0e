import hashlib
import itertools

import numpy as np
import pytest

from lstm_jax.training.config import ConfigError
from lstm_jax.training.data.corpus import embedded_corpus, read_corpus
from lstm_jax.training.data.stream import check_length, evaluation_batches, training_batch
from lstm_jax.training.data.vocabulary import UNKNOWN, Vocabulary
from lstm_jax.training.ngram import NGram

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
    corpus = read_corpus(path)
    assert (len(corpus.train), len(corpus.held_out)) == (90, 10)
    assert corpus.train + corpus.held_out == "abcdefghij" * 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*text.txt: No such file"),
        (b"", "has 0 characters; at least 10"),
        (b"too short", "has 9 characters; at least 10"),
        (b"na\xefve" * 10, r"is not UTF-8 \(byte 2\); convert it"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_corpus(path)


def test_the_vocabulary_is_that_of_the_training_text():
    vocabulary = Vocabulary.of("hello")
    assert vocabulary.symbols == (UNKNOWN, "e", "h", "l", "o")
    assert vocabulary.decode(vocabulary.encode("hello")) == "hello"
    assert vocabulary.encode("hey").tolist() == [2, 1, 0]


def test_each_row_goes_on_where_its_last_batch_ended():
    ids = np.arange(1000)
    batches = [training_batch(ids, 4, 8, seed=0, step=s) for s in range(5)]
    rows = np.concatenate([b[:-1] for b in batches])
    assert (np.diff(rows, axis=0) % 1000 == 1).all()
    assert all((a[-1] == b[0]).all() for a, b in itertools.pairwise(batches))
    spread = np.sort(rows[0])
    assert (np.diff(spread) == 250).all()


def test_a_batch_is_a_function_of_seed_and_step():
    ids = np.arange(1000)
    first, again = (training_batch(ids, 4, 8, seed=3, step=7) for _ in range(2))
    assert (first == again).all()
    assert (first != training_batch(ids, 4, 8, seed=4, step=7)).any()


@pytest.mark.parametrize("length", [2, 3, 17, 64, 65, 66, 1000])
@pytest.mark.parametrize(("rows", "T"), [(1, 4), (8, 16), (3, 100)])
def test_evaluation_predicts_every_symbol_but_the_first_once(length, rows, T):
    ids = np.arange(length)
    chunks, weights = evaluation_batches(ids, rows, T)
    predicted = chunks[:, 1:][weights == 1]
    assert sorted(predicted) == list(range(1, length))
    assert (chunks[:, :-1][weights == 1] + 1 == predicted).all()
    joined = np.concatenate(chunks[:, :-1])  # and rows are read in order
    for b in range(rows):
        own = joined[: int(weights[:, :, b].sum()), b]
        assert (np.diff(own) == 1).all()


def test_a_text_shorter_than_a_batch():
    check_length(np.arange(33), 4, 8)
    with pytest.raises(ConfigError, match="has 32 characters, but a batch reads 33: lower"):
        check_length(np.arange(32), 4, 8)


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
    got = NGram(np.array(train), 5, order).bits(np.array(test))
    np.testing.assert_allclose(got, -np.log2(p).mean(), rtol=1e-12)


def test_an_n_gram_sums_to_one():
    rng = np.random.default_rng(0)
    model = NGram(rng.integers(0, 4, 200), 5, 3)
    for a, b in [(0, 1), (3, 3), (4, 0)]:
        both = [2 ** (-2 * model.bits(np.array([a, b, c]))) for c in range(5)]  # p(b|a) p(c|a b)
        p_b = 2 ** -model.bits(np.array([a, b]))
        np.testing.assert_allclose(sum(both) / p_b, 1.0, rtol=1e-12)


def test_an_n_gram_too_large_for_its_codes():
    with pytest.raises(ValueError, match="5-gram over 10000 symbols does not fit"):
        NGram(np.arange(10), 10_000, 5)
