"""Flax NNX modules: parameters and defaults. The core functions do the computation.

``LSTM`` runs layers and directions over sequences, with lengths and resets. ``LSTMCell`` computes one
step, and is a cell for ``flax.nnx.RNN`` and ``flax.nnx.Bidirectional``. Neither stores RNG state. ``LSTM``
works under ``nnx.jit`` and ``nnx.grad``, and also under ``jax.jit`` and ``jax.grad``, as an argument or in
a closure.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from lstm_jax import serialization  # noqa: F401  (the import registers LSTMParams with Flax)
from lstm_jax.cell import Activation, LSTMSpec, Precision, init_lstm, sigmoid, tanh
from lstm_jax.checks import check_dropout
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
from lstm_jax.options import (
    FOREIGN_MODULE_KEYWORDS,
    OptionKeywords,
    Options,
    with_options_signature,
)
from lstm_jax.stack import input_sizes

NO_METADATA: Mapping[str, Any] = MappingProxyType({})
Keys = nnx.Rngs | nnx.RngStream | ArrayLike | None


class LSTMCell(nnx.RNNCellBase):
    """One step of the LSTM as an NNX module: ``cell(carry, x) -> (carry, h)``.

    Its parameters are the fields of ``spec.Params``: ``w_x [I, 4H]``, ``w_h [H, 4H]`` and ``bias [4H]`` of
    :class:`lstm_jax.LSTMParams`, and the extra weights of the cell, if any.

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
        gate_fn: Activation = sigmoid,
        activation_fn: Activation = tanh,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: Precision = None,
        spec: LSTMSpec = LSTMSpec(),
        carry_init: Initializer | None = None,
        keep_rngs: bool = False,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        recurrent_kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
    ):
        """Draws the parameters from ``rngs.params``.

        Args:
          in_features: Input size I.
          hidden_features: Hidden size H.
          gate_fn: Activation of the gates i, f and o.
          activation_fn: Activation of the candidate values and of the cell state.
          kernel_init: Initializer of each gate's input weights. None is the cell's default: Glorot.
          recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's default:
            orthogonal.
          bias_init: Initializer of the packed bias ``[4H]``. None is the cell's default: forget bias 1.
          use_bias: Whether to create a bias.
          dtype: Compute dtype of a carry made by ``initialize_carry``. None is ``param_dtype``.
          param_dtype: Dtype of the parameters.
          precision: Precision of the matrix products.
          spec: The kind of cell.
          carry_init: Initializer of the arrays of ``initialize_carry``. None is zeros.
          keep_rngs: Accepted as by Flax's cells. It has no effect: no RNG state is stored.
          rngs: Random state for the initialization of the parameters. It is not stored.
          kernel_metadata: Metadata of the ``nnx.Param`` of ``w_x``.
          recurrent_kernel_metadata: Metadata of the ``nnx.Param`` of ``w_h``.
          bias_metadata: Metadata of the ``nnx.Param`` of ``bias``.

        Raises:
          ValueError: If a size is not positive, or ``gate_fn`` or ``activation_fn`` come with another cell.
        """
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.spec = with_activations(spec, gate_fn, activation_fn)
        self.carry_init = carry_init
        drawn = init_lstm(
            rngs.params(),
            in_features,
            hidden_features,
            spec=self.spec,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            param_dtype=param_dtype,
        )
        metadata = {
            "w_x": kernel_metadata,
            "w_h": recurrent_kernel_metadata,
            "bias": bias_metadata,
        }
        for field in dataclasses.fields(drawn):
            value = getattr(drawn, field.name)
            if value is not None:
                param = nnx.Param(value, **metadata.get(field.name, NO_METADATA))
                setattr(self, field.name, param)

    @property
    def params(self) -> LSTMParams:
        """The parameters, as the core functions take them."""
        names = [field.name for field in dataclasses.fields(self.spec.Params)]
        return self.spec.Params(**{n: getattr(self, n)[...] for n in names if hasattr(self, n)})

    def __call__(self, carry: Any, inputs: ArrayLike) -> tuple[Any, jax.Array]:
        """Computes one step. See :func:`lstm_jax.lstm_cell`.

        Args:
          carry: An :class:`lstm_jax.LSTMState`, or a plain pair ``(c, h)``. Its h has the compute dtype.
          inputs: ``[*B, I]``. Integers are cast to the compute dtype.

        Returns:
          The new carry, of the same type as ``carry``, and h.
        """
        return run_cell(
            self.params,
            carry,
            inputs,
            spec=self.spec,
            precision=self.precision,
            size_name="hidden_features",
        )

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: Keys = None,
        carry_init: Initializer | None = None,
    ) -> tuple[Any, jax.Array]:
        """Returns a carry ``(c, h)`` for inputs of shape ``[*B, I]``: zeros, or drawn by ``carry_init``.

        It is a plain pair, like the carry of Flax's cells.

        Args:
          input_shape: The shape of the inputs of one step.
          rngs: Random state for ``carry_init``: ``nnx.Rngs`` (its stream ``carry``), a stream, or a key.
          carry_init: Initializer of C and h. None is the initializer of the constructor, or zeros.
        """
        carry_init = self.carry_init if carry_init is None else carry_init
        dtype = self.param_dtype if self.dtype is None else self.dtype
        batch = input_shape[:-1]
        keys = None if carry_init is None else _carry_keys(rngs)
        state = initial_state(self.spec, self.hidden_features, batch, dtype, carry_init, keys)
        return state.C, state.h

    @property
    def num_feature_axes(self) -> int:
        """The number of trailing feature axes of an input, always 1."""
        return 1


class LSTM(nnx.Module):
    """Stacked, optionally bidirectional LSTM layers over whole sequences.

    The parameters are named ``l0f``, ``l0b``, ``l1f``, ... (layer, forward or backward), each an
    :class:`LSTMCell`. :attr:`params` converts them for the core functions.

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

    @with_options_signature
    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout_rate: float = 0.0,
        gate_fn: Activation = sigmoid,
        activation_fn: Activation = tanh,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        use_bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        spec: LSTMSpec = LSTMSpec(),
        carry_init: Initializer | None = None,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = True,
        deterministic: bool = False,
        keep_rngs: bool = False,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        recurrent_kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        **options: Unpack[OptionKeywords],
    ):
        """Draws the parameters from ``rngs.params``.

        Args:
          in_features: Input size I.
          hidden_features: Hidden size H of each layer and direction.
          num_layers: Number of layers L.
          bidirectional: Whether each layer has two directions, whose outputs are concatenated.
          dropout_rate: Probability of dropping an activation between layers. The outputs of the last layer
            have no dropout.
          gate_fn: As in :class:`LSTMCell`.
          activation_fn: As in :class:`LSTMCell`.
          kernel_init: Initializer of each gate's input weights. None is the cell's default: Glorot.
          recurrent_kernel_init: Initializer of each gate's recurrent weights. None is the cell's default:
            orthogonal.
          bias_init: Initializer of the packed bias ``[4H]``. None is the cell's default: forget bias 1.
          use_bias: Whether to create a bias.
          dtype: Compute dtype. None is the dtype of the inputs.
          param_dtype: Dtype of the parameters.
          spec: The kind of cell.
          carry_init: Initializer of the arrays of ``initialize_carry``. None is zeros.
          time_major: Whether inputs and outputs are ``[T, *B, ...]`` instead of ``[*B, T, ...]``.
          return_carry: Whether a call also returns the final carry. Type checkers expect the argument of
            that name in the call instead.
          reverse: Whether to run backward in time. Outputs keep the time order of the inputs.
          keep_order: Must be True: outputs of ``reverse`` keep the time order of the inputs.
          deterministic: Whether to disable dropout. ``train()``, ``eval()`` and the argument of a call
            override it.
          keep_rngs: Accepted as by Flax's cells. It has no effect: no RNG state is stored.
          rngs: Random state for the initialization of the parameters. It is not stored.
          kernel_metadata: As in :class:`LSTMCell`.
          recurrent_kernel_metadata: As in :class:`LSTMCell`.
          bias_metadata: As in :class:`LSTMCell`.
          **options: The tuning options, such as ``backend`` and ``remat_every``. :class:`lstm_jax.Options`
            documents them.

        Raises:
          ValueError: If a size is not positive, or the value of an option is invalid.
        """
        self.options = Options.of("LSTM", options, FOREIGN_MODULE_KEYWORDS)
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout_rate = check_dropout("dropout_rate", dropout_rate)
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.spec = with_activations(spec, gate_fn, activation_fn)
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.deterministic = deterministic
        self.layers = tuple(layer_names(num_layers, bidirectional))
        make_cell = partial(
            LSTMCell,
            kernel_init=kernel_init,
            recurrent_kernel_init=recurrent_kernel_init,
            bias_init=bias_init,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=self.options.precision,
            spec=self.spec,
            carry_init=carry_init,
            rngs=rngs,
            kernel_metadata=kernel_metadata,
            recurrent_kernel_metadata=recurrent_kernel_metadata,
            bias_metadata=bias_metadata,
        )
        sizes = input_sizes(in_features, hidden_features, num_layers, bidirectional)
        for name, size in zip(self.layers, sizes, strict=True):
            setattr(self, name, make_cell(size, hidden_features))

    @property
    def params(self) -> tuple[LSTMParams, ...]:
        """The parameters of all layers and directions, as :func:`lstm_jax.lstm_stack` takes them."""
        return tuple(getattr(self, name).params for name in self.layers)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: Keys = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """Returns the carries of all layers and directions, for inputs of shape ``[*B, I]``, one step.

        Their dtype is ``dtype``. If that is None, it is ``param_dtype``, because the dtype of the inputs is
        not known yet.

        Args:
          input_shape: The shape of the inputs of one step.
          rngs: Random state for ``carry_init``: ``nnx.Rngs`` (its stream ``carry``), a stream, or a key.
          carry_init: Initializer of C and h. None is the initializer of the constructor, or zeros.
        """
        cells: list[LSTMCell] = [getattr(self, name) for name in self.layers]
        per_cell = [rngs] * len(cells)
        if not isinstance(
            rngs, nnx.Rngs | nnx.RngStream | None
        ):  # a key, which may be a NumPy array
            per_cell = list(jax.random.split(jnp.asarray(rngs), len(cells)))
        return tuple(
            LSTMState(*cell.initialize_carry(input_shape, keys, carry_init))
            for cell, keys in zip(cells, per_cell, strict=True)
        )

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets ``deterministic``. ``nnx.view(model, deterministic=...)`` calls this method.

        Args:
          deterministic: Whether to disable dropout. None does not change the value.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: Literal[False] | None = ...,
        rngs: Keys = ...,
        **keywords: Unpack[CallKeywords],
    ) -> jax.Array: ...

    @overload
    def __call__(
        self,
        inputs: ArrayLike,
        *,
        return_carry: Literal[True],
        rngs: Keys = ...,
        **keywords: Unpack[CallKeywords],
    ) -> tuple[Carry, jax.Array]: ...

    def __call__(
        self,
        inputs: ArrayLike,
        *,
        initial_carry: Any = None,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        deterministic: bool | None = None,
        rngs: Keys = None,
    ) -> Any:
        """Runs the layers.

        Args:
          inputs: ``[*B, T, I]``, or ``[T, *B, I]`` if ``time_major``. Integers are cast to the dtype of the
            parameters, or to ``dtype``.
          initial_carry: An :class:`lstm_jax.LSTMState`, or a plain pair ``(c, h)``, for each layer and
            direction. For one layer and direction it may also be a single state. None is zeros.
          seq_lengths: Numbers of valid steps ``[*B]`` of right-padded sequences.
          resets: Bool ``[*B, T]`` (time first if ``time_major``). True where a new segment starts.
          return_carry: Whether to also return the final carry. None is the value of the constructor.
          time_major: Whether time is the first axis. None is the value of the constructor.
          reverse: Whether to run backward in time. None is the value of the constructor.
          keep_order: None is the value of the constructor. It must not be False with ``reverse``.
          deterministic: Whether to disable dropout. None is ``self.deterministic``, which ``model.eval()``,
            ``model.train()`` and ``nnx.view`` set.
          rngs: Random state for dropout: ``nnx.Rngs`` (its stream ``dropout``), a stream, or a key.

        Returns:
          The outputs ``[*B, T, D * H]``, or ``(carry, outputs)`` if ``return_carry``. The carry has the form
          of ``initial_carry``, and the dtype of its h. If ``initial_carry`` is None, it is a tuple of
          ``LSTMState``.

        Raises:
          ValueError: In the cases of :func:`lstm_jax.lstm_stack`.
        """
        deterministic = self.deterministic if deterministic is None else deterministic
        return run_layers(
            self.params,
            inputs,
            num_layers=self.num_layers,
            initial_carry=initial_carry,
            seq_lengths=seq_lengths,
            resets=resets,
            return_carry=self.return_carry if return_carry is None else return_carry,
            time_major=self.time_major if time_major is None else time_major,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            dropout_rate=0.0 if deterministic else self.dropout_rate,
            draw_key=lambda: _dropout_key(rngs),
            spec=self.spec,
            dtype=self.dtype,
            options=self.options,
            size_name="hidden_features",
        )


def _dropout_key(rngs: Keys) -> Any:
    if isinstance(rngs, nnx.Rngs):
        return rngs.dropout()
    return rngs() if isinstance(rngs, nnx.RngStream) else rngs


def _carry_keys(rngs: Keys) -> Callable[[], jax.Array]:
    """Returns a function that returns a new key on each call."""
    if isinstance(rngs, nnx.Rngs):
        return rngs.carry
    if isinstance(rngs, nnx.RngStream):
        return rngs
    if rngs is None:
        raise ValueError(
            "expected rngs for carry_init, got None; pass nnx.Rngs(carry=0), one of its streams, or a "
            "jax.random key."
        )
    key, counter = jnp.asarray(rngs), itertools.count()
    return lambda: jax.random.fold_in(key, next(counter))
