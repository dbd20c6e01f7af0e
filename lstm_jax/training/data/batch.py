"""What a step reads, whatever the task."""

from typing import Any, NamedTuple

from jax.typing import ArrayLike


class Batch(NamedTuple):
    """Sequences, time first, and what is to be predicted at each step.

    A task that asks one question of a whole sequence puts the answer at every step and a weight of 1
    on the true last step.

    Attributes:
      inputs: ids ``[T, B]`` or floats ``[T, B, I]``.
      targets: ids ``[T, B]`` or floats ``[T, B, K]``.
      weights: of each prediction in loss and figures, ``[T, B]``.
      lengths: true lengths ``[B]``, or None.
      scored: where accuracy is counted, ``[T, B]``; None is where there is weight.
    """

    inputs: ArrayLike
    targets: ArrayLike
    weights: ArrayLike
    lengths: ArrayLike | None = None
    scored: ArrayLike | None = None


Arrays = Any
"""A NumPy or JAX array: generated tasks make the one on the device, files give the other."""
