"""Inference in blocks of steps: equal results, and memory that does not grow with the sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lstm_jax import init_lstm, lstm
from lstm_jax.backends import blocks
from lstm_jax.backends.problem import Operands
from lstm_jax.carry import zero_state
from lstm_jax.sequence import _lstm
from tests.cases import assert_close, make_case

XLA = pytest.mark.parametrize("backend", ["xla", "scan"])


@pytest.fixture(params=[6, 7])
def case(request, monkeypatch):
    """A case with two steps per block. With 7 steps the last block has one step."""
    set_bytes(monkeypatch, 2 * 3 * 12 * 4)
    yield make_case(T=request.param, batch=(3,), I=2, H=3, state=True, reset_state=True)
    _lstm.clear_cache()


def set_bytes(monkeypatch, size):
    monkeypatch.setattr(blocks, "CPU_BYTES", size)
    _lstm.clear_cache()  # compiled programs have other blocks


def run(case, backend, reverse, xs=None):
    xs = jnp.asarray(case.xs if xs is None else xs)
    return lstm(
        case.params[0], xs, case.states[0], lengths=case.lengths, resets=case.resets,
        reset_state=case.reset_states[0], reverse=reverse, backend=backend,
    )  # fmt: skip


@XLA
@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_do_not_change_the_result(case, monkeypatch, backend, reverse):
    got = run(case, backend, reverse)
    set_bytes(monkeypatch, 2**20)
    assert_close(got, run(case, backend, reverse), atol=1e-6)


@XLA
def test_derivatives_of_inference_in_blocks(case, monkeypatch, backend):
    def loss(xs):
        state, hs = run(case, backend, False, xs)
        return (hs**2).sum() + (state.C**2).sum()

    def derivatives():
        return jax.grad(loss)(xs), jax.jvp(loss, (xs,), (jnp.ones_like(xs),))

    xs = jnp.asarray(case.xs)
    got = derivatives()
    set_bytes(monkeypatch, 2**20)
    assert_close(got, derivatives(), atol=1e-5)


@XLA
def test_padding_may_be_nan(case, backend):
    held = np.arange(len(case.xs))[:, None] >= np.asarray(case.lengths)
    xs = np.where(held[..., None], np.nan, case.xs)
    assert_close(run(case, backend, False, xs), run(case, backend, False), atol=0)


def test_the_number_of_steps_of_a_block():
    """It is a divisor of T, if one exists above half of the steps that fit."""

    def steps(T, B, H, dtype=jnp.float32):
        params = init_lstm(jax.random.key(0), 1, H)
        xs = jnp.zeros((T, B, 1), dtype)
        state = zero_state(params, xs[0])
        return blocks.block_steps(Operands(params, xs, state, state), blocks.CPU_BYTES)

    assert steps(64, 64, 256) is None  # 64 * 64 * 4 * 256 * 4 bytes are 16 MiB
    assert steps(67, 64, 256) == 64
    assert steps(100, 64, 256) == 50
    assert steps(100, 64, 256, jnp.bfloat16) == 50  # pre-activations are added in float32
    assert steps(2, 4096, 256) == 1


@pytest.mark.parametrize("backend", ["auto", "xla", "scan"])
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(1000, 64, 64, 256), (997, 64, 512, 256), (4001, 4, 64, 256)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_memory_of_inference(backend, T, B, I, H, masked):
    """Inference takes at most 64 MiB plus its outputs. Lengths must not copy the inputs."""
    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), I, H))
    masks = {"lengths": jax.ShapeDtypeStruct((B,), jnp.int32)} if masked else {}
    masks |= {"resets": jax.ShapeDtypeStruct((T, B), bool)} if masked else {}

    def infer(params, xs, masks):
        return lstm(params, xs, backend=backend, **masks)

    xs = jax.ShapeDtypeStruct((T, B, I), jnp.float32)
    compiled = jax.jit(infer).lower(params, xs, masks).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 64 * 2**20


@XLA
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_blocks_on_many_devices(monkeypatch, backend, axis_type):
    """Carries in ``shard_map`` must vary over devices from the start. Partitioned programs have no blocks."""
    case = make_case(T=7, batch=(8,), I=2, H=3, lengths=False, resets=False)
    params, xs = case.params[0], jnp.asarray(case.xs)
    expected = lstm(params, xs, backend=backend)[1]
    set_bytes(monkeypatch, 2 * 12 * 4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    rows = P(None, "data")

    def run(params, xs):
        return lstm(params, xs, backend=backend)[1]

    with jax.set_mesh(mesh):
        given = jax.device_put(params, P()), jax.device_put(xs, rows)
        assert str(jax.make_jaxpr(run)(*given)).count("while[") == 0
        got = jax.jit(run)(*given)
        mapped = jax.jit(jax.shard_map(run, in_specs=(P(), rows), out_specs=rows))(*given)
    assert_close((got, mapped), (expected, expected), atol=1e-6)
    _lstm.clear_cache()


@XLA
def test_a_program_for_two_platforms(monkeypatch, backend):
    """The program has blocks on one of the platforms."""
    set_bytes(monkeypatch, 2 * 3 * 12 * 4)
    case = make_case(T=7, batch=(3,), I=2, H=3, lengths=False, resets=False)
    run = jax.jit(lambda xs: lstm(case.params[0], xs, backend=backend)[1])
    xs = jnp.asarray(case.xs)
    exported = export.export(run, platforms=("cpu", "cuda"))(xs)
    assert_close(exported.call(xs), run(xs), atol=1e-6)
    _lstm.clear_cache()
