"""LSTMs of this project and of other JAX libraries, each with a conversion of ``LSTMParams`` to its weights.

A builder takes the problem, and raises ``ImportError`` if its library is not installed.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.problem import Problem
from lstm_jax import LSTMParams, LSTMState, lstm, lstm_cell


class Model(NamedTuple):
    """An LSTM written in JAX.

    Attributes:
      convert: Converts ``LSTMParams`` to the weights of the library. Its transpose converts gradients back.
      apply: ``(weights, xs) -> hs``.
      batch_major: Whether xs and hs are ``[B, T, ...]``.
    """

    convert: Callable[[LSTMParams], Any]
    apply: Callable[[Any, jax.Array], jax.Array]
    batch_major: bool = False


def ours(problem: Problem, **keywords: Any) -> Model:
    """Returns the model ``lstm`` of this project. ``keywords`` are passed to ``lstm``."""
    return Model(lambda params: params, lambda params, xs: lstm(params, xs, **keywords)[1])


def our_cell(problem: Problem) -> Model:
    """Returns ``lstm_cell`` of this project, as the body of ``jax.lax.scan``."""

    def apply(params: LSTMParams, xs: jax.Array) -> jax.Array:
        C = jnp.zeros((problem.B, problem.H), jnp.promote_types(problem.dtype, jnp.float32))
        return jax.lax.scan(partial(lstm_cell, params), LSTMState(C, zeros(problem)), xs)[1]

    return Model(lambda params: params, apply)


def zeros(problem: Problem) -> jax.Array:
    """Returns zeros ``[B, H]`` in the problem's dtype. Some libraries would use float32 by default."""
    return jnp.zeros((problem.B, problem.H), problem.dtype)


def linen(problem: Problem, time_major: bool) -> Model:
    """Returns the LSTM of ``flax.linen``, which has eight named matrices and four biases."""
    from flax import linen as nn

    empty = nn.initializers.zeros_init()  # the default needs a QR decomposition, not in bfloat16
    cell = nn.OptimizedLSTMCell(
        problem.H, dtype=problem.dtype, param_dtype=problem.dtype, recurrent_kernel_init=empty
    )
    rnn = nn.RNN(cell, time_major=time_major)

    def convert(params: LSTMParams) -> Any:
        fields = (params.w_x, params.w_h, params.bias)
        packed = zip(*(jnp.split(p, 4, axis=-1) for p in fields), strict=True)
        gates = {}
        for gate, (w_x, w_h, bias) in zip("ifgo", packed, strict=True):
            gates |= {f"i{gate}": {"kernel": w_x}, f"h{gate}": {"kernel": w_h, "bias": bias}}
        return {"params": {"cell": gates}}

    def apply(weights: Any, xs: jax.Array) -> jax.Array:
        return rnn.apply(weights, xs, initial_carry=(zeros(problem), zeros(problem)))

    return Model(convert, apply, batch_major=not time_major)


def nnx(problem: Problem) -> Model:
    """Returns the LSTM of ``flax.nnx``, which packs the gates in the same order i, f, g, o."""
    from flax import nnx

    empty = nnx.initializers.zeros_init()  # the weights are replaced, so this avoids a slow QR
    cell = nnx.OptimizedLSTMCell(
        problem.I,
        problem.H,
        dtype=jnp.dtype(problem.dtype),
        recurrent_kernel_init=empty,
        rngs=nnx.Rngs(0),
    )
    rnn = nnx.RNN(cell, time_major=True, rngs=False)
    graph, template, rest = nnx.split(rnn, nnx.Param, ...)

    def convert(params: LSTMParams) -> Any:
        def value(path: Any, _: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path)
            w_h_or_bias = params.bias if "bias" in name else params.w_h
            return params.w_x if "dense_i" in name else w_h_or_bias

        return jax.tree_util.tree_map_with_path(value, template)

    def apply(weights: Any, xs: jax.Array) -> jax.Array:
        rnn = nnx.merge(graph, weights, rest)
        return rnn(xs, initial_carry=(zeros(problem), zeros(problem)))

    return Model(convert, apply)


def haiku(problem: Problem) -> Model:
    """Returns the LSTM of Haiku, with one matrix for ``[x, h]``, gates i, g, f, o, and 1 added to f."""
    import haiku as hk

    def unroll(xs: jax.Array) -> jax.Array:
        state = hk.LSTMState(hidden=zeros(problem), cell=zeros(problem))
        return hk.dynamic_unroll(hk.LSTM(problem.H), xs, state)[0]

    transformed = hk.without_apply_rng(hk.transform(unroll))

    def igfo(packed: jax.Array) -> jax.Array:
        i, f, g, o = jnp.split(packed, 4, axis=-1)
        return jnp.concatenate([i, g, f, o], axis=-1)

    def convert(params: LSTMParams) -> Any:
        i, f, g, o = jnp.split(params.bias, 4)
        bias = jnp.concatenate([i, f - 1, g, o])
        w = jnp.concatenate([params.w_x, params.w_h])
        return {"lstm/linear": {"w": igfo(w), "b": igfo(bias)}}

    return Model(convert, transformed.apply)


def equinox(problem: Problem) -> Model:
    """Returns the LSTM cell of Equinox under ``scan`` and ``vmap``. Its weights are transposed."""
    import equinox as eqx

    cell = eqx.nn.LSTMCell(problem.I, problem.H, key=jax.random.key(0))
    leaves = lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias)  # noqa: E731

    def convert(params: LSTMParams) -> Any:
        return eqx.tree_at(leaves, cell, (params.w_x.T, params.w_h.T, params.bias))

    def apply(cell: Any, xs: jax.Array) -> jax.Array:
        def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            state = jax.vmap(cell)(x, state)
            return state, state[0]

        return jax.lax.scan(step, (zeros(problem), zeros(problem)), xs)[1]

    return Model(convert, apply)


def torch_weights(params: LSTMParams) -> dict[str, jax.Array]:
    """Converts weights to ``torch.nn.LSTM``: gates i, f, g, o, transposed, and two biases that it adds."""
    return {
        "weight_ih_l0": params.w_x.T,
        "weight_hh_l0": params.w_h.T,
        "bias_ih_l0": params.bias,
        "bias_hh_l0": jnp.zeros_like(params.bias),
    }


PEERS: Mapping[str, Callable[[Problem], Model]] = {
    "flax.linen time-major": partial(linen, time_major=True),
    "flax.linen batch-major": partial(linen, time_major=False),
    "flax.nnx": nnx,
    "haiku": haiku,
    "equinox": equinox,
}
"""The other JAX libraries. :mod:`benchmarks.subjects` adds torch."""
