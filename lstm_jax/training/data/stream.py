"""A text as batches of parallel streams, for truncated backpropagation through time."""

import numpy as np

from lstm_jax.training.config import ConfigError, Data
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.corpus import read_corpus
from lstm_jax.training.data.task import Task
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.metrics import bits, perplexity
from lstm_jax.training.ngram import NGram

EVALUATION_ROWS = 8
"""The held-out text is read in so many rows at once, each from a zero state."""


def text_task(data: Data, seed: int) -> Task:
    """Predicts the next character or word.

    Raises:
      ConfigError: if the text cannot be read or is shorter than a batch.
    """
    corpus = read_corpus(data.path)
    vocabulary = Vocabulary.of(corpus.train, data.unit, data.vocabulary_size)
    train, held_out = vocabulary.encode(corpus.train), vocabulary.encode(corpus.held_out)
    needed = data.batch_size * data.sequence_length + 1
    if len(train) < needed:
        raise ConfigError(
            f"the training text has {len(train)} {data.unit}s, but a batch reads {needed}: lower "
            "data.batch_size or data.sequence_length, or bring more text."
        )
    if len(vocabulary) < 3:
        raise ConfigError(
            f"the training text has {len(vocabulary) - 1} {data.unit}s to tell apart: at least 2 are needed "
            "(words that occur once do not count); bring more text, or raise data.vocabulary_size."
        )
    if len(held_out) < 2:
        raise ConfigError(
            f"the held-out text has {len(held_out)} {data.unit}s: at least 2 are needed to predict "
            "one; bring more text."
        )

    def batches(first: int, n: int) -> Batch:
        ids = np.stack([_window(train, data, seed, step) for step in range(first, first + n)])
        inputs, targets = ids[:, :-1], ids[:, 1:]
        return Batch(inputs, targets, np.ones(inputs.shape, np.float32))

    V = len(vocabulary)
    figure, unit = ("bits", bits) if data.unit == "character" else ("perplexity", perplexity)
    return Task(
        summary=f"{corpus.name}\n{len(train):,} {data.unit}s to learn from, {len(held_out):,} held "
        f"out, {V:,} symbols",
        vocabulary_size=V,
        output_size=V,
        loss="cross_entropy",
        figure=figure,
        batches=batches,
        held_out=rows(held_out, EVALUATION_ROWS, data.sequence_length),
        carried=True,
        predicts_next=True,
        baselines={
            f"{name} baseline": unit(NGram(train, V, order).nats(held_out))
            for name, order in (("unigram", 1), n_gram_order(V))
        },
        vocabulary=vocabulary,
    )


def n_gram_order(vocabulary_size: int) -> tuple[str, int]:
    """Five, or as many as fit 64-bit codes."""
    order = next(n for n in (5, 4, 3, 2, 1) if vocabulary_size**n < 2**63)
    return f"{order}-gram", order


def _window(ids: np.ndarray, data: Data, seed: int, step: int) -> np.ndarray:
    """``[T + 1, B]``: inputs and, one later, targets.

    Each row reads the text (as a ring) from a place of its own and goes on where its last batch
    ended, so that the state can be carried; the seed turns the ring.
    """
    N, B, T = len(ids), data.batch_size, data.sequence_length
    starts = np.random.default_rng(seed).integers(N) + np.arange(B) * N // B
    return ids[(step * T + np.arange(T + 1)[:, None] + starts) % N]


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
