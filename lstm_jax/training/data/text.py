"""Language modelling: text in parallel streams, for truncated backpropagation through time."""

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset, evaluation_digest
from lstm_jax.training.data.ngram import NGram
from lstm_jax.training.data.tokens import Tokens, read_tokens
from lstm_jax.training.metrics import bits, perplexity

EVAL_ROWS = 8
"""Maximum default number of rows for evaluation. Each row starts from a zero state."""
LARGE_EVAL_ROWS = 64
"""Maximum default number of rows for the evaluation of a large text."""
EVAL_OF_LARGE = 1_000_000
"""Maximum number of validation tokens for the evaluation of a large text, from its start."""
TEST_OF_LARGE = 5_000_000
"""Maximum number of test tokens for a large text, from its start. All test tokens of text8 and enwik8."""
BASELINES_OF_LARGE = 5_000_000
"""Maximum number of training tokens for the n-gram baselines of a large text, from its end."""


def text_dataset(data: Data, seed: int) -> Dataset:
    """Builds a dataset for the prediction of the next character, word or token.

    Args:
      data: ``config.data``.
      seed: Random seed of the position in the text at which training starts.

    Raises:
      ConfigError: If the text cannot be read or is shorter than a batch.
    """
    tokens = read_tokens(data)
    vocabulary, train, T = tokens.vocabulary, tokens.train, data.sequence_length
    _check(tokens, data)
    start = int(np.random.default_rng(seed).integers(len(train)))

    def batch(step: int, rows: np.ndarray) -> Batch:
        ids = _window(train, start, data.batch_size, T, step, rows)
        return Batch(ids[:-1], ids[1:], np.ones((T, len(rows)), np.float32))

    V = len(vocabulary)
    validation, test, fitted, default_rows, which = (
        tokens.validation, tokens.test, train, EVAL_ROWS, ""
    )  # fmt: skip
    if tokens.large:
        validation, test = validation[:EVAL_OF_LARGE], test[:TEST_OF_LARGE]
        fitted, default_rows = train[-BASELINES_OF_LARGE:], LARGE_EVAL_ROWS
        which = f" of the last {len(fitted):,}"
    validation, test = np.asarray(validation, np.int32), np.asarray(test, np.int32)
    parts = [validation] if len(test) < 2 else [validation, test]
    metric, unit = ("bits", bits) if data.unit == "character" else ("perplexity", perplexity)
    models = {
        f"{name} baseline{which}": NGram(fitted, V, order)
        for name, order in (("unigram", 1), n_gram_order(V))
    }
    baselines = [{name: unit(m.nats(ids)) for name, m in models.items()} for ids in parts]
    rows = data.eval_batch_size or min(data.batch_size, default_rows)
    eval, *tests = (cut_into_rows(ids, rows, T) for ids in parts)
    for_digest = [cut_into_rows(ids, default_rows, T) for ids in parts]
    return Dataset(
        summary=_summary(tokens, data.unit, len(validation), len(test)),
        vocabulary_size=V,
        output_size=V,
        loss="cross_entropy",
        metric=metric,
        batch=batch,
        eval=eval,
        test=tests[0] if tests else None,
        stateful=True,
        predicts_next=True,
        baselines=baselines[0],
        test_baselines=baselines[1] if tests else {},
        vocabulary=vocabulary,
        digest=tokens.digest,
        eval_digest=evaluation_digest(vocabulary, for_digest[0], for_digest[1] if tests else None),
    )


def n_gram_order(vocabulary_size: int) -> tuple[str, int]:
    """Returns the name and the order of the n-gram baseline: 5, or less if codes exceed 64 bits."""
    order = next(n for n in (5, 4, 3, 2, 1) if vocabulary_size**n < 2**63)
    return f"{order}-gram", order


def cut_into_rows(ids: np.ndarray, B: int, T: int) -> Batch:
    """Splits a text into batches that predict each token except the first exactly once.

    Returns:
      Batches ``[N, T, B]``. The LSTM state continues from batch to batch. Padding has weight 0.

    >>> batches = cut_into_rows(np.arange(30), B=2, T=4)
    >>> batches.inputs.shape, sorted(batches.targets[batches.weights == 1].tolist()) == list(range(1, 30))
    ((4, 4, 2), True)
    """
    predictions = len(ids) - 1
    per_row = -(-predictions // B)
    N = -(-per_row // T)
    starts = np.minimum(np.arange(B) * per_row, predictions)
    counts = np.minimum(per_row, predictions - starts)
    steps = np.arange(N * T).reshape(N, T, 1)
    at = np.minimum(starts + steps, predictions - 1)
    return Batch(ids[at], ids[at + 1], (steps < counts).astype(np.float32))


def _window(ids: np.ndarray, start: int, B: int, T: int, step: int, rows: np.ndarray) -> np.ndarray:
    """Returns ``[T + 1, len(rows)]`` ids: inputs and, one step later, targets.

    Each of the B rows reads the text as a ring from its own position, and continues in the next batch
    where this one ends, so that the state can be carried over.
    """
    N = len(ids)
    starts = start + rows * N // B
    return np.asarray(ids[(step * T + np.arange(T + 1)[:, None] + starts) % N], np.int32)


def _check(tokens: Tokens, data: Data) -> None:
    """Checks that the text is long enough for training and evaluation."""
    needed = data.batch_size * data.sequence_length + 1
    if len(tokens.train) < needed:
        raise ConfigError(
            f"the training text has {len(tokens.train)} {data.unit}s, expected at least {needed} "
            "(data.batch_size * data.sequence_length + 1). Lower data.batch_size or "
            "data.sequence_length, or use a longer text."
        )
    if len(tokens.vocabulary) < 3:
        raise ConfigError(
            f"expected a vocabulary of at least 2 {data.unit}s (words that occur once are excluded), got "
            f"{len(tokens.vocabulary) - 1}. Use a longer text, or raise data.vocabulary_size."
        )
    if len(tokens.validation) < 2:
        raise ConfigError(
            f"expected at least 2 {data.unit}s in the validation text, got {len(tokens.validation)}. Use "
            "a longer text."
        )


def _summary(tokens: Tokens, unit: str, evaluated: int, tested: int) -> str:
    def count(part: int, whole: int) -> str:
        return f"{whole:,}" if part == whole else f"{part:,} of {whole:,}"

    line = f"{len(tokens.train):,} {unit}s for training"
    line += f", {count(evaluated, len(tokens.validation))} for validation"
    if len(tokens.test):
        line += f", {count(tested, len(tokens.test))} for test"
    return f"{tokens.name}\n{line}, vocabulary of {len(tokens.vocabulary):,}"
