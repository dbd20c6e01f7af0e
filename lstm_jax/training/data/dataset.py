"""A task: its batches, its held-out data, and what must be known to build a model for it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax
import numpy as np

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.vocabulary import Vocabulary

Loss = Literal["cross_entropy", "squared_error", "bernoulli"]


@dataclass(frozen=True)
class Dataset:
    """What training asks of a task.

    Attributes:
      summary: a few lines for a person.
      vocabulary_size: number of input symbols, or 0 for float inputs.
      input_size: features of float inputs, or 0.
      output_size: symbols, classes or numbers predicted a step.
      loss: of one prediction.
      metric: the name of the figure that people compare, see :mod:`lstm_jax.training.metrics`.
      batches: ``(first step, n, rows) -> Batch`` of arrays ``[n, ...]``, a function of seed and step;
        ``rows`` are the numbers of those that are wanted, None is all.
      generate: or ``key -> Batch``, made on the device.
      eval: chunks ``[N, ...]`` to choose the best model by.
      test: chunks to report on at the end, where the data has such a part.
      stateful: whether the state goes on from batch to batch, and from chunk to chunk.
      predicts_next: whether targets are later inputs, which must not be seen.
      baselines: what needs no network, in the unit of ``figure``, on the held-out part.
      test_baselines: the same on the test part.
      vocabulary: of text.
      digest: A hash of the training data; empty if it is generated.
    """

    summary: str
    output_size: int
    loss: Loss
    metric: str
    eval: Batch
    vocabulary_size: int = 0
    input_size: int = 0
    batches: Callable[[int, int, np.ndarray | None], Batch] | None = None
    generate: Callable[[jax.Array], Batch] | None = None
    test: Batch | None = None
    stateful: bool = False
    predicts_next: bool = False
    baselines: dict[str, float] = field(default_factory=dict)
    test_baselines: dict[str, float] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    digest: str = ""

    def fingerprint(self) -> str:
        """Returns a hash of the vocabulary, the validation and test sets, and the training data.

        The training data comes last: earlier versions left it out, and wrote a prefix.
        """
        digest = hashlib.sha256(repr(self.vocabulary).encode())
        for leaf in jax.tree.leaves((self.eval, self.test)):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()[:16] + self.digest[:16]

    @property
    def batch(self):
        if self.batches is None:
            return None

        def batch(step, rows):
            return jax.tree.map(lambda a: a[0], self.batches(step, 1, rows))

        return batch
