"""Custom cells: their results, the backends that support them, and errors for invalid cells."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import lstm_jax.linen
import lstm_jax.nnx
from lstm_jax import (
    LSTMParams,
    LSTMSpec,
    LSTMState,
    Partition,
    init_lstm,
    init_stack,
    lstm,
    lstm_cell,
    lstm_stack,
)
from lstm_jax.backends import choose, cpu, elementwise, tpu
from lstm_jax.backends.one_tanh import pointwise
from lstm_jax.backends.problem import Operands, Settings
from tests.backends.test_agreement import as_float64, assert_relative
from tests.cases import assert_close, make_case, nightly
from tests.cells import (
    CELLS,
    Clipped,
    Derived,
    Mixed,
    Normalized,
    NormalizedInCombine,
    NotADataclass,
    Peephole,
    SaysByField,
    Scaled,
    in_numpy,
)

STRICT = False  # users broadcast weights [H] over a batch
NAMES = pytest.mark.parametrize("name", CELLS)
NO_WEIGHTS = LSTMParams(None, None)
H = 6


def problem(name, dtype=jnp.float32, T=5, batch=(8,), I=4, H=H):
    """Returns the cell, its parameters and inputs. With eight rows, ``auto`` selects ``cpu`` on CPU."""
    spec, _ = CELLS[name]
    params = init_lstm(jax.random.key(0), I, H, spec=spec)
    xs = jax.random.normal(jax.random.key(1), (T, *batch, I))
    return spec, *jax.tree.map(lambda a: a.astype(dtype), (params, xs))


def loss(params, xs, spec, backend="auto", **keywords):
    state, hs = lstm(params, xs, spec=spec, backend=backend, **keywords)
    value = (hs.astype(jnp.float32) ** 2).sum() + (state.C**2).sum()
    return value, (state, hs)


def gradient(params, xs, **keywords):
    """Returns outputs, and the gradient with respect to parameters and inputs."""
    run = partial(loss, **keywords)
    return jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(params, xs)


def exact(params, xs, spec):
    with jax.enable_x64(True):
        return gradient(*as_float64((params, xs)), spec=spec, backend="scan")


@NAMES
def test_a_cell_is_its_equations_in_float64(x64, name):
    spec, params, xs = problem(name, jnp.float64)
    (C, h), hs = in_numpy(CELLS[name][1], {k: np.asarray(v) for k, v in vars(params).items()}, xs)
    for backend in ("scan", "xla", "auto"):
        assert_close(lstm(params, xs, spec=spec, backend=backend), ((C, h), hs), atol=1e-13)
    state, _ = jax.lax.scan(partial(lstm_cell, params, spec=spec), LSTMState(0 * C, 0 * h), xs)
    assert_close(state, (C, h), atol=1e-13)


MASKS = {
    "lengths": jnp.array([5, 0, 3, 9, 1, 2, 5, 4]),
    "resets": jnp.arange(40).reshape(5, 8) % 3 == 0,
}


OPTIONS = {
    "plain": {},
    "masks": MASKS | {"reverse": True, "residuals": "recompute"},
    "remat": MASKS | {"remat_every": 2},
}
PAIRS = [(name, "plain") for name in CELLS]
PAIRS += [("peephole", "masks"), ("peephole", "remat"), ("coupled", "masks"), ("mixed", "remat")]
REST = [(name, options) for name in CELLS for options in OPTIONS if (name, options) not in PAIRS]


@pytest.mark.parametrize("pair", [*PAIRS, *nightly(*REST)])
def test_every_backend_has_the_gradient_of_scan_for_custom_cells(x64, pair):
    name, keywords = pair[0], OPTIONS[pair[1]]
    spec, params, xs = problem(name, jnp.float64)
    expected = gradient(params, xs, spec=spec, backend="scan", **keywords)
    for backend in ("xla", "auto", *(["cpu"] if spec.elementwise else [])):
        got = gradient(params, xs, spec=spec, backend=backend, **keywords)
        assert_relative(got, expected, 1e-12)


@pytest.mark.parametrize("backend", ["scan", "xla", "auto"])
def test_a_peephole_cell_in_bfloat16(backend):
    """The peephole's gradient is a sum over 1,024 steps, whose error in bfloat16 would be 2.7 %."""
    spec, params, xs = problem("peephole", jnp.bfloat16, T=1024)
    got = gradient(params, xs, spec=spec, backend=backend)
    expected = exact(params, xs, spec)
    assert_relative(got[1], expected[1], 1e-2)
    assert_relative(got[1][0].peephole, expected[1][0].peephole, 5e-3)
    assert got[1][0].peephole.dtype == jnp.bfloat16


def test_second_derivatives_of_a_peephole_cell(x64):
    spec, params, xs = problem("peephole", jnp.float64, T=3, batch=(2,), H=2)

    def of(peephole, backend):
        return loss(params.replace(peephole=peephole), xs, spec, backend)[0]

    got, expected = (jax.hessian(partial(of, backend=b))(params.peephole) for b in ("auto", "scan"))
    assert_close(got, expected, atol=1e-13)
    assert expected.any()


@pytest.mark.parametrize(
    ("shape", "partition"),
    [((8, 1), Partition("data", weights="data")), ((4, 2), Partition("data", "model"))],
)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["peephole", "coupled"])
def test_a_partition_of_a_cell(name, kind, shape, partition):
    spec, params, xs = problem(name)
    expected = gradient(params, xs, spec=spec)
    with jax.set_mesh(jax.make_mesh(shape, ("data", "model"), axis_types=(kind, kind))):
        got = gradient(params, xs, spec=spec, partition=partition)
    assert_relative(got, expected, 1e-5)


def test_layers_and_directions_of_a_peephole_cell():
    spec, _, xs = problem("peephole")
    params = init_stack(jax.random.key(2), 4, H, num_layers=2, bidirectional=True, spec=spec)
    assert [type(p).__name__ for p in params] == ["PeepholeParams"] * 4
    got, expected = (
        lstm_stack(params, xs, bidirectional=True, spec=spec, backend=b) for b in ("auto", "scan")
    )
    assert_close(got, expected, atol=1e-6)


def test_an_nnx_module_of_a_peephole_cell_learns():
    model = lstm_jax.nnx.LSTM(4, H, spec=Peephole(), rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    xs = jnp.ones((8, 5, 4))

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: ((m(xs) - 0.5) ** 2).mean())(model)
        optimizer.update(model, grads)
        return value

    before = model.params[0]
    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert (model.params[0].peephole != before.peephole).all()
    assert_close(
        model(xs), lstm(model.params[0], xs.swapaxes(0, 1), spec=Peephole())[1].swapaxes(0, 1), 0
    )


def test_linen_modules_of_a_peephole_cell():
    xs = jnp.ones((8, 5, 4))
    model = lstm_jax.linen.LSTM(H, spec=Peephole())
    variables = model.init(jax.random.key(0), xs)
    (params,) = model.stack_params(variables["params"])
    assert isinstance(params, Peephole.Params)
    assert_close(
        model.apply(variables, xs),
        lstm(params, xs.swapaxes(0, 1), spec=Peephole())[1].swapaxes(0, 1),
        0,
    )
    rnn = nn.RNN(lstm_jax.linen.LSTMCell(H, spec=Peephole()))
    variables = rnn.init(jax.random.key(0), xs)
    assert set(variables["params"]["cell"]) == {"w_x", "w_h", "bias", "peephole"}
    assert rnn.apply(variables, xs).shape == (8, 5, H)


def test_a_step_by_the_methods_of_the_spec_equals_the_cell():
    """The step is ``project``, ``recur`` and ``pointwise``, on the user's weights."""
    spec, params = LSTMSpec(), init_lstm(jax.random.key(0), 4, H)
    x, state = jnp.ones((2, 4)), LSTMState(jnp.ones((2, H)), 0.5 * jnp.ones((2, H)))
    z = spec.project(params, x) + spec.recur(params, state.h)
    assert_close(spec.pointwise(params, state.C, z), lstm_cell(params, state, x)[0], atol=1e-6)


@pytest.mark.parametrize("spec", [LSTMSpec(), Clipped(1e9)])
def test_the_gates_and_combine_are_the_equations(x64, spec):
    """Compares ``pointwise`` with activations and ``combine``, and with one tanh for all gates."""
    z = jax.random.normal(jax.random.key(0), (2, 4 * H), jnp.float64)
    C, h = spec.pointwise(NO_WEIGHTS, z[:, :H], z)
    assert_close((C, h), LSTMSpec().pointwise(NO_WEIGHTS, z[:, :H], z), atol=1e-15)
    assert_close((C, h), pointwise(spec, NO_WEIGHTS, z[:, :H], z), atol=1e-15)


def test_overriding_pointwise_resets_elementwise():
    specs = (LSTMSpec, Clipped, Normalized, Mixed, Derived, Peephole)
    given = {spec.__name__: spec.elementwise for spec in specs}
    no = {"Normalized": False, "Mixed": False}
    assert given == dict.fromkeys(given, True) | no


def test_kernels_serve_element_wise_cells_only():
    case = make_case(1, T=5, batch=(32,), I=128, H=128, lengths=False, resets=False)
    operands = Operands(case.params[0], jnp.asarray(case.xs), case.states[0], case.reset_states[0])
    for kernel in (cpu, tpu):
        assert kernel.unsupported_reason(Settings(Clipped()), operands) is None
        assert "Normalized.elementwise" in kernel.unsupported_reason(
            Settings(Normalized()), operands
        )
    with pytest.raises(ValueError, match=r"cpu.*Normalized\.elementwise"):
        choose("cpu", Settings(Normalized()), operands)


@pytest.mark.parametrize("spec", [NormalizedInCombine(), SaysByField(), Scaled()])
def test_a_wrong_declaration_of_elementwise_is_detected(spec):
    """The cell runs without kernels, and raises for a named backend with kernels."""
    params = init_lstm(jax.random.key(0), 4, 4, spec=spec)
    xs = jax.random.normal(jax.random.key(1), (5, 40, 4))
    expected = gradient(params, xs, spec=spec, backend="scan")
    assert_relative(gradient(params, xs, spec=spec), expected, 1e-5)
    mapped = jax.vmap(lambda x: lstm(params, x, spec=spec)[1], 1, 1)(xs.reshape(5, 4, 10, 4))
    assert_close(mapped.reshape(5, 40, 4), expected[0][1][1], atol=1e-5)
    with pytest.raises(ValueError, match=rf"cpu.*{type(spec).__name__}"):
        lstm(params, xs, spec=spec, backend="cpu")
    with (
        jax.set_mesh(jax.make_mesh((2,), ("model",))),
        pytest.raises(ValueError, match=rf"{type(spec).__name__}.*Partition\.hidden"),
    ):
        lstm(params, xs, spec=spec, partition=Partition(hidden="model"))


def test_elementwise_may_be_a_field():
    case = make_case(1, T=5, batch=(32,), lengths=False, resets=False)
    operands = Operands(case.params[0], jnp.asarray(case.xs), case.states[0], case.reset_states[0])
    assert cpu.unsupported_reason(Settings(SaysByField(elementwise=True)), operands) is None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TemperatureParams(LSTMParams):
    temperature: jax.Array


@dataclasses.dataclass(frozen=True)
class Temperature(LSTMSpec):
    """Has one weight for all units, without an axis of units."""

    Params = TemperatureParams

    def parameters(self, input_size, hidden_size):
        ones = (), jax.nn.initializers.ones
        return {**super().parameters(input_size, hidden_size), "temperature": ones}

    def combine(self, params, C, i, f, g, o):
        C = f * C + i * g
        return C, o * jnp.tanh(params.temperature * C)


def test_a_weight_without_an_axis_of_units_runs_without_kernels():
    spec = Temperature()
    params = init_lstm(jax.random.key(0), 4, H, spec=spec)
    xs = jax.random.normal(jax.random.key(1), (5, 8, 4))
    got, expected = (gradient(params, xs, spec=spec, backend=b) for b in ("auto", "scan"))
    assert_relative(got, expected, 1e-5)
    with pytest.raises(ValueError, match=r"cpu.*Temperature.*last axis.*H"):
        lstm(params, xs, spec=spec, backend="cpu")
    with (
        jax.set_mesh(jax.make_mesh((2,), ("model",))),
        pytest.raises(ValueError, match=r"Temperature.*last axis.*H.*Partition\.hidden"),
    ):
        lstm(params, xs, spec=spec, partition=Partition(hidden="model"))


def test_dependent_units_cannot_be_sharded():
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
    """Equal specs share a compiled program, so the second limit would be ignored."""
    params, xs = make_case().params[0], jnp.ones((5, 3, 2))
    with pytest.raises(ValueError, match=names):
        lstm(params, xs, spec=spec)
    with pytest.raises(ValueError, match=names):
        lstm_cell(params, LSTMState(jnp.zeros((3, 3)), jnp.zeros((3, 3))), xs[0], spec=spec)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unregistered(LSTMParams):
    peephole: jax.Array


@dataclasses.dataclass(frozen=True)
class Forgetful(Peephole):
    Params = Unregistered


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda p: p.replace(peephole=None), r"peephole.*PeepholeParams.*NoneType"),
        (lambda p: p.replace(peephole=p.peephole[0]), r"peephole.*\(3, 6\).*\(6,\).*Peephole"),
        (lambda p: LSTMParams(p.w_x, p.w_h, p.bias), r"PeepholeParams.*peephole.*LSTMParams"),
    ],
)
def test_parameters_of_another_cell_are_refused(change, names):
    spec, params, xs = problem("peephole")
    with pytest.raises(ValueError, match=names):
        lstm(change(params), xs, spec=spec)
    assert lstm(params.replace(bias=None), xs, spec=spec)[1].shape == (5, 8, H)


@pytest.mark.usefixtures("unannotated")
def test_parameters_that_are_not_a_pytree_are_refused():
    """A subclass that is not registered would be a single leaf."""
    with pytest.raises(ValueError, match=r"Unregistered.*register_dataclass"):
        init_lstm(jax.random.key(0), 4, H, spec=Forgetful())
    _, params, xs = problem("peephole")
    with pytest.raises(ValueError, match=r"Unregistered.*register_dataclass"):
        lstm(Unregistered(**vars(params)), xs, spec=Forgetful())


@dataclasses.dataclass(frozen=True)
class Uneven(LSTMSpec):
    gates = 3


@dataclasses.dataclass(frozen=True)
class Incomplete(Peephole):
    def parameters(self, input_size, hidden_size):
        return {
            n: p for n, p in super().parameters(input_size, hidden_size).items() if n != "peephole"
        }


def test_parameters_describe_the_fields():
    with pytest.raises(ValueError, match=r"Incomplete\.parameters.*peephole.*PeepholeParams"):
        init_lstm(jax.random.key(0), 4, H, spec=Incomplete())


def test_one_activation_per_gate_is_required():
    with pytest.raises(ValueError, match=r"Uneven.*\b3\b.*\b4\b"):
        init_lstm(jax.random.key(0), 4, H, spec=Uneven())


@dataclasses.dataclass(frozen=True)
class Wider(LSTMSpec):
    """Overrides ``project``."""

    def project(self, params, xs, precision=None):
        return 2 * super().project(params, xs, precision)


def test_a_cell_that_overrides_project_can_shard_its_batch_but_not_its_units():
    """``project`` could need columns of ``w_x`` that are on other devices."""
    case = make_case(T=4, batch=(8,), I=3, H=8, lengths=False, resets=False)
    run = partial(lstm, case.params[0], jnp.asarray(case.xs), spec=Wider())
    expected = run()
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        assert_close(run(partition=Partition(batch="data")), expected, atol=1e-6)
        with pytest.raises(ValueError, match=r"Partition\.hidden.*Wider.*\bproject\b"):
            run(partition=Partition(hidden="data"))


@dataclasses.dataclass(frozen=True)
class Limited(LSTMSpec):
    """Limits the cell state. No other test uses this class, so the result of the test is not cached."""

    limit: Any = 0.3

    def combine(self, params, C, i, f, g, o):
        C, h = super().combine(params, C, i, f, g, o)
        return jnp.clip(C, -self.limit, self.limit), h


def test_elementwise_is_tested_inside_shard_map():
    """The test of ``elementwise`` computes arrays without the trace and the mesh of the caller."""
    case = make_case(T=4, batch=(8,), I=3, H=8, lengths=False, resets=False)
    run = partial(lstm, case.params[0], jnp.asarray(case.xs), spec=Limited())
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        results = [
            run(partition=Partition(batch="data"), backend="cpu"),
            run(partition=Partition(hidden="data")),
        ]
    results.append(run(backend="cpu"))
    for result in results:
        assert_close(result, run(backend="scan"), atol=1e-6)


CALLS = []


@dataclasses.dataclass(frozen=True)
class FailsOnce(LSTMSpec):
    """Raises in the first call, and then works."""

    def combine(self, params, C, i, f, g, o):
        CALLS.append(1)
        if len(CALLS) == 1:
            raise MemoryError("for a moment")
        return super().combine(params, C, i, f, g, o)


def test_a_failure_is_not_cached():
    assert "MemoryError" in elementwise.unsupported_reason(FailsOnce())
    assert elementwise.unsupported_reason(FailsOnce()) is None


def test_lstm_cell_takes_arrays_and_traced_values_in_the_fields_of_a_cell():
    """``lstm`` compiles once per cell, so it needs hashable fields."""
    params, state = make_case().params[0], make_case().states[0]
    x = jnp.ones((3, 2))

    def C(limit):
        return lstm_cell(params, state, x, spec=Limited(limit))[0].C

    expected = C(0.3)
    for limit in (np.full(3, 0.3, np.float32), jnp.float32(0.3)):
        assert_close(C(limit), expected, atol=1e-6)
    gradient = jax.grad(lambda limit: C(limit).sum())(0.3)
    assert_close(gradient, jnp.sign(expected)[jnp.abs(expected) >= 0.3].sum(), atol=1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class WithAScalar(LSTMParams):
    scale: Any


@dataclasses.dataclass(frozen=True)
class ScaledByAScalar(LSTMSpec):
    Params = WithAScalar

    def parameters(self, input_size, hidden_size):
        one = (), jax.nn.initializers.ones
        return {**super().parameters(input_size, hidden_size), "scale": one}

    def pointwise(self, params, C, z):
        return super().pointwise(params, C, params.scale * z)


def test_a_numpy_scalar_is_a_weight():
    params = make_case().params[0]
    xs = jnp.ones((5, 3, 2))
    expected = lstm(WithAScalar(**vars(params), scale=jnp.float32(0.5)), xs, spec=ScaledByAScalar())
    for scale in (np.float64(0.5), np.float32(0.5)):
        got = lstm(WithAScalar(**vars(params), scale=scale), xs, spec=ScaledByAScalar())
        assert_close(got, expected, atol=1e-6)
