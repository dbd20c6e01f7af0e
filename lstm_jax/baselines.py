"""The plain tanh RNN, a baseline for the LSTM.

    h_t = tanh(W [h_{t-1}, x_t] + b)

Without gates and without an additive cell state, gradients shrink or grow by a factor in every step.
Sources: Elman (1990), Finding structure in time; Bengio, Simard & Frasconi (1994), Learning
long-term dependencies with gradient descent is difficult.

It runs through the LSTM's functions and modules with ``spec=RNNSpec()``.

>>> import jax
>>> from lstm_jax import lstm
>>> params = init_rnn(jax.random.key(0), input_size=3, hidden_size=5)
>>> final_state, hs = lstm(params, jax.numpy.ones((7, 2, 3)), spec=RNNSpec())
>>> hs.shape, final_state.C is None
((7, 2, 5), True)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
from jax.typing import DTypeLike

from lstm_jax import initializers
from lstm_jax.cell import Activation, LSTMSpec, init_lstm, tanh
from lstm_jax.initializers import Initializer
from lstm_jax.notation import LSTMParams, LSTMState, Shape


@dataclass(frozen=True)
class RNNSpec(LSTMSpec):
    """The tanh RNN as an :class:`LSTMSpec`: one block of pre-activations instead of four gates.

    Its parameters are ``w_x [I, H]``, ``w_h [H, H]``, ``bias [H]``; its state has no C (None).
    """

    gates: ClassVar[int] = 1
    activations: ClassVar[Sequence[Activation]] = (tanh,)

    def combine(  # type: ignore[override]
        self, params: LSTMParams, C: Any, h: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Returns ``h_t = tanh(z)``, and None for C."""
        return None, h

    def state_types(self, hidden_size: int, batch: Shape, dtype: DTypeLike) -> LSTMState:
        """Returns the shape and dtype of h. C is None."""
        return super().state_types(hidden_size, batch, dtype)._replace(C=None)  # type: ignore[arg-type]

    def parameters(
        self, input_size: int, hidden_size: int
    ) -> Mapping[str, tuple[Shape, Initializer]]:
        """Returns the parameters of one block. The bias is zero, as the cell has no forget gate."""
        zeros = {"bias": ((hidden_size,), initializers.zeros)}
        return {**super().parameters(input_size, hidden_size), **zeros}


init_rnn = partial(init_lstm, spec=RNNSpec())
"""Draws the weights of a tanh RNN. It takes the arguments of :func:`lstm_jax.init_lstm`."""
