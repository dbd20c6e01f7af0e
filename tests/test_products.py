"""The product of a sequence with a weight: results of ``jnp.dot``, and axes merged where that is safe."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax import init_lstm, lstm
from lstm_jax.products import product, project

T, B, I, M = 5, 8, 3, 4
XS = jnp.asarray(np.random.default_rng(0).standard_normal((T, B, I)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).standard_normal((I, M)), jnp.float32)


def loss(product, xs, w):
    return jnp.sin(product(xs, w)).sum()


def derivatives(product):
    f = partial(loss, product)
    ones = jnp.ones_like(XS), jnp.cos(W)
    return {
        "value": product(XS, W),
        "gradient": jax.grad(f, (0, 1))(XS, W),
        "jvp": jax.jvp(f, (XS, W), ones),
        "forward over reverse": jax.jvp(jax.grad(f, (0, 1)), (XS, W), ones),
        "reverse over reverse": jax.grad(lambda w: (jax.grad(f, (0, 1))(XS, w)[1] ** 2).sum())(W),
        "gradient by the input": jax.grad(f)(XS, W),
        "gradient by the weight": jax.grad(f, 1)(XS, W),
        "vmap of inputs": jax.vmap(product, (2, None), 2)(XS[:, :, None], W),
        "vmap of weights": jax.vmap(product, (None, 0))(XS, jnp.stack([W, -W])),
        "gradients of each": jax.vmap(jax.grad(f, (0, 1)), (1, None))(XS[:, :, None], W),
    }


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tried", [project, product])
def test_derivatives_equal_those_of_dot(tried, compiled):
    got, expected = (
        (jax.jit(lambda p=p: derivatives(p)) if compiled else partial(derivatives, p))()
        for p in (tried, jnp.dot)
    )
    for name in expected:
        for a, b in zip(*map(jax.tree.leaves, (got[name], expected[name])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def contracted(xs, axes="[0] x [0]"):
    """Returns whether the weight's gradient contracts these axes, for inputs with the sharding of ``xs``."""
    text = jax.jit(jax.grad(partial(loss, project), 1)).lower(xs, W).as_text()
    return f"contracting_dims = {axes}" in text


def test_rows_are_merged_unless_the_program_is_partitioned():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(XS, NamedSharding(mesh, P(None, "data")))
    assert contracted(XS)
    assert contracted(sharded, "[0, 1] x [0, 1]")

    def step(xs, w):
        return jax.grad(partial(loss, project), 1)(xs, jax.lax.pcast(w, "data", to="varying"))[None]

    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(None, "data"), P()), out_specs=P("data"))
    assert "contracting_dims = [0] x [0]" in jax.jit(mapped).lower(sharded, W).as_text()


def test_other_platforms_get_the_plain_product():
    traced = jax.jit(jax.grad(partial(loss, project), 1)).trace(XS, W)
    for platform in ("tpu", "cuda"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "contracting_dims = [0, 1] x [0, 1]" in text


def test_explicit_axes_and_symbolic_shapes():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        xs = jax.device_put(XS, NamedSharding(mesh, P(None, "data")))
        got = jax.jit(jax.grad(partial(loss, project), (0, 1)))(xs, jax.device_put(W, P()))
    expected = jax.grad(partial(loss, jnp.dot), (0, 1))(XS, W)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, expected)
    shape = jax.ShapeDtypeStruct((*export.symbolic_shape("t, b"), I), jnp.float32)
    gradient = jax.jit(jax.grad(partial(loss, project), 1))
    exported = export.export(gradient)(shape, W)
    np.testing.assert_allclose(exported.call(XS, W), expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("backend", "saved"), [("scan", 2), ("xla", 1)])
def test_a_checkpoint_policy_saves_the_projection(backend, saved):
    """It is not recomputed under a policy that saves matrix products.

    In ``scan`` that of the time loop is another one.
    """
    params = init_lstm(jax.random.key(0), I, M)

    def products(policy):
        function = jax.checkpoint(lambda p: lstm(p, XS, backend=backend)[1], policy=policy)
        gradient = jax.jit(jax.grad(lambda p: jnp.sin(function(p)).sum()))
        return gradient.lower(params).as_text().count("dot_general")

    policies = jax.checkpoint_policies
    assert products(policies.dots_saveable) == products(policies.nothing_saveable) - saved


def test_matrices_and_vectors_use_dot():
    np.testing.assert_array_equal(project(XS, jnp.stack([W, W])), jnp.dot(XS, jnp.stack([W, W])))
    with pytest.raises(TypeError):
        project(XS.tolist(), W)
