"""The sizes and the arrays of a benchmark."""

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import LSTMParams, init_lstm


@dataclass(frozen=True)
class Problem:
    """The sizes of a layer and of its batch of sequences.

    Attributes:
      T: Time steps.
      B: Batch size.
      I: Input size.
      H: Hidden size.
      dtype: Dtype of weights, inputs and outputs.
    """

    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"T {self.T}  B {self.B}  I {self.I}  H {self.H}"

    def flop(self, name: str) -> int:
        """Returns the FLOP of the matrix products of a pass, "forward" or "forward + backward".

        The backward pass has twice the FLOP of the forward pass.
        """
        forward = 8 * self.T * self.B * self.H * (self.I + self.H)
        return forward if name == "forward" else 3 * forward

    @property
    def array_bytes(self) -> int:
        """The size of an array ``[T, B, H]``, in bytes."""
        return self.T * self.B * self.H * jnp.dtype(self.dtype).itemsize


class Arrays(NamedTuple):
    """The arrays that all libraries get, time-major.

    Attributes:
      params: The weights.
      xs: Inputs ``[T, B, I]``.
      cotangent: ``[T, B, H]`` in float32. The loss is ``sum(hs * cotangent)``.
    """

    params: LSTMParams
    xs: jax.Array
    cotangent: jax.Array


def arrays(problem: Problem) -> Arrays:
    """Returns the arrays of a problem. They are deterministic, also across processes."""
    T, B, I, H = problem.T, problem.B, problem.I, problem.H
    rng = np.random.default_rng(0)
    params = init_lstm(jax.random.key(0), I, H)
    # The biases of the gates must differ, so that a wrong gate order is detected.
    params = params.replace(bias=params.bias + 0.5 * rng.standard_normal(4 * H, np.float32))
    params = jax.tree.map(lambda p: p.astype(problem.dtype), params)
    xs = jnp.asarray(rng.standard_normal((T, B, I), np.float32), problem.dtype)
    return Arrays(params, xs, jnp.asarray(rng.standard_normal((T, B, H), np.float32)))


def sizes(text: str) -> tuple[int, int, int, int]:
    """Parses ``"T,B,I,H"`` of the command line."""
    try:
        T, B, I, H = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected T,B,I,H, got {text!r}") from None
    return T, B, I, H
