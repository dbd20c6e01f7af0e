"""The plain tanh RNN: what the LSTM is compared with.

    h_t = tanh(W [h_{t-1}, x_t] + b)

Without gates and without an additive cell state, gradients shrink or grow by a factor a step.
Sources: Elman (1990), Finding structure in time; Bengio, Simard & Frasconi (1994), Learning
long-term dependencies with gradient descent is difficult.

It runs wherever the LSTM runs: same functions, same arguments, ``spec=RNNSpec()``.

>>> import jax
>>> from lstm_jax import lstm
>>> params = init_rnn(jax.random.key(0), input_size=3, hidden_size=5)
>>> final_state, hs = lstm(params, jax.numpy.ones((7, 2, 3)), spec=RNNSpec())
>>> hs.shape, final_state.C is None
((7, 2, 5), True)
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from lstm_jax import initializers
from lstm_jax.cell import LSTMSpec, init_lstm
from lstm_jax.notation import LSTMParams, LSTMState, Shape


@dataclass(frozen=True)
class RNNSpec(LSTMSpec):
    """The tanh RNN in the LSTM's four functions: one packed block in place of four gates.

    Its parameters are ``w_x [I, H]``, ``w_h [H, H]``, ``bias [H]``; its state has no C (None).
    """

    gates: ClassVar[int] = 1
    elementwise: ClassVar[bool] = True

    def scale(self, hidden_size: int, dtype: DTypeLike) -> None:
        """One block, one tanh: nothing to scale."""

    def pointwise(
        self, params: LSTMParams, C: Any, z: Float[jax.Array, "*B GH"]
    ) -> tuple[Any, jax.Array]:
        """``h_t = tanh(z)``."""
        return None, jnp.tanh(z)

    def state_types(self, hidden_size: int, batch: Shape, dtype: DTypeLike) -> LSTMState:
        """Of h alone."""
        return super().state_types(hidden_size, batch, dtype)._replace(C=None)  # type: ignore[arg-type]

    def initial_bias(
        self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """Zeros: there is no gate to hold open."""
        return initializers.zeros(key, shape, dtype)


init_rnn = partial(init_lstm, spec=RNNSpec())
"""Draws the weights of a tanh RNN; arguments as in :func:`lstm_jax.init_lstm`."""
