"""Flax Linen modules: parameters and defaults. The core functions do the computation.

``LSTM`` runs layers and directions over sequences, with lengths and resets. ``LSTMCell`` computes one
step, and is a cell for ``flax.linen.RNN`` and ``flax.linen.Bidirectional``.
"""

import itertools
from dataclasses import KW_ONLY, fields
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike, DTypeLike

from lstm_jax import serialization  # noqa: F401  (the import registers LSTMParams with Flax)
from lstm_jax.cell import Activation, LSTMSpec, Precision, param_initializers, sigmoid, tanh
from lstm_jax.checks import (
    check_floating,
    check_parameter_names,
    check_registered_pytree,
    check_size,
)
from lstm_jax.initializers import Initializer
from lstm_jax.modules import (
    CallKeywords,
    Carry,
    initial_state,
    layer_names,
    run_cell,
    run_layers,
    with_activations,
)
from lstm_jax.notation import LSTMParams, LSTMState
from lstm_jax.options import Options
from lstm_jax.partition import Partition
from lstm_jax.stack import input_sizes


class LSTMWeights(nn.Module):
    """The parameters of one layer and direction: one Flax parameter per field of ``spec.Params``.

    Attributes:
      features: Hidden size H.
      kernel_init: Initializer of each gate's input weights. None is the cell's default: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's default:
        orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's default: forget bias 1.
      use_bias: Whether to create a bias.
      param_dtype: Dtype of the parameters.
      spec: The kind of cell.
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
        """Returns the parameters for inputs ``[..., in_features]``."""
        shapes = param_initializers(
            check_size("in_features", in_features),
            check_size("features", self.features),
            self.spec,
            self.kernel_init,
            self.recurrent_kernel_init,
            self.bias_init,
            self.use_bias,
        )
        check_floating("param_dtype", jnp.dtype(self.param_dtype))
        check_registered_pytree(self.spec.Params)
        check_parameter_names(self.spec)
        return self.spec.Params(
            **{
                name: self.param(name, init, shape, self.param_dtype)
                for name, (shape, init) in shapes.items()
            }
        )


class LSTMCell(nn.RNNCellBase):
    """One step of the LSTM as a Linen module: ``(carry, x) -> (carry, h)``.

    Its parameters are the fields of ``spec.Params``. ``spec.Params(**variables["params"])``, by default an
    ``LSTMParams``, is their form for the core functions.

    Attributes:
      features: Hidden size H.
      gate_fn: Activation of the gates i, f and o.
      activation_fn: Activation of the candidate values and of the cell state.
      kernel_init: Initializer of each gate's input weights. None is the cell's default: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's default:
        orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's default: forget bias 1.
      use_bias: Whether to create a bias.
      dtype: Compute dtype of a carry made by ``initialize_carry``. None is ``param_dtype``.
      param_dtype: Dtype of the parameters.
      carry_init: Initializer of the arrays of ``initialize_carry``. None is zeros.
      precision: Precision of the matrix products.
      spec: The kind of cell.

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen as nn
    >>> from lstm_jax.linen import LSTMCell
    >>> rnn, xs = nn.RNN(LSTMCell(5)), jnp.ones((2, 7, 3))          # batch, time, features
    >>> variables = rnn.init(jax.random.key(0), xs)
    >>> rnn.apply(variables, xs).shape
    (2, 7, 5)
    """

    features: int
    gate_fn: Activation = sigmoid
    activation_fn: Activation = tanh
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer | None = None
    precision: Precision = None
    spec: LSTMSpec = LSTMSpec()

    def setup(self) -> None:
        """Creates the weights in the scope of this module, without a level for ``LSTMWeights``."""
        self.cell = with_activations(self.spec, self.gate_fn, self.activation_fn)
        self.weights = LSTMWeights(
            self.features,
            self.kernel_init,
            self.recurrent_kernel_init,
            self.bias_init,
            self.use_bias,
            self.param_dtype,
            self.cell,
        )
        nn.share_scope(self, self.weights)

    def __call__(self, carry: Any, inputs: ArrayLike) -> tuple[Any, jax.Array]:
        """Computes one step. See :func:`lstm_jax.lstm_cell`.

        Args:
          carry: An :class:`lstm_jax.LSTMState`, or a plain pair ``(c, h)``. Its h has the compute dtype.
          inputs: ``[*B, I]``. Integers are cast to the compute dtype.

        Returns:
          The new carry, of the same type as ``carry``, and h.
        """
        return run_cell(
            self.weights(jnp.shape(inputs)[-1]),
            carry,
            inputs,
            spec=self.cell,
            precision=self.precision,
            size_name="features",
        )

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> tuple[Any, jax.Array]:
        """Returns a carry ``(c, h)`` for inputs of shape ``[*B, I]``: zeros, or drawn by ``carry_init``.

        It is a plain pair, like the carry of Flax's cells.
        """
        state = _initial_state(self, rng, input_shape)
        return state.C, state.h

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing feature axes of an input, always 1."""
        return 1


class LSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM layers over whole sequences.

    The parameters are named ``l0f``, ``l0b``, ``l1f``, ... (layer, forward or backward), each with the
    fields of :class:`lstm_jax.LSTMParams`. :meth:`stack_params` converts them for the core functions.

    Attributes:
      features: Hidden size H of each layer and direction.
      num_layers: Number of layers L.
      bidirectional: Whether each layer has two directions, whose outputs are concatenated.
      dropout_rate: Probability of dropping an activation between layers. The outputs of the last layer have
        no dropout. The RNG stream is "dropout".
      gate_fn: Activation of the gates i, f and o.
      activation_fn: Activation of the candidate values and of the cell state.
      kernel_init: Initializer of each gate's input weights. None is the cell's default: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's default:
        orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's default: forget bias 1.
      use_bias: Whether to create a bias.
      dtype: Compute dtype. None is the dtype of the inputs.
      param_dtype: Dtype of the parameters.
      carry_init: Initializer of the arrays of ``initialize_carry``. None is zeros.
      spec: The kind of cell.
      time_major: Whether inputs and outputs are ``[T, *B, ...]`` instead of ``[*B, T, ...]``.
      return_carry: Whether a call also returns the final carry. Type checkers expect the argument of that
        name in the call instead.
      reverse: Whether to run backward in time. Outputs keep the time order of the inputs.
      keep_order: Must be True: outputs of ``reverse`` keep the time order of the inputs.
      deterministic: Whether to disable dropout. The argument of a call overrides it.
      precision: A tuning option. :class:`lstm_jax.Options` documents this and the following options.
      backend: A tuning option.
      remat_every: A tuning option.
      residuals: A tuning option.
      unroll: A tuning option.
      partition: A tuning option.

    >>> import jax, jax.numpy as jnp
    >>> from lstm_jax.linen import LSTM
    >>> model, xs = LSTM(5, num_layers=2, bidirectional=True), jnp.ones((2, 7, 3))
    >>> variables = model.init(jax.random.key(0), xs)
    >>> model.apply(variables, xs, seq_lengths=jnp.array([7, 4])).shape
    (2, 7, 10)
    """

    features: int
    _: KW_ONLY
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.0
    gate_fn: Activation = sigmoid
    activation_fn: Activation = tanh
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer | None = None
    spec: LSTMSpec = LSTMSpec()
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = True
    deterministic: bool = False
    precision: Precision = None
    backend: str = "auto"
    remat_every: int | None = None
    residuals: Literal["save", "recompute"] = "save"
    unroll: int | None = None
    partition: Partition | None = None

    @property
    def options(self) -> Options:
        """The tuning options as one value."""
        return Options(**{field.name: getattr(self, field.name) for field in fields(Options)})

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: Literal[False] | None = ...,
        init_key: jax.Array | None = ...,
        **keywords: Unpack[CallKeywords],
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: Literal[True],
        init_key: jax.Array | None = ...,
        **keywords: Unpack[CallKeywords],
    ) -> tuple[Carry, jax.Array]: ...

    @nn.compact
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        init_key: jax.Array | None = None,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Runs the layers.

        Args:
          inputs: ``[*B, T, I]``, or ``[T, *B, I]`` if ``time_major``. Integers are cast to the dtype of the
            parameters, or to ``dtype``.
          initial_carry: An :class:`lstm_jax.LSTMState`, or a plain pair ``(c, h)``, for each layer and
            direction. For one layer and direction it may also be a single state. None is zeros.
          init_key: An argument of Flax's ``RNN``. It has no effect, because the default carry is zeros.
          seq_lengths: Numbers of valid steps ``[*B]`` of right-padded sequences.
          resets: Bool ``[*B, T]`` (time first if ``time_major``). True where a new segment starts.
          return_carry: Whether to also return the final carry. None is the attribute of that name.
          time_major: Whether time is the first axis. None is the attribute of that name.
          reverse: Whether to run backward in time. None is the attribute of that name.
          keep_order: None is the attribute of that name. It must not be False with ``reverse``.
          deterministic: Whether to disable dropout. None is the attribute of that name.

        Returns:
          The outputs ``[*B, T, D * H]``, or ``(carry, outputs)`` if ``return_carry``. The carry has the form
          of ``initial_carry``, and the dtype of its h. If ``initial_carry`` is None, it is a tuple of
          ``LSTMState``.

        Raises:
          ValueError: In the cases of :func:`lstm_jax.lstm_stack`.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        spec = with_activations(self.spec, self.gate_fn, self.activation_fn)
        names = layer_names(self.num_layers, self.bidirectional)
        input_size = jnp.shape(inputs)[-1] if jnp.ndim(inputs) else 0
        sizes = input_sizes(input_size, self.features, self.num_layers, self.bidirectional)
        params = [
            LSTMWeights(
                self.features,
                self.kernel_init,
                self.recurrent_kernel_init,
                self.bias_init,
                self.use_bias,
                self.param_dtype,
                spec,
                name=name,
            )(size)
            for name, size in zip(names, sizes, strict=True)
        ]
        return run_layers(
            params,
            inputs,
            num_layers=self.num_layers,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            return_carry=self.return_carry if return_carry is None else return_carry,
            time_major=self.time_major if time_major is None else time_major,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            dropout_rate=0.0 if deterministic or self.is_initializing() else self.dropout_rate,
            draw_key=lambda: self.make_rng("dropout"),
            spec=spec,
            dtype=self.dtype,
            options=self.options,
            size_name="features",
        )

    @nn.nowrap
    def stack_params(self, params: Any) -> tuple[LSTMParams, ...]:
        """Converts ``variables["params"]`` to the form that :func:`lstm_jax.lstm_stack` takes."""
        names = layer_names(self.num_layers, self.bidirectional)
        return tuple(self.spec.Params(**params[name]) for name in names)

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: tuple[int, ...]) -> Carry:
        """Returns the carries of all layers and directions, for inputs of shape ``[*B, I]``, one step.

        They are zeros, or drawn by ``carry_init`` from ``rng``. Their dtype is ``dtype``. If that is None, it
        is ``param_dtype``, because the dtype of the inputs is not known yet.
        """
        names = layer_names(self.num_layers, self.bidirectional)
        keys = [rng] * len(names) if self.carry_init is None else jax.random.split(rng, len(names))
        return tuple(_initial_state(self, key, input_shape) for key in keys)


def _initial_state(module: LSTMCell | LSTM, rng: Any, input_shape: tuple[int, ...]) -> LSTMState:
    dtype = module.param_dtype if module.dtype is None else module.dtype
    counter = itertools.count()
    return initial_state(
        module.spec,
        module.features,
        input_shape[:-1],
        dtype,
        module.carry_init,
        lambda: jax.random.fold_in(rng, next(counter)),
    )
