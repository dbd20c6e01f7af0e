"""One step of the LSTM: the six equations, and the parameters they read.

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

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from lstm_jax import initializers
from lstm_jax.checks import check_carried, check_params, check_spec, check_state, check_x
from lstm_jax.initializers import Initializer, per_gate
from lstm_jax.notation import LSTMParams, LSTMState, Projected, Recurrent, Shape, at_least_float32

Precision = jax.lax.PrecisionLike


@jax.custom_jvp
def tanh(z: jax.Array) -> jax.Array:
    """The hyperbolic tangent, with ``1 - y²`` for its derivative in place of JAX's ``(1 + y)(1 - y)``.

    One operation less on every gate, which the backward kernel waits for; and no less exact, for y
    itself is rounded, and that alone moves either form by as much.
    """
    return jnp.tanh(z)


@tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    y = tanh(z)
    return y, dz * (1 - y * y)


@dataclass(frozen=True)
class LSTMSpec:
    """What is static about a cell, and its step as four small pure functions.

    The split lets one backward rule and one kernel serve every variant of the cell: only
    :meth:`recur` multiplies inside the time loop, only :meth:`pointwise` is non-linear.

    >>> import jax
    >>> spec, params = LSTMSpec(), init_lstm(jax.random.key(0), 3, 5)
    >>> gx = spec.project(params, jax.numpy.ones((7, 2, 3)))     # all seven steps at once
    >>> gx.shape
    (7, 2, 20)
    """

    gates: ClassVar[int] = 4
    elementwise: ClassVar[bool] = True
    """Whether ``pointwise`` computes each hidden unit from that unit alone, in any layout.

    A subclass that overrides ``pointwise`` starts with False and may set True. Kernels that store units in
    their own order, or in parts, serve only element-wise cells.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Method resolution order: ``pointwise`` may come from a mixin.
        for base in cls.__mro__:
            if "elementwise" in vars(base):
                return
            if "pointwise" in vars(base):
                cls.elementwise = False
                return

    def scale(self, hidden_size: int, dtype: DTypeLike) -> jax.Array | None:
        """``[4H]``: what :meth:`pointwise` wants its pre-activations multiplied by; None is 1.

        ``σ(z) = ½ + ½ tanh(z/2)``: with i, f and o halved, one tanh over the packed block serves
        all gates. Halving is exact, and done to the weights it costs nothing in the time loop.
        """
        halved = jnp.full((hidden_size,), 0.5, dtype)
        return jnp.concatenate([halved, halved, jnp.ones_like(halved), halved])

    def prepare(self, params: LSTMParams) -> LSTMParams:
        """The weights as the other functions want them, :meth:`scale` multiplied in, once."""
        scale = self.scale(params.w_h.shape[0], params.w_h.dtype)
        if scale is None:
            return params
        bias = None if params.bias is None else params.bias * scale
        return params._replace(
            w_x=params.w_x * scale[None], w_h=params.w_h * scale[None], bias=bias
        )

    def project(
        self, params: LSTMParams, xs: Float[jax.Array, "*TB I"], precision: Precision = None
    ) -> Projected:
        """Parallel over time: ``gx = xs @ w_x + bias``."""
        gx = jnp.dot(xs, params.w_x, precision=precision)
        if params.bias is None:
            return gx
        # In float32 at least, and so is the sum over all steps that is the bias's gradient.
        wide = at_least_float32(gx.dtype)
        bias = jnp.broadcast_to(params.bias.astype(wide), gx.shape)
        return (gx.astype(wide) + bias).astype(gx.dtype)

    def recur(
        self, params: LSTMParams, h: Float[jax.Array, "*B H"], precision: Precision = None
    ) -> Recurrent:
        """Linear in h and in w_h: the only matrix product in the time loop."""
        return jnp.dot(h, params.w_h, precision=precision)

    def pointwise(
        self, params: LSTMParams, C: Any, z: Float[jax.Array, "*B GH"]
    ) -> tuple[Any, jax.Array]:
        """The equations, element by element in z's dtype: ``(C_{t-1}, z_t) -> (C_t, h_t)``.

        ``z = gx + r``, each gate's ``W [h, x] + b``, comes scaled, see :meth:`scale`.
        """
        y_i, y_f, g, y_o = jnp.split(tanh(z), 4, axis=-1)  # g is C̃
        f = 0.5 + 0.5 * y_f  # σ(z) = ½ + ½ tanh(z/2)
        i = 0.5 + 0.5 * y_i
        C = f * C + i * g
        o = 0.5 + 0.5 * y_o
        h = o * tanh(C)
        return C, h

    def emit(self, params: LSTMParams, m: jax.Array, precision: Precision = None) -> jax.Array:
        """Linear: what leaves the cell as h. Here, all of it."""
        return m

    def state_types(self, hidden_size: int, batch: Shape, dtype: DTypeLike) -> LSTMState:
        """Shapes and dtypes of the carry for a batch computed in ``dtype``."""
        shape = (*batch, hidden_size)
        C = jax.ShapeDtypeStruct(shape, at_least_float32(dtype))
        h = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        return LSTMState(C, h)  # type: ignore[arg-type]

    def initial_bias(
        self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """The default initializer of the bias: forget bias 1."""
        return initializers.forget_bias(1.0)(key, shape, dtype)


def step(
    spec: LSTMSpec, params: LSTMParams, state: LSTMState, gx: Projected, precision: Precision = None
) -> tuple[LSTMState, jax.Array]:
    """One step from projected inputs and prepared weights, the functions in a row: ``(state, h)``."""
    return finish(spec, params, state, add(gx, spec.recur(params, state.h, precision)), precision)


def add(gx: Projected, r: Recurrent) -> Recurrent:
    """``z = gx + r``, in at least float32."""
    wide = at_least_float32(gx.dtype)
    return gx.astype(wide) + r.astype(wide)


def finish(
    spec: LSTMSpec, params: LSTMParams, state: LSTMState, z: Recurrent, precision: Precision = None
) -> tuple[LSTMState, jax.Array]:
    """The rest of a step, from its pre-activations on."""
    C, m = spec.pointwise(params, state.C, z if state.C is None else z.astype(state.C.dtype))
    h = spec.emit(params, m.astype(state.h.dtype), precision)
    return LSTMState(C, h), h


def lstm_cell(
    params: LSTMParams,
    state: LSTMState,
    x: Float[ArrayLike, "*B I"],
    spec: LSTMSpec = LSTMSpec(),
    *,
    precision: Precision = None,
) -> tuple[LSTMState, Float[jax.Array, "*B H"]]:
    """One step of the LSTM, a pure function that :func:`jax.lax.scan` takes as it is.

    The state decides the dtype: x and the weights are cast to that of ``state.h``, the cell
    state keeps its own (at least float32), so that what goes out has the type of what came in.

    Args:
      params: the weights of the cell.
      state: ``C`` and ``h``, each ``[*B, H]``.
      x: the input of this step, ``[*B, I]``.
      spec: which cell.
      precision: of the matrix products, as in :func:`jax.numpy.dot`.

    Returns:
      The new state, and h once more as the step's output.

    Raises:
      ValueError: if shapes or dtypes do not fit; the message says which and how to mend it.

    Source: the equations at the top of this module.

    >>> import functools, jax, jax.numpy as jnp
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> zero = LSTMState(C=jnp.zeros((2, 5)), h=jnp.zeros((2, 5)))
    >>> state, h = lstm_cell(params, zero, jnp.ones((2, 3)))
    >>> h.shape
    (2, 5)
    >>> xs = jnp.ones((7, 2, 3))
    >>> state, hs = jax.lax.scan(functools.partial(lstm_cell, params), zero, xs)
    >>> hs.shape
    (7, 2, 5)
    """
    x = jnp.asarray(x)
    check_spec(spec, LSTMSpec)
    check_x(x)
    check_params(params, x.shape[-1], spec.gates)
    check_state("state", state, spec.state_types(params.w_h.shape[0], x.shape[:-1], x.dtype))
    state = jax.tree.map(jnp.asarray, state)
    check_carried(state.C)
    dtype = state.h.dtype
    params = cast(params, dtype)
    gx = spec.project(params, x.astype(dtype), precision)
    z = add(gx, spec.recur(params, state.h, precision))
    scale = spec.scale(state.h.shape[-1], z.dtype)
    if scale is not None:
        z = z * jnp.broadcast_to(scale, z.shape)  # cheaper than to scale the weights for one step
    return finish(spec, params, state, z, precision)


def init_lstm(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    *,
    spec: LSTMSpec = LSTMSpec(),
    kernel_init: Initializer = initializers.glorot,
    recurrent_kernel_init: Initializer = initializers.orthogonal,
    bias_init: Initializer | None = None,
    use_bias: bool = True,
    param_dtype: DTypeLike = jnp.float32,
) -> LSTMParams:
    """Draws the weights of one layer.

    Args:
      key: a PRNG key.
      input_size: I.
      hidden_size: H.
      spec: which cell.
      kernel_init: of each gate's input weights ``[I, H]``; Glorot.
      recurrent_kernel_init: of each gate's recurrent weights ``[H, H]``; orthogonal.
      bias_init: of the packed bias ``[4H]``; None is forget bias 1. Others:
        :func:`~lstm_jax.initializers.forget_bias`, :func:`~lstm_jax.initializers.chrono`,
        :data:`~lstm_jax.initializers.zeros`.
      use_bias: False leaves the bias out (None).
      param_dtype: of the weights.

    >>> import jax
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> params.w_x.shape, params.w_h.shape, params.bias.shape
    ((3, 20), (5, 20), (20,))
    """
    fields = param_initializers(
        input_size, hidden_size, spec, kernel_init, recurrent_kernel_init, bias_init, use_bias
    )
    keys = jax.random.split(key, len(fields))
    return LSTMParams(
        **{
            name: init(k, shape, param_dtype)
            for k, (name, (init, shape)) in zip(keys, fields.items(), strict=True)
        }
    )


def param_initializers(
    input_size: int,
    hidden_size: int,
    spec: LSTMSpec,
    kernel_init: Initializer,
    recurrent_kernel_init: Initializer,
    bias_init: Initializer | None,
    use_bias: bool,
) -> dict[str, tuple[Initializer, tuple[int, ...]]]:
    """The initializer and shape of each field of :class:`LSTMParams` that ``spec`` needs."""
    packed = spec.gates * hidden_size
    fields: dict[str, tuple[Initializer, tuple[int, ...]]] = {
        "w_x": (per_gate(kernel_init, spec.gates), (input_size, packed)),
        "w_h": (per_gate(recurrent_kernel_init, spec.gates), (hidden_size, packed)),
    }
    if use_bias:
        fields["bias"] = (bias_init or spec.initial_bias, (packed,))
    return fields


def cast(params: LSTMParams, dtype: DTypeLike) -> LSTMParams:
    """The parameters in the compute dtype."""
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
