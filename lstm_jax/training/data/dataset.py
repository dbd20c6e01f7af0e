"""``Dataset``: batches, validation and test sets, and the sizes of the data."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Training batches, validation and test sets, and the input and output sizes of the model.

    Give either ``batch`` or ``generate``.

    Attributes:
      output_size: Number of outputs per step: tokens, classes or numbers.
      loss: Name of the loss: cross_entropy, squared_error or bernoulli.
      metric: Name of the main metric in :data:`lstm_jax.training.metrics.METRICS`.
      eval: Validation set as batches ``[N, T, B, ...]``, read in order.
      batch: Function ``(step, rows) -> Batch`` that returns sequences of the training batch of a step,
        ``[T, len(rows), ...]``. It must be a pure function of the seed and the step. ``rows`` are indices
        in the batch; with several processes, each process requests only its sequences.
      generate: Function ``key -> Batch`` that returns a training batch. It is traced and runs on the
        device.
      test: Test set as batches ``[N, T, B, ...]``, evaluated once after training.
      summary: Description of the data in one or two lines.
      vocabulary_size: Number of input tokens, 0 for float inputs.
      input_size: Number of features of float inputs, 0 for tokens.
      stateful: Whether the LSTM state continues from batch to batch.
      predicts_next: Whether targets are later inputs, so that a bidirectional model would see them.
      baselines: Values of ``metric`` on the validation set for predictors without a network, by name, the
        strongest last.
      test_baselines: Values of ``metric`` on the test set for predictors without a network, by name, the
        strongest last.
      vocabulary: Vocabulary of a text. None for other data.
      digest: Hash of the training data, empty for generated data.
      eval_digest: Result of :func:`evaluation_digest` for a batch size that does not depend on the
        experiment. If it is empty, the hash is computed from ``eval`` and ``test``.
    """

    output_size: int
    loss: str
    metric: str
    eval: Batch
    batch: Callable[[int, np.ndarray], Batch] | None = None
    generate: Callable[[jax.Array], Batch] | None = None
    test: Batch | None = None
    summary: str = ""
    vocabulary_size: int = 0
    input_size: int = 0
    stateful: bool = False
    predicts_next: bool = False
    baselines: dict[str, float] = field(default_factory=dict)
    test_baselines: dict[str, float] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    digest: str = ""
    eval_digest: str = ""

    def fingerprint(self) -> str:
        """Returns a hash of the vocabulary, the validation and test sets, and the training data.

        The training data comes last, so that the fingerprints of earlier versions, which did not include
        it, are prefixes.
        """
        digest = self.eval_digest or evaluation_digest(self.vocabulary, self.eval, self.test)
        return digest[:16] + self.digest[:16]


def evaluation_digest(vocabulary: Vocabulary | None, eval: Batch, test: Batch | None) -> str:
    """Returns a hash of the vocabulary and of the batches of the validation and test sets."""
    digest = hashlib.sha256(repr(vocabulary).encode())
    for leaf in jax.tree.leaves((eval, test)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
