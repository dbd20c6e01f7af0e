"""Every backend against an LSTM in float64 NumPy: outputs, final states and all gradients.

The NumPy code is batched and has its own backward pass. It shares no code with the package.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_record import (
    DTYPES,
    NO_TIME,
    Deadline,
    add_choices,
    array_dtype,
    products_in,
    status_of,
)
from benchmarks.peers import relative_errors
from benchmarks.problem import sizes
from lstm_jax import LSTMParams, LSTMState, init_lstm, lstm
from lstm_jax.backends import BACKENDS

SMALL, LARGE = (37, 5, 24, 32), (100, 16, 256, 256)
CASES: dict[str, dict[str, bool]] = {
    "plain": {},
    "reverse": {"reverse": True},
    "lengths": {"lengths": True},
    "resets": {"resets": True},
    "all": {"reverse": True, "lengths": True, "resets": True},
}
TOLERANCE = {"float32": 2e-5, "tf32": 2e-2, "bfloat16": 3e-2}
"""The largest accepted error of an array, relative to its largest value."""
Arrays = dict[str, np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_choices(parser, "--backends", ["auto", *BACKENDS])
    add_choices(parser, "--cases", CASES)
    add_choices(parser, "--dtypes", DTYPES)
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=sizes,
        default=[SMALL, LARGE],
        metavar="T,B,I,H",
        help="(default: 37,5,24,32 100,16,256,256)",
    )


def run(args: argparse.Namespace, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Yields a row per shape, dtype, case and backend."""
    for shape in args.shapes:
        for dtype in args.dtypes:
            for case in args.cases:
                arrays = make_arrays(shape, array_dtype(dtype), **CASES[case])
                want = reference(arrays)
                for backend in args.backends:
                    row = {"shape": dict(zip("TBIH", shape, strict=True)), "dtype": dtype}
                    row |= {"case": case, "backend": backend}
                    if deadline.is_over:
                        yield row | {"status": NO_TIME}
                    else:
                        with products_in(dtype):
                            yield row | compare(arrays, want, backend, TOLERANCE[dtype])


def compare(arrays: dict[str, Any], want: Arrays, backend: str, tolerance: float) -> dict[str, Any]:
    """Runs a backend and returns its status and its errors.

    Args:
      arrays: What :func:`make_arrays` returned.
      want: What :func:`reference` returned.
      backend: Name of the backend.
      tolerance: The largest accepted error of an array, relative to its largest value.

    Returns:
      ``status`` ("ok", "wrong: ...", "refused: ..." or "failed: ..."), and for "ok" the relative
      error of each array and the largest one.
    """
    try:
        got = {name: function(arrays, backend) for name, function in PROGRAMS.items()}
    except Exception as error:  # the other backends must still run
        return {"status": status_of(error)}
    errors = relative_errors(got["inference"] | got["gradient"], want)
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > tolerance:
        text = f"wrong: the error of {worst} is {errors[worst]:.1e}, more than {tolerance:.0e}"
        return {"status": text}
    return {"status": "ok", "error": errors[worst], "errors": errors}


def make_arrays(
    shape: Sequence[int],
    dtype: str,
    *,
    reverse: bool = False,
    lengths: bool = False,
    resets: bool = False,
) -> dict[str, Any]:
    """Returns random weights, inputs, states, masks and cotangents.

    Args:
      shape: ``T, B, I, H``.
      dtype: Dtype of weights, inputs and ``h``.
      reverse: Whether the layer runs from the last step to the first.
      lengths: Whether sequences have lengths between 0 and T.
      resets: Whether about a tenth of the steps start a new segment.

    Returns:
      ``params``, ``state`` and ``xs`` as arrays of JAX; ``lengths`` and ``resets`` as arrays of NumPy or
      None; ``reverse``; and the cotangents of hs, C and h in float32.
    """
    T, B, I, H = shape
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    params = init_lstm(jax.random.key(0), I, H)
    params = params.replace(bias=params.bias + 0.5 * normal(4 * H))
    return {
        "params": jax.tree.map(lambda p: p.astype(dtype), params),
        "state": LSTMState(jnp.asarray(normal(B, H)), jnp.asarray(0.5 * normal(B, H), dtype)),
        "xs": jnp.asarray(normal(T, B, I), dtype),
        "reverse": reverse,
        "lengths": rng.integers(0, T + 1, B) if lengths else None,
        "resets": rng.random((T, B)) < 0.1 if resets else None,
        "cotangents": (normal(T, B, H), normal(B, H), normal(B, H)),
    }


def inference(arrays: dict[str, Any], backend: str) -> Arrays:
    """The outputs of a program without gradients."""
    state, hs = jax.jit(layer(arrays, backend))(arrays["params"], arrays["state"], arrays["xs"])
    return {"hs": hs, "C_T": state.C, "h_T": state.h}


def gradient(arrays: dict[str, Any], backend: str) -> Arrays:
    """The gradients of all operands."""
    operands = arrays["params"], arrays["state"], arrays["xs"]
    d_params, d_state, d_xs = jax.jit(jax.grad(loss(arrays, backend), argnums=(0, 1, 2)))(*operands)
    named = {"xs": d_xs, "C": d_state.C, "h": d_state.h} | vars(d_params)
    return {f"d {name}": value for name, value in named.items()}


def layer(arrays: dict[str, Any], backend: str) -> Callable[..., Any]:
    """Our layer as a function of the weights, the state and the inputs."""
    keywords = {
        name: None if arrays[name] is None else jnp.asarray(arrays[name])
        for name in ("lengths", "resets")
    }

    def apply(params: LSTMParams, state: LSTMState, xs: jax.Array) -> Any:
        return lstm(params, xs, state, reverse=arrays["reverse"], backend=backend, **keywords)

    return apply


def loss(arrays: dict[str, Any], backend: str) -> Callable[..., jax.Array]:
    """The sum of all outputs times their cotangents."""
    apply = layer(arrays, backend)

    def function(params: LSTMParams, state: LSTMState, xs: jax.Array) -> jax.Array:
        state, hs = apply(params, state, xs)
        outputs = (hs, state.C, state.h)
        pairs = zip(outputs, arrays["cotangents"], strict=True)
        return sum(((o.astype(jnp.float32) * ct).sum() for o, ct in pairs), jnp.zeros(()))

    return function


PROGRAMS: dict[str, Callable[[dict[str, Any], str], Arrays]] = {
    "inference": inference,
    "gradient": gradient,
}


def reference(arrays: dict[str, Any]) -> Arrays:
    """Returns outputs, final states and gradients, computed in float64 NumPy."""
    params, state = arrays["params"], arrays["state"]
    w_x, w_h, bias, xs, C, h = (
        np.asarray(a, np.float64)
        for a in (params.w_x, params.w_h, params.bias, arrays["xs"], state.C, state.h)
    )
    T, B, _ = xs.shape
    reverse, resets = arrays["reverse"], arrays["resets"]
    lengths = np.full(B, T) if arrays["lengths"] is None else arrays["lengths"]
    active = (np.arange(T)[:, None] < lengths).astype(np.float64)[:, :, None]
    keep = np.ones((T, B, 1)) if resets is None else 1.0 - resets[:, :, None]
    before, after = (np.ones_like(keep), keep) if reverse else (keep, np.ones_like(keep))
    order = range(T)[::-1] if reverse else range(T)

    hs, saved = np.zeros((T, *h.shape)), {}
    for t in order:
        C_in, h_in = before[t] * C, before[t] * h
        z_i, z_f, z_g, z_o = np.split(xs[t] @ w_x + h_in @ w_h + bias, 4, axis=-1)
        i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
        C_out = f * C_in + i * g
        hs[t] = active[t] * o * np.tanh(C_out)
        saved[t] = C_in, h_in, i, f, g, o, np.tanh(C_out)
        C = active[t] * after[t] * C_out + (1 - active[t]) * C
        h = after[t] * hs[t] + (1 - active[t]) * h
    values = {"hs": hs, "C_T": C, "h_T": h}

    d_hs, d_C, d_h = (np.asarray(a, np.float64) for a in arrays["cotangents"])
    d_w_x, d_w_h, d_bias, d_xs = (np.zeros_like(a) for a in (w_x, w_h, bias, xs))
    for t in reversed(order):
        C_in, h_in, i, f, g, o, y = saved[t]
        d_out = active[t] * (after[t] * d_h + d_hs[t])
        d_c = active[t] * after[t] * d_C + d_out * o * (1 - y**2)
        d_z = np.concatenate(
            [
                d_c * g * i * (1 - i),
                d_c * C_in * f * (1 - f),
                d_c * i * (1 - g**2),
                d_out * y * o * (1 - o),
            ],
            axis=-1,
        )
        d_w_x += xs[t].T @ d_z
        d_w_h += h_in.T @ d_z
        d_bias += d_z.sum(0)
        d_xs[t] = d_z @ w_x.T
        d_C = before[t] * d_c * f + (1 - active[t]) * d_C
        d_h = before[t] * (d_z @ w_h.T) + (1 - active[t]) * d_h
    gradients = {"w_x": d_w_x, "w_h": d_w_h, "bias": d_bias, "xs": d_xs, "C": d_C, "h": d_h}
    return values | {f"d {name}": value for name, value in gradients.items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1.0 / (1.0 + np.exp(-x))


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    shape = ",".join(str(size) for size in row["shape"].values())
    result = f"{row['error']:.0e} ok" if row["status"] == "ok" else row["status"]
    return f"{shape:16} {row['dtype']:9} {row['case']:8} {row['backend']:6} {result}"
