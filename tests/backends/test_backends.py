from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMSpec, LSTMState, backends, lstm_cell
from lstm_jax.backends import choose
from lstm_jax.backends.problem import Operands, Settings
from tests.cases import MAY_REFUSE, assert_close, make_case, skipping_refusals

NAMES = sorted(backends.BACKENDS)


def problem(case):
    spec = LSTMSpec()
    settings = Settings(spec, case.reverse)
    params = case.params[0]
    return settings, Operands(params, jnp.asarray(case.xs), case.states[0], case.reset_states[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_has_its_two_functions(name):
    backend = backends.BACKENDS[name]
    assert backend.unsupported_reason(*problem(make_case())) is None or name in MAY_REFUSE
    assert callable(backend.unroll)


@dataclass(frozen=True)
class Projected(LSTMSpec):
    """A cell that overrides ``emit``."""

    def emit(self, params, m, precision=None):
        return 2 * m


def test_auto_selects_a_backend_that_can_run_and_a_named_one_raises():
    settings, operands = problem(make_case())
    assert choose("auto", settings, operands) is backends.lowering
    unusual = replace(settings, spec=Projected())
    assert choose("auto", unusual, operands) is backends.scan
    with pytest.raises(ValueError, match=r"backend.*'xla'.*Projected.*overrides emit"):
        choose("xla", unusual, operands)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reverse", [False, True])
def test_begin_and_hold_follow_their_documentation(name, reverse):
    """``hold`` takes precedence over ``begin``: the state does not change, and the output is 0."""
    case = make_case(T=1, batch=(4,), reverse=reverse)
    settings, operands = problem(case)
    operands = operands._replace(
        begin=jnp.array([[False, True, False, True]]), hold=jnp.array([[False, False, True, True]])
    )
    state, reset_state = operands.state, operands.reset_state
    with skipping_refusals(name):
        backend = choose(name, settings, operands)
    final, hs = backend.unroll(settings, operands)

    def one_step(state):
        return lstm_cell(case.params[0], state, operands.xs[0])[0]

    went_on, began = one_step(state), one_step(reset_state)
    rows = [went_on, began, state, state]
    expected = LSTMState(
        *(jnp.stack([getattr(s, f)[n] for n, s in enumerate(rows)]) for f in ("C", "h"))
    )
    assert_close(final, expected, atol=1e-6)
    assert_close(hs[0, :2], expected.h[:2], atol=1e-6)
    np.testing.assert_array_equal(hs[0, 2:], 0)
