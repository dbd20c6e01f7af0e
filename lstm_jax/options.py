"""The tuning options of a layer: how it is computed, not what it computes.

:class:`Options` documents them. Functions and modules take them as keywords, and pass them on as one value.
"""

import logging
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypedDict, cast

from lstm_jax.backends import BACKENDS
from lstm_jax.cell import Precision
from lstm_jax.partition import Partition

log = logging.getLogger("lstm_jax")
RESIDUALS = ("save", "recompute")
OTHER_NAMES = {
    "seq_lengths": "lengths=seq_lengths",
    "initial_carry": "state=initial_carry",
    "carry": "state=carry",
    "initial_state": "state=initial_state",
    "initial_states": "states=initial_states",
    "dropout_rate": "dropout=dropout_rate",
    "rngs": "key=key, a key of jax.random",
    "rng": "key=rng",
    "mask": "lengths=mask.sum(axis=0)",
    "time_major": "xs of shape [T, *B, I]: time is always the first axis",
    "batch_first": "xs.swapaxes(0, 1): time is always the first axis",
    "return_carry": "nothing: the final state is always the first result",
    "go_backwards": "reverse=True; outputs stay at their own time",
    "param_dtype": "dtype, the compute dtype; the parameters keep theirs",
}
"""Keywords of other libraries and of the Flax modules, and the text to write instead."""


class OptionKeywords(TypedDict, total=False):
    """The fields of :class:`Options` as keywords, for type checkers."""

    precision: Precision
    backend: str
    remat_every: int | None
    residuals: Literal["save", "recompute"]
    unroll: int | None
    partition: Partition | None


@dataclass(frozen=True)
class Options:
    """How a layer is computed. No option changes the result by more than rounding.

    Attributes:
      precision: Precision of the matrix products, as in :func:`jax.numpy.dot`. None is JAX's default.
      backend: "auto", the fastest of the platform that can run the layer, or a name from
        :data:`lstm_jax.backends.BACKENDS`: "scan", "xla", "cpu", "tpu", "cudnn". A named backend runs, or
        raises an error that says why it cannot.
      remat_every: Number of time steps between states that are stored for the backward pass. The steps in
        between are computed again: memory for ``T / k + k`` steps in place of T, for one more forward pass.
        None stores what every step needs.
      residuals: What each step stores for its backward pass: "save" the gates' pre-activations, C and h
        (6 arrays ``[T, *B, H]``), or C and h alone and "recompute" the pre-activations.
      unroll: Time steps per iteration of the compiled loop, at least 1. None is 1, but 8 on GPUs under
        "auto". The loops of "cpu", "tpu" and "cudnn" do not honour it.
      partition: The mesh axes over which the layer is sharded. None leaves it to the arguments' sharding.

    Raises:
      ValueError: If a value is not one of those above.

    >>> Options(backend="scan", unroll=4).unroll
    4
    """

    precision: Precision = None
    backend: str = "auto"
    remat_every: int | None = None
    residuals: Literal["save", "recompute"] = "save"
    unroll: int | None = None
    partition: Partition | None = None

    @classmethod
    def of(cls, function: str, keywords: Mapping[str, Any]) -> "Options":
        """Returns the options among the keywords that ``function`` was called with.

        Raises:
          TypeError: If there are other keywords. The message has the name that is used here, if it is known.
        """
        unknown = keywords.keys() - {field.name for field in fields(cls)}
        if unknown:
            name = min(unknown)
            hint = f"; write {OTHER_NAMES[name]}" if name in OTHER_NAMES else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}.")
        return cls(**keywords)

    def keywords(self) -> OptionKeywords:
        """Returns the options as keywords, as the functions take them."""
        return cast(OptionKeywords, dict(vars(self)))

    def for_steps(self, T: Any) -> "Options":
        """Returns the options for a sequence of T steps, which may be a symbol in an export.

        Raises:
          ValueError: If an option needs a known number of steps.
        """
        if isinstance(T, int):
            return self
        if self.remat_every is not None:
            raise ValueError(
                f"expected a known number of steps for remat_every={self.remat_every}, got T = {T}; export "
                "with a fixed T, or without remat_every, which changes the memory of gradients alone."
            )
        if self.unroll in (None, 1):
            return self
        if self.backend != "auto":
            raise ValueError(
                f"expected a known number of steps for unroll={self.unroll}, got T = {T}; export with a "
                "fixed T, or without unroll."
            )
        _log_ignored_unroll(self.unroll)
        return replace(self, unroll=None)

    def __post_init__(self) -> None:
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"expected backend to be one of {['auto', *BACKENDS]}, got {self.backend!r}; "
                '"auto" takes the fastest that can run.'
            )
        if self.residuals not in RESIDUALS:
            raise ValueError(
                f"expected residuals to be one of {RESIDUALS}, got {self.residuals!r}."
            )
        partition: Any = self.partition
        if partition is not None and not isinstance(partition, Partition):
            hint = f'; write Partition(batch="{partition}")' if isinstance(partition, str) else ""
            raise ValueError(
                f"expected partition to be a Partition or None, got {partition!r}{hint}."
            )
        for name in ("remat_every", "unroll"):
            object.__setattr__(self, name, _steps(name, getattr(self, name)))


@lru_cache
def _log_ignored_unroll(unroll: int) -> None:
    log.warning("unroll=%d has no effect: the number of time steps is a symbol.", unroll)


def _steps(name: str, value: Any) -> int | None:
    """A number of steps as Python's int, also from NumPy's."""
    if value is None:
        return None
    try:
        steps = operator.index(value)
    except TypeError:
        steps = 0
    if steps < 1 or isinstance(value, bool):
        raise ValueError(
            f"expected {name} to be a number of time steps, at least 1, or None, got {value!r}."
        )
    return steps
