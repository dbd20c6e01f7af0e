"""The default model, an NNX module built from ``config.model``."""

from collections.abc import Callable
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
from lstm_jax.training.errors import ConfigError

ModelOrFunction = nnx.Module | Callable[[Partition | None], nnx.Module]
"""A model, or a function that returns it, given the ``Partition`` of its LSTM layers."""

Carry = tuple[LSTMState, ...]
"""One ``LSTMState`` per layer and direction. Empty if no state is carried between batches."""

SPECS = {"lstm": LSTMSpec(), "rnn": RNNSpec()}


class Sizes(NamedTuple):
    """Input and output sizes of a model, which follow from its data.

    Attributes:
      vocabulary_size: Number of input tokens, 0 for float inputs.
      input_size: Number of features of float inputs, 0 for tokens.
      output_size: Number of outputs per step: tokens, classes or numbers.
    """

    vocabulary_size: int
    input_size: int
    output_size: int


class SequenceModel(nnx.Module):
    """A model of a token embedding, LSTM layers, and a linear output layer at every step.

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
        self.reads_tokens = sizes.vocabulary_size > 0
        if self.reads_tokens:
            self.embedding = nnx.Embed(sizes.vocabulary_size, model.embedding_size, rngs=rngs)
        self.lstm = LSTM(
            model.embedding_size if self.reads_tokens else sizes.input_size,
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
            self.output_layer = nnx.Linear(width, sizes.output_size, rngs=rngs)

    def initialize_carry(self, batch_size: int) -> Carry:
        """Returns zero states for every layer and direction."""
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
        """Runs the model over a batch of sequences.

        Args:
          inputs: Token ids ``[T, B]`` or floats ``[T, B, I]``.
          carry: One ``LSTMState`` per layer and direction. None is zeros.
          lengths: Number of valid steps of each sequence, ``[B]``. None if all steps are valid.
          resets: True where a sequence restarts from a zero state, ``[T, B]``. None for no resets.
          dropout_key: Key for dropout. None disables dropout.

        Returns:
          The final carry, and outputs ``[T, B, O]`` in float32.
        """
        deterministic = dropout_key is None
        keys = [None] * 3 if dropout_key is None else list(jax.random.split(dropout_key, 3))
        xs = jnp.asarray(inputs)
        if self.reads_tokens:
            # Cast after the lookup: the gradient of the table sums over all positions, in float32.
            xs = self.embedding(xs, out_sharding=_embedding_spec(xs)).astype(self.lstm.dtype)
        carry, hs = self.lstm(
            self.input_dropout(xs, deterministic=deterministic, rngs=keys[0]),
            initial_carry=carry,
            seq_lengths=lengths,
            resets=resets,
            return_carry=True,
            deterministic=deterministic,
            rngs=keys[1],
        )
        hs = self.dropout(hs, deterministic=deterministic, rngs=keys[2])
        return carry, self._outputs(hs)

    def _outputs(self, hs: jax.Array) -> jax.Array:
        """Applies the output layer. The product is in the compute dtype, the bias in float32.

        The gradient of the bias is a sum over all positions, which needs float32.
        """
        if self.tied:
            kernel, bias = self.embedding.embedding[...].T, self.bias[...]
        else:
            assert self.output_layer.bias is not None
            kernel, bias = self.output_layer.kernel[...], self.output_layer.bias[...]
        return project(hs, kernel.astype(hs.dtype)).astype(jnp.float32) + bias


def make_model(
    sizes: Sizes, model: config.Model, seed: int, partition: Partition | None = None
) -> SequenceModel:
    """Builds the default model with initial parameters."""
    return SequenceModel(sizes, model, partition, rngs=nnx.Rngs(seed))


def split(model: nnx.Module) -> tuple[Any, Any]:
    """Splits a model into ``(graphdef, params)``, so that training works on plain pytrees.

    Raises:
      ConfigError: If the model has variables that are not parameters.
    """
    graphdef, state = nnx.split(model)
    for path, variable in nnx.to_flat_state(state):
        if not isinstance(variable, nnx.Param):
            raise ConfigError(
                f"model.{'.'.join(map(str, path))} must be an nnx.Param, got "
                f"{type(variable).__name__}: fit trains models whose only variables are parameters. "
                "Random keys come from the argument dropout_key; running statistics, as of BatchNorm, are "
                "not supported."
            )
    return graphdef, nnx.to_pure_dict(state)


def merge(graphdef: Any, params: Any) -> Any:
    """Returns a model from its graph definition and parameters. The inverse of :func:`split`."""
    return nnx.merge(graphdef, params)


def _embedding_spec(ids: jax.Array) -> PartitionSpec | None:
    """Returns the sharding of the embedded ids on a mesh with Explicit axes, else None."""
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
