"""A text as batches of parallel streams, for truncated backpropagation through time."""

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.ngram import NGram
from lstm_jax.training.data.tokens import Tokens, read_tokens
from lstm_jax.training.metrics import bits, perplexity

EVALUATION_ROWS = 8
"""The held-out text is read in so many rows at once, each from a zero state."""
LARGE_EVALUATION_ROWS = 64
"""The same of a large text, whose rows are long."""
HELD_OUT_OF_LARGE = 1_000_000
"""Symbols of a large text's held-out part that are evaluated on, the first ones."""
TEST_OF_LARGE = 5_000_000
"""Symbols of a large text's test part that are reported on, the first ones: all of text8 and enwik8."""
BASELINES_OF_LARGE = 5_000_000
"""Symbols of a large text that the n-grams are fitted on, the last ones."""


def text_dataset(data: Data, seed: int) -> Dataset:
    """Predicts the next character, word or token.

    Raises:
      ConfigError: if the text cannot be read or is shorter than a batch.
    """
    tokens = read_tokens(data)
    vocabulary, train = tokens.vocabulary, tokens.train
    _check(tokens, data)

    def batches(first: int, n: int, rows: np.ndarray | None = None) -> Batch:
        ids = np.stack([_window(train, data, seed, step, rows) for step in range(first, first + n)])
        inputs, targets = ids[:, :-1], ids[:, 1:]
        return Batch(inputs, targets, np.ones(inputs.shape, np.float32))

    V = len(vocabulary)
    held_out, test, known = tokens.held_out, tokens.test, train
    B, of = EVALUATION_ROWS, ""
    if tokens.large:
        held_out, test = held_out[:HELD_OUT_OF_LARGE], test[:TEST_OF_LARGE]
        known = train[-BASELINES_OF_LARGE:]
        B, of = LARGE_EVALUATION_ROWS, f" of the last {len(known):,}"
    held_out, test = np.asarray(held_out, np.int32), np.asarray(test, np.int32)
    figure, unit = ("bits", bits) if data.unit == "character" else ("perplexity", perplexity)
    models = {
        f"{name} baseline{of}": NGram(known, V, order)
        for name, order in (("unigram", 1), n_gram_order(V))
    }
    has_test = len(test) > 1
    return Dataset(
        summary=_summary(tokens, data.unit, len(held_out), len(test)),
        vocabulary_size=V,
        output_size=V,
        loss="cross_entropy",
        metric=figure,
        batches=batches,
        eval=rows(held_out, B, data.sequence_length),
        test=rows(test, B, data.sequence_length) if has_test else None,
        stateful=True,
        predicts_next=True,
        baselines={name: unit(model.nats(held_out)) for name, model in models.items()},
        test_baselines={name: unit(m.nats(test)) for name, m in models.items()} if has_test else {},
        vocabulary=vocabulary,
        digest=tokens.digest,
    )


def _check(tokens: Tokens, data: Data) -> None:
    """There must be enough to learn from and to measure on."""
    needed = data.batch_size * data.sequence_length + 1
    if len(tokens.train) < needed:
        raise ConfigError(
            f"the training text has {len(tokens.train)} {data.unit}s, but a batch reads {needed}: lower "
            "data.batch_size or data.sequence_length, or bring more text."
        )
    if len(tokens.vocabulary) < 3:
        raise ConfigError(
            f"the training text has {len(tokens.vocabulary) - 1} {data.unit}s to tell apart: at least 2 "
            "are needed (words that occur once do not count); bring more text, or raise "
            "data.vocabulary_size."
        )
    if len(tokens.held_out) < 2:
        raise ConfigError(
            f"the held-out text has {len(tokens.held_out)} {data.unit}s: at least 2 are needed to predict "
            "one; bring more text."
        )


def _summary(tokens: Tokens, unit: str, held_out: int, test: int) -> str:
    def part(evaluated: int, whole: int) -> str:
        return f"{whole:,}" if evaluated == whole else f"{evaluated:,} of {whole:,}"

    line = f"{len(tokens.train):,} {unit}s to learn from, {part(held_out, len(tokens.held_out))} held out"
    if len(tokens.test):
        line += f", {part(test, len(tokens.test))} to test"
    return f"{tokens.name}\n{line}, {len(tokens.vocabulary):,} symbols"


def n_gram_order(vocabulary_size: int) -> tuple[str, int]:
    """Five, or as many as fit 64-bit codes."""
    order = next(n for n in (5, 4, 3, 2, 1) if vocabulary_size**n < 2**63)
    return f"{order}-gram", order


def _window(
    ids: np.ndarray, data: Data, seed: int, step: int, rows: np.ndarray | None
) -> np.ndarray:
    """``[T + 1, B]``: inputs and, one later, targets; or some rows of them.

    Each row reads the text (as a ring) from a place of its own and goes on where its last batch
    ended, so that the state can be carried; the seed turns the ring.
    """
    N, B, T = len(ids), data.batch_size, data.sequence_length
    rows = np.arange(B) if rows is None else rows
    starts = np.random.default_rng(seed).integers(N) + rows * N // B
    window = ids[(step * T + np.arange(T + 1)[:, None] + starts) % N]
    return np.asarray(window, np.int32)


def rows(ids: np.ndarray, B: int, T: int) -> Batch:
    """Cuts a text into rows and chunks that predict each symbol but the first exactly once.

    Returns:
      Chunks ``[N, T, B]``, to be read in order with the state carried; weights are 0 where rows
      are filled up.

    >>> chunks = rows(np.arange(30), B=2, T=4)
    >>> chunks.inputs.shape, sorted(chunks.targets[chunks.weights == 1].tolist()) == list(range(1, 30))
    ((4, 4, 2), True)
    """
    predictions = len(ids) - 1
    per_row = -(-predictions // B)
    chunks = -(-per_row // T)
    starts = np.minimum(np.arange(B) * per_row, predictions)
    counts = np.minimum(per_row, predictions - starts)
    steps = np.arange(chunks * T).reshape(chunks, T, 1)
    at = np.minimum(starts + steps, predictions - 1)
    return Batch(ids[at], ids[at + 1], (steps < counts).astype(np.float32))
