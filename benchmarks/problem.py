"""One size of LSTM, its arrays, and the work in it."""

import argparse
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import LSTMParams, init_lstm


@dataclass(frozen=True)
class Problem:
    """A batch of sequences through one layer.

    Attributes:
      T: time steps.
      B: batch size.
      I: input size.
      H: hidden size.
      dtype: of weights, inputs and outputs.
    """

    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"T {self.T}  B {self.B}  I {self.I}  H {self.H}"

    def flop(self, what: str) -> int:
        """Of the matrix products: the backward pass has twice those of the forward pass."""
        forward = 8 * self.T * self.B * self.H * (self.I + self.H)
        return forward if what == "forward" else 3 * forward

    @property
    def array_bytes(self) -> int:
        """Of one array ``[T, B, H]``."""
        return self.T * self.B * self.H * jnp.dtype(self.dtype).itemsize


class Arrays(NamedTuple):
    """What every library computes on; time-major.

    Attributes:
      params: the weights.
      xs: ``[T, B, I]``.
      cotangent: ``[T, B, H]``, float32: the loss is ``sum(hs * cotangent)``.
    """

    params: LSTMParams
    xs: jax.Array
    cotangent: jax.Array


def arrays(problem: Problem) -> Arrays:
    """The same for the same problem, in every process."""
    T, B, I, H = problem.T, problem.B, problem.I, problem.H
    rng = np.random.default_rng(0)
    params = init_lstm(jax.random.key(0), I, H)
    # No gate may have the weights or the bias of another: a wrong order must show.
    params = params.replace(bias=params.bias + 0.5 * rng.standard_normal(4 * H, np.float32))
    params = jax.tree.map(lambda p: p.astype(problem.dtype), params)
    xs = jnp.asarray(rng.standard_normal((T, B, I), np.float32), problem.dtype)
    return Arrays(params, xs, jnp.asarray(rng.standard_normal((T, B, H), np.float32)))


def sizes(text: str) -> tuple[int, int, int, int]:
    """``"T,B,I,H"`` from a command line."""
    try:
        T, B, I, H = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected T,B,I,H, got {text!r}") from None
    return T, B, I, H
