"""One step of the LSTM: its six equations and the initialization of its parameters.

With ``[h, x]`` the concatenation, σ the logistic function, ⊙ the element-wise product::

    f_t = σ(W_f [h_{t-1}, x_t] + b_f)        forget gate: 1 keeps, 0 erases
    i_t = σ(W_i [h_{t-1}, x_t] + b_i)        input gate
    C̃_t = tanh(W_C [h_{t-1}, x_t] + b_C)     candidate values
    C_t = f_t ⊙ C_{t-1} + i_t ⊙ C̃_t          cell state
    o_t = σ(W_o [h_{t-1}, x_t] + b_o)        output gate
    h_t = o_t ⊙ tanh(C_t)                    hidden state

Sources: Hochreiter & Schmidhuber (1997), Long short-term memory; the forget gate is from
Gers, Schmidhuber & Cummins (2000), Learning to forget.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from lstm_jax import initializers
from lstm_jax.checks import (
    check_cell_state_dtype,
    check_floating,
    check_parameter_names,
    check_params,
    check_registered_pytree,
    check_size,
    check_spec,
    check_state,
    check_x,
)
from lstm_jax.initializers import Initializer, per_gate
from lstm_jax.notation import LSTMParams, LSTMState, Projected, Recurrent, Shape, at_least_float32
from lstm_jax.products import product, project

Precision = jax.lax.PrecisionLike
Activation = Callable[[jax.Array], jax.Array]

sigmoid = jax.nn.sigmoid


@jax.custom_jvp
def tanh(z: jax.Array) -> jax.Array:
    """Returns the hyperbolic tangent. Its derivative is computed as ``1 - y²``, JAX's as ``(1 + y)(1 - y)``.

    This form saves one operation per gate on the critical path of the backward pass. It is as accurate,
    because the rounding of y dominates the error of both forms.
    """
    return jnp.tanh(z)


@tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    y = tanh(z)
    return y, dz * (1 - y * y)


@dataclass(frozen=True)
class LSTMSpec:
    """The definition of a cell: its step as pure functions, and its static options.

    Inside the time loop only :meth:`recur` multiplies matrices, and only :meth:`pointwise` is non-linear.
    One custom derivative and one kernel therefore serve every variant of the cell. A step is computed so:

    >>> import jax
    >>> spec, params = LSTMSpec(), init_lstm(jax.random.key(0), 3, 5)
    >>> xs, C, h = jax.numpy.ones((7, 2, 3)), jax.numpy.zeros((2, 5)), jax.numpy.zeros((2, 5))
    >>> gx = spec.project(params, xs)                            # all seven steps at once
    >>> C, h = spec.pointwise(params, C, gx[0] + spec.recur(params, h))
    >>> gx.shape, h.shape
    ((7, 2, 20), (2, 5))

    A variant overrides ``activations`` and :meth:`combine`, or :meth:`pointwise`.
    """

    Params: ClassVar[type[LSTMParams]] = LSTMParams
    """The class of the parameters: ``LSTMParams``, or a registered dataclass that adds fields to it."""
    gates: ClassVar[int] = 4
    """The number of gates. The packed pre-activations z have a block ``[H]`` for each gate."""
    activations: ClassVar[Sequence[Activation]] = (sigmoid, sigmoid, tanh, sigmoid)
    """The activation of each gate: i, f, g, o."""
    elementwise: ClassVar[bool] = True
    """Whether ``pointwise`` computes each hidden unit from values of the same unit only.

    It is False for a subclass that overrides ``pointwise``, unless the subclass sets it to True. Kernels that
    transpose or tile the hidden units run element-wise cells only.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Follows the method resolution order, because ``pointwise`` may come from a mixin.
        for base in cls.__mro__:
            if "elementwise" in vars(base):
                return
            if "pointwise" in vars(base):
                cls.elementwise = False
                return

    def parameters(
        self, input_size: int, hidden_size: int
    ) -> Mapping[str, tuple[Shape, Initializer]]:
        """Returns the shape and the default initializer of each field of :attr:`Params`.

        A field whose default is None, such as the bias, may be None. The fields after ``bias`` are the cell's
        extra weights. ``pointwise`` reads them, in the dtype of C. An element-wise cell whose extra weights
        have H as last axis runs on every backend except ``tpu``, other cells run on ``scan`` and ``xla``.
        """
        packed = self.gates * hidden_size
        return {
            "w_x": ((input_size, packed), per_gate(initializers.glorot, self.gates)),
            "w_h": ((hidden_size, packed), per_gate(initializers.orthogonal, self.gates)),
            "bias": ((packed,), initializers.forget_bias(1.0)),
        }

    def project(
        self, params: LSTMParams, xs: Float[jax.Array, "*TB I"], precision: Precision = None
    ) -> Projected:
        """Returns ``gx = xs @ w_x + bias``, for all time steps at once."""
        gx = project(xs, params.w_x, precision)
        if params.bias is None:
            return gx
        # The gradient of the bias is a sum over all steps. It is accumulated in the dtype of this addition.
        accum_dtype = at_least_float32(gx.dtype)
        bias = _broadcast_bias(gx, params.bias.astype(accum_dtype))
        return (gx.astype(accum_dtype) + bias).astype(gx.dtype)

    def recur(
        self, params: LSTMParams, h: Float[jax.Array, "*B H"], precision: Precision = None
    ) -> Recurrent:
        """Returns ``r = h @ w_h``, the only matrix product in the time loop.

        An override must be linear in h and linear in w_h.
        """
        return product(h, params.w_h, precision)

    def pointwise(
        self, params: LSTMParams, C: Any, z: Float[jax.Array, "*B GH"]
    ) -> tuple[Any, jax.Array]:
        """Computes the element-wise part of a step, ``(C_{t-1}, z_t) -> (C_t, h_t)``.

        ``z`` contains ``W [h, x] + b`` of each gate. A subclass that overrides ``activations`` or ``combine``
        gets its own here.
        """
        if self.activations != LSTMSpec.activations or type(self).combine is not LSTMSpec.combine:
            return self.combine(params, C, *activate(self.activations, z))
        z_i, z_f, z_g, z_o = jnp.split(z, 4, axis=-1)
        f = sigmoid(z_f)
        i = sigmoid(z_i)
        g = tanh(z_g)  # C̃
        C = f * C + i * g
        o = sigmoid(z_o)
        h = o * tanh(C)
        return C, h

    def combine(
        self, params: LSTMParams, C: Any, i: jax.Array, f: jax.Array, g: jax.Array, o: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Computes C and h from the values of the gates, element by element.

        Backends that evaluate all ``activations`` at once call this method instead of ``pointwise``. A cell
        that mixes hidden units here must set ``elementwise = False``. Backends with kernels test this and
        refuse such a cell.
        """
        C = f * C + i * g
        h = o * tanh(C)
        return C, h

    def emit(self, params: LSTMParams, m: jax.Array, precision: Precision = None) -> jax.Array:
        """Returns the hidden state from m, the second result of ``pointwise``. By default it is m.

        An override must be linear in m.
        """
        return m

    def state_types(self, hidden_size: int, batch: Shape, dtype: DTypeLike) -> LSTMState:
        """Returns the shapes and dtypes of the carry for a batch computed in ``dtype``."""
        shape = (*batch, hidden_size)
        C = jax.ShapeDtypeStruct(shape, at_least_float32(dtype))
        h = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        return LSTMState(C, h)  # type: ignore[arg-type]

    def hidden_size(self, params: LSTMParams) -> int:
        """Returns H, the hidden size of the given parameters."""
        return params.w_h.shape[-1] // self.gates


def _broadcast_bias(gx: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns the bias broadcast to the shape of gx. Under Explicit axes it is sharded like gx.

    With a replicated bias, every device would gather the cotangents of all devices in the backward pass,
    and sum them over the whole batch.
    """
    sharding = jax.typeof(gx).sharding
    out_sharding = sharding if sharding.mesh.explicit_axes else None
    return jnp.broadcast_to(bias, gx.shape, out_sharding=out_sharding)


def activate(activations: Sequence[Activation], z: jax.Array) -> list[jax.Array]:
    """Returns the values of the gates, from their packed pre-activations."""
    blocks = jnp.split(z, len(activations), axis=-1)
    return [activation(block) for activation, block in zip(activations, blocks, strict=True)]


def add(gx: Projected, r: Recurrent) -> Recurrent:
    """Returns ``z = gx + r``, in at least float32."""
    accum_dtype = at_least_float32(gx.dtype)
    return gx.astype(accum_dtype) + r.astype(accum_dtype)


def finish_step(
    spec: LSTMSpec, params: LSTMParams, state: LSTMState, z: Recurrent, precision: Precision = None
) -> tuple[LSTMState, jax.Array]:
    """Computes a step from its pre-activations z. Returns the new state and, as the output, its h."""
    C, m = spec.pointwise(params, state.C, z if state.C is None else z.astype(state.C.dtype))
    h = spec.emit(params, m.astype(state.h.dtype), precision)
    return LSTMState(C, h), h


def lstm_cell(
    params: LSTMParams,
    state: LSTMState,
    x: Float[ArrayLike, "*B I"],
    *,
    spec: LSTMSpec = LSTMSpec(),
    precision: Precision = None,
) -> tuple[LSTMState, Float[jax.Array, "*B H"]]:
    """Computes one step of the LSTM. With its parameters bound, it is a body for :func:`jax.lax.scan`.

    The compute dtype is the dtype of ``state.h``. x and the weights are cast to it. ``C`` keeps its dtype,
    at least float32, so the new state has the dtypes of the given state.

    Args:
      params: The weights of the cell.
      state: ``C`` and ``h``, each ``[*B, H]``.
      x: The input of this step, ``[*B, I]``.
      spec: The kind of cell.
      precision: Precision of the matrix products, as in :func:`jax.numpy.dot`.

    Returns:
      The new state, and its h as the output of the step.

    Raises:
      ValueError: If shapes or dtypes do not fit. The message says which ones, and how to fix it.

    Source: the equations at the top of this module.

    >>> import functools, jax, jax.numpy as jnp
    >>> from lstm_jax import zero_state
    >>> params, xs = init_lstm(jax.random.key(0), input_size=3, hidden_size=5), jnp.ones((7, 2, 3))
    >>> zero = zero_state(params, xs[0])
    >>> state, h = lstm_cell(params, zero, xs[0])
    >>> h.shape
    (2, 5)
    >>> state, hs = jax.lax.scan(functools.partial(lstm_cell, params), zero, xs)
    >>> hs.shape
    (7, 2, 5)
    """
    check_spec(spec, LSTMSpec)
    x = check_x(x)
    params = check_params(spec, params, x.shape[-1])
    check_state("state", state, spec.state_types(spec.hidden_size(params), x.shape[:-1], x.dtype))
    state = jax.tree.map(jnp.asarray, state)
    check_cell_state_dtype(state.C)
    try:
        hash((spec, precision))
    except TypeError:  # a field of the spec is an array or a traced value
        return _step(params, state, x, spec, precision)
    return _compiled_step(params, state, x, spec, precision)


def _step(
    params: LSTMParams, state: LSTMState, x: jax.Array, spec: LSTMSpec, precision: Precision
) -> tuple[LSTMState, jax.Array]:
    """Implements ``lstm_cell`` for validated arguments."""
    dtype = state.h.dtype
    params = cast(params, dtype, None if state.C is None else state.C.dtype)
    gx = spec.project(params, x.astype(dtype), precision)
    z = add(gx, spec.recur(params, state.h, precision))
    return finish_step(spec, params, state, z, precision)


_compiled_step = jax.jit(_step, static_argnames=("spec", "precision"), inline=True)
"""``_step`` as one compiled program when called eagerly. It is inlined when traced."""


def init_lstm(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    *,
    spec: LSTMSpec = LSTMSpec(),
    kernel_init: Initializer | None = None,
    recurrent_kernel_init: Initializer | None = None,
    bias_init: Initializer | None = None,
    use_bias: bool = True,
    param_dtype: DTypeLike = jnp.float32,
) -> Any:
    """Draws the weights of one layer.

    Args:
      key: A PRNG key.
      input_size: I, at least 1.
      hidden_size: H, at least 1.
      spec: The kind of cell.
      kernel_init: Initializer of each gate's input weights ``[I, H]``. None is the cell's default: Glorot.
      recurrent_kernel_init: Initializer of each gate's recurrent weights ``[H, H]``. None is the
        cell's default: orthogonal.
      bias_init: Initializer of the packed bias ``[4H]``. None is the cell's default: forget bias 1. See
        :func:`~lstm_jax.initializers.forget_bias`, :func:`~lstm_jax.initializers.chrono` and
        :data:`~lstm_jax.initializers.zeros`.
      use_bias: Whether to create a bias. If False, ``bias`` is None.
      param_dtype: Dtype of the weights.

    Returns:
      An instance of ``spec.Params``: :class:`LSTMParams`, or the class of a cell with more weights.

    Raises:
      ValueError: If a size is not a positive integer, or ``param_dtype`` is not a floating point type.

    >>> import jax
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> params.w_x.shape, params.w_h.shape, params.bias.shape
    ((3, 20), (5, 20), (20,))
    """
    check_spec(spec, LSTMSpec)
    check_registered_pytree(spec.Params)
    check_parameter_names(spec)
    check_floating("param_dtype", jnp.dtype(param_dtype))
    input_size = check_size("input_size", input_size)
    hidden_size = check_size("hidden_size", hidden_size)
    fields = param_initializers(
        input_size, hidden_size, spec, kernel_init, recurrent_kernel_init, bias_init, use_bias
    )
    keys = jax.random.split(key, len(fields))
    return spec.Params(
        **{
            name: init(k, shape, param_dtype)
            for k, (name, (shape, init)) in zip(keys, fields.items(), strict=True)
        }
    )


def param_initializers(
    input_size: int,
    hidden_size: int,
    spec: LSTMSpec,
    kernel_init: Initializer | None,
    recurrent_kernel_init: Initializer | None,
    bias_init: Initializer | None,
    use_bias: bool,
) -> dict[str, tuple[Shape, Initializer]]:
    """Returns :meth:`LSTMSpec.parameters`, with the given initializers instead of the cell's defaults."""
    fields = dict(spec.parameters(input_size, hidden_size))
    given = {
        "w_x": kernel_init and per_gate(kernel_init, spec.gates),
        "w_h": recurrent_kernel_init and per_gate(recurrent_kernel_init, spec.gates),
        "bias": bias_init,
    }
    for name, init in given.items():
        if init is not None and name in fields:
            fields[name] = (fields[name][0], init)
    if not use_bias:
        fields.pop("bias", None)
    return fields


def extra_weights(params: LSTMParams) -> LSTMParams:
    """Returns the cell's extra weights, which ``pointwise`` reads. ``w_x``, ``w_h`` and ``bias`` are None."""
    return params.replace(w_x=None, w_h=None, bias=None)


def cast(params: LSTMParams, dtype: DTypeLike, C_dtype: DTypeLike | None = None) -> LSTMParams:
    """Casts ``w_x``, ``w_h`` and ``bias`` to the compute dtype, and extra weights to the dtype of C.

    The gradient of the extra weights is a sum over all steps, so it needs the precision of C.
    """
    C_dtype = at_least_float32(dtype) if C_dtype is None else C_dtype
    extra = jax.tree.map(lambda p: jnp.asarray(p, C_dtype), extra_weights(params))
    products = params.w_x, params.w_h, params.bias
    w_x, w_h, bias = jax.tree.map(lambda p: jnp.asarray(p, dtype), products)
    return extra.replace(w_x=w_x, w_h=w_h, bias=bias)
