"""cuDNN's LSTM through :mod:`jax.experimental.rnn`: float32 on an NVIDIA GPU, by name only.

A program of NVIDIA's, wrapped as it is, to be compared with. It has one gradient and no more (no ``jvp``,
no second order), no ``vmap``, and runs on one device. Weights are packed again in every call. Each call
copies the lengths to the host and waits for that, forward and backward. Tracing asks cuDNN for sizes, so it
needs a GPU: no compilation ahead of time, no export from elsewhere.

Packing: cuDNN takes one flat array, ``(W_ih, W_hh, b_ih, b_hh)`` with gates i, f, g, o on the
leading axis of each; ours are the same gates on the last axis, and one bias for its two.
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
"""The precisions that leave cuDNN free to multiply in TF32, as XLA's own products are then."""
FLOAT32 = ("high", "highest", "float32", jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)
"""The precisions for which cuDNN multiplies in float32."""


def unsupported_reason(settings: Settings, operands: Operands) -> str | None:
    """The plain LSTM in float32, without lengths and resets, on an NVIDIA GPU."""
    params, xs, state, _, begin, hold = operands
    spec = settings.spec
    dtypes = {a.dtype for a in (*jax.tree.leaves(params), xs, *state)}
    concrete = all(isinstance(n, int) for n in xs.shape)
    reasons = {
        f"it has the plain LSTMSpec only, got {type(spec).__name__}": type(spec) is not LSTMSpec,
        f"it computes in float32 only, got {', '.join(sorted(map(str, dtypes)))}": (
            dtypes != {jnp.dtype(jnp.float32)}
        ),
        "it knows no resets": begin is not None,
        "it knows no rows of length 0, and lengths are not known when traced": hold is not None,
        "it has no hidden units on other devices": settings.hidden_axis is not None,
        'it chooses its residuals, residuals="recompute" has no effect': settings.residuals
        != "save",
        f"unroll={settings.unroll} has no effect on its loop": settings.unroll not in (None, 1),
        f"precision={settings.precision!r} is none of {TF32 + FLOAT32}": (
            _matmul_precision(settings.precision) not in TF32 + FLOAT32
        ),
        f"it needs sizes that are known and not 0, got xs of shape {xs.shape}": (
            not concrete or 0 in xs.shape
        ),
        f"tracing it needs an NVIDIA GPU, found {found()}": found() != "cuda",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def found() -> str:
    """The platform ``"cuda"`` if JAX has such a device, else the one where it runs by default."""
    try:
        return "cuda" if jax.devices("cuda") else jax.default_backend()
    except RuntimeError:
        return jax.default_backend()


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""
    from jax.experimental import rnn  # on demand: it loads the CUDA plugin's libraries

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
    """The one array of cuDNN, ``[4H (I + H + 2)]``."""
    zero = jnp.zeros_like(params.w_h[0])
    bias = zero if params.bias is None else params.bias
    return jnp.concatenate([params.w_x.T.ravel(), params.w_h.T.ravel(), bias, zero])


def _row_major(array: jax.Array) -> jax.Array:
    """The array as cuDNN expects it to lie in memory.

    JAX does not tell XLA, which would pass the result of ``swapaxes`` as it lies, and cuDNN would read the
    wrong numbers. The same holds for the gradient.
    """
    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))


def _flip(array: jax.Array, reverse: bool) -> jax.Array:
    return array[::-1] if reverse else array


def _precision(precision: Precision) -> jax.lax.Precision:
    """One of the two that cuDNN's wrapper tells apart: HIGH allows TF32, HIGHEST does not."""
    tf32 = _matmul_precision(precision) in TF32
    return jax.lax.Precision.HIGH if tf32 else jax.lax.Precision.HIGHEST


def _matmul_precision(precision: Precision) -> Any:
    """The precision itself, or JAX's default for None."""
    if precision is not None:
        return precision
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]


def _refuse(reason: str) -> NoReturn:
    raise refusal("cudnn", reason)


def _check_platform(ctx: Any, xs: Any) -> Any:
    _refuse(f"it needs an NVIDIA GPU, the program is for {' and '.join(platforms_of(ctx))}")


def _check_partition(ctx: Any, xs: Any) -> Any:
    reason = partitioned_reason(ctx)
    if reason is not None:  # every device would gather the batch and compute all of it
        _refuse(reason)
    return [xs]


checked_p = Primitive("lstm_cudnn_check")
"""The identity. Lowered, it refuses a program for another platform and one that XLA partitions."""
checked_p.def_impl(lambda xs: xs)
checked_p.def_abstract_eval(lambda xs: xs)
ad.deflinear2(checked_p, lambda ct, _: [ct])
batching.primitive_batchers[checked_p] = lambda *_: _refuse("it has no vmap")
mlir.register_lowering(checked_p, _check_platform)
mlir.register_lowering(checked_p, _check_partition, platform="cuda")
