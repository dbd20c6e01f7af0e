import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.errors import InvalidRngError

import lstm_jax
from lstm_jax import LSTMParams, LSTMState, initializers, lstm_cell, lstm_stack
from lstm_jax.linen import LSTM, LSTMCell
from tests.cases import assert_close

STRICT = False  # Flax promotes

XS = jax.random.normal(jax.random.key(1), (2, 7, 3))
KEY = jax.random.key(2)


def make(**keywords):
    m = LSTM(5, **{"num_layers": 2, "bidirectional": True} | keywords)
    return m, m.init(KEY, XS)


def test_equals_the_core():
    m, variables = make()
    lengths = jnp.array([7, 4])
    resets = jnp.zeros((2, 7), bool).at[0, 3].set(True)
    carry, hs = m.apply(variables, XS, seq_lengths=lengths, resets=resets, return_carry=True)
    want_carry, expected = lstm_stack(
        m.stack_params(variables["params"]),
        XS.swapaxes(0, 1),
        bidirectional=True,
        lengths=lengths,
        resets=resets.T,
    )
    assert_close(hs, expected.swapaxes(0, 1), atol=1e-6)
    assert_close(carry, want_carry, atol=1e-6)


def test_linen_and_nnx_have_the_same_parameters():
    m, variables = make()
    other = lstm_jax.nnx.LSTM(3, 5, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(other)))
    assert jax.tree.map(jnp.shape, variables["params"]) == shapes
    nnx.update(other, variables["params"])
    assert_close(other(XS), m.apply(variables, XS), atol=0)


def test_stack_params_run_in_the_core():
    cell = LSTMCell(5)
    carry = LSTMState(*cell.initialize_carry(KEY, (2, 3)))
    variables = cell.init(KEY, carry, XS[:, 0])
    got = cell.apply(variables, carry, XS[:, 0])
    assert_close(got, lstm_cell(LSTMParams(**variables["params"]), carry, XS[:, 0]), atol=0)


def test_parameters_are_initialized_as_the_core_does():
    params = make()[1]["params"]
    for w in np.split(params["l1b"]["w_h"], 4, axis=-1):
        np.testing.assert_allclose(w.T @ w, np.eye(5), atol=1e-5)
    np.testing.assert_array_equal(params["l0f"]["bias"], [0] * 5 + [1] * 5 + [0] * 10)


def test_options():
    m, variables = make(param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, time_major=True)
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}
    assert m.apply(variables, XS).dtype == jnp.bfloat16
    r, variables = make(reverse=True, bidirectional=False, num_layers=1)
    f = LSTM(5)
    flipped = f.apply(variables, XS[:, ::-1])[:, ::-1]
    assert_close(r.apply(variables, XS), flipped, atol=1e-6)


def test_every_option_is_used():
    zeros, ones = initializers.zeros, jax.nn.initializers.ones
    inits = {"kernel_init": zeros, "recurrent_kernel_init": ones, "bias_init": ones}
    cell = LSTMCell(5, precision="highest", **inits)
    carry = cell.initialize_carry(KEY, (2, 3))
    drawn = [
        make(**inits)[1]["params"]["l1f"],
        cell.init(KEY, carry, XS[:, 0])["params"],
    ]
    for params in drawn:
        assert not params["w_x"].any()
        assert (params["w_h"] == 1).all()
        assert (params["bias"] == 1).all()
    _, variables = make(use_bias=False)
    assert variables["params"]["l0f"].keys() == {"w_x", "w_h"}

    def text(**keywords):
        m, variables = make(**keywords)
        return str(jax.make_jaxpr(lambda xs: m.apply(variables, xs))(XS))

    assert text(precision="highest").count("precision=(Precision.HIGHEST") == 8
    assert text(unroll=2, backend="scan").count("unroll=2") == 4
    with pytest.raises(ValueError, match=r"backend.*'fast'"):
        text(backend="fast")
    variables = cell.init(KEY, carry, XS[:, 0])
    jaxpr = str(jax.make_jaxpr(lambda x: cell.apply(variables, carry, x))(XS[:, 0]))
    assert jaxpr.count("precision=(Precision.HIGHEST") == 2


def test_axis_names_of_flax_are_kept():
    named = nn.with_partitioning(initializers.glorot, (None, "model"))
    variables = LSTM(5, kernel_init=named).init(KEY, XS)
    assert variables["params"]["l0f"]["w_x"].names == (None, "model")
    assert LSTM(5, kernel_init=named).apply(variables, XS).shape == (2, 7, 5)


def test_dropout():
    m, variables = make(dropout_rate=0.5)
    wet = m.apply(variables, XS, rngs={"dropout": KEY})
    dry = m.apply(variables, XS, deterministic=True)
    assert not jnp.allclose(wet, dry)
    assert_close(wet, m.apply(variables, XS, rngs={"dropout": KEY}), atol=0)
    still = LSTM(5, num_layers=2, bidirectional=True, dropout_rate=0.5, deterministic=True)
    assert_close(still.apply(variables, XS), dry, atol=0)
    with pytest.raises(InvalidRngError, match=r"\bdropout\b"):
        m.apply(variables, XS)


def test_jit_and_grad():
    m, variables = make()
    gradient = jax.jit(jax.grad(lambda v: (m.apply(v, XS) ** 2).sum()))(variables)
    assert len(jax.tree.leaves(gradient)) == 12
    assert all(np.any(g) for g in jax.tree.leaves(gradient))


def test_chunks_with_a_carry_equal_the_whole_sequence():
    m, variables = make(bidirectional=False)
    carry = m.initialize_carry(KEY, (2, 3))
    hs = []
    for chunk in (XS[:, :3], XS[:, 3:]):
        carry, out = m.apply(variables, chunk, initial_carry=carry, return_carry=True)
        hs.append(out)
    assert_close(jnp.concatenate(hs, axis=1), m.apply(variables, XS), atol=1e-6)


@pytest.mark.parametrize("seq_lengths", [None, jnp.array([7, 4])])
def test_the_cell_in_rnn_and_bidirectional(seq_lengths):
    both = nn.Bidirectional(nn.RNN(LSTMCell(5)), nn.RNN(LSTMCell(5)))
    variables = both.init(KEY, XS)
    forward, backward = (
        LSTMParams(**variables["params"][f"{d}_rnn"]["cell"]) for d in ("forward", "backward")
    )
    _, expected = lstm_stack(
        (forward, backward), XS.swapaxes(0, 1), bidirectional=True, lengths=seq_lengths
    )
    got = both.apply(variables, XS, seq_lengths=seq_lengths)
    real = jnp.arange(7) < (7 if seq_lengths is None else seq_lengths[:, None])
    assert_close(jnp.where(real[..., None], got, 0), expected.swapaxes(0, 1), atol=1e-6)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("xs_dtype", [jnp.float32, jnp.bfloat16])
def test_the_cell_in_an_rnn_keeps_its_dtype(dtype, xs_dtype):
    rnn = nn.RNN(LSTMCell(5, dtype=dtype), return_carry=True)
    ((C, h), hs), _ = rnn.init_with_output(KEY, XS.astype(xs_dtype))
    assert hs.dtype == h.dtype == (dtype or jnp.float32)
    assert C.dtype == jnp.float32
