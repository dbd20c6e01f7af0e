"""The network of an experiment, an NNX module."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from lstm_jax import initializers
from lstm_jax.baselines import RNNSpec
from lstm_jax.cell import LSTMSpec
from lstm_jax.nnx import LSTM
from lstm_jax.notation import LSTMState
from lstm_jax.partition import Partition
from lstm_jax.products import project
from lstm_jax.training import config

Carry = tuple[LSTMState, ...]

SPECS = {"lstm": LSTMSpec(), "rnn": RNNSpec()}


class Sizes(NamedTuple):
    """What of a task shapes the network: symbols read (or 0), features read (or 0), outputs."""

    vocabulary_size: int
    input_size: int
    output_size: int


class SequenceModel(nnx.Module):
    """Symbols or numbers in, predictions at every step out: embedding, LSTM layers, a linear read-out.

    >>> import jax
    >>> from flax import nnx
    >>> from lstm_jax.training.config import Model
    >>> model = SequenceModel(Sizes(11, 0, 11), Model(hidden_size=5), rngs=nnx.Rngs(0))
    >>> carry, logits = model(jax.numpy.zeros((7, 2), int))               # T = 7, B = 2
    >>> logits.shape
    (7, 2, 11)
    """

    def __init__(
        self,
        sizes: Sizes,
        model: config.Model,
        partition: Partition | None = None,
        *,
        rngs: nnx.Rngs,
    ):
        dtype = jnp.dtype(model.dtype)
        self.reads_symbols = sizes.vocabulary_size > 0
        if self.reads_symbols:
            self.embedding = nnx.Embed(sizes.vocabulary_size, model.embedding_size, rngs=rngs)
        self.lstm = LSTM(
            model.embedding_size if self.reads_symbols else sizes.input_size,
            model.hidden_size,
            num_layers=model.num_layers,
            bidirectional=model.bidirectional,
            dropout_rate=model.dropout if model.num_layers > 1 else 0.0,
            bias_init=_bias(model),
            dtype=dtype,
            spec=SPECS[model.cell],
            time_major=True,
            partition=partition,
            rngs=rngs,
        )
        self.input_dropout = nnx.Dropout(model.input_dropout)
        self.dropout = nnx.Dropout(model.dropout)
        self.tied = model.tied_embeddings
        if self.tied:
            self.bias = nnx.Param(jnp.zeros(sizes.output_size))
        else:
            width = model.hidden_size * (2 if model.bidirectional else 1)
            self.read_out = nnx.Linear(width, sizes.output_size, rngs=rngs)

    def initialize_carry(self, batch_size: int) -> Carry:
        """Zeros for every layer."""
        return self.lstm.initialize_carry((batch_size, self.lstm.in_features))

    def __call__(
        self,
        inputs: ArrayLike,
        carry: Carry | None = None,
        *,
        lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Carry, jax.Array]:
        """Reads sequences, on from ``carry`` if there is one.

        Args:
          inputs: ids ``[T, B]`` or floats ``[T, B, I]``.
          carry: an ``LSTMState`` a layer; None is zeros.
          lengths: true lengths ``[B]``.
          resets: True where the state starts anew, ``[T, B]``.
          dropout_key: for training; without one nothing is dropped.

        Returns:
          The carry to go on from, and outputs ``[T, B, O]``.
        """
        still = dropout_key is None
        keys = [None] * 3 if dropout_key is None else list(jax.random.split(dropout_key, 3))
        xs = jnp.asarray(inputs)
        if self.reads_symbols:
            # Cast after the lookup: the gradient of the table is a sum over all positions, in float32.
            xs = self.embedding(xs, out_sharding=_beside(xs)).astype(self.lstm.dtype)
        carry, hs = self.lstm(
            self.input_dropout(xs, deterministic=still, rngs=keys[0]),
            initial_carry=carry,
            seq_lengths=lengths,
            resets=resets,
            return_carry=True,
            deterministic=still,
            rngs=keys[1],
        )
        hs = self.dropout(hs, deterministic=still, rngs=keys[2])
        return carry, self._read_out(hs)

    def _read_out(self, hs: jax.Array) -> jax.Array:
        """The output layer ``[T, B, O]``: the product in the compute dtype, the bias in float32.

        The gradient of the bias is a sum over all positions.
        """
        if self.tied:
            kernel, bias = self.embedding.embedding[...].T, self.bias[...]
        else:
            assert self.read_out.bias is not None
            kernel, bias = self.read_out.kernel[...], self.read_out.bias[...]
        return project(hs, kernel.astype(hs.dtype)).astype(jnp.float32) + bias


def make_model(
    sizes: Sizes, model: config.Model, seed: int, partition: Partition | None = None
) -> tuple[Any, Any]:
    """A network as ``(graphdef, params)``: split once, so that training runs on plain pytrees."""
    graphdef, params = nnx.split(SequenceModel(sizes, model, partition, rngs=nnx.Rngs(seed)))
    return graphdef, nnx.to_pure_dict(params)


def _beside(ids: jax.Array) -> PartitionSpec | None:
    """Where the vectors of ids lie; only Explicit axes must be told."""
    sharding = jax.typeof(ids).sharding
    if sharding.mesh.empty or not sharding.mesh.are_all_axes_explicit:
        return None
    return PartitionSpec(*sharding.spec, None)


def _bias(model: config.Model) -> initializers.Initializer | None:
    if model.cell == "rnn":
        return None
    if model.chrono is not None:
        return initializers.chrono(model.chrono)
    return initializers.forget_bias(model.forget_bias)
