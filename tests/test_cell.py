import itertools
import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import LSTMParams, LSTMState, init_lstm, lstm, lstm_cell
from tests import reference
from tests.cases import assert_close, make_case, nightly
from tests.compilation import optimized


def one_step(case):
    return case.params[0], case.states[0], jnp.asarray(case.xs[0])


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3)])
def test_equals_the_equations_in_float64(x64, batch, scale):
    case = make_case(7, T=1, batch=batch, I=2, H=3, dtype=jnp.float64)
    params, state, x = one_step(case)
    new, h = optimized(lstm_cell)(params, state, x * scale)
    C_expected, h_expected = np.zeros(state.C.shape), np.zeros(state.h.shape)
    for b in np.ndindex(*batch):
        C_expected[b], h_expected[b] = reference.cell(
            case.gates[0], np.asarray(state.C[b]), np.asarray(state.h[b]), case.xs[(0, *b)] * scale
        )
    assert_close((new.C, new.h, h), (C_expected, h_expected, h_expected), atol=1e-12)


def test_equals_the_equations_written_with_the_textbooks_matrices(x64):
    rng = np.random.default_rng(0)
    H, I = 4, 3
    gates = {f"W_{n}": rng.standard_normal((H, H + I)) for n in "fiCo"}
    gates |= {f"b_{n}": rng.standard_normal(H) for n in "fiCo"}
    C, h, x = (rng.standard_normal(n) for n in (H, H, I))
    new, _ = lstm_cell(LSTMParams.from_gates(**gates), LSTMState(jnp.asarray(C), jnp.asarray(h)), x)
    assert_close((new.C, new.h), reference.cell(gates, C, h, x), atol=1e-12)


def test_is_a_body_for_scan():
    case = make_case(T=5)
    state, hs = jax.lax.scan(partial(lstm_cell, case.params[0]), case.states[0], case.xs)
    loop = case.states[0]
    for x, h in zip(case.xs, hs, strict=True):
        loop, h_loop = lstm_cell(case.params[0], loop, x)
        assert_close(h, h_loop, atol=1e-6)
    assert_close(state, loop, atol=1e-6)


@pytest.mark.parametrize("h_dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("x_dtype", [jnp.float32, jnp.bfloat16])
def test_the_compute_dtype_is_the_dtype_of_h(h_dtype, x_dtype):
    params = init_lstm(jax.random.key(0), 2, 3)
    state = LSTMState(jnp.zeros((4, 3)), jnp.zeros((4, 3), h_dtype))
    new, h = lstm_cell(params, state, jnp.ones((4, 2), x_dtype))
    assert (new.C.dtype, new.h.dtype, h.dtype) == (jnp.float32, h_dtype, h_dtype)


def test_precision_reaches_both_products():
    args = one_step(make_case(T=1))
    jaxpr = str(jax.make_jaxpr(partial(lstm_cell, precision="highest"))(*args))
    assert jaxpr.count("precision=(Precision.HIGHEST") == jaxpr.count("dot_general") == 2


def test_gates_are_evaluated_in_float32_under_bfloat16():
    case = make_case(T=1, H=8, dtype=jnp.bfloat16)
    (params, state, x) = one_step(case)
    eqns = jax.make_jaxpr(lstm_cell)(params, state, x).eqns
    if len(eqns) == 1:  # jax 0.12 inlines when it lowers
        eqns = eqns[0].params["jaxpr"].eqns
    kinds = {e.primitive.name: e.outvars[0].aval.dtype for e in eqns}
    assert kinds["custom_jvp_call"] == jnp.float32  # tanh
    assert kinds["dot_general"] == jnp.bfloat16


def test_without_bias():
    params, state, x = one_step(make_case(T=1))
    bare = lstm_cell(params.replace(bias=None), state, x)
    assert_close(bare, lstm_cell(params.replace(bias=jnp.zeros(12)), state, x), atol=0)


def test_saturated_gates_keep_the_cell_state_and_its_gradient():
    """With f = 1 and i = 0, C and its gradient do not change over any number of steps."""
    H = 3
    shut = jnp.concatenate([jnp.full(H, -60.0), jnp.full(H, 60.0), jnp.zeros(2 * H)])
    params = LSTMParams(jnp.zeros((1, 4 * H)), jnp.zeros((H, 4 * H)), shut)
    C = jnp.arange(1.0, 4.0)

    def last_C(C):
        state, _ = jax.lax.scan(
            partial(lstm_cell, params), LSTMState(C, jnp.zeros(H)), jnp.ones((1000, 1))
        )
        return state.C

    assert_close(last_C(C), C, atol=0)
    assert_close(jax.jacobian(last_C)(C), jnp.eye(H), atol=0)


Z = np.linspace(-30, 30, 121)  # exact in bfloat16
H_Z = Z.size


def one_gate(gate, bias, dtype, run):
    """Computes a step in which unit n of ``gate`` has the pre-activation ``Z[n]``.

    The result is the value of the gate times a constant.
    """
    C = 1.0 if gate == "f" else 0.0
    state = LSTMState(jnp.full((8, H_Z), C), jnp.zeros((8, H_Z), dtype))
    weights = jnp.zeros((1, 4 * H_Z), dtype), jnp.zeros((H_Z, 4 * H_Z), dtype)
    state = run(LSTMParams(*weights, bias), jnp.zeros((1, 8, 1), dtype), state)
    return (state.h if gate == "o" else state.C)[0].astype(jnp.float32)


def bias_of(gate, dtype):
    others = {"i": 40.0, "f": 40.0, "g": 0.0 if gate == "f" else 40.0, "o": 40.0}
    blocks = {k: np.full(H_Z, value) for k, value in others.items()} | {gate: Z}
    return jnp.asarray(np.concatenate([blocks[k] for k in "ifgo"]), dtype)


RUNS = {
    "lstm_cell": lambda params, xs, state: lstm_cell(params, state, xs[0])[0],
    "scan": lambda params, xs, state: lstm(params, xs, state, backend="scan")[0],
    "xla": lambda params, xs, state: lstm(params, xs, state, backend="xla")[0],
    "cpu": lambda params, xs, state: lstm(params, xs, state, backend="cpu")[0],
}


GATES = [
    *[(gate, jnp.float32, name) for gate in "ifo" for name in ("lstm_cell", "cpu")],
    *[("i", jnp.float32, "scan"), ("f", jnp.bfloat16, "scan"), ("o", jnp.bfloat16, "lstm_cell")],
    *[("i", jnp.bfloat16, "cpu"), ("f", jnp.float32, "xla"), ("o", jnp.bfloat16, "xla")],
]
MORE_GATES = itertools.product("ifo", [jnp.float32, jnp.bfloat16], RUNS)


@pytest.mark.parametrize("options", [*GATES, *nightly(*(o for o in MORE_GATES if o not in GATES))])
def test_closed_gates(options):
    """Checks the relative error of gates and their gradients, from open to closed gates.

    The reference and ``lstm_cell`` are exact. The other backends have the absolute error of one tanh.
    """
    gate, dtype, name = options
    bias = bias_of(gate, dtype)
    run = partial(one_gate, gate, dtype=dtype, run=RUNS[name])
    got = np.asarray(optimized(run)(bias), np.float64)
    gradient = np.asarray(optimized(jax.grad(lambda b: run(b).sum()))(bias), np.float64)
    gradient = gradient.reshape(4, H_Z)["ifgo".index(gate)]
    scale = np.tanh(1.0) if gate == "o" else 1.0  # h = o * tanh(C)
    sigma = reference.sigma(Z)
    slope = sigma * (1 - sigma)
    rounding = 2.0**-8  # of bfloat16, the dtype of h and of the bias's gradient
    rtol = 3e-7 if dtype == jnp.float32 or gate != "o" else rounding
    rtol_of_gradient = 3e-7 if dtype == jnp.float32 else 2 * rounding
    atol = 0.0 if name in ("lstm_cell", "scan") else 1.2e-7
    np.testing.assert_allclose(got / scale, sigma, rtol=rtol, atol=atol)
    closed = Z <= 0
    np.testing.assert_allclose(
        gradient[closed] / scale, slope[closed], rtol=rtol_of_gradient, atol=atol
    )
    # An open gate is rounded to 1, so 1 - f has the absolute error of this rounding.
    np.testing.assert_allclose(gradient / scale, slope, rtol=rtol_of_gradient, atol=1.2e-7)


@pytest.mark.parametrize("name", ["xla", "cpu"])
def test_closed_gates_of_one_tanh_have_the_documented_error(name):
    """As documented, σ is exactly 0 below -17.5, and has a relative error of up to 1 % at -11.5."""
    run = partial(one_gate, "i", dtype=jnp.float32, run=RUNS[name])
    got = np.asarray(optimized(run)(bias_of("i", jnp.float32)), np.float64)
    error = np.abs(got / reference.sigma(Z) - 1)
    assert not got[Z <= -17.5].any()
    assert 1e-3 < error[Z == -11.5] < 1e-2
    assert 2e-5 < error[Z == -8] < 4e-4


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"x": jnp.ones((3, 2), int)}, r"\bx\b.*int32"),
        ({"x": jnp.float32(1)}, r"\bx\b.*\[\*B, I\]"),
        ({"x": jnp.ones((3, 2), complex)}, r"\bx\b.*complex64"),
        ({"state": LSTMState(jnp.ones((3, 3)), jnp.ones((3, 3), int))}, r"\bstate\.h.*int32"),
        ({"state": LSTMState(jnp.ones((3, 3), int), jnp.ones((3, 3)))}, r"\bstate\.C.*int32"),
        (
            {"state": LSTMState(jnp.ones((3, 3), jnp.bfloat16), jnp.ones((3, 3)))},
            r"\bstate\.C.*\bfloat32.*float64.*bfloat16",
        ),
        ({"x": jnp.ones((3, 5))}, r"w_x.*\(5, 12\).*\(2, 12\)"),
        ({"state": (jnp.ones((3, 3)), jnp.ones((3, 3)))}, r"\bstate\b.*LSTMState.*tuple"),
        (
            {"state": LSTMState(jnp.ones((3, 4)), jnp.ones((3, 3)))},
            r"\bstate\.C.*\(3, 3\).*\(3, 4\)",
        ),
        ({"state": LSTMState(jnp.ones(3), jnp.ones(3))}, r"\bstate\.C.*\(3, 3\).*\(3,\)"),
        ({"params": {"w_x": 0}}, r"LSTMParams.*\bdict\b"),
    ],
)
def test_errors_name_the_argument(change, names):
    params, state, x = one_step(make_case(T=1))
    with pytest.raises(ValueError, match=names):
        lstm_cell(**{"params": params, "state": state, "x": x} | change)


def test_an_eager_call_is_one_program(caplog):
    """When traced it is inlined, so the body of a scan over it has no call."""
    case = make_case(T=3, batch=(7, 3), I=11, H=13)  # a shape that no other test compiles
    params, state, x = case.params[0], case.states[0], jnp.asarray(case.xs[0])
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jax.block_until_ready(lstm_cell(params, state, x))
        compiled = [r for r in caplog.records if "Compiling" in r.getMessage()]
        assert len(compiled) == 1
        caplog.clear()
        jax.block_until_ready(lstm_cell(params, state, x))
        assert not [r for r in caplog.records if "Compiling" in r.getMessage()]
    text = jax.jit(lstm_cell).lower(params, state, x).as_text()
    assert "dot_general" in text
    assert "call @_step" not in text
