"""What a step reads, whatever the task."""

from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Sequences, time first, and what is to be predicted at each step; NumPy or JAX arrays.

    A task that asks one question of a whole sequence puts the answer at every step and a weight of 1
    on the true last step.

    Attributes:
      inputs: ids ``[T, B]`` or floats ``[T, B, I]``.
      targets: ids ``[T, B]`` or floats ``[T, B, K]``.
      weights: of each prediction in loss and figures, ``[T, B]``.
      lengths: true lengths ``[B]``, or None.
      scored: where accuracy is counted, ``[T, B]``; None is where there is weight.
    """

    inputs: Any
    targets: Any
    weights: Any
    lengths: Any = None
    scored: Any = None
