import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data import text as language_modelling
from lstm_jax.training.data import tokens
from lstm_jax.training.data.text import cut_into_rows, n_gram_order, text_dataset
from tests.training.data.build import batches

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 50, encoding="utf-8")
    return path


def test_each_row_continues_where_its_last_batch_ended(text):
    data = Data(path=text, batch_size=4, sequence_length=8)
    dataset = text_dataset(data, seed=0)
    five = batches(dataset, 0, 5, 4)
    assert five.inputs.shape == five.targets.shape == five.weights.shape == (5, 8, 4)
    row = dataset.vocabulary.decode(np.concatenate(five.inputs)[:, 1])
    assert row in text.read_text() * 2
    assert (five.inputs[1:, 0] == five.targets[:-1, -1]).all()
    assert (five.inputs[:, 1:] == five.targets[:, :-1]).all()


def test_a_batch_is_a_function_of_seed_and_step(text):
    data = Data(path=text, batch_size=4, sequence_length=8)
    first, again = (text_dataset(data, seed=3) for _ in range(2))
    again.batch(3, np.arange(4))
    inputs = first.batch(7, np.arange(4)).inputs
    assert (inputs == again.batch(7, np.arange(4)).inputs).all()
    assert (inputs[:, [0, 2]] == again.batch(7, np.array([0, 2])).inputs).all()
    assert (inputs != text_dataset(data, seed=4).batch(7, np.arange(4)).inputs).any()


@pytest.mark.parametrize("length", [2, 3, 17, 64, 65, 66, 1000])
@pytest.mark.parametrize(("B", "T"), [(1, 4), (8, 16), (3, 100)])
def test_evaluation_predicts_every_token_but_the_first_once(length, B, T):
    batches = cut_into_rows(np.arange(length), B, T)
    predicted = batches.targets[batches.weights == 1]
    assert sorted(predicted) == list(range(1, length))
    assert (batches.inputs[batches.weights == 1] + 1 == predicted).all()
    joined = np.concatenate(batches.inputs)  # and rows are read in order
    for b in range(B):
        own = joined[: int(batches.weights[:, :, b].sum()), b]
        assert (np.diff(own) == 1).all()


def test_a_text_shorter_than_a_batch(text):
    with pytest.raises(ConfigError, match=r"\b2025\b.*\b2049\b.*data\.batch_size"):
        text_dataset(Data(path=text, batch_size=32, sequence_length=64), seed=0)


def test_a_text_in_words(text):
    dataset = text_dataset(Data(path=text, unit="word", batch_size=2, sequence_length=8), seed=0)
    assert dataset.metric == "perplexity"
    assert dataset.vocabulary_size == 10  # nine words and signs, and the unknown token
    assert dataset.baselines["5-gram baseline"] < 1.5 < dataset.baselines["unigram baseline"] < 10
    assert dataset.vocabulary.decode(dataset.vocabulary.encode("the Lazy fox")) == "the \ufffd fox"


@pytest.mark.parametrize(("size", "order"), [(2, 5), (6000, 5), (7000, 4), (60_000, 3)])
def test_the_n_gram_is_as_long_as_fits(size, order):
    assert n_gram_order(size) == (f"{order}-gram", order)


@pytest.mark.parametrize(
    ("data", "max_eval_rows", "rows"),
    [
        ({"batch_size": 16}, None, 8),
        ({"batch_size": 4}, None, 4),
        ({"batch_size": 16}, 4, 4),
        ({"batch_size": 16, "eval_batch_size": 20}, 4, 20),
    ],
)
def test_the_number_of_rows_for_evaluation(text, data, max_eval_rows, rows):
    dataset = text_dataset(Data(path=text, sequence_length=8, **data), 0, max_eval_rows)
    assert dataset.eval.inputs.shape[2] == rows
    assert dataset.eval.weights.sum() == 224


def test_a_large_text_is_evaluated_in_part(text, monkeypatch):
    monkeypatch.setattr(tokens, "LARGE", 0)
    monkeypatch.setattr(language_modelling, "EVAL_OF_LARGE", 100)
    monkeypatch.setattr(language_modelling, "BASELINES_OF_LARGE", 1000)
    data = Data(path=text, batch_size=80, sequence_length=8)
    dataset = text_dataset(data, seed=0)
    assert dataset.eval.weights.sum() == 99
    assert dataset.eval.inputs.shape[2] == 64
    assert "100 of 225 for validation" in dataset.summary
    assert set(dataset.baselines) == {
        "unigram baseline of the last 1,000",
        "5-gram baseline of the last 1,000",
    }
    monkeypatch.setattr(tokens, "LARGE", text.stat().st_size + 1)
    small = text_dataset(data, seed=0)
    assert "225 for validation" in small.summary
    for a, b in zip(batches(dataset, 5, 9, 80), batches(small, 5, 9, 80), strict=True):
        assert a is b is None or (a.dtype == b.dtype and (a == b).all())
