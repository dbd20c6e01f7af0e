"""cuDNN's LSTM through :mod:`jax.experimental.rnn`, in float32 on an NVIDIA GPU.

"auto" never selects this backend. It exists for comparison with NVIDIA's implementation, and has its
limitations: first-order gradients only, no ``jvp``, no ``vmap``, and one device. Every call packs the weights
again. Every call, forward and backward, copies the lengths to the host and waits for the copy. Tracing
queries cuDNN for sizes and therefore needs a GPU, so a program cannot be compiled or exported without one.

cuDNN takes one flat array of weights, ``(W_ih, W_hh, b_ih, b_hh)``, with gates i, f, g, o on the leading
axis of each. :class:`~lstm_jax.LSTMParams` has the same gate order on the last axis, and one bias.
"""

import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.backends.problem import Operands, Outputs, Settings, refusal
from lstm_jax.cell import LSTMSpec, Precision
from lstm_jax.notation import LSTMParams, LSTMState
from lstm_jax.target import partitioned_reason, platforms_of

TF32 = (None, "default", "tensorfloat32", jax.lax.Precision.DEFAULT)
"""Precisions for which cuDNN may multiply in TF32, as XLA does."""
FLOAT32 = ("high", "highest", "float32", jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)
"""Precisions for which cuDNN multiplies in float32."""


def unsupported_reason(settings: Settings, operands: Operands) -> str | None:
    """Returns None for the plain LSTM in float32, without lengths and resets, on an NVIDIA GPU."""
    params, xs, state, _, begin, hold = operands
    spec = settings.spec
    dtypes = {a.dtype for a in (*jax.tree.leaves(params), xs, *state)}
    concrete = all(isinstance(n, int) for n in xs.shape)
    reasons = {
        f"it supports only the plain LSTMSpec, got {type(spec).__name__}": (
            type(spec) is not LSTMSpec
        ),
        f"it supports only float32, got {', '.join(sorted(map(str, dtypes)))}": (
            dtypes != {jnp.dtype(jnp.float32)}
        ),
        "it does not support resets": begin is not None,
        "it does not support lengths, which may be 0 at run time": hold is not None,
        "it does not support sharded hidden units": settings.hidden_axis is not None,
        'it does not support residuals="recompute"': settings.residuals != "save",
        f"it does not support unroll={settings.unroll}": settings.unroll not in (None, 1),
        f"precision={settings.precision!r} is not one of {TF32 + FLOAT32}": (
            _matmul_precision(settings.precision) not in TF32 + FLOAT32
        ),
        f"it needs known and positive sizes, got xs of shape {xs.shape}": (
            not concrete or 0 in xs.shape
        ),
        f"tracing it needs an NVIDIA GPU, found {available_platform()}": available_platform()
        != "cuda",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def available_platform() -> str:
    """Returns ``"cuda"`` if JAX has a CUDA device, else JAX's default platform."""
    try:
        return "cuda" if jax.devices("cuda") else jax.default_backend()
    except RuntimeError:
        return jax.default_backend()


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """Runs the recurrence over all time steps, see :mod:`lstm_jax.backends`."""
    from jax.experimental import rnn  # imported here, because it loads the CUDA plugin's libraries

    xs, reverse = operands.xs, settings.reverse
    T, *batch, I = xs.shape
    B, H = math.prod(batch), operands.params.w_h.shape[0]
    batch_first = checked_p.bind(_flip(xs, reverse)).reshape(T, B, I).swapaxes(0, 1)
    ys, h, C = rnn.lstm(
        _row_major(batch_first),
        _row_major(operands.state.h.reshape(1, B, H)),
        _row_major(operands.state.C.reshape(1, B, H)),
        flat_weights(operands.params),
        jnp.full((B,), T, jnp.int32),
        input_size=I,
        hidden_size=H,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
        precision=_precision(settings.precision),
    )
    hs = _flip(_row_major(ys).swapaxes(0, 1).reshape(T, *batch, H), reverse)
    return settings.outputs(LSTMState(C.reshape(*batch, H), h.reshape(*batch, H)), hs)


def flat_weights(params: LSTMParams) -> jax.Array:
    """Packs the weights to cuDNN's flat array ``[4H (I + H + 2)]``."""
    zero = jnp.zeros_like(params.w_h[0])
    bias = zero if params.bias is None else params.bias
    return jnp.concatenate([params.w_x.T.ravel(), params.w_h.T.ravel(), bias, zero])


def _row_major(array: jax.Array) -> jax.Array:
    """Constrains the array to a row-major layout, which cuDNN expects.

    JAX does not declare the layouts of cuDNN's custom call to XLA. Without the constraint XLA may pass the
    result of ``swapaxes`` in a transposed layout, and cuDNN reads wrong values. The same holds for gradients.
    """
    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))


def _flip(array: jax.Array, reverse: bool) -> jax.Array:
    return array[::-1] if reverse else array


def _precision(precision: Precision) -> jax.lax.Precision:
    """Returns HIGH if TF32 is allowed, else HIGHEST. JAX's cuDNN wrapper distinguishes only these two."""
    tf32 = _matmul_precision(precision) in TF32
    return jax.lax.Precision.HIGH if tf32 else jax.lax.Precision.HIGHEST


def _matmul_precision(precision: Precision) -> Any:
    """Returns the precision, or JAX's default matmul precision for None."""
    if precision is not None:
        return precision
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def _refuse(reason: str) -> NoReturn:
    raise refusal("cudnn", reason)


def _check_platform(ctx: Any, xs: Any) -> Any:
    platforms = " and ".join(platforms_of(ctx))
    _refuse(f"it needs an NVIDIA GPU, and the program is compiled for {platforms}")


def _check_partition(ctx: Any, xs: Any) -> Any:
    reason = partitioned_reason(ctx)
    if reason is not None:  # every device would gather and compute the whole batch
        _refuse(reason)
    return [xs]


checked_p = Primitive("lstm_cudnn_check")
"""The identity. Its lowering rules raise for platforms other than CUDA, and if XLA partitions the program."""
checked_p.def_impl(lambda xs: xs)
checked_p.def_abstract_eval(lambda xs: xs)
ad.deflinear2(checked_p, lambda ct, _: [ct])
batching.primitive_batchers[checked_p] = lambda *_: _refuse("it does not support vmap")
mlir.register_lowering(checked_p, _check_platform)
mlir.register_lowering(checked_p, _check_partition, platform="cuda")
