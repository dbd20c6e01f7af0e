"""The arguments of a backend: static settings and arrays."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.carry import select
from lstm_jax.cell import LSTMSpec, Precision
from lstm_jax.notation import Hs, LSTMParams, LSTMState, Recurrent

Outputs = tuple[LSTMState, Hs | None]
"""The final state, and the hidden states ``[T, *B, H]``, which are None with ``final_state_only``."""

Members = Literal["separate weights", "shared weights"] | None
"""Whether the members of a step have separate or shared weights. None for a step without members."""


@dataclass(frozen=True)
class Settings:
    """The static settings of a recurrence.

    Attributes:
      spec: The kind of cell.
      reverse: Whether to run from the last step to the first.
      precision: Precision of the matrix products.
      unroll: Time steps per iteration of the compiled loop. None is the platform's default.
      residuals: Whether to "save" or to "recompute" the pre-activations for the backward pass.
      final_state_only: Whether the outputs omit the hidden states of the steps.
      hidden_axis: The mesh axes over which the hidden units are sharded inside ``shard_map``. Each device has
        the states and all gates of its units. None if each device has all units.
    """

    spec: LSTMSpec
    reverse: bool = False
    precision: Precision = None
    unroll: int | None = None
    residuals: str = "save"
    final_state_only: bool = False
    hidden_axis: str | tuple[str, ...] | None = None

    def outputs(self, state: Any, hs: Any) -> Any:
        """Returns ``(state, hs)``, or ``(state, None)`` with ``final_state_only``."""
        return state, None if self.final_state_only else hs

    @property
    def unroll_at_trace_time(self) -> int:
        """The ``unroll`` of a loop at trace time, when the platform is not known."""
        return 1 if self.unroll is None else self.unroll

    def recur(self, params: LSTMParams, h: jax.Array) -> Recurrent:
        """Computes ``spec.recur``, after gathering h if the hidden units are sharded."""
        if self.hidden_axis is not None:
            h = jax.lax.all_gather(h, self.hidden_axis, axis=h.ndim - 1, tiled=True)
        return self.spec.recur(params, h, self.precision)


class Operands(NamedTuple):
    """The arrays of a recurrence.

    Attributes:
      params: The weights. ``w_x``, ``w_h`` and ``bias`` have the compute dtype, extra weights the dtype of C.
      xs: The inputs ``[T, *B, I]`` in the compute dtype.
      state: The initial state.
      reset_state: The state that a step reads where ``begin`` is True.
      begin: Bool ``[T, *B]``. True where a step reads ``reset_state`` instead of the carried state. None is
        False everywhere.
      hold: Bool ``[T, *B]``. True at padding steps, which leave the state unchanged and output 0. It takes
        precedence over ``begin``. None is False everywhere.
    """

    params: LSTMParams
    xs: jax.Array
    state: LSTMState
    reset_state: LSTMState
    begin: jax.Array | None = None
    hold: jax.Array | None = None

    def masked(self) -> "Operands":
        """Returns the operands with zeros as the inputs of padding steps.

        Inputs of padding steps may be NaN, and ``0 * NaN`` in the gradient of ``w_x`` is NaN. Backends mask
        the inputs where they read them, because masking ``xs`` before would make a copy.
        """
        if self.hold is None:
            return self
        return self._replace(xs=select(self.hold, jnp.zeros_like(self.xs), self.xs))


class Residuals(NamedTuple):
    """The residuals of the backward pass, in addition to operands and outputs.

    Attributes:
      C: The cell states ``[T, *B, H]`` that the steps read.
      z: The pre-activations ``[T, *B, GH]`` in the compute dtype, or None to recompute them.
    """

    C: Any
    z: jax.Array | None


def refusal(name: str, reason: str) -> ValueError:
    """Returns the error for a backend that was selected by name and cannot run."""
    return ValueError(f'backend {name!r} cannot run this: {reason}. Use backend="auto".')
