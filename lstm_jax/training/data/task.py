"""A task: its batches, its held-out data, and what must be known to build a model for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import jax

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.vocabulary import Vocabulary

Loss = Literal["cross_entropy", "squared_error", "bernoulli"]


@dataclass(frozen=True)
class Task:
    """What training asks of a task.

    Attributes:
      summary: a few lines for a person.
      vocabulary_size: number of input symbols, or 0 for float inputs.
      input_size: features of float inputs, or 0.
      output_size: symbols, classes or numbers predicted a step.
      loss: of one prediction.
      figure: the name of the figure that people compare, see :mod:`lstm_jax.training.metrics`.
      batches: ``(first step, n) -> Batch`` of arrays ``[n, ...]``; a function of seed and step.
      generate: or ``key -> Batch``, made on the device.
      held_out: chunks ``[N, ...]`` to choose the best model by.
      test: chunks to report on at the end, where the data has such a part.
      carried: whether the state goes on from batch to batch, and from chunk to chunk.
      baselines: what needs no network, in the unit of ``figure``.
      vocabulary: of text.
    """

    summary: str
    output_size: int
    loss: Loss
    figure: str
    held_out: Batch
    vocabulary_size: int = 0
    input_size: int = 0
    batches: Callable[[int, int], Batch] | None = None
    generate: Callable[[jax.Array], Batch] | None = None
    test: Batch | None = None
    carried: bool = False
    baselines: dict[str, float] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
