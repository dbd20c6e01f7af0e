"""The primitives of ``auto``: under transforms, and in exports for several platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import init_lstm, lstm
from tests.backends.test_agreement import arguments, assert_relative, loss_and_outputs
from tests.cases import assert_close, make_case

BOTH = pytest.mark.parametrize("reverse", [False, True])
PLATFORMS = ["cpu", "tpu", "cuda"]
H, I = 128, 8
ROWS = (8,)  # with fewer rows, ``auto`` selects ``xla`` on CPU


def outputs(backend, case, params, xs, state, reset_state):
    return lstm(params, xs, state, reset_state=reset_state, backend=backend, **case.masks)


def scalar(backend, case, *args):
    return loss_and_outputs(*args, case=case, backend=backend)[0]


def nonzero(d):
    """Returns nonzero tangents of all arguments."""
    return jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape), d)


def forward_mode(f, *args):
    return jax.jvp(f, args, nonzero(args))


ALL = (0, 1, 2, 3)
TRANSFORMS = {
    "jit": lambda f, _: jax.jit(f),
    "grad": lambda _, loss: jax.grad(loss, ALL),
    "jvp": lambda f, _: partial(forward_mode, f),
    "jvp of grad": lambda _, loss: partial(forward_mode, jax.grad(loss, ALL)),
    "checkpoint": lambda _, loss: jax.grad(jax.checkpoint(loss), ALL),
}


@BOTH
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_auto_equal_those_of_scan(name, reverse):
    case = make_case(5, T=4, batch=ROWS, reverse=reverse)
    got, expected = (
        TRANSFORMS[name](partial(outputs, b, case), partial(scalar, b, case))(*arguments(case))
        for b in ("auto", "scan")
    )
    assert_relative(got, expected, 1e-5)


@pytest.mark.parametrize("inner", ["outputs", "grad", "jvp"])
def test_vmap_of_auto_equals_that_of_scan(inner):
    case = make_case(5, T=4, batch=ROWS)
    stacked = jax.tree.map(lambda a: jnp.stack([a, -a, 2 * a]), arguments(case))

    def function(backend):
        f = partial(outputs, backend, case)
        functions = {
            "outputs": f,
            "grad": jax.grad(partial(scalar, backend, case), ALL),
            "jvp": partial(forward_mode, f),
        }
        return jax.vmap(functions[inner])

    assert_relative(function("auto")(*stacked), function("scan")(*stacked), 1e-5)


def test_vmap_of_some_arguments_equals_that_of_scan():
    """Weights are shared, and so are the tangents of all arguments that are not mapped."""
    case = make_case(5, T=4, batch=ROWS)
    params, xs, state, reset_state = arguments(case)
    got, expected = (
        jax.vmap(
            jax.grad(lambda xs, b=b: scalar(b, case, params, xs, state, reset_state)),
        )(jnp.stack([xs, -xs]))
        for b in ("auto", "scan")
    )
    assert_relative(got, expected, 1e-5)


@BOTH
def test_second_derivatives_of_auto_equal_those_of_scan(x64, reverse):
    case = make_case(5, T=3, batch=(2,), H=2, dtype=jnp.float64, reverse=reverse)
    params, *rest = arguments(case)

    def loss(w_h, backend):
        state, hs = outputs(backend, case, params.replace(w_h=w_h), *rest)
        return (hs**3).sum() + (state.C**2).sum() + jnp.sin(state.h).sum()

    got, forward, expected = (
        jac(jax.grad(partial(loss, backend=b)))(params.w_h)
        for jac, b in [(jax.jacrev, "auto"), (jax.jacfwd, "auto"), (jax.jacrev, "scan")]
    )
    assert_close(got, expected, atol=1e-12)
    assert_close(forward, expected, atol=1e-12)


LOSSES = {
    "hs": lambda state, hs: (hs**2).sum(),
    "the final C": lambda state, hs: (state.C**2).sum(),
    "the final h": lambda state, hs: (state.h**2).sum(),
    "one step": lambda state, hs: hs[2].sum(),
    "nothing": lambda state, hs: jnp.float32(1),
}


@pytest.mark.parametrize("argnums", [0, (2, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_partial_gradients_equal_those_of_scan(name, argnums):
    case = make_case(6, T=4, batch=ROWS)

    def loss(backend, *args):
        return LOSSES[name](*outputs(backend, case, *args))

    got, expected = (
        jax.grad(partial(loss, b), argnums)(*arguments(case)) for b in ("auto", "scan")
    )
    assert_relative(got, expected, 1e-5)


@pytest.mark.parametrize("moving", ["params", "xs", "state", "reset_state", "bias", "C"])
def test_a_tangent_of_one_argument_equals_that_of_scan(moving):
    """The other arguments have symbolic zero tangents, because the function closes over them."""
    case = make_case(7, T=4, batch=ROWS)
    args = dict(zip(("params", "xs", "state", "reset_state"), arguments(case), strict=True))
    args |= {"bias": args["params"].bias, "C": args["state"].C}

    def f(value, backend):
        now = args | {moving: value}
        params, state = now["params"], now["state"]
        params = params.replace(bias=now["bias"]) if moving == "bias" else params
        state = state._replace(C=now["C"]) if moving == "C" else state
        return outputs(backend, case, params, now["xs"], state, now["reset_state"])

    tangent = nonzero(args[moving])
    got, expected = (
        jax.jvp(partial(f, backend=b), (args[moving],), (tangent,)) for b in ("auto", "scan")
    )
    assert_relative(got, expected, 1e-5)
    _, linear = jax.linearize(partial(f, backend="auto"), args[moving])
    assert_relative(linear(tangent), expected[1], 1e-5)


def problem(T=8, B=16):
    """Returns the arguments of an exported function, including lengths and resets."""
    rng = np.random.default_rng(0)
    params = init_lstm(jax.random.key(0), I, H)
    xs = jnp.asarray(rng.standard_normal((T, B, I)), jnp.float32)
    lengths = jnp.asarray(rng.integers(0, T + 1, B), jnp.int32)
    return params, xs, lengths, jnp.asarray(rng.random((T, B)) < 0.3)


def value(params, xs, lengths, resets, backend="auto"):
    state, hs = lstm(params, xs, lengths=lengths, resets=resets, backend=backend)
    return (hs**2).sum() + (state.C**2).sum()


EXPORTED = {"value": value, "gradient": jax.grad(value, (0, 1))}


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_for_all_platforms_has_the_kernel_for_tpu(name):
    args = problem()
    exported = jax.export.export(jax.jit(EXPORTED[name]), platforms=PLATFORMS)(*args)
    # Each kernel occurs once, in the branch for TPU.
    kernels = {"value": 1, "gradient": 2}[name]
    assert exported.mlir_module().count("@tpu_custom_call") == kernels
    assert_relative(exported.call(*args), EXPORTED[name](*args, backend="scan"), 1e-5)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_export_for_any_length_and_batch_has_no_kernel(name):
    T, B = jax.export.symbolic_shape("T, B")
    shapes = (
        jax.eval_shape(lambda: init_lstm(jax.random.key(0), I, H)),
        jax.ShapeDtypeStruct((T, B, I), jnp.float32),
        jax.ShapeDtypeStruct((B,), jnp.int32),
        jax.ShapeDtypeStruct((T, B), jnp.bool_),
    )
    exported = jax.export.export(jax.jit(EXPORTED[name]), platforms=PLATFORMS)(*shapes)
    assert "tpu_custom_call" not in exported.mlir_module()
    for args in (problem(), problem(T=2, B=3)):
        assert_relative(exported.call(*args), EXPORTED[name](*args, backend="scan"), 1e-5)


def test_an_export_has_a_gradient():
    args = problem()
    exported = jax.export.export(jax.jit(value), platforms=PLATFORMS)(*args)
    gradient = jax.grad(exported.call, (0, 1))(*args)
    assert_relative(gradient, EXPORTED["gradient"](*args, backend="scan"), 1e-5)
