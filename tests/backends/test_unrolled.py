"""Unrolling of time loops in programs that are lowered for GPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.extend.core.primitives import scan_p

from lstm_jax import init_lstm, lstm
from lstm_jax.backends import blocks
from lstm_jax.backends.unrolled import unrolled
from lstm_jax.sequence import _lstm

I, H = 2, 3
PARAMS = init_lstm(jax.random.key(0), I, H)
GPUS = ("cuda", "rocm")


def steps_per_iteration(platform, T=20, backend="auto", **keywords):
    """Returns the steps per iteration of the time loop, counted as calls of its body function."""

    def run(xs):
        return lstm(PARAMS, xs, backend=backend, **keywords)[1]

    text = jax.jit(run).trace(jnp.ones((T, 4, I))).lower(lowering_platforms=(platform,)).as_text()
    bodies = [part.split("stablehlo.return")[0] for part in text.split("do {")[1:]]
    steps = (
        "call @closed_call",
        "dot_general",
    )  # the second where XLA's program has the step inlined
    return max((body.count(step) for body in bodies for step in steps), default=0)


@pytest.mark.parametrize("platform", GPUS)
def test_gpus_unroll_eight_steps(platform):
    assert steps_per_iteration(platform) == 8
    assert steps_per_iteration(platform, T=5) == 0, "no loop is left"
    assert steps_per_iteration("tpu") == 1


@pytest.mark.parametrize("platform", [*GPUS, "tpu"])
def test_an_explicit_unroll_takes_precedence(platform):
    assert steps_per_iteration(platform, unroll=2) == 2
    assert steps_per_iteration(platform, unroll=1) == 1


@pytest.mark.parametrize("platform", GPUS)
def test_the_time_loop_is_unrolled_and_not_the_loop_over_blocks(platform, monkeypatch):
    for name in ("CPU_BYTES", "DEFAULT_BYTES"):
        monkeypatch.setattr(blocks, name, 10 * 4 * 4 * H * 4)  # ten steps per block
    _lstm.clear_cache()
    assert steps_per_iteration(platform) == 8
    _lstm.clear_cache()


def test_a_symbolic_length():
    shape = jax.ShapeDtypeStruct((*export.symbolic_shape("t, b"), I), jnp.float32)
    run = jax.jit(lambda xs: lstm(PARAMS, xs)[1])
    exported = export.export(run, platforms=("cuda", "cpu"))(shape)
    assert exported.call(jnp.ones((7, 2, I))).shape == (7, 2, H)


def test_loops_of_the_cell_are_not_unrolled():
    def step(carried, x):
        carried, _ = jax.lax.scan(lambda a, _: (a * x, None), carried, None, length=3)
        return carried, carried

    program = jax.make_jaxpr(lambda xs: jax.lax.scan(step, 1.0, xs))(jnp.ones(20))
    (time,) = [e for e in unrolled(program).eqns if e.primitive is scan_p]
    (inner,) = [e for e in time.params["jaxpr"].eqns if e.primitive is scan_p]
    assert (time.params["unroll"], inner.params["unroll"]) == (8, 1)
