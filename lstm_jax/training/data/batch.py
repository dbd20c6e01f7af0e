"""A batch of sequences with targets and weights."""

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Sequences with targets and weights for each step, as NumPy or JAX arrays.

    A batch is time-major: ``[T, B, ...]``, or ``[n, T, B, ...]`` for n batches. The argument of
    :func:`~lstm_jax.training.data.sequences.from_sequences` has the same fields with the sequences first:
    ``[N, T, ...]``.

    Sequences are padded at the end to a common length T:

    - ``lengths`` has the number of valid steps of each sequence, from 1 to T.
    - Padded steps have a weight of 0. The model ignores their inputs if ``lengths`` is given. Their
      targets must be valid numbers or ids, for instance 0: the loss of a padded step is computed and
      multiplied by 0.
    - To predict one answer per sequence, repeat the answer at every step and set a weight of 1 on the
      last valid step only.
    - A sequence that pads a batch has a weight of 0 at every step.

    Attributes:
      inputs: Token ids ``[T, B]`` or floats ``[T, B, I]``.
      targets: Target ids ``[T, B]`` or floats ``[T, B, K]``.
      weights: Weight of each prediction in losses and metrics, ``[T, B]``.
      lengths: Number of valid steps, ``[B]``. None if all T steps are valid.
      scored: Weight of each prediction in the accuracy, ``[T, B]``. None uses ``weights``.
    """

    inputs: Any
    targets: Any
    weights: Any
    lengths: Any = None
    scored: Any = None
