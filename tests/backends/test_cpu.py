"""Tests of the CPU kernels: blocks of steps, merged batch axes, and unsupported cells."""

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import LSTMSpec, LSTMState, lstm
from lstm_jax.backends import cpu, xla
from lstm_jax.backends.problem import Operands, Settings
from tests.backends.test_agreement import arguments, assert_relative, loss_and_outputs
from tests.cases import make_case


def gradient(case, backend, **keywords):
    def loss(*operands):
        return loss_and_outputs(*operands, case=case, backend=backend, **keywords)[0]

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*arguments(case))


@pytest.mark.parametrize(
    ("columns_per_block", "reverse", "residuals"),
    [(1, False, "save"), (6, True, "recompute"), (9, False, "recompute"), (1000, True, "save")],
)
def test_the_size_of_a_block_does_not_change_the_result(
    monkeypatch, columns_per_block, reverse, residuals
):
    """Tests blocks of 1, 2, 3 and all 7 steps, with 3 rows."""
    case = make_case(1, T=7, batch=(3,), reverse=reverse)
    expected = gradient(case, "scan")
    monkeypatch.setattr(cpu, "COLUMNS", columns_per_block)
    jax.clear_caches()
    assert_relative(gradient(case, "cpu", residuals=residuals), expected, 1e-5)


@pytest.mark.parametrize("T", [0, 1, 2, 127])
@pytest.mark.parametrize("rows", [1, 32, 5000])
def test_the_blocks_cover_every_step_once(T, rows):
    k, blocks = cpu.block_sizes(T, rows)
    assert 1 <= k <= max(T, 1)
    assert (blocks - 1) * k < max(T, 1)
    assert blocks * k >= T


@pytest.mark.parametrize(
    ("T", "batch", "reverse"),
    [
        (0, (), True),
        (0, (2, 1, 3), False),
        (1, (), False),
        (1, (2, 1, 3), True),
        (4, (), True),
        (4, (2, 1, 3), False),
    ],
)
def test_any_batch_axes_and_few_steps(T, batch, reverse):
    case = make_case(2, T=T, batch=batch, reverse=reverse)
    assert_relative(gradient(case, "cpu"), gradient(case, "scan"), 1e-5)


def test_no_bias():
    case = make_case(5)
    params = case.params[0].replace(bias=None)

    def loss(params, backend):
        return (lstm(params, case.xs, backend=backend)[1] ** 2).sum()

    got, expected = (jax.grad(loss)(params, b) for b in ("cpu", "scan"))
    assert got.bias is None
    assert_relative(got, expected, 1e-5)


@pytest.mark.parametrize("residuals", ["save", "recompute"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes_of_residuals(residuals, dtype):
    case = make_case(T=5, batch=(2, 3), H=4, dtype=dtype, lengths=False, resets=False)
    operands = Operands(case.params[0], jnp.asarray(case.xs), case.states[0], case.reset_states[0])
    settings = Settings(LSTMSpec(), residuals=residuals)
    _, got = jax.eval_shape(lambda o: cpu.forward(settings, o), operands)
    _, expected = jax.eval_shape(lambda o: xla.forward(settings, o), operands)
    assert got == expected
    assert (got.C.shape, got.C.dtype) == ((5, 2, 3, 4), jnp.float32)
    if residuals == "recompute":
        assert got.z is None
    else:
        assert (got.z.shape, got.z.dtype) == ((5, 2, 3, 16), dtype)


class Emits(LSTMSpec):
    def emit(self, params, m, precision=None):
        return 2 * m


def test_reasons_for_unsupported_cells():
    case = make_case()
    operands = Operands(case.params[0], jnp.asarray(case.xs), case.states[0], case.states[0])
    assert cpu.unsupported_reason(Settings(LSTMSpec()), operands) is None
    assert "Emits" in cpu.unsupported_reason(Settings(Emits()), operands)
    no_rows = operands._replace(
        state=case.states[0]._replace(C=jnp.ones((0, 3)), h=jnp.ones((0, 3)))
    )
    assert cpu.unsupported_reason(Settings(LSTMSpec()), no_rows) is not None
    no_C = operands._replace(state=case.states[0]._replace(C=None))
    assert "LSTMSpec" in cpu.unsupported_reason(Settings(LSTMSpec()), no_C)


LIMITS = {name: getattr(cpu, name) for name in ("ROWS", "STATES", "STEPS", "STEPS_AND_ROWS")}
"""The limits of ``cpu.is_profitable``, which a fixture lowers for the other tests."""


@pytest.mark.parametrize(
    ("T", "batch", "H", "infers", "trains"),
    [
        (128, (32,), 64, True, True),
        (64, (2, 16), 64, True, True),  # all batch axes count
        (32, (32,), 64, False, False),  # too few steps times rows
        (8, (256,), 64, False, False),  # too few steps
        (128, (16,), 64, False, False),  # too few rows
        (100, (16,), 1024, False, True),  # too few rows, but many hidden units
        (1, (), 1024, False, False),
    ],
)
def test_is_profitable_for_many_steps_and_rows(monkeypatch, T, batch, H, infers, trains):
    for name, value in LIMITS.items():
        monkeypatch.setattr(cpu, name, value)
    case = make_case(T=T, batch=batch, I=1, H=H, lengths=False, resets=False)
    state = LSTMState(jnp.zeros((*batch, H)), jnp.zeros((*batch, H)))
    operands = Operands(case.params[0], jnp.asarray(case.xs), state, state)
    assert cpu.is_profitable("infer", operands) == infers
    assert (
        cpu.is_profitable("forward", operands) == cpu.is_profitable("backward", operands) == trains
    )
