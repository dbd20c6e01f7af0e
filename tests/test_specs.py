"""Cells of one's own: which backends serve them, and what is refused."""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import LSTMSpec, LSTMState, Partition, lstm, lstm_cell
from lstm_jax.backends import choose, columns, pallas_tpu
from lstm_jax.backends.problem import Operands, Settings
from tests.backends.test_agreement import assert_relative
from tests.cases import make_case


@dataclass(frozen=True)
class Normalized(LSTMSpec):
    """Normalizes the pre-activations over the units, which makes the units depend on each other."""

    def pointwise(self, params, C, z):
        z = z - z.mean(-1, keepdims=True)
        return super().pointwise(params, C, z / jnp.sqrt((z * z).mean(-1, keepdims=True) + 1e-5))


@dataclass(frozen=True)
class Clipped(LSTMSpec):
    """Limits the cell state, unit by unit."""

    limit: float = 1.0
    elementwise = True

    def pointwise(self, params, C, z):
        C, h = super().pointwise(params, C, z)
        return jnp.clip(C, -self.limit, self.limit), h


class Centered:
    """A mixin that mixes units."""

    def pointwise(self, params, C, z):
        C, h = LSTMSpec.pointwise(self, params, C, z)
        return C, h - h.mean(-1, keepdims=True)


@dataclass(frozen=True)
class Mixed(Centered, LSTMSpec):
    pass


@dataclass(frozen=True)
class Derived(Clipped):
    """Computes something from its fields, and keeps it."""

    @cached_property
    def half(self):
        return self.limit / 2

    def pointwise(self, params, C, z):
        C, h = super().pointwise(params, C, z)
        return C, h * self.half


class NotADataclass(LSTMSpec):
    def __init__(self, limit):
        object.__setattr__(self, "limit", limit)


def loss(params, xs, spec, backend):
    state, hs = lstm(params, xs, spec=spec, backend=backend)
    return (hs**2).sum() + (state.C**2).sum()


@pytest.mark.parametrize("spec", [Normalized(), Clipped(0.3), Mixed(), Derived(0.3)])
def test_auto_is_scan_for_a_cell_of_ones_own(spec):
    case = make_case(1, T=5, batch=(32,), I=4, H=6)
    args = case.params[0], jnp.asarray(case.xs)
    got, want = (
        jax.jit(jax.value_and_grad(partial(loss, spec=spec, backend=b), argnums=(0, 1)))(*args)
        for b in ("auto", "scan")
    )
    assert_relative(got, want, 1e-5)


def test_who_overrides_pointwise_must_say_that_it_is_element_wise():
    given = {spec: spec.elementwise for spec in (LSTMSpec, Clipped, Normalized, Mixed, Derived)}
    assert given == {LSTMSpec: True, Clipped: True, Normalized: False, Mixed: False, Derived: False}


def test_kernels_serve_element_wise_cells_only():
    case = make_case(1, T=5, batch=(32,), I=128, H=128, lengths=False, resets=False)
    operands = Operands(case.params[0], jnp.asarray(case.xs), case.states[0], case.reset_states[0])
    for kernel in (columns, pallas_tpu):
        assert kernel.why_not(Settings(Clipped()), operands) is None
        assert "Normalized.elementwise" in kernel.why_not(Settings(Normalized()), operands)
    with pytest.raises(ValueError, match=r"columns.*Normalized\.elementwise"):
        choose("columns", Settings(Normalized()), operands)


def test_units_that_depend_on_each_other_stay_on_one_device():
    case = make_case(1, T=3, batch=(4,), I=8, H=8)
    with (
        jax.set_mesh(jax.make_mesh((8,), ("model",))),
        pytest.raises(ValueError, match=r"Normalized.*elementwise.*Partition\.hidden"),
    ):
        lstm(case.params[0], case.xs, spec=Normalized(), partition=Partition(hidden="model"))


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("spec", "names"),
    [(NotADataclass(2.0), "spec.*NotADataclass.*limit"), (Clipped, r"spec.*Clipped\(\)")],
)
def test_a_spec_whose_attributes_are_not_compared_is_refused(spec, names):
    """Equal specs share a compiled program: the second limit would be ignored."""
    params, xs = make_case().params[0], jnp.ones((5, 3, 2))
    with pytest.raises(ValueError, match=names):
        lstm(params, xs, spec=spec)
    with pytest.raises(ValueError, match=names):
        lstm_cell(params, LSTMState(jnp.zeros((3, 3)), jnp.zeros((3, 3))), xs[0], spec)
