"""Transforms of JAX, with lengths and resets, in both directions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lstm_jax import baselines, lstm
from tests.cases import assert_close, make_case

BOTH = pytest.mark.parametrize("reverse", [False, True])


def as_function(case, **keywords):
    """Returns ``lstm`` as a function of ``(params, xs, state, reset_state)``, with fixed masks."""

    def f(params, xs, state, reset_state):
        return lstm(params, xs, state, reset_state=reset_state, **case.masks | keywords)

    return f, (case.params[0], jnp.asarray(case.xs), case.states[0], case.reset_states[0])


@BOTH
def test_gradients_equal_finite_differences(x64, reverse):
    f, args = as_function(make_case(T=4, batch=(3,), dtype=jnp.float64, reverse=reverse))
    check_grads(f, args, order=2, modes=["fwd", "rev"], eps=1e-5, atol=1e-6, rtol=1e-6)


def test_gradients_of_the_rnn_equal_finite_differences(x64):
    params = baselines.init_rnn(jax.random.key(0), 2, 3, param_dtype=jnp.float64)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((4, 2, 2)))

    def f(params, xs):
        return lstm(params, xs, spec=baselines.RNNSpec(), lengths=np.array([4, 2]))[1]

    check_grads(f, (params, xs), order=2, modes=["fwd", "rev"], eps=1e-5, atol=1e-6, rtol=1e-6)


@BOTH
def test_forward_mode_and_reverse_mode_agree(x64, reverse):
    f, args = as_function(make_case(T=3, batch=(2,), dtype=jnp.float64, reverse=reverse))
    forward, backward = (
        jac(lambda *a: f(*a)[1], argnums=(0, 1, 2, 3))(*args) for jac in (jax.jacfwd, jax.jacrev)
    )
    assert_close(forward, backward, atol=1e-12)


def test_reverse_over_reverse_is_forward_over_reverse(x64):
    f, (params, *rest) = as_function(make_case(T=3, batch=(2,), H=2, dtype=jnp.float64))

    def loss(w_h):
        return (f(params.replace(w_h=w_h), *rest)[1] ** 2).sum()

    over_reverse = jax.jacrev(jax.grad(loss))(params.w_h)
    assert_close(over_reverse, jax.jacfwd(jax.grad(loss))(params.w_h), atol=1e-12)
    assert over_reverse.any()


@BOTH
def test_vmap_equals_a_loop(reverse):
    many = [make_case(seed, T=4, batch=(2,), reverse=reverse) for seed in range(3)]

    def f(params, xs, state, reset_state, lengths, resets):
        return lstm(
            params,
            xs,
            state,
            reset_state=reset_state,
            lengths=lengths,
            resets=resets,
            reverse=reverse,
        )

    args = [(c.params[0], c.xs, c.states[0], c.reset_states[0], c.lengths, c.resets) for c in many]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *args)
    got = jax.vmap(f)(*stacked)
    expected = jax.tree.map(lambda *a: jnp.stack(a), *[f(*a) for a in args])
    assert_close(got, expected, atol=1e-6)

    def loss(*a):
        return f(*a)[1].sum()

    got = jax.vmap(jax.grad(loss))(*stacked)
    expected = jax.tree.map(lambda *a: jnp.stack(a), *[jax.grad(loss)(*a) for a in args])
    assert_close(got, expected, atol=1e-5)


def test_vmap_over_a_batch_axis_is_that_batch_axis():
    case = make_case(T=4, batch=(3,), lengths=False, resets=False)
    f, (params, xs, state, reset_state) = as_function(case)
    got = jax.vmap(f, in_axes=(None, 1, 0, 0), out_axes=(0, 1))(params, xs, state, reset_state)
    assert_close(got, f(params, xs, state, reset_state), atol=1e-6)


@BOTH
def test_jit_equals_no_jit(reverse):
    f, args = as_function(make_case(reverse=reverse))
    with jax.disable_jit():
        bare = f(*args)
    assert_close(jax.jit(f)(*args), bare, atol=1e-6)


def test_jit_compiles_once_per_shape():
    case = make_case(T=4, batch=(3,))
    f, args = as_function(case)
    traced = jax.jit(chex.assert_max_traces(f, n=2))
    for scale in (1.0, 2.0, 3.0):
        traced(*jax.tree.map(lambda a, s=scale: a * s, args))
    longer = (args[0], jnp.concatenate([args[1], args[1]]), *args[2:])
    case.lengths, case.resets = None, None
    traced(*longer)


def test_eager_calls_compile_once_per_shape():
    from lstm_jax.sequence import _lstm

    case = make_case(T=11, batch=(3,))
    f, args = as_function(case)
    f(*args)
    size = _lstm._cache_size()
    for scale in (2.0, 3.0):
        f(*jax.tree.map(lambda a, s=scale: a * s, args))
    assert _lstm._cache_size() == size


def test_lengths_and_resets_are_values_not_shapes():
    """Other values of lengths and resets do not compile again."""
    case = make_case(T=4, batch=(3,))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def f(lengths, resets):
        return lstm(case.params[0], case.xs, lengths=lengths, resets=resets)

    for n in range(4):
        f(jnp.full(3, n), jnp.full((4, 3), bool(n % 2)))


def test_the_state_can_be_donated_chunk_after_chunk():
    case = make_case(T=4, lengths=False, resets=False)
    step = jax.jit(lambda state, xs: lstm(case.params[0], xs, state)[0], donate_argnums=0)
    state, _ = lstm(case.params[0], case.xs)
    expected = lstm(case.params[0], np.concatenate([case.xs] * 3))[0]
    for _ in range(2):
        donated, state = state, step(state, case.xs)
        assert donated.C.is_deleted()
        assert donated.h.is_deleted()
    assert_close(state, expected, atol=1e-5)


def test_the_state_of_no_steps_can_be_donated():
    zero, _ = lstm(make_case().params[0], jnp.ones((0, 3, 2)))
    out = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)(zero)
    assert_close(out, jax.tree.map(jnp.ones_like, out), atol=0)


def test_checkpoint_does_not_change_the_result():
    f, args = as_function(make_case())

    def loss(f, *a):
        return f(*a)[1].sum()

    kept, recomputed = (
        jax.grad(lambda *a, g=g: loss(g, *a), argnums=(0, 1, 2, 3))(*args)
        for g in (f, jax.checkpoint(f))
    )
    assert_close(kept, recomputed, atol=1e-6)


def test_export_with_symbolic_length_and_batch():
    params = make_case().params[0]
    T, B = jax.export.symbolic_shape("T, B")
    args = (
        jax.ShapeDtypeStruct((T, B, 2), jnp.float32),
        jax.ShapeDtypeStruct((B,), jnp.int32),
        jax.ShapeDtypeStruct((T, B), jnp.bool_),
    )
    for reverse in (False, True):

        def f(xs, lengths, resets, reverse=reverse):
            return lstm(params, xs, lengths=lengths, resets=resets, reverse=reverse)[1]

        exported = jax.export.export(jax.jit(f), platforms=["cpu", "tpu", "cuda"])(*args)
        for case in (make_case(T=4, batch=(3,)), make_case(T=6, batch=(1,))):
            given = (case.xs, case.lengths.astype(np.int32), case.resets)
            assert_close(exported.call(*given), f(*given), atol=1e-6)
