"""Edge cases: NaN in states that no step reads, long sums, empty and symbolic sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMState, backends, init_lstm, lstm
from tests.backends.test_agreement import (
    arguments,
    as_float64,
    assert_relative,
    loss_and_outputs,
)
from tests.cases import assert_close, make_case, skipping_refusals

NAMES = sorted({"auto", *backends.BACKENDS})
BACKENDS = pytest.mark.parametrize("backend", NAMES)
BAD = pytest.mark.parametrize(
    ("rows", "value"),
    [(3, np.nan), (9, np.inf)],  # on CPU, ``auto`` selects by the number of rows
)


def gradients(backend, rows, state, reset_state, *, of_final=True, **masks):
    """Returns the loss, and its gradient with respect to parameters and states."""
    params = init_lstm(jax.random.key(0), 3, 5)
    xs = jax.random.normal(jax.random.key(1), (7, rows, 3))

    def loss(params, state, reset_state):
        final, hs = lstm(params, xs, state, reset_state=reset_state, backend=backend, **masks)
        return (hs**2).sum() + (final.C.sum() if of_final else 0.0)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, state, reset_state)


def states(rows, value=0.0):
    """Returns a state of zeros with ``value`` in the first row."""
    a = jnp.zeros((rows, 5)).at[0].set(value)
    return LSTMState(a, a)


def check_unread(backend, rows, state, reset_state, **masks):
    """Asserts that the loss and all gradients equal those of zero states."""
    with skipping_refusals(backend):
        got = gradients(backend, rows, state, reset_state, **masks)
        expected = gradients(backend, rows, states(rows), states(rows), **masks)
        assert_close(got, expected, atol=1e-5)


@BACKENDS
@BAD
def test_a_state_discarded_by_a_reset_does_not_affect_gradients(backend, rows, value):
    resets = jnp.zeros((7, rows), bool).at[0, 0].set(True)
    check_unread(backend, rows, states(rows, value), states(rows), resets=resets)


@BACKENDS
@BAD
@pytest.mark.parametrize("reverse", [False, True])
def test_the_state_of_an_empty_sequence_does_not_affect_gradients(backend, rows, value, reverse):
    """The state is returned unchanged, and the loss does not include it."""
    lengths = jnp.full(rows, 7).at[0].set(0)
    masks = {"lengths": lengths, "of_final": False, "reverse": reverse}
    check_unread(backend, rows, states(rows, value), states(rows), **masks)


@BACKENDS
@BAD
@pytest.mark.parametrize("reverse", [False, True])
def test_an_unread_reset_state_does_not_affect_gradients(backend, rows, value, reverse):
    """A row reads no reset state if it has no reset, or only a reset in the padding."""
    resets = jnp.zeros((7, rows), bool).at[2, 1].set(True).at[6, 0].set(True)
    lengths = jnp.full(rows, 7).at[0].set(4)
    masks = {"resets": resets, "lengths": lengths, "reverse": reverse}
    check_unread(backend, rows, states(rows), states(rows, value), **masks)


def test_an_empty_sequence_returns_its_state():
    given = states(3, np.nan)
    final, hs = lstm(
        init_lstm(jax.random.key(0), 3, 5), jnp.ones((7, 3, 3)), given, lengths=jnp.array([0, 7, 2])
    )
    assert jnp.isnan(final.C[0]).all()
    assert jnp.isfinite(final.C[1:]).all()
    assert not hs[:, 0].any()


@pytest.mark.parametrize("backend", NAMES)
def test_gradients_of_bfloat16_weights_are_accumulated_in_float32(backend):
    """Accumulated in bfloat16, the gradient of ``w_h`` has an error of 4 % after 1,024 steps."""
    case = make_case(
        5, T=1024, batch=(4,), I=4, H=8, dtype=jnp.bfloat16, lengths=False, resets=False
    )
    with skipping_refusals(backend):
        run = partial(loss_and_outputs, case=case, backend=backend)
        gradient, _ = jax.jit(jax.grad(run, has_aux=True))(*arguments(case))
    with jax.enable_x64(True):
        run = partial(loss_and_outputs, case=case, backend="scan")
        exact, _ = jax.jit(jax.grad(run, has_aux=True))(*as_float64(arguments(case)))
    assert_relative(gradient, exact, 2e-2)


def test_remat_every_of_an_empty_batch():
    params, xs = init_lstm(jax.random.key(0), 3, 5), jnp.ones((7, 0, 3))
    gradient = jax.grad(lambda params: lstm(params, xs, remat_every=2)[1].sum())(params)
    assert not any(g.any() for g in jax.tree.leaves(gradient))


def test_a_symbolic_length_is_not_unrolled(caplog):
    """``auto`` logs this once. A named backend raises."""
    params = init_lstm(jax.random.key(0), 3, 5)
    (T,) = jax.export.symbolic_shape("T")

    def export(backend):
        f = jax.jit(lambda xs: lstm(params, xs, unroll=2, backend=backend)[1])
        return f, jax.export.export(f)(jax.ShapeDtypeStruct((T, 2, 3), jnp.float32))

    f, exported = export("auto")
    export("auto")
    xs = jax.random.normal(jax.random.key(1), (5, 2, 3))
    assert_close(exported.call(xs), f(xs), atol=1e-6)
    assert len([r for r in caplog.records if "unroll=2" in r.getMessage()]) == 1
    for backend in ("scan", "xla"):
        with pytest.raises(ValueError, match=r"unroll=2.*\bT\b"):
            export(backend)
