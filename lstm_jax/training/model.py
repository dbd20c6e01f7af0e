"""The network of an experiment, an NNX module."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from lstm_jax.baselines import RNNSpec
from lstm_jax.cell import LSTMSpec
from lstm_jax.nnx import LSTM
from lstm_jax.notation import LSTMState
from lstm_jax.training import config

Carry = tuple[LSTMState, ...]

SPECS = {"lstm": LSTMSpec(), "rnn": RNNSpec()}


class LanguageModel(nnx.Module):
    """Symbols in, logits of the next symbol out: embedding, LSTM layers, a linear read-out.

    >>> import jax
    >>> from flax import nnx
    >>> from lstm_jax.training.config import Model
    >>> model = LanguageModel(11, Model(hidden_size=5), rngs=nnx.Rngs(0))
    >>> carry = model.initialize_carry(batch_size=2)
    >>> carry, logits = model(carry, jax.numpy.zeros((7, 2), int))       # T = 7, B = 2
    >>> logits.shape
    (7, 2, 11)
    """

    def __init__(self, vocabulary_size: int, model: config.Model, *, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(vocabulary_size, model.embedding_size, rngs=rngs)
        self.lstm = LSTM(
            model.embedding_size,
            model.hidden_size,
            num_layers=model.num_layers,
            dropout_rate=model.dropout,
            spec=SPECS[model.cell],
            time_major=True,
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(model.dropout)
        self.read_out = nnx.Linear(model.hidden_size, vocabulary_size, rngs=rngs)

    def initialize_carry(self, batch_size: int) -> Carry:
        """Zeros for every layer."""
        return self.lstm.initialize_carry((batch_size, self.lstm.in_features))

    def __call__(
        self,
        carry: Carry,
        ids: ArrayLike,
        *,
        resets: ArrayLike | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Carry, jax.Array]:
        """Reads ``ids [T, B]`` on from ``carry``.

        Args:
          carry: an ``LSTMState`` a layer.
          ids: symbols ``[T, B]``.
          resets: True where the state starts anew, ``[T, B]``.
          dropout_key: for training; without one nothing is dropped.

        Returns:
          The carry to go on from, and logits ``[T, B, V]``.
        """
        still, key_between, key_out = True, None, None
        if dropout_key is not None:
            still, (key_between, key_out) = False, jax.random.split(dropout_key)
        carry, hs = self.lstm(
            self.embedding(jnp.asarray(ids)),
            initial_carry=carry,
            resets=resets,
            return_carry=True,
            deterministic=still,
            rngs=key_between,
        )
        hs = self.dropout(hs, deterministic=still, rngs=key_out)
        return carry, self.read_out(hs)
