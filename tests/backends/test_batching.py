"""``vmap`` of ``auto`` in float64: any mapped arguments, before and after derivatives."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMSpec, LSTMState, lstm
from tests.backends.test_agreement import arguments, assert_relative
from tests.cases import make_case, nightly

N, T, ROWS = 3, 3, 8  # with fewer rows, ``auto`` selects ``xla`` on CPU
FLOATS = ("params", "xs", "state", "reset_state")
MASKS = ("lengths", "resets")
ALL = (*FLOATS, *MASKS)


def case_of(seed):
    case = make_case(seed, T=T, batch=(ROWS,), dtype=jnp.float64)
    floats = dict(zip(FLOATS, arguments(case), strict=True))
    masks = {"lengths": jnp.asarray(case.lengths), "resets": jnp.asarray(case.resets)}
    return floats | masks


def problem(mapped):
    """Returns arguments and ``in_axes``. The arguments in ``mapped`` have a leading axis of size N."""
    members = [case_of(seed) for seed in range(N)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *members)
    given = {name: (stacked if name in mapped else members[0])[name] for name in ALL}
    return given, {name: 0 if name in mapped else None for name in ALL}


def run(backend, given):
    given = dict(given)
    return lstm(given.pop("params"), given.pop("xs"), backend=backend, **given)


def loss(backend, floats, masks):
    state, hs = run(backend, floats | masks)
    return (hs**3).sum() + (state.C**2).sum() + jnp.sin(state.h).sum()


def split(given):
    return {n: given[n] for n in FLOATS}, {n: given[n] for n in MASKS}


def vmap(function, axes):
    return jax.vmap(function, in_axes=(axes,))


def grad_of_vmap(backend, given, axes):
    floats, masks = split(given)

    def total(floats):
        outputs = vmap(partial(run, backend), axes)(floats | masks)
        return sum((a**2).sum() for a in jax.tree.leaves(outputs))

    return jax.grad(total)(floats)


def jvp_of_vmap(backend, given, axes):
    floats, masks = split(given)
    f = lambda floats: vmap(partial(run, backend), axes)(floats | masks)  # noqa: E731
    return jax.jvp(f, (floats,), (jax.tree.map(jnp.cos, floats),))


def vmap_of_grad(backend, given, axes):
    return vmap(lambda given: jax.grad(partial(loss, backend))(*split(given)), axes)(given)


def vmap_of_jvp(backend, given, axes):
    def along_cos(given):
        floats, masks = split(given)
        f = lambda floats: run(backend, floats | masks)  # noqa: E731
        return jax.jvp(f, (floats,), (jax.tree.map(jnp.cos, floats),))

    return vmap(along_cos, axes)(given)


def just_vmap(backend, given, axes):
    return vmap(partial(run, backend), axes)(given)


PROGRAMS = [just_vmap, grad_of_vmap, vmap_of_grad, jvp_of_vmap, vmap_of_jvp]
SETS = [(name,) for name in ALL] + [("params", "xs"), ("xs", "state", "lengths"), ALL[1:], ALL]
PAIRS = [(program, SETS[(2 * n + 1) % len(SETS)]) for n, program in enumerate(PROGRAMS)]
PAIRS += [(grad_of_vmap, ALL), (vmap_of_grad, ("xs",))]
REST = [(p, s) for p in PROGRAMS for s in SETS if (p, s) not in PAIRS]


@pytest.mark.parametrize("pair", [*PAIRS, *nightly(*REST)])
def test_any_mapped_arguments(x64, pair):
    program, mapped = pair
    given, axes = problem(mapped)
    got, expected = (jax.jit(partial(program, b, axes=axes))(given) for b in ("auto", "scan"))
    assert_relative(got, expected, 1e-12)


@pytest.mark.parametrize("mapped", [("params",), ("state",), *nightly(ALL, ("xs", "resets"))])
@pytest.mark.parametrize("program", [just_vmap, vmap_of_grad, grad_of_vmap])
def test_an_ensemble_of_ensembles(x64, program, mapped):
    """The outer ``vmap`` maps params and xs, the inner one maps ``mapped``."""
    given, axes = problem(mapped)
    outer = {name: 0 if name in ("params", "xs") else None for name in ALL}
    for name in ("params", "xs"):
        given[name] = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), given[name])

    def f(backend):
        return jax.jit(jax.vmap(partial(program, backend, axes=axes), in_axes=(outer,)))

    assert_relative(f("auto")(given), f("scan")(given), 1e-12)


@dataclass(frozen=True)
class BatchNormalized(LSTMSpec):
    """Shifts the pre-activations by half their mean over the batch, which couples its rows."""

    def pointwise(self, params, C, z):
        return super().pointwise(params, C, z - 0.5 * z.mean(0, keepdims=True))


@pytest.mark.parametrize("mapped", [("xs",), ("params",)])
@pytest.mark.parametrize("program", [just_vmap, vmap_of_grad, grad_of_vmap])
def test_rows_that_depend_on_each_other_are_independent_of_other_members(
    x64, monkeypatch, program, mapped
):
    given, axes = problem(mapped)
    given["lengths"] = jnp.full_like(given["lengths"], T)  # padded rows would affect others
    monkeypatch.setitem(globals(), "lstm", partial(lstm, spec=BatchNormalized()))
    got, expected = (jax.jit(partial(program, b, axes=axes))(given) for b in ("auto", "scan"))
    assert_relative(got, expected, 1e-12)


def test_jacobians_and_second_derivatives_of_vmap(x64):
    given, axes = problem(("xs", "state"))
    floats, masks = split(given)

    def f(w_h, backend):
        changed = floats | {"params": floats["params"].replace(w_h=w_h)}
        outputs = vmap(partial(run, backend), axes)(changed | masks)
        return sum((a**2).sum((-1, -2)).sum() for a in jax.tree.leaves(outputs))

    w_h = floats["params"].w_h
    for derivative in (jax.jacrev, jax.jacfwd, jax.hessian):
        got, expected = (jax.jit(derivative(partial(f, backend=b)))(w_h) for b in ("auto", "scan"))
        assert_relative(got, expected, 1e-12)


def test_other_axes_and_a_named_axis(x64):
    """Tests ``in_axes`` and ``out_axes`` other than 0, and ``axis_name``."""
    params, xs, *_ = arguments(make_case(T=T, batch=(ROWS, N), dtype=jnp.float64))

    def f(xs, backend):
        return lstm(params, xs, backend=backend)

    got, expected = (
        jax.vmap(partial(f, backend=b), 2, (LSTMState(1, 1), 2), spmd_axis_name="data")(xs)
        for b in ("auto", "scan")
    )
    assert_relative(got, expected, 1e-12)
    assert expected[1].shape == (T, ROWS, N, 3)
    np.testing.assert_allclose(expected[1], lstm(params, xs)[1], atol=1e-12)
