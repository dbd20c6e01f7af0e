"""An exact, readable LSTM in JAX: a pure cell, a fast sequence layer, Flax modules, a trainer.

>>> import jax
>>> from lstm_jax import init_lstm, lstm
>>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
>>> final_state, hs = lstm(params, jax.numpy.ones((7, 2, 3)))
>>> hs.shape
(7, 2, 5)
"""

import importlib
from typing import Any

from lstm_jax import baselines, initializers
from lstm_jax.carry import zero_state
from lstm_jax.cell import LSTMSpec, init_lstm, lstm_cell
from lstm_jax.notation import LSTMParams, LSTMState
from lstm_jax.options import Options
from lstm_jax.partition import Partition
from lstm_jax.sequence import lstm
from lstm_jax.stack import init_stack, lstm_stack

__version__ = "0.1.0"

__all__ = [
    "LSTMParams",
    "LSTMSpec",
    "LSTMState",
    "Options",
    "Partition",
    "baselines",
    "init_lstm",
    "init_stack",
    "initializers",
    "lstm",
    "lstm_cell",
    "lstm_stack",
    "zero_state",
]

_LAZY = {"linen", "nnx"}  # imported on first use, because importing Flax takes seconds


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
