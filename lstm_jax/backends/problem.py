"""What a backend is asked to run: what is static, and the arrays."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.carry import select
from lstm_jax.cell import LSTMSpec, Precision
from lstm_jax.notation import Hs, LSTMParams, LSTMState, Recurrent

Outputs = tuple[LSTMState, Hs | None]
"""The final state, and the hidden states ``[T, *B, H]`` or, with ``final_state_only``, None."""

Members = Literal["own weights", "shared weights"] | None
"""How the members of an ensemble have their weights. None for a step that is no ensemble."""


@dataclass(frozen=True)
class Settings:
    """The static settings.

    Attributes:
      spec: The kind of cell.
      reverse: Whether to run from the last step to the first.
      precision: Precision of the matrix products.
      unroll: Time steps per iteration of the compiled loop; None leaves it to the platform.
      residuals: What the forward pass stores for the backward pass: "save" or "recompute".
      final_state_only: Whether the hidden states of the steps are left out of the outputs.
      hidden_axis: The axes of the mesh over which the hidden units are sharded, inside ``shard_map``: a
        device has the states and gates of its own units. None if each device has all units.
    """

    spec: LSTMSpec
    reverse: bool = False
    precision: Precision = None
    unroll: int | None = None
    residuals: str = "save"
    final_state_only: bool = False
    hidden_axis: str | tuple[str, ...] | None = None

    def outputs(self, state: Any, hs: Any) -> Any:
        """The outputs of a sequence or a step, or their shardings. ``final_state_only`` drops ``hs``."""
        return state, None if self.final_state_only else hs

    @property
    def traced_unroll(self) -> int:
        """The ``unroll`` of a loop when it is traced, before the platform is known."""
        return 1 if self.unroll is None else self.unroll

    def recur(self, params: LSTMParams, h: jax.Array) -> Recurrent:
        """``spec.recur`` of the hidden state of all units. Still linear in h and in w_h."""
        if self.hidden_axis is not None:
            h = jax.lax.all_gather(h, self.hidden_axis, axis=h.ndim - 1, tiled=True)
        return self.spec.recur(params, h, self.precision)


class Operands(NamedTuple):
    """The arrays. When traced, shapes are known and values are not.

    Attributes:
      params: The weights: those of the products in the compute dtype, a cell's own in that of C.
      xs: The inputs ``[T, *B, I]`` in the compute dtype.
      state: The state at the start of the sequence.
      reset_state: The state that a step reads where ``begin`` is True.
      begin: ``[T, *B]``, True where a step reads ``reset_state`` in place of the carried state.
      hold: ``[T, *B]``, True where the state stays as it is and the output is 0; wins over ``begin``.

    None for ``begin`` or ``hold`` stands for False everywhere.
    """

    params: LSTMParams
    xs: jax.Array
    state: LSTMState
    reset_state: LSTMState
    begin: jax.Array | None = None
    hold: jax.Array | None = None

    def masked(self) -> "Operands":
        """With zeros for the inputs of steps that hold the state.

        These may be NaN, and ``0 * NaN`` in the gradient of ``w_x`` is NaN. Each backend masks what it reads:
        zeros in all of ``xs`` would be a copy of it.
        """
        if self.hold is None:
            return self
        return self._replace(xs=select(self.hold, jnp.zeros_like(self.xs), self.xs))


class Residuals(NamedTuple):
    """What the backward pass reads besides operands and outputs: 5 arrays of H, or 1.

    Attributes:
      C: The cell state that each step read, ``[T, *B, H]``.
      z: The pre-activations ``[T, *B, GH]`` in the compute dtype; None to compute them again.
    """

    C: Any
    z: jax.Array | None


def refusal(name: str, reason: str) -> ValueError:
    """Returns the error that says why the backend that was asked for by name cannot run."""
    return ValueError(f'backend {name!r} cannot run this: {reason}. Use backend="auto".')
