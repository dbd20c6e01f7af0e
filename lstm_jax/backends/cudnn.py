"""cuDNN's LSTM through :mod:`jax.experimental.rnn`: float32 on an NVIDIA GPU, by name only.

A program of NVIDIA's, wrapped as it is: one gradient and no more (no ``jvp``, no second order), no
``vmap``, one device, and weights packed anew in every call. It is here to be compared with.

Packing: cuDNN takes one flat array, ``(W_ih, W_hh, b_ih, b_hh)`` with gates i, f, g, o on the
leading axis of each; ours are the same gates on the last axis, and one bias for its two.
"""

import math

import jax
import jax.numpy as jnp

from lstm_jax.backends.problem import Operands, Settings
from lstm_jax.cell import LSTMSpec, Precision
from lstm_jax.notation import Hs, LSTMParams, LSTMState

TF32 = (None, "default", "tensorfloat32", jax.lax.Precision.DEFAULT)
"""The precisions that leave cuDNN free to multiply in TF32, as XLA's own products are then."""


def why_not(settings: Settings, operands: Operands) -> str | None:
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
        'it keeps for the backward pass what it likes, residuals="recompute" has no effect': (
            settings.residuals != "save"
        ),
        f"it needs sizes that are known and not 0, got xs of shape {xs.shape}": (
            not concrete or 0 in xs.shape
        ),
        f"it needs an NVIDIA GPU, found {platform()}": platform() != "gpu",
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def platform() -> str:
    """Where JAX runs by default: "gpu", "cpu", "tpu"."""
    return jax.default_backend()


def unroll(settings: Settings, operands: Operands) -> tuple[LSTMState, Hs]:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""
    from jax.experimental import rnn  # on demand: it loads the CUDA plugin's libraries

    xs, reverse = operands.xs, settings.reverse
    T, *batch, I = xs.shape
    B, H = math.prod(batch), operands.params.w_h.shape[0]
    ys, h, C = rnn.lstm(
        _flip(xs, reverse).reshape(T, B, I).swapaxes(0, 1),  # batch first
        operands.state.h.reshape(1, B, H),
        operands.state.C.reshape(1, B, H),
        flat_weights(operands.params),
        jnp.full((B,), T, jnp.int32),
        input_size=I,
        hidden_size=H,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
        precision=_precision(settings.precision),
    )
    hs = _flip(ys.swapaxes(0, 1).reshape(T, *batch, H), reverse)
    return LSTMState(C.reshape(*batch, H), h.reshape(*batch, H)), hs


def flat_weights(params: LSTMParams) -> jax.Array:
    """The one array of cuDNN, ``[4H (I + H + 2)]``."""
    zero = jnp.zeros_like(params.w_h[0])
    bias = zero if params.bias is None else params.bias
    return jnp.concatenate([params.w_x.T.ravel(), params.w_h.T.ravel(), bias, zero])


def _flip(array: jax.Array, reverse: bool) -> jax.Array:
    return array[::-1] if reverse else array


def _precision(precision: Precision) -> jax.lax.Precision:
    """One of the two that cuDNN's wrapper tells apart: HIGH allows TF32, HIGHEST does not."""
    if precision is None:
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return jax.lax.Precision.HIGH if precision in TF32 else jax.lax.Precision.HIGHEST
