"""The tuning options of a layer, which affect its speed and memory but not its result.

:class:`Options` documents them. Functions and modules take them as keywords, and pass them on as one value.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, TypedDict, TypeVar, cast

from lstm_jax.backends import BACKENDS
from lstm_jax.cell import Precision
from lstm_jax.checks import check_size
from lstm_jax.partition import Partition

F = TypeVar("F", bound=Callable[..., Any])
log = logging.getLogger("lstm_jax")
RESIDUALS = ("save", "recompute")
FOREIGN_KEYWORDS = {
    **dict.fromkeys(("seq_lengths", "sequence_length"), "lengths"),
    **dict.fromkeys(("inputs", "input", "input_sequence", "sequences"), "xs"),
    **dict.fromkeys(("initial_carry", "carry", "hidden", "hx", "h_0"), "state or states"),
    **dict.fromkeys(("initial_state", "initial_states"), "state or states"),
    "state": "states, one per layer and direction",
    "states": "state",
    "reset_state": "reset_states, one per layer and direction",
    "reset_states": "reset_state",
    "dones": "resets=dones.astype(bool)",
    "mask": "lengths=mask.sum(axis=0)",
    "dropout_rate": "dropout in a call of lstm_stack",
    **dict.fromkeys(("rngs", "rng"), "key, a jax.random key, in a call of lstm_stack"),
    **dict.fromkeys(
        ("num_layers", "layers"), "nothing: lstm_stack runs one layer per entry of params"
    ),
    **dict.fromkeys(("bidirectional", "dropout", "key"), "it in a call of lstm_stack"),
    **dict.fromkeys(
        ("time_major", "batch_first"), "xs.swapaxes(0, 1): time is always the first axis"
    ),
    **dict.fromkeys(
        ("return_carry", "return_state"), "nothing: the final state is always the first result"
    ),
    "return_sequences": "final_state_only=True for False",
    "keep_order": "nothing: outputs always keep the time order of the inputs",
    "go_backwards": "reverse=True; outputs keep the time order of the inputs",
    "deterministic": "dropout=0.0",
    "param_dtype": "dtype, the compute dtype; the parameters keep their dtype",
}
"""Keywords of other libraries and of the Flax modules, each with what to write in a call of the functions."""
FOREIGN_MODULE_KEYWORDS = {
    "input_size": "in_features",
    **dict.fromkeys(("hidden_size", "units"), "hidden_features"),
    **dict.fromkeys(
        ("dropout", "recurrent_dropout"), "dropout_rate, the rate of dropout between layers"
    ),
    "batch_first": "nothing: modules are batch first; for time first write time_major=True",
    "bias": "use_bias",
    **dict.fromkeys(("lengths", "seq_lengths", "mask"), "seq_lengths in the call"),
    **dict.fromkeys(
        ("state", "states", "initial_carry", "initial_state"), "initial_carry in the call"
    ),
    **dict.fromkeys(("resets", "dones"), "resets in the call"),
    "go_backwards": "reverse=True; outputs keep the time order of the inputs",
    "return_state": "return_carry=True",
    "kernel_initializer": "kernel_init",
    "recurrent_initializer": "recurrent_kernel_init",
    "bias_initializer": "bias_init",
}
"""Keywords of other libraries, each with what to write in the constructor of the NNX module."""


class OptionKeywords(TypedDict, total=False):
    """For type checkers: the fields of :class:`Options` as keywords."""

    precision: Precision
    backend: str
    remat_every: int | None
    residuals: Literal["save", "recompute"]
    unroll: int | None
    partition: Partition | None


@dataclass(frozen=True)
class Options:
    """Options that tune the speed and the memory of a layer. They change its result by rounding only.

    Attributes:
      precision: Precision of the matrix products, as in :func:`jax.numpy.dot`. None is JAX's default.
      backend: "auto" for the fastest backend of the platform that can run the layer, or a name from
        :data:`lstm_jax.backends.BACKENDS`: "scan", "xla", "cpu", "tpu", "cudnn". A backend that is selected
        by name runs, or raises an error that says why it cannot.
      remat_every: Number of time steps k between the states that are stored for the backward pass. The steps
        between them are recomputed. This takes memory for ``T / k + k`` steps instead of T, and the time of
        one more forward pass. None stores the residuals of every step.
      residuals: "save" stores the pre-activations, C and h of each step for the backward pass (6 arrays
        ``[T, *B, H]``). "recompute" stores C and h, and recomputes the pre-activations.
      unroll: Time steps per iteration of the compiled loop, at least 1. None is 8 on GPUs under "auto", and 1
        elsewhere. The loops of "cpu", "tpu" and "cudnn" ignore it.
      partition: The mesh axes over which the layer is sharded. None leaves the sharding to the compiler.

    Raises:
      ValueError: If a value is invalid.

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
    def of(
        cls,
        function: str,
        keywords: Mapping[str, Any],
        foreign: Mapping[str, str] = FOREIGN_KEYWORDS,
    ) -> "Options":
        """Creates the options from the ``**options`` of a call.

        Args:
          function: The name of the called function, for the error message.
          keywords: The ``**options`` of the call.
          foreign: Keywords of other libraries, each with what to write instead.

        Raises:
          TypeError: If a keyword is unknown. For a keyword in ``foreign``, the message says what to write.
        """
        unknown = keywords.keys() - {field.name for field in fields(cls)}
        if unknown:
            name = min(unknown)
            hint = f"; write {foreign[name]}" if name in foreign else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}.")
        return cls(**keywords)

    def keywords(self) -> OptionKeywords:
        """Returns the options as keywords for a function call."""
        return cast(OptionKeywords, dict(vars(self)))

    def for_steps(self, T: Any) -> "Options":
        """Returns the options for a sequence of T steps. T is symbolic if a function is exported for any T.

        Raises:
          ValueError: If T is symbolic and an option needs its value.
        """
        if isinstance(T, int):
            return self
        if self.remat_every is not None:
            raise ValueError(
                f"expected a known number of steps for remat_every={self.remat_every}, got T = {T}; export "
                "with a fixed T, or omit remat_every, which only affects the memory of gradients."
            )
        if self.unroll in (None, 1):
            return self
        if self.backend != "auto":
            raise ValueError(
                f"expected a known number of steps for unroll={self.unroll}, got T = {T}; export with a "
                "fixed T, or omit unroll."
            )
        _log_ignored_unroll(self.unroll)
        return replace(self, unroll=None)

    def __post_init__(self) -> None:
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(
                f"expected backend to be one of {['auto', *BACKENDS]}, got {self.backend!r}; "
                '"auto" selects the fastest backend that can run.'
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
            steps = getattr(self, name)
            if steps is not None:
                object.__setattr__(self, name, check_size(name, steps))


def with_options_signature(function: F) -> F:
    """Replaces ``**options`` in the signature of a function by the fields of :class:`Options`.

    >>> import inspect
    >>> @with_options_signature
    ... def run(xs, **options): ...
    >>> list(inspect.signature(run).parameters)
    ['xs', 'precision', 'backend', 'remat_every', 'residuals', 'unroll', 'partition']
    """
    signature = inspect.signature(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    flat = [inspect.Parameter(f.name, keyword, default=f.default) for f in fields(Options)]
    others = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=others + flat)  # type: ignore[attr-defined]
    return function


@lru_cache
def _log_ignored_unroll(unroll: int) -> None:
    log.warning("unroll=%d has no effect: the number of time steps is symbolic.", unroll)
