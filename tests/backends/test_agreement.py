"""Comparison of all backends with float64: outputs, and gradients of all operands."""

import functools
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import backends, lstm
from lstm_jax.baselines import RNNSpec, init_rnn
from tests import reference
from tests.cases import make_case, nightly, skipping_refusals
from tests.compilation import optimized

NAMES = sorted({"auto", *backends.BACKENDS})
MASKS = {"plain": {}, "lengths": {"lengths": True}, "resets": {"resets": True}}
MASKS["both"] = MASKS["lengths"] | MASKS["resets"]
NO_MASKS = {"lengths": False, "resets": False}


def loss_and_outputs(params, xs, state, reset_state, case, **keywords):
    """Returns a loss in which every output has a different weight, and the outputs."""
    state, hs = lstm(params, xs, state, reset_state=reset_state, **case.masks | keywords)
    outputs = (state.C, state.h, hs)
    rng = np.random.default_rng(7)
    weights = [jnp.asarray(rng.standard_normal(o.shape), jnp.float32) for o in outputs]
    products = [w.astype(o.dtype) * o for w, o in zip(weights, outputs, strict=True)]
    return sum(p.astype(jnp.float32).sum() for p in products), outputs


def as_float64(tree):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), tree)


def arguments(case):
    return case.params[0], jnp.asarray(case.xs), case.states[0], case.reset_states[0]


def assert_relative(got, expected, tolerance):
    """Asserts that the maximum error of each array, relative to its maximum value, is in the tolerance."""
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for a, (path, b) in zip(jax.tree.leaves(got), paths, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e}"


def float64_reference(case):
    with jax.enable_x64(True):
        run = jax.value_and_grad(
            partial(loss_and_outputs, case=case, backend="scan"), argnums=(0, 1, 2, 3), has_aux=True
        )
        (_, outputs), gradient = jax.jit(run)(*as_float64(arguments(case)))
        states = [
            [np.asarray(a, np.float64) for a in s[0]] for s in (case.states, case.reset_states)
        ]
        gates = {k: np.asarray(v, np.float64) for k, v in case.gates[0].items()}
        xs = np.asarray(case.xs, np.float64)
        (C, h), hs = reference.lstm(gates, xs, states[0], reset_state=states[1], **case.masks)
        for a, b in zip(outputs, (C, h, hs), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    return outputs, gradient


def make_agreement_case(name, masks, reverse, dtype):
    """Returns a case with five rows, or eight for ``auto``, which then selects ``cpu`` on CPU."""
    batch = (8,) if name == "auto" else (5,)
    return make_case(
        3, T=11, batch=batch, I=7, H=6, dtype=dtype, reverse=reverse, **NO_MASKS | MASKS[masks]
    )


@functools.cache
def cached_reference(batch, masks, reverse, dtype):
    """Returns the reference of a case. It is computed once for all backends."""
    name = "auto" if batch == (8,) else "scan"
    return float64_reference(make_agreement_case(name, masks, reverse, dtype))


PAIRS = [  # all combinations of any two of masks, direction, residuals and dtype
    ("plain", False, "save", jnp.float32),
    ("plain", True, "recompute", jnp.bfloat16),
    ("lengths", False, "recompute", jnp.float32),
    ("lengths", True, "save", jnp.bfloat16),
    ("resets", False, "save", jnp.bfloat16),
    ("resets", True, "recompute", jnp.float32),
    ("both", False, "recompute", jnp.bfloat16),
    ("both", True, "save", jnp.float32),
]
EVERY = itertools.product(MASKS, [False, True], ["save", "recompute"], [jnp.float32, jnp.bfloat16])


@pytest.mark.parametrize("options", [*PAIRS, *nightly(*(o for o in EVERY if o not in PAIRS))])
@pytest.mark.parametrize("name", NAMES)
def test_every_backend_agrees_with_float64(name, options):
    masks, reverse, residuals, dtype = options
    case = make_agreement_case(name, masks, reverse, dtype)
    run = partial(
        loss_and_outputs, case=case, backend=name, residuals=residuals, precision="highest"
    )
    with skipping_refusals(name):
        (_, got), gradient = optimized(jax.value_and_grad(run, argnums=(0, 1, 2, 3), has_aux=True))(
            *arguments(case)
        )
    expected_outputs, expected_gradient = cached_reference(
        case.xs.shape[1:-1], masks, reverse, dtype
    )
    tolerance = 2e-5 if dtype == jnp.float32 else 2e-2
    assert_relative(got, expected_outputs, tolerance)
    assert_relative(gradient, expected_gradient, tolerance)


@pytest.mark.parametrize(
    ("every", "masks", "reverse"),
    [(4, "plain", False), (4, "both", True), (50, "plain", True), (50, "both", False)],
)
@pytest.mark.parametrize("name", ["auto", "scan"])
def test_remat_every_does_not_change_the_result(name, every, masks, reverse):
    case = make_case(4, T=11, batch=(8,), reverse=reverse, **NO_MASKS | MASKS[masks])
    kept, recomputed = (
        jax.jit(
            jax.grad(
                partial(loss_and_outputs, case=case, backend=name, remat_every=k),
                argnums=(0, 1, 2, 3),
                has_aux=True,
            )
        )(*arguments(case))
        for k in (None, every)
    )
    assert_relative(recomputed, kept, 2e-6)


@pytest.mark.parametrize("name", ["xla", "auto"])
def test_gradients_of_the_rnn_equal_those_of_scan(name):
    params = init_rnn(jax.random.key(0), 3, 4)
    xs = jax.random.normal(jax.random.key(1), (6, 2, 3))

    def loss(params, xs, backend):
        state, hs = lstm(params, xs, spec=RNNSpec(), lengths=np.array([6, 4]), backend=backend)
        return (hs**2).sum() + state.h.sum()

    got, expected = (
        jax.jit(jax.grad(partial(loss, backend=b), argnums=(0, 1)))(params, xs)
        for b in (name, "scan")
    )
    assert_relative(got, expected, 2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_bfloat16_bias_is_accumulated_in_float32(name):
    """A sum in bfloat16 would lose small addends."""
    case = make_case(5, T=64, batch=(256,), I=4, H=8, dtype=jnp.bfloat16, **NO_MASKS)
    run = partial(loss_and_outputs, case=case, backend=name)
    with skipping_refusals(name):
        gradient, _ = optimized(jax.grad(run, has_aux=True))(*arguments(case))
    with jax.enable_x64(True):
        run = partial(loss_and_outputs, case=case, backend="scan")
        exact, _ = jax.jit(jax.grad(run, has_aux=True))(*as_float64(arguments(case)))
    assert_relative(gradient.bias, exact.bias, 2e-2)
