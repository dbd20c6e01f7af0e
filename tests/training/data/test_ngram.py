import numpy as np
import pytest

from lstm_jax.training.data.ngram import NGram

STRICT = False


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
