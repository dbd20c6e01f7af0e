"""Selection of kernels: under transforms, on several platforms, and for known and unknown chips."""

import itertools
import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import lstm_jax.nnx
from lstm_jax import init_lstm, lstm, target
from lstm_jax.backends import batching, cpu, lowering, primitives
from tests.backends.test_agreement import assert_relative
from tests.cases import nightly

STRICT = False  # Flax
T, N, B, I, H = 4, 2, 32, 8, 128
"""N is the number of members of an ensemble, or of mapped sequences. B is large enough for ``cpu``."""


@pytest.fixture(autouse=True)
def clear_caches(caplog):
    """Clears caches, so that every test logs messages again and lowers its programs again."""
    for log_function in (
        lowering._log_once,
        lowering._log_unknown_chip,
        primitives.log_once,
        target._warn_once,
    ):
        log_function.cache_clear()
    jax.clear_caches()
    caplog.set_level(logging.INFO, "lstm_jax")


@pytest.fixture
def kernels(monkeypatch):
    """Records the steps that are lowered to CPU kernels, in order."""
    steps = []
    for name in ("infer", "forward", "backward"):
        kernel = getattr(cpu, name)

        def recorded(*args, name=name, kernel=kernel, **keywords):
            steps.append(name)
            return kernel(*args, **keywords)

        monkeypatch.setattr(cpu, name, recorded)
    return steps


def arrays():
    """Returns parameters ``[N, ...]`` and inputs ``[N, T, B, I]``."""
    params = jax.vmap(lambda key: init_lstm(key, I, H))(jax.random.split(jax.random.key(0), N))
    return params, jax.random.normal(jax.random.key(1), (N, T, B, I))


def hidden(params, xs, backend="auto"):
    return lstm(params, xs, backend=backend)[1]


def loss(params, xs, backend="auto"):
    return (hidden(params, xs, backend) ** 2).sum()


def first(function):
    """Applies ``function`` to the first member and its inputs."""
    return lambda params, xs: function(jax.tree.map(lambda a: a[0], params), xs[0])


def shared(function):
    """Applies ``function`` to the weights of the first member and to all inputs."""
    return lambda params, xs: function(jax.tree.map(lambda a: a[0], params), xs)


def second(f):
    """Returns the second derivative along one direction."""
    return lambda params, xs: jax.jvp(
        lambda p: jax.grad(f)(p, xs), (params,), (jax.tree.map(jnp.ones_like, params),)
    )[1]


def transforms(backend):
    """Returns functions of :func:`arrays`, each with the steps that have a kernel."""
    h, f = partial(hidden, backend=backend), partial(loss, backend=backend)
    inputs = jax.vmap(h, (None, 0))
    ensemble = jax.vmap(h)

    def total(run):
        return lambda params, xs: (run(params, xs) ** 2).sum()

    def tangent(run):
        return lambda params, xs: jax.jvp(run, (params, xs), (params, xs))

    def in_scan(params, xs):
        return jax.lax.scan(lambda _, x: (None, h(params, x)), None, xs)[1]

    both = ["forward", "backward"]
    return {
        "jit": (first(h), ["infer"]),
        "grad": (first(jax.grad(f)), both),
        "jvp": (first(tangent(h)), ["forward"]),
        "grad of checkpoint": (first(jax.grad(jax.checkpoint(f))), both),
        "scan": (shared(in_scan), ["infer"]),
        "vmap": (shared(inputs), ["infer"]),
        "grad of vmap": (shared(jax.grad(total(inputs))), both),
        "vmap of grad": (shared(jax.vmap(jax.grad(f), (None, 0))), both),
        "jvp of vmap": (shared(tangent(inputs)), ["forward"]),
        "vmap of vmap": (
            lambda params, xs: jax.vmap(inputs, (0, None))(params, xs),
            ["infer"],
        ),
        "ensemble": (ensemble, ["infer"]),
        "grad of ensemble": (jax.grad(total(ensemble)), both),
        "vmap of grad of ensemble": (jax.vmap(jax.grad(f)), both),
        "second derivative": (first(second(f)), []),
    }


@pytest.mark.parametrize("name", transforms("auto"))
def test_every_transform_on_cpu_has_a_kernel_or_logs_why_not(kernels, caplog, name):
    function, expected_steps = transforms("auto")[name]
    got = jax.jit(function)(*arrays())
    assert set(kernels) == set(expected_steps)
    assert bool(caplog.messages) == (not expected_steps)
    expected = jax.jit(transforms("scan")[name][0])(*arrays())
    assert_relative(got, expected, 1e-5)


@pytest.mark.parametrize("name", transforms("auto"))
def test_every_transform_exported_for_tpu_has_a_kernel_or_logs_why_not(caplog, name):
    function, expected_steps = transforms("auto")[name]
    exported = jax.export.export(jax.jit(function), platforms=["tpu"])(*arrays())
    assert exported.mlir_module().count("@tpu_custom_call") == len(expected_steps)
    assert any("second derivative" in m for m in caplog.messages) == (not expected_steps)
    assert any("type of TPU is not known" in m for m in caplog.messages) == bool(expected_steps)


def test_one_export_for_three_platforms_keeps_the_kernels_of_each():
    function, _ = transforms("auto")["grad of vmap"]
    platforms = ["cpu", "tpu", "cuda"]
    exported = jax.export.export(jax.jit(function), platforms=platforms)(*arrays())
    assert exported.mlir_module().count("@tpu_custom_call") == 2
    assert_relative(exported.call(*arrays()), jax.jit(function)(*arrays()), 1e-5)


def test_few_rows_run_in_the_xla_form_with_a_log_message(kernels, caplog):
    params, xs = arrays()
    jax.jit(first(jax.grad(loss)))(params, xs[:, :, :4])
    assert kernels == []
    assert any("cpu" in message and "slower" in message for message in caplog.messages)


@pytest.mark.parametrize("name", ["ensemble", "grad of ensemble", "vmap of grad", "vmap of vmap"])
def test_a_named_backend_runs_member_by_member(kernels, name):
    """It also runs the kernel for few rows, for which ``auto`` selects the XLA form."""
    params, xs = arrays()
    function, expected_steps = transforms("cpu")[name]
    got = jax.jit(function)(params, xs[:, :, :2])
    assert set(kernels) == set(expected_steps)
    assert_relative(got, jax.jit(transforms("scan")[name][0])(params, xs[:, :, :2]), 1e-5)


def test_small_members_run_at_once_in_the_xla_form(kernels, caplog):
    """A time loop per member would be slower."""
    params, xs = arrays()
    small = jax.tree.map(lambda a: a[..., :32], params).replace(w_h=params.w_h[:, :8, :32])
    jax.jit(transforms("auto")["grad of ensemble"][0])(small, xs)
    assert kernels == []
    assert any("slower" in message for message in caplog.messages)


def test_a_named_backend_is_refused_without_jit():
    with jax.disable_jit(), pytest.raises(ValueError, match=r"backend.*'cpu'.*disable_jit"):
        first(partial(hidden, backend="cpu"))(*arrays())


@pytest.mark.parametrize("name", ["vmap", "ensemble", "grad of ensemble", "vmap of grad"])
def test_a_backend_of_another_platform_is_refused_under_vmap(name):
    with pytest.raises(ValueError, match=r"backend.*'tpu'.*\bcpu\b"):
        jax.jit(transforms("tpu")[name][0])(*arrays())


def test_second_derivatives_of_a_named_backend_log_that_they_run_in_the_xla_form(caplog):
    got = jax.jit(transforms("cpu")["second derivative"][0])(*arrays())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cpu" in record.message
    assert_relative(got, jax.jit(transforms("scan")["second derivative"][0])(*arrays()), 1e-4)


def mesh(kind, *names):
    return jax.make_mesh((2,) * len(names), names, axis_types=(kind,) * len(names))


SHARDED = [
    (AxisType.Auto, "batch", "vmap of grad"),
    (AxisType.Auto, "mapped", "grad of ensemble"),
    (AxisType.Explicit, "batch", "grad of vmap"),
    (AxisType.Explicit, "mapped", "vmap of grad"),
]
MORE_SHARDED = itertools.product(
    (AxisType.Auto, AxisType.Explicit),
    ("mapped", "batch"),
    ("vmap", "grad of vmap", "vmap of grad", "grad of ensemble"),
)


@pytest.mark.parametrize(
    "options", [*SHARDED, *nightly(*(o for o in MORE_SHARDED if o not in SHARDED))]
)
def test_vmap_of_sharded_arrays(options):
    kind, axis, name = options
    params, xs = arrays()
    expected = jax.jit(transforms("scan")[name][0])(params, xs)
    with jax.set_mesh(mesh(kind, "data")):
        spec = P("data") if axis == "mapped" else P(None, None, "data")
        on_members = P("data") if axis == "mapped" and "ensemble" in name else P()
        placed = jax.device_put(params, NamedSharding(jax.sharding.get_mesh(), on_members))
        xs = jax.device_put(xs, NamedSharding(jax.sharding.get_mesh(), spec))
        if "ensemble" not in name:
            placed = jax.device_put(params, NamedSharding(jax.sharding.get_mesh(), P()))
        got = jax.jit(transforms("auto")[name][0])(placed, xs)
    assert_relative(got, expected, 1e-5)


def test_a_named_backend_is_refused_for_an_explicit_mapped_axis():
    params, xs = arrays()
    with jax.set_mesh(mesh(AxisType.Explicit, "data")):
        xs = jax.device_put(xs, NamedSharding(jax.sharding.get_mesh(), P("data")))
        with pytest.raises(ValueError, match=r"backend.*'cpu'.*vmap.*'data'.*Explicit"):
            jax.jit(transforms("cpu")["vmap"][0])(params, xs)


@pytest.mark.parametrize("name", ["vmap", "grad of vmap", "grad of ensemble"])
def test_vmap_inside_of_shard_map_has_the_kernel(kernels, name):
    params, xs = arrays()
    expected = jax.jit(transforms("scan")[name][0])(params, xs)
    function, expected_steps = transforms("auto")[name]
    sharded = P(None, None, "data")
    out = sharded if name == "vmap" else P()
    with jax.set_mesh(mesh(AxisType.Auto, "data")):
        mapped = jax.shard_map(function, in_specs=(P(), sharded), out_specs=out)
        got = jax.jit(mapped)(params, xs)
    assert_relative(got, expected, 1e-5)
    assert set(kernels) == set(expected_steps)


class Chip:
    device_kind = "TPU v6 lite"


@pytest.fixture
def kinds(monkeypatch):
    """Makes lowering rules see a machine with TPUs, and records the kinds that they get."""
    told = []
    original = lowering.target_of

    def recorded(ctx, platform, kind_in_context):
        told.append(original(ctx, "tpu", kind_in_context).device_kind)
        return original(ctx, platform, kind_in_context)

    monkeypatch.setattr(lowering, "target_of", recorded)
    return told


@pytest.fixture
def on_tpu(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda *_: [Chip(), Chip()])
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def bare(params, xs):
    return hidden(params, xs)


def jitted(params, xs):
    return jax.jit(hidden)(params, xs)


def gradient(params, xs):
    return jax.grad(loss)(params, xs)


def of_vmap(params, xs):
    return jax.vmap(hidden, (None, 1), 1)(params, xs[:, None])


def nnx_module(params, xs):
    from flax import nnx

    model = lstm_jax.nnx.LSTM(I, H, time_major=True, rngs=nnx.Rngs(0))
    return nnx.jit(lambda m, xs: m(xs))(model, xs)


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize("program", [bare, jitted, gradient, of_vmap, nnx_module])
def test_a_program_that_is_not_exported_targets_the_devices_of_the_machine(kinds, program):
    """Tests ``jax.jit``, eager calls and ``nnx.jit``, where a lowering rule has no mesh with devices."""
    params, xs = arrays()
    program(jax.tree.map(lambda a: a[0], params), xs[0])
    assert kinds
    assert set(kinds) == {"TPU v6 lite"}


@pytest.mark.usefixtures("on_tpu")
def test_devices_of_two_kinds_and_an_export_leave_the_chip_unknown(kinds, monkeypatch, caplog):
    params, xs = arrays()
    args = jax.tree.map(lambda a: a[0], params), xs[0]
    jax.export.export(jax.jit(hidden), platforms=["tpu"])(*args)
    assert kinds == [None]
    assert any("16 MiB" in message for message in caplog.messages)
    other = type("Other", (), {"device_kind": "TPU v5 lite"})
    monkeypatch.setattr(jax, "devices", lambda *_: [Chip(), other()])
    jax.jit(hidden)(*args)
    assert kinds[-1] is None


def test_a_mesh_determines_the_chip(kinds):
    """Tests the mesh of the arguments, the current mesh and the mesh of ``shard_map``, each with CPUs."""
    params, xs = arrays()
    params = jax.tree.map(lambda a: a[0], params)
    one = Mesh(np.array(jax.devices()[:1]), ("data",))
    placed = jax.device_put(xs[0], NamedSharding(one, P()))
    jax.jit(hidden)(params, placed)
    with jax.set_mesh(one):
        jax.jit(hidden)(params, xs[0])
        jax.jit(jax.shard_map(hidden, in_specs=(P(), P()), out_specs=P()))(params, xs[0])
    assert kinds == ["cpu"] * 3


def test_an_export_for_tpu_with_a_cpu_mesh_logs_that_the_chip_is_unknown(caplog):
    params, xs = arrays()
    args = jax.tree.map(lambda a: a[0], params), xs[0]
    with jax.set_mesh(Mesh(np.array(jax.devices()[:1]), ("data",))):
        jax.export.export(jax.jit(hidden), platforms=["tpu"])(*args)
    assert any("16 MiB" in message for message in caplog.messages)


def test_an_abstract_mesh_lowers_for_tpu(kinds):
    """An abstract mesh has no devices. A lowering rule that requests devices would raise."""
    abstract = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,))
    params, xs = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(
            a.shape[1:], a.dtype, sharding=NamedSharding(abstract, P(*(None,) * (a.ndim - 1)))
        ),
        arrays(),
    )
    text = jax.jit(hidden).trace(params, xs).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call") == 1
    assert kinds == [None]


def test_a_program_of_two_meshes():
    params, xs = arrays()
    params, xs = jax.tree.map(lambda a: a[0], params), xs[0]
    expected = hidden(params, xs)
    devices = np.array(jax.devices()[:2])
    one, other = Mesh(devices, ("data",)), Mesh(devices.reshape(2, 1), ("rows", "cpu"))

    @jax.jit
    def program(params, xs):
        shard = partial(jax.shard_map, hidden)
        a = shard(mesh=one, in_specs=(P(), P(None, "data")), out_specs=P(None, "data"))
        b = shard(mesh=other, in_specs=(P(), P(None, "rows")), out_specs=P(None, "rows"))
        return a(params, xs), b(params, xs)

    for got in program(params, xs):
        assert_relative(got, expected, 1e-6)


@pytest.mark.parametrize("gone", ["num_devices", "for_export"])
def test_the_xla_form_runs_if_an_attribute_of_jax_is_missing(monkeypatch, kernels, caplog, gone):
    """A missing attribute must not be interpreted as a single device."""

    class Without:
        def __init__(self, value):
            self._value = value

        def __getattr__(self, name):
            if name == gone:
                raise AttributeError(name)
            value = getattr(self._value, name)
            nested = ("module_context", "axis_context", "lowering_parameters")
            return Without(value) if name in nested else value

    original = lowering.target_of
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(lowering, "target_of", lambda ctx, *rest: original(Without(ctx), *rest))
    params, xs = arrays()
    got = jax.jit(first(hidden))(params, xs)
    assert kernels == []
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert gone in warnings[0]
    assert_relative(got, first(partial(hidden, backend="scan"))(params, xs), 1e-5)


def test_the_xla_form_runs_if_the_sharding_of_a_mapped_axis_is_unknown(
    monkeypatch, kernels, caplog
):
    class Nothing:
        pass

    original = batching.sharded_axis
    monkeypatch.setattr(batching, "sharded_axis", lambda _: original(Nothing()))
    got = jax.jit(transforms("auto")["grad of vmap"][0])(*arrays())
    assert kernels == []
    assert (
        next(r.levelno for r in caplog.records if "explicit_mesh_axis" in r.message)
        == logging.WARNING
    )
    assert_relative(got, jax.jit(transforms("scan")["grad of vmap"][0])(*arrays()), 1e-5)
