"""The TPU kernels in the interpreter of Pallas, which detects races and reads of uninitialized memory."""

import re
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from lstm_jax import LSTMSpec, LSTMState, backends, init_lstm, lstm
from lstm_jax.backends import tpu, xla
from lstm_jax.backends.problem import Operands, Settings
from lstm_jax.baselines import RNNSpec, init_rnn
from lstm_jax.carry import select
from tests.backends.test_agreement import (
    arguments,
    assert_relative,
    float64_reference,
    loss_and_outputs,
)
from tests.cases import make_case, nightly

CHECKED = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
TOLERANCE = {jnp.float32: 2e-5, jnp.bfloat16: 2e-2}
H = 128


@pytest.fixture(autouse=True)
def no_race(capfd):
    yield
    assert "RACE" not in capfd.readouterr().out.upper()


def run(function, *args):
    """Runs a kernel in the interpreter."""
    return jax.jit(partial(function, interpret=CHECKED), static_argnums=0)(*args)


def problem(T=11, batch=(16,), dtype=jnp.float32, masks="none", I=8, spec=LSTMSpec(), **settings):
    keys = iter(jax.random.split(jax.random.key(0), 9))

    def normal(*shape, dtype=dtype):
        return jax.random.normal(next(keys), shape, dtype)

    def state():
        return LSTMState(normal(*batch, H, dtype=jnp.float32), normal(*batch, H))

    params = init_lstm(next(keys), I, H, param_dtype=dtype)
    begin = normal(T, *batch) > 0.7 if masks in ("begin", "both") else None
    hold = None
    if masks in ("hold", "both"):  # any step may hold, not only steps at the end
        lengths = jax.random.randint(next(keys), batch, 0, T + 2)
        hold = jnp.arange(T).reshape(-1, *[1] * len(batch)) >= lengths[None]
        hold = hold.at[1 % T].set(True)
    operands = Operands(params, normal(T, *batch, I), state(), state(), begin, hold)
    return Settings(spec, precision="highest", **settings), operands


CASES = {
    "both, time blocks, reverse": {"T": 19, "masks": "both", "reverse": True},
    "plain, reverse, recompute, bfloat16": {
        "reverse": True,
        "residuals": "recompute",
        "dtype": jnp.bfloat16,
    },
    "both, recompute, batch blocks": {
        "T": 2,
        "batch": (288,),
        "masks": "both",
        "residuals": "recompute",
    },
    "begin, one step, no batch axis": {"T": 1, "batch": (), "masks": "begin"},
}
MORE_CASES = {
    "plain": {},
    "begin, reverse, recompute": {"masks": "begin", "reverse": True, "residuals": "recompute"},
    "hold, reverse": {"masks": "hold", "reverse": True},
    "both, time blocks": {"T": 19, "masks": "both"},
    "both, bfloat16": {"masks": "both", "dtype": jnp.bfloat16},
    "both, reverse, batch axes": {"T": 5, "batch": (2, 3), "masks": "both", "reverse": True},
}


@pytest.mark.parametrize("name", [*CASES, *nightly(*MORE_CASES)])
def test_the_kernels_agree_with_the_xla_form(name):
    settings, operands = problem(**(CASES | MORE_CASES)[name])
    dtype = operands.xs.dtype.type
    outputs, residuals = run(tpu.forward, settings, operands)
    (state, hs), expected_residuals = jax.jit(xla.forward, static_argnums=0)(settings, operands)
    assert_relative(outputs, (state, hs), TOLERANCE[dtype])
    read = [select(operands.hold, jnp.zeros_like(a), a) for a in residuals if a is not None]
    expected_masked_residuals = [
        select(operands.hold, jnp.zeros_like(a), a) for a in expected_residuals if a is not None
    ]
    assert_relative(
        read, expected_masked_residuals, TOLERANCE[dtype]
    )  # residuals of padding steps are not read

    cts = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size)).reshape(a.shape), (state, hs))
    cts = jax.tree.map(lambda c, a: c.astype(a.dtype), cts, (state, hs))
    d = operands._replace(begin=None, hold=None)
    tangent = partial(xla.tangent, settings, operands, hs, expected_residuals)
    (expected_ct,) = jax.jit(lambda cts: jax.linear_transpose(tangent, d)(cts))(cts)
    ct = run(tpu.backward, settings, operands, hs, expected_residuals, cts)
    assert jax.tree.structure(ct) == jax.tree.structure(expected_ct)
    assert jax.tree.map(lambda a: a.dtype, ct) == jax.tree.map(lambda a: a.dtype, expected_ct)
    assert_relative(ct, expected_ct, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "width", [384, *nightly(512)]
)  # tiles of the backward pass have 128 and 256 units
def test_several_tiles_of_hidden_units(width, monkeypatch):
    monkeypatch.setitem(globals(), "H", width)
    test_the_kernels_agree_with_the_xla_form("both, bfloat16")


def test_inference_equals_forward():
    settings, operands = problem(masks="both")
    outputs = run(tpu.infer, settings, operands)
    assert_relative(outputs, run(tpu.forward, settings, operands)[0], 0)


def interpreted():
    """Returns a backend that runs the kernels in the interpreter."""

    def unroll(settings, operands):
        @jax.custom_vjp
        def kernel(operands):
            return tpu.infer(settings, operands, interpret=CHECKED)

        def forward(operands):
            outputs, residuals = tpu.forward(settings, operands, interpret=CHECKED)
            return outputs, (operands, outputs[1], residuals)

        def backward(residuals, cts):
            return (tpu.backward(settings, *residuals, cts, interpret=CHECKED),)

        kernel.defvjp(forward, backward)
        return kernel(operands)

    backend = ModuleType("interpreted")
    backend.unsupported_reason, backend.unroll = lambda settings, operands: None, unroll
    return backend


@pytest.mark.parametrize(("dtype", "reverse"), [(jnp.float32, False), (jnp.bfloat16, True)])
def test_the_kernels_agree_with_float64(monkeypatch, dtype, reverse):
    monkeypatch.setitem(backends.BACKENDS, "interpreted", interpreted())
    case = make_case(3, T=11, batch=(16,), I=7, H=H, dtype=dtype, reverse=reverse)
    function = partial(loss_and_outputs, case=case, backend="interpreted", precision="highest")
    (_, got), gradient = jax.value_and_grad(function, argnums=(0, 1, 2, 3), has_aux=True)(
        *arguments(case)
    )
    expected_outputs, expected_gradient = float64_reference(case)
    assert_relative(got, expected_outputs, TOLERANCE[dtype])
    assert_relative(gradient, expected_gradient, TOLERANCE[dtype])


def test_nan_in_the_padding_affects_no_gradient(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "interpreted", interpreted())
    case = make_case(3, T=5, batch=(8,), I=7, H=H, resets=False)
    function = partial(loss_and_outputs, case=case, backend="interpreted")
    gradient = jax.value_and_grad(function, argnums=(0, 1), has_aux=True)
    params, xs, *rest = arguments(case)
    padding = np.arange(5)[:, None] >= case.lengths
    assert padding.any()
    dirty = gradient(params, jnp.where(padding[..., None], jnp.nan, xs), *rest)
    assert_relative(dirty, gradient(params, xs, *rest), 0)


def shapes(H=128, B=32, T=4, dtype=jnp.float32, spec=LSTMSpec(), init=init_lstm):
    """Returns settings and operands, as shapes and dtypes."""
    params = jax.eval_shape(
        lambda: init(jax.random.key(0), 8, H, spec=spec, param_dtype=dtype),
    )
    state = spec.state_types(H, (B,), dtype)
    return Settings(spec), Operands(params, jax.ShapeDtypeStruct((T, B, 8), dtype), state, state)


def test_shapes_that_fit_are_supported():
    assert tpu.unsupported_reason(*shapes()) is None
    assert tpu.unsupported_reason(*shapes(H=2048)) is None
    assert tpu.unsupported_reason(*shapes(H=1024, dtype=jnp.bfloat16), "TPU v4") is None
    assert tpu.unsupported_reason(*shapes(), None) is None


def test_reasons_name_the_unsupported_values():
    T, B = jax.export.symbolic_shape("T, B")
    refused = {
        r"\bH\b.*\b100\b.*\b128\b": shapes(H=100),
        r"\(0, 32, 8\)": shapes(T=0),
        r"\(T, B, 8\)": shapes(T=T, B=B),
        r"\bfloat32 and bfloat16.*\bfloat16": shapes(dtype=jnp.float16),
        "RNNSpec": shapes(spec=RNNSpec(), init=init_rnn),
    }
    for names, case in refused.items():
        assert re.search(names, tpu.unsupported_reason(*case))
    high = Settings(LSTMSpec(), precision="high"), shapes()[1]
    assert re.search(r"precisions default and highest.*\bhigh\b", tpu.unsupported_reason(*high))


def test_the_reason_names_the_missing_memory():
    # The weights are 64 MiB.
    numbers = r"\bH\b.*\b2048\b.*\bB\b.*\b32\b.*\bfloat32.*\b73 MiB.*VMEM"
    assert re.search(
        rf"{numbers}.*TPU v4.*\b16\b", tpu.unsupported_reason(*shapes(H=2048), "TPU v4")
    )
    unknown_chip = tpu.unsupported_reason(*shapes(H=2048), None)
    assert re.search(rf"{numbers}.*\b16\b", unknown_chip)
    assert "None" not in unknown_chip


@pytest.mark.parametrize(("H", "names"), [(128, r"\bcpu\b"), (100, r"\bH\b.*\b100\b.*\b128\b")])
def test_error_of_the_named_backend_without_a_tpu(H, names):
    if jax.default_backend() == "tpu":
        pytest.skip("a TPU is there")
    params, xs = init_lstm(jax.random.key(0), 8, H), jnp.ones((4, 16, 8))
    with pytest.raises(ValueError, match=rf"backend.*'tpu'.*{names}"):
        lstm(params, xs, backend="tpu")
