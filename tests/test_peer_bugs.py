"""Regression tests for bugs of LSTMs in other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from lstm_jax import LSTMState
from lstm_jax import linen as our_linen
from lstm_jax import nnx as our_nnx
from lstm_jax.backends import BACKENDS
from tests.cases import assert_close, skipping_refusals

STRICT = False  # Flax promotes

KEY = jax.random.key(0)
XS = jax.random.normal(jax.random.key(1), (3, 6, 2))


def run_nnx(xs, **keywords):
    return our_nnx.LSTM(2, 4, rngs=nnx.Rngs(0))(xs, return_carry=True, **keywords)


def run_linen(xs, **keywords):
    m = our_linen.LSTM(4)
    return m.init_with_output(KEY, xs, return_carry=True, **keywords)[0]


BOTH = pytest.mark.parametrize("run", [run_nnx, run_linen], ids=["nnx", "linen"])


@BOTH
def test_a_row_of_length_zero_returns_its_initial_carry(run):
    """Flax's RNN reads step -1 and returns the carry after all padded steps."""
    start = LSTMState(C=jnp.full((3, 4), 0.5), h=jnp.full((3, 4), -0.5))
    (carry,), _ = run(XS, seq_lengths=jnp.array([0, 6, 3]), initial_carry=(start,))
    assert_close(jax.tree.map(lambda a: a[0], carry), LSTMState(start.C[0], start.h[0]), atol=0)
    (carry,), _ = run(XS, seq_lengths=jnp.array([0, 6, 3]))
    assert not carry.C[0].any()


@BOTH
def test_two_batch_axes_with_lengths_keep_the_shape_of_the_carry(run):
    """Linen's RNN returns a carry of shape (1, 3, 3, 4) instead of (1, 3, 4)."""
    (carry,), _ = run(XS[None], seq_lengths=jnp.array([[2, 6, 3]]))
    assert carry.C.shape == carry.h.shape == (1, 3, 4)
    (flat,), _ = run(XS, seq_lengths=jnp.array([2, 6, 3]))
    assert_close(carry.C[0], flat.C, atol=1e-6)


@BOTH
def test_outputs_past_the_length_are_zero(run):
    _, hs = run(XS, seq_lengths=jnp.array([2, 6, 0]))
    assert not hs[0, 2:].any()
    assert not hs[2].any()
    assert hs[0, :2].all()
    assert hs[1].all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_in_half_precision_can_be_initialized(dtype):
    """The orthogonal initializers of Flax's cells fail, because JAX has no QR decomposition in bfloat16."""
    drawn = [
        our_nnx.LSTMCell(2, 4, param_dtype=dtype, rngs=nnx.Rngs(0)).params,
        our_nnx.LSTM(2, 4, param_dtype=dtype, rngs=nnx.Rngs(0)).params,
        our_linen.LSTM(4, param_dtype=dtype).init(KEY, XS),
        nn.RNN(our_linen.LSTMCell(4, param_dtype=dtype)).init(KEY, XS),
    ]
    assert {p.dtype for p in jax.tree.leaves(drawn)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    "layer",
    [
        lambda: our_nnx.LSTM(2, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
        lambda: nnx.RNN(our_nnx.LSTMCell(2, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))),
        lambda: our_linen.LSTM(4, dtype=jnp.bfloat16).bind(
            our_linen.LSTM(4).init(KEY, XS), mutable=False
        ),
    ],
    ids=["nnx", "nnx.RNN", "linen"],
)
def test_bfloat16_compute_with_float32_parameters_returns_bfloat16(layer):
    """Linen returns float32. Here only C is float32, by design."""
    carry, hs = layer()(XS, return_carry=True)
    C, h = carry if len(carry) == 2 else carry[0]  # the carry of a cell or of one layer
    assert hs.dtype == h.dtype == jnp.bfloat16
    assert C.dtype == jnp.float32


def test_recurrent_weights_have_the_scale_of_one_gate():
    """nnx.OptimizedLSTMCell draws (H, 4H) at once, so the weights of each gate have half the scale."""
    H = 64
    for params in (
        our_nnx.LSTMCell(2, H, rngs=nnx.Rngs(0)).params,
        our_linen.LSTM(H).init(KEY, XS)["params"]["l0f"],
    ):
        w_h = params["w_h"] if isinstance(params, dict) else params.w_h
        for gate in np.split(w_h, 4, axis=-1):
            np.testing.assert_allclose(gate.std(), 1 / np.sqrt(H), rtol=0.01)


def test_cell_and_layer_have_compatible_parameters():
    """NNX documents its two LSTM cells as compatible, but their parameter trees differ."""
    layer, cell = our_nnx.LSTM(2, 4, rngs=nnx.Rngs(0)), our_nnx.LSTMCell(2, 4, rngs=nnx.Rngs(1))
    nnx.update(layer.l0f, nnx.state(cell))
    assert_close(layer(XS), nnx.RNN(cell)(XS), atol=1e-6)


@pytest.mark.parametrize("jit", [jax.jit, nnx.jit])
def test_a_layer_in_a_closure_works_under_jit_and_grad(jit):
    """nnx.RNN of Flax's cells raises TraceContextError, because their zero carry draws from an RNG."""
    m = our_nnx.LSTM(2, 4, rngs=nnx.Rngs(0))
    grad = jax.grad if jit is jax.jit else nnx.grad
    assert_close(jit(lambda xs: m(xs))(XS), m(XS), atol=1e-6)
    assert jit(grad(lambda xs: m(xs).sum()))(XS).any()
    assert all(g.any() for g in jax.tree.leaves(jit(grad(lambda m: m(XS).sum()))(m)))


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_reverse_outputs_keep_the_time_order_on_every_backend(backend):
    """With Keras on JAX, the cuDNN path and the scan path return different orders."""
    m = our_nnx.LSTM(2, 4, backend=backend, rngs=nnx.Rngs(0))
    r = our_nnx.LSTM(2, 4, backend=backend, reverse=True, rngs=nnx.Rngs(0))
    with skipping_refusals(backend):
        (carry,), hs = r(XS, return_carry=True)
    assert_close(hs, m(XS[:, ::-1])[:, ::-1], atol=1e-6)
    assert_close(carry.h, hs[:, 0], atol=0)
