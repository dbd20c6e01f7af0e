"""Flax NNX modules. Thin: parameters and defaults here, the computation in the core.

``LSTM`` runs whole sequences, with layers, directions, lengths and resets; ``LSTMCell`` is one
step and drops into ``flax.nnx.RNN`` and ``flax.nnx.Bidirectional``. Neither stores RNG state:
``LSTM`` works under plain ``jax.jit`` and ``jax.grad`` as under ``nnx.jit`` and ``nnx.grad``, passed as an
argument or closed over.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from lstm_jax import serialization  # noqa: F401  registers LSTMParams with Flax
from lstm_jax.cell import LSTMSpec, Precision, init_lstm, lstm_cell
from lstm_jax.initializers import Initializer
from lstm_jax.modules import layer_names, run_layers, zero_carry
from lstm_jax.notation import LSTMParams, LSTMState
from lstm_jax.partition import Partition
from lstm_jax.stack import input_sizes


class LSTMCell(nnx.RNNCellBase):
    """One step of the LSTM as an NNX module: ``cell(carry, x) -> (carry, h)``.

    Its parameters are the fields of ``spec.Params``: those of :class:`lstm_jax.LSTMParams`, ``w_x [I, 4H]``,
    ``w_h [H, 4H]`` and ``bias [4H]``, and the cell's own weights if it has any.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from lstm_jax.nnx import LSTMCell
    >>> rnn = nnx.RNN(LSTMCell(3, 5, rngs=nnx.Rngs(0)))
    >>> rnn(jnp.ones((2, 7, 3))).shape                       # batch, time, features
    (2, 7, 5)
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: Precision = None,
        spec: LSTMSpec = LSTMSpec(),
        rngs: nnx.Rngs,
    ):
        """Draws the parameters from ``rngs.params``.

        Args:
          in_features: I.
          hidden_features: H.
          kernel_init: Initializer of each gate's input weights. None is the cell's: Glorot.
          recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's: orthogonal.
          bias_init: Initializer of the packed bias ``[4H]``. None is the cell's: forget bias 1.
          use_bias: False leaves the bias out.
          dtype: the compute dtype of a carry made here; None is ``param_dtype``.
          param_dtype: of the parameters.
          precision: of the matrix products.
          spec: which cell.
          rngs: where the key comes from.
        """
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.spec = spec
        drawn = init_lstm(
            rngs.params(),
            in_features,
            hidden_features,
            spec=spec,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            param_dtype=param_dtype,
        )
        for field in dataclasses.fields(drawn):
            value = getattr(drawn, field.name)
            if value is not None:
                setattr(self, field.name, nnx.Param(value))

    @property
    def params(self) -> LSTMParams:
        """The parameters as the core takes them."""
        names = [field.name for field in dataclasses.fields(self.spec.Params)]
        return self.spec.Params(**{n: getattr(self, n)[...] for n in names if hasattr(self, n)})

    def __call__(self, carry: LSTMState, inputs: jax.Array) -> tuple[LSTMState, jax.Array]:
        """One step; the carry decides the compute dtype. See :func:`lstm_jax.lstm_cell`."""
        return lstm_cell(self.params, carry, inputs, self.spec, precision=self.precision)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: Any = None,
        carry_init: Any = None,
    ) -> LSTMState:
        """A zero carry for inputs of shape ``[*B, I]``; ``rngs`` is not needed, nor used."""
        if carry_init is not None:
            raise ValueError("carry_init is not supported: pass initial_carry to the RNN.")
        dtype = self.param_dtype if self.dtype is None else self.dtype
        return zero_carry(self.spec, self.hidden_features, input_shape[:-1], dtype)

    @property
    def num_feature_axes(self) -> int:
        """One: the last axis holds features, all before it are batch axes."""
        return 1


class LSTM(nnx.Module):
    """Stacked, optionally bidirectional LSTM layers over whole sequences.

    Parameters stand under ``l0f``, ``l0b``, ``l1f``, ... (layer, forward or backward), each an
    :class:`LSTMCell`; :attr:`params` gives them to the core functions.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from lstm_jax.nnx import LSTM
    >>> model = LSTM(3, 5, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    >>> model(jnp.ones((2, 7, 3)), seq_lengths=jnp.array([7, 4])).shape
    (2, 7, 10)
    >>> carry, hs = model(jnp.ones((2, 7, 3)), return_carry=True)
    >>> len(carry), carry[0].h.shape
    (4, (2, 5))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout_rate: float = 0.0,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: Precision = None,
        spec: LSTMSpec = LSTMSpec(),
        time_major: bool = False,
        reverse: bool = False,
        backend: str = "auto",
        remat_every: int | None = None,
        residuals: str = "save",
        unroll: int | None = None,
        partition: Partition | None = None,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ):
        """Draws the parameters from ``rngs.params``.

        Args:
          in_features: I.
          hidden_features: H, of each layer and direction.
          num_layers: L.
          bidirectional: two directions a layer, concatenated.
          dropout_rate: between layers, not after the last.
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
          backend: as in :func:`lstm_jax.lstm`.
          remat_every: as in :func:`lstm_jax.lstm`.
          residuals: as in :func:`lstm_jax.lstm`.
          unroll: as in :func:`lstm_jax.lstm`.
          partition: as in :func:`lstm_jax.lstm`.
          deterministic: turns dropout off, until ``train()`` or a call says otherwise.
          rngs: where the keys come from; not kept.
        """
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout_rate = dropout_rate
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.spec = spec
        self.time_major = time_major
        self.reverse = reverse
        self.backend = backend
        self.remat_every = remat_every
        self.residuals = residuals
        self.unroll = unroll
        self.partition = partition
        self.deterministic = deterministic
        self.layers = tuple(layer_names(num_layers, bidirectional))
        sizes = input_sizes(in_features, hidden_features, num_layers, bidirectional)
        for name, size in zip(self.layers, sizes, strict=True):
            cell = LSTMCell(
                size,
                hidden_features,
                kernel_init=kernel_init,
                recurrent_kernel_init=recurrent_kernel_init,
                bias_init=bias_init,
                use_bias=use_bias,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                spec=spec,
                rngs=rngs,
            )
            setattr(self, name, cell)

    @property
    def params(self) -> tuple[LSTMParams, ...]:
        """The parameters as :func:`lstm_jax.lstm_stack` takes them."""
        return tuple(getattr(self, name).params for name in self.layers)

    def initialize_carry(self, input_shape: tuple[int, ...]) -> tuple[LSTMState, ...]:
        """Zero carries of every layer and direction, for inputs of shape ``[*B, I]``.

        In ``dtype``, or if that is None in ``param_dtype``: what the inputs will be is not known yet.
        """
        dtype = self.param_dtype if self.dtype is None else self.dtype
        batch = input_shape[:-1]
        return tuple(zero_carry(self.spec, self.hidden_features, batch, dtype) for _ in self.layers)

    def __call__(
        self,
        xs: ArrayLike,
        *,
        initial_carry: tuple[LSTMState, ...] | None = None,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        return_carry: bool = False,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
    ) -> Any:
        """Runs the layers.

        Args:
          xs: inputs ``[*B, T, I]``, or ``[T, *B, I]`` if ``time_major``.
          initial_carry: an :class:`lstm_jax.LSTMState` for each layer and direction; None is zeros.
          seq_lengths: true lengths ``[*B]`` of right-padded sequences.
          resets: bool ``[*B, T]`` (time first if ``time_major``): True where a segment begins.
          return_carry: whether to return the final carry too.
          deterministic: True turns dropout off; None is ``self.deterministic``, which
            ``model.eval()`` and ``model.train()`` set.
          rngs: for dropout: ``nnx.Rngs`` (its stream ``dropout``), a stream, or a key.

        Returns:
          The outputs ``[*B, T, D * H]``, or ``(carry, outputs)`` if ``return_carry``.

        Raises:
          ValueError: as :func:`lstm_jax.lstm_stack` does.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        dropout = 0.0 if deterministic else self.dropout_rate
        key = _draw_key(rngs) if dropout > 0.0 else None
        return run_layers(
            self.params,
            xs,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            return_carry=return_carry,
            time_major=self.time_major,
            dropout=dropout,
            key=key,
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


def _draw_key(rngs: nnx.Rngs | nnx.RngStream | jax.Array | None) -> jax.Array | None:
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs
