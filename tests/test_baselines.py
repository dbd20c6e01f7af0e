from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMState, baselines, init_lstm, initializers, lstm, lstm_cell, lstm_stack
from lstm_jax.baselines import RNNSpec, init_rnn
from lstm_jax.stack import init_stack
from tests.cases import assert_close


def test_equals_its_equation_in_float64(x64):
    params = init_rnn(jax.random.key(0), 2, 3, param_dtype=jnp.float64)
    params = params.replace(bias=jnp.array([0.1, -0.2, 0.3]))
    w_x, w_h, bias = (np.asarray(p) for p in (params.w_x, params.w_h, params.bias))
    xs = np.random.default_rng(0).standard_normal((5, 4, 2))
    h = np.zeros((4, 3))
    state, hs = lstm(params, xs, spec=RNNSpec())
    for x, got in zip(xs, hs, strict=True):
        h = np.tanh(x @ w_x + h @ w_h + bias)
        assert_close(got, h, atol=1e-12)
    assert state.C is None
    assert_close(state.h, h, atol=1e-12)


def test_one_step():
    params = init_rnn(jax.random.key(0), 2, 3)
    state, h = lstm_cell(params, LSTMState(C=None, h=jnp.zeros(3)), jnp.ones(2), spec=RNNSpec())
    assert_close(h, jnp.tanh(params.w_x.sum(0)), atol=1e-6)
    assert state.C is None


def test_lengths_resets_direction_and_layers():
    spec = RNNSpec()
    params = init_stack(jax.random.key(0), 2, 3, 2, bidirectional=True, spec=spec)
    xs = jax.random.normal(jax.random.key(1), (6, 2, 2))
    lengths, resets = jnp.array([6, 3]), jnp.zeros((6, 2), bool).at[2].set(True)
    keywords = {"spec": spec, "bidirectional": True, "resets": resets}
    states, hs = lstm_stack(params, xs, lengths=lengths, **keywords)
    assert not hs[3:, 1].any()
    keywords["resets"] = resets[:3, 1:]
    alone, hs_alone = lstm_stack(params, xs[:3, 1:], **keywords)
    assert_close(hs[:3, 1:], hs_alone, atol=1e-6)
    assert_close(jax.tree.map(lambda a: a[1:], states), alone, atol=1e-6)


def test_bfloat16():
    params = init_rnn(jax.random.key(0), 2, 3, param_dtype=jnp.bfloat16)
    state, hs = lstm(params, jnp.ones((5, 4, 2), jnp.bfloat16), spec=RNNSpec())
    assert hs.dtype == state.h.dtype == jnp.bfloat16


@pytest.mark.usefixtures("unannotated")
def test_a_state_with_a_cell_is_refused():
    params = init_rnn(jax.random.key(0), 2, 3)
    with pytest.raises(ValueError, match=r"\bstate\.C.*None.*\(3,\)"):
        lstm(params, jnp.ones((5, 2)), LSTMState(jnp.ones(3), jnp.ones(3)), spec=RNNSpec())


def test_the_gradient_vanishes_in_the_rnn_but_not_in_the_lstm():
    """Compares d h_T / d x_0 after 200 steps at initialization."""
    T, H = 200, 32
    xs = jax.random.normal(jax.random.key(1), (T, 1))
    chrono = initializers.chrono(T)

    def reach(params, spec):
        first = jax.grad(lambda x0: lstm(params, xs.at[0].set(x0), spec=spec)[1][-1].sum())(xs[0])
        return float(jnp.abs(first).max())

    kept = reach(init_lstm(jax.random.key(0), 1, H, bias_init=chrono), baselines.LSTMSpec())
    lost = reach(init_rnn(jax.random.key(0), 1, H), RNNSpec())
    assert kept > 1e-4
    assert lost < 1e-3 * kept


def test_init_rnn_takes_the_arguments_of_init_lstm():
    zeros = partial(init_rnn, kernel_init=initializers.zeros)
    assert not zeros(jax.random.key(0), 2, 3).w_x.any()
