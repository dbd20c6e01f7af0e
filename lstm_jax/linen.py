"""Flax Linen modules. Thin: parameters and defaults here, the computation in the core.

``LSTM`` runs whole sequences, with layers, directions, lengths and resets; ``LSTMCell`` is one
step and drops into ``flax.linen.RNN`` and ``flax.linen.Bidirectional``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from lstm_jax import serialization  # noqa: F401  registers LSTMParams with Flax
from lstm_jax.cell import LSTMSpec, Precision, lstm_cell, param_initializers
from lstm_jax.checks import check_declared, check_registered
from lstm_jax.initializers import Initializer
from lstm_jax.modules import layer_names, run_layers, zero_carry
from lstm_jax.notation import LSTMParams, LSTMState
from lstm_jax.partition import Partition
from lstm_jax.stack import input_sizes


class LSTMWeights(nn.Module):
    """The parameters of one layer and direction: one Flax parameter per field of ``spec.Params``.

    Attributes:
      features: H.
      kernel_init: Initializer of each gate's input weights. None is the cell's: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's: orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's: forget bias 1.
      use_bias: False leaves the bias out.
      param_dtype: of the parameters.
      spec: which cell.
    """

    features: int
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    use_bias: bool = True
    param_dtype: DTypeLike = jnp.float32
    spec: LSTMSpec = LSTMSpec()

    @nn.compact
    def __call__(self, in_features: int) -> LSTMParams:
        """The parameters for inputs ``[..., in_features]``."""
        fields = param_initializers(
            in_features,
            self.features,
            self.spec,
            self.kernel_init,
            self.recurrent_kernel_init,
            self.bias_init,
            self.use_bias,
        )
        check_registered(self.spec.Params)
        check_declared(self.spec)
        return self.spec.Params(
            **{
                name: self.param(name, init, shape, self.param_dtype)
                for name, (shape, init) in fields.items()
            }
        )


class LSTMCell(nn.RNNCellBase):
    """One step of the LSTM as a Linen module: ``(carry, x) -> (carry, h)``.

    Its parameters are the fields of ``spec.Params``, so that ``LSTMParams(**variables["params"])``, or the
    class of a cell with more weights, takes them to the core functions.

    Attributes:
      features: H.
      kernel_init: Initializer of each gate's input weights. None is the cell's: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's: orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's: forget bias 1.
      use_bias: False leaves the bias out.
      dtype: the compute dtype of a carry made here; None is ``param_dtype``.
      param_dtype: of the parameters.
      precision: of the matrix products.
      spec: which cell.

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from lstm_jax.linen import LSTMCell
    >>> rnn, xs = nn.RNN(LSTMCell(5)), jnp.ones((2, 7, 3))          # batch, time, features
    >>> variables = rnn.init(jax.random.key(0), xs)
    >>> rnn.apply(variables, xs).shape
    (2, 7, 5)
    """

    features: int
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    spec: LSTMSpec = LSTMSpec()

    def setup(self) -> None:
        """Puts the weights at this module's own level of the variables."""
        self.weights = LSTMWeights(
            self.features,
            self.kernel_init,
            self.recurrent_kernel_init,
            self.bias_init,
            self.use_bias,
            self.param_dtype,
            self.spec,
        )
        nn.share_scope(self, self.weights)

    def __call__(self, carry: LSTMState, inputs: jax.Array) -> tuple[LSTMState, jax.Array]:
        """One step; the carry decides the compute dtype. See :func:`lstm_jax.lstm_cell`."""
        params = self.weights(inputs.shape[-1])
        return lstm_cell(params, carry, inputs, self.spec, precision=self.precision)

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> LSTMState:
        """A zero carry for inputs of shape ``[*B, I]``; ``rng`` is not needed, nor used."""
        dtype = self.param_dtype if self.dtype is None else self.dtype
        return zero_carry(self.spec, self.features, input_shape[:-1], dtype)

    @property
    def num_feature_axes(self) -> int:
        """One: the last axis holds features, all before it are batch axes."""
        return 1


class LSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM layers over whole sequences.

    Parameters stand under ``l0f``, ``l0b``, ``l1f``, ... (layer, forward or backward), each with
    the fields of :class:`lstm_jax.LSTMParams`; :meth:`stack_params` gives them to the core.

    Attributes:
      features: H, of each layer and direction.
      num_layers: L.
      bidirectional: two directions a layer, concatenated.
      dropout_rate: between layers, not after the last; needs the RNG stream "dropout".
      kernel_init: Initializer of each gate's input weights. None is the cell's: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's: orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's: forget bias 1.
      use_bias: False leaves the bias out.
      dtype: the compute dtype; None is that of the inputs.
      param_dtype: of the parameters.
      precision: of the matrix products.
      spec: which cell.
      time_major: inputs and outputs are ``[T, *B, ...]`` instead of ``[*B, T, ...]``.
      reverse: runs backward in time; outputs stay at their own time.
      deterministic: turns dropout off, unless the call says otherwise.
      backend: as in :func:`lstm_jax.lstm`.
      remat_every: as in :func:`lstm_jax.lstm`.
      residuals: as in :func:`lstm_jax.lstm`.
      unroll: as in :func:`lstm_jax.lstm`.
      partition: as in :func:`lstm_jax.lstm`.

    >>> import jax, jax.numpy as jnp
    >>> from lstm_jax.linen import LSTM
    >>> model, xs = LSTM(5, num_layers=2, bidirectional=True), jnp.ones((2, 7, 3))
    >>> variables = model.init(jax.random.key(0), xs)
    >>> model.apply(variables, xs, seq_lengths=jnp.array([7, 4])).shape
    (2, 7, 10)
    """

    features: int
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.0
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: Precision = None
    spec: LSTMSpec = LSTMSpec()
    time_major: bool = False
    reverse: bool = False
    deterministic: bool = False
    backend: str = "auto"
    remat_every: int | None = None
    residuals: str = "save"
    unroll: int | None = None
    partition: Partition | None = None

    @nn.compact
    def __call__(
        self,
        xs: ArrayLike,
        *,
        initial_carry: tuple[LSTMState, ...] | None = None,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        return_carry: bool = False,
        deterministic: bool | None = None,
    ) -> Any:
        """Runs the layers.

        Args:
          xs: inputs ``[*B, T, I]``, or ``[T, *B, I]`` if ``time_major``.
          initial_carry: an :class:`lstm_jax.LSTMState` for each layer and direction; None is zeros.
          seq_lengths: true lengths ``[*B]`` of right-padded sequences.
          resets: bool ``[*B, T]`` (time first if ``time_major``): True where a segment begins.
          return_carry: whether to return the final carry too.
          deterministic: True turns dropout off; None is the attribute of that name.

        Returns:
          The outputs ``[*B, T, D * H]``, or ``(carry, outputs)`` if ``return_carry``.

        Raises:
          ValueError: as :func:`lstm_jax.lstm_stack` does.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        dropout = 0.0 if deterministic or self.is_initializing() else self.dropout_rate
        names = layer_names(self.num_layers, self.bidirectional)
        input_size = jnp.shape(xs)[-1] if jnp.ndim(xs) else 0
        sizes = input_sizes(input_size, self.features, self.num_layers, self.bidirectional)
        params = [
            LSTMWeights(
                self.features,
                self.kernel_init,
                self.recurrent_kernel_init,
                self.bias_init,
                self.use_bias,
                self.param_dtype,
                self.spec,
                name=name,
            )(size)
            for name, size in zip(names, sizes, strict=True)
        ]
        return run_layers(
            params,
            xs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            return_carry=return_carry,
            time_major=self.time_major,
            dropout=dropout,
            key=self.make_rng("dropout") if dropout > 0.0 else None,
            bidirectional=self.bidirectional,
            reverse=self.reverse,
            spec=self.spec,
            dtype=self.dtype,
            precision=self.precision,
            backend=self.backend,
            remat_every=self.remat_every,
            residuals=self.residuals,
            unroll=self.unroll,
            partition=self.partition,
        )

    @nn.nowrap
    def stack_params(self, params: Any) -> tuple[LSTMParams, ...]:
        """``variables["params"]`` as :func:`lstm_jax.lstm_stack` takes them."""
        names = layer_names(self.num_layers, self.bidirectional)
        return tuple(self.spec.Params(**params[name]) for name in names)

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> tuple[LSTMState, ...]:
        """Zero carries of every layer and direction, for inputs of shape ``[*B, I]``.

        ``rng`` is not used. In ``dtype``, or if that is None in ``param_dtype``: what the inputs will
        be is not known yet.
        """
        dtype = self.param_dtype if self.dtype is None else self.dtype
        names = layer_names(self.num_layers, self.bidirectional)
        return tuple(zero_carry(self.spec, self.features, input_shape[:-1], dtype) for _ in names)
