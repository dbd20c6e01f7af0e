import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import baselines, init_lstm, initializers

KEY = jax.random.key(0)
H, I = 64, 32


def blocks(w):
    return np.split(np.asarray(w, np.float64), 4, axis=-1)


def test_recurrent_weights_are_orthogonal_gate_by_gate():
    for w in blocks(init_lstm(KEY, I, H).w_h):
        np.testing.assert_allclose(w.T @ w, np.eye(H), atol=1e-5)


def test_input_weights_have_the_glorot_range_of_one_gate():
    bound = np.sqrt(6 / (I + H))
    for w in blocks(init_lstm(KEY, I, H).w_x):
        assert np.abs(w).max() <= bound
        assert np.abs(w).max() > 0.95 * bound
        np.testing.assert_allclose(w.std(), bound / np.sqrt(3), rtol=0.05)


def test_gates_are_drawn_independently():
    for field in ("w_x", "w_h"):
        i, f, g, o = blocks(getattr(init_lstm(KEY, I, H), field))
        for a, b in [(i, f), (f, g), (g, o)]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1


def test_forget_bias_is_one_and_the_others_zero_by_default():
    i, f, g, o = blocks(init_lstm(KEY, I, H).bias)
    assert (f == 1).all()
    assert not np.any([i, g, o])


def test_chrono_spreads_memory_up_to_T_max():
    bias = initializers.chrono(1000)(KEY, (4 * 4096,))
    i, f, g, o = blocks(bias)
    np.testing.assert_array_equal(i, -f)
    assert not np.any([g, o])
    times = np.exp(f)  # uniform on [1, T_max - 1]
    assert times.min() >= 1 - 1e-3
    assert times.max() <= 999 + 1e-2
    np.testing.assert_allclose(times.mean(), 500, rtol=0.05)
    np.testing.assert_allclose(times.std(), 998 / np.sqrt(12), rtol=0.05)


def test_zeros():
    assert not np.any(init_lstm(KEY, I, H, bias_init=initializers.zeros).bias)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("bias_init", [None, initializers.chrono(50), initializers.zeros])
def test_every_param_dtype_works(dtype, bias_init):
    params = init_lstm(KEY, I, H, param_dtype=dtype, bias_init=bias_init)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    for w in blocks(params.w_h):
        np.testing.assert_allclose(w.T @ w, np.eye(H), atol=0.03)


def test_float64_is_drawn_in_float64(x64):
    w = blocks(init_lstm(KEY, I, H, param_dtype=jnp.float64).w_h)[0]
    np.testing.assert_allclose(w.T @ w, np.eye(H), atol=1e-13)


def test_initializers_of_jax_are_accepted():
    params = init_lstm(KEY, I, H, kernel_init=jax.nn.initializers.lecun_normal())
    for w in blocks(params.w_x):
        np.testing.assert_allclose(w.std(), 1 / np.sqrt(I), rtol=0.1)


def test_the_rnn_has_one_block_and_zero_bias():
    params = baselines.init_rnn(KEY, I, H)
    assert params.w_h.shape == (H, H)
    np.testing.assert_allclose(params.w_h.T @ params.w_h, np.eye(H), atol=1e-5)
    assert not np.any(params.bias)


def test_without_bias():
    assert init_lstm(KEY, I, H, use_bias=False).bias is None


@pytest.mark.parametrize("T_max", [1, 1.9, float("inf"), float("nan")])
def test_chrono_refuses(T_max):
    with pytest.raises(ValueError, match=rf"T_max.*\b2\b.*\b{re.escape(str(T_max))}\b"):
        initializers.chrono(T_max)


def test_errors():
    with pytest.raises(ValueError, match=r"multiple of 4\b.*\bshape \(10,\)"):
        initializers.forget_bias()(KEY, (10,))
