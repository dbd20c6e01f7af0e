import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from jax.sharding import PartitionSpec as P

from lstm_jax import LSTMParams, LSTMState, init_lstm, lstm

STRICT = False  # Optax

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
def test_from_gates_errors_name_the_shapes():
    given = gates()
    with pytest.raises(ValueError, match=r"\[H, H \+ I\].*\(5, 3\).*W_i.*W_f.*W_C.*W_o"):
        LSTMParams.from_gates(**given | {f"W_{n}": given[f"W_{n}"].T for n in "fiCo"})
    with pytest.raises(ValueError, match=r"\(3,\).*\(4,\).*b_i.*b_f.*b_C.*b_o"):
        LSTMParams.from_gates(**given | {"b_f": np.zeros(4, "f")})


PARAMS = LSTMParams(jnp.ones((2, 12)), 2 * jnp.ones((3, 12)), None)


def test_parameters_are_a_pytree_of_named_fields():
    paths = jax.tree_util.tree_leaves_with_path(PARAMS.replace(bias=jnp.zeros(12)))
    assert [jax.tree_util.keystr(path) for path, _ in paths] == [".w_x", ".w_h", ".bias"]
    assert len(jax.tree.leaves(PARAMS)) == 2
    with pytest.raises(
        TypeError, match="not iterable"
    ):  # unpacking would break when a field is added
        list(PARAMS)


@pytest.mark.parametrize("value", [(2, 12), "kernel", True, P("data"), np.zeros(3), 0])
def test_fields_accept_values_of_tree_transformations(value):
    """The tests check annotations at run time when an instance is created."""
    mapped = jax.tree.map(lambda _: value, PARAMS)
    assert mapped.w_h is value
    assert mapped.bias is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies(copied):
    again = copied(PARAMS)
    assert type(again) is LSTMParams
    np.testing.assert_array_equal(again.w_h, PARAMS.w_h)


def test_transforms_take_parameters():
    def f(params):
        return (params.w_x.sum() * params.w_h).sum()

    gradient = jax.grad(f)(PARAMS)
    assert isinstance(gradient, LSTMParams)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), PARAMS)
    axes = LSTMParams(0, 0, None)
    np.testing.assert_allclose(jax.vmap(f, (axes,))(stacked), [f(PARAMS)] * 2)
    carried, _ = jax.lax.scan(
        lambda p, _: (jax.tree.map(lambda a: a + 1, p), None), PARAMS, None, 3
    )
    np.testing.assert_array_equal(carried.w_x, PARAMS.w_x + 3)
    assert jax.eval_shape(lambda: PARAMS).w_x.shape == (2, 12)
    optimizer = optax.multi_transform(
        {"a": optax.sgd(1.0), "b": optax.set_to_zero()}, LSTMParams("a", "b")
    )
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMS))
    assert updates.w_x.any()
    assert not updates.w_h.any()


def test_flax_serialization_round_trip():
    import lstm_jax.linen  # the import registers LSTMParams

    assert lstm_jax.linen
    empty = jax.tree.map(jnp.zeros_like, PARAMS)
    again = serialization.from_bytes(empty, serialization.to_bytes(PARAMS))
    np.testing.assert_array_equal(again.w_h, PARAMS.w_h)
    assert again.bias is None


def test_export_of_parameters_and_states_round_trip():
    params = init_lstm(jax.random.key(0), 2, 3)
    xs, state = jnp.ones((4, 5, 2)), LSTMState(jnp.ones((5, 3)), jnp.ones((5, 3)))
    exported = jax.export.export(jax.jit(lstm))(params, xs, state)
    again = jax.export.deserialize(exported.serialize())
    final, hs = again.call(params, xs, state)
    assert isinstance(final, LSTMState)
    np.testing.assert_allclose(hs, lstm(params, xs, state)[1], atol=1e-6)
