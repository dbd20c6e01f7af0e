import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMParams

NAMES = ["W_f", "W_i", "W_C", "W_o", "b_f", "b_i", "b_C", "b_o"]


def gates(H=3, I=2):
    rng = np.random.default_rng(0)
    shapes = [(H, H + I)] * 4 + [(H,)] * 4
    return {n: rng.standard_normal(s).astype("f") for n, s in zip(NAMES, shapes, strict=True)}


def test_from_gates_packs_in_the_order_i_f_g_o():
    given = gates()
    params = LSTMParams.from_gates(**given)
    for n, name in enumerate("ifCo"):
        block = slice(3 * n, 3 * n + 3)
        np.testing.assert_array_equal(params.w_h[:, block], given[f"W_{name}"][:, :3].T)
        np.testing.assert_array_equal(params.w_x[:, block], given[f"W_{name}"][:, 3:].T)
        np.testing.assert_array_equal(params.bias[block], given[f"b_{name}"])


def test_to_gates_is_the_inverse():
    given = gates()
    back = LSTMParams.from_gates(**given).to_gates()
    assert sorted(back) == sorted(NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(back[name], given[name])


def test_without_bias_the_textbook_biases_are_zero():
    params = LSTMParams(jnp.ones((2, 12)), jnp.ones((3, 12)))
    assert params.bias is None
    np.testing.assert_array_equal(params.to_gates()["b_o"], np.zeros(3))


def test_to_gates_needs_four_gates():
    with pytest.raises(ValueError, match=r"w_h.*\[H, 4H\].*\(4, 4\)"):
        LSTMParams(jnp.ones((2, 4)), jnp.ones((4, 4))).to_gates()


@pytest.mark.usefixtures("unannotated")
def test_from_gates_says_what_does_not_fit():
    given = gates()
    with pytest.raises(ValueError, match=r"\[H, H \+ I\].*\(5, 3\).*W_i.*W_f.*W_C.*W_o"):
        LSTMParams.from_gates(**given | {f"W_{n}": given[f"W_{n}"].T for n in "fiCo"})
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\).*b_i.*b_f.*b_C.*b_o"):
        LSTMParams.from_gates(**given | {"b_f": np.zeros(4, "f")})
