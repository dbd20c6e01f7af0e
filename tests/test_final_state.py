"""``final_state_only``, which returns the final state without the outputs."""

import re

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import LSTMState, Partition, init_lstm, init_stack, lstm, lstm_stack
from tests.cases import assert_close, skipping_refusals

T, B, I, H = 6, 8, 3, 5
OPTIONS = {
    "plain": {},
    "lengths and resets": {
        "lengths": jnp.arange(B) % (T + 1),
        "resets": jnp.zeros((T, B), bool).at[2].set(True),
    },
    "reverse": {"reverse": True},
    "checkpoints": {"remat_every": 4},
    "recompute": {"residuals": "recompute"},
}


@pytest.mark.parametrize("backend", ["auto", "scan", "xla", "cpu", "tpu", "cudnn"])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_state_and_its_gradient_equal_those_with_outputs(backend, options):
    params = init_lstm(jax.random.key(0), I, H)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))

    def both(params, xs):
        return lstm(params, xs, backend=backend, **OPTIONS[options])[0]

    def alone(params, xs):
        return lstm(params, xs, backend=backend, final_state_only=True, **OPTIONS[options])

    def loss(run, *arguments):
        state = run(*arguments)
        return (state.C**2).sum() + jnp.sin(state.h).sum()

    with skipping_refusals(backend):
        state = alone(params, xs)
    assert isinstance(state, LSTMState)
    assert_close(state, both(params, xs), atol=1e-6)
    for differentiate in (jax.grad, jax.jacfwd):
        got, expected = (
            differentiate(loss, argnums=(1, 2))(run, params, xs) for run in (alone, both)
        )
        assert_close(got, expected, atol=1e-5)
    got, expected = (
        jax.vmap(run, in_axes=(None, 0))(params, jnp.stack([xs, 2 * xs])) for run in (alone, both)
    )
    assert_close(got, expected, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "scan", "xla", "cpu"])
@pytest.mark.parametrize(
    "shape", [(256, 32, 4, 64), (4000, 8, 4, 128)]
)  # the second runs in blocks
def test_no_array_over_all_steps_is_stored(backend, shape):
    steps, rows, inputs, units = shape
    params = init_lstm(jax.random.key(0), inputs, units)
    xs = jax.ShapeDtypeStruct((steps, rows, inputs), jnp.float32)

    def stored(**keywords):
        run = jax.jit(lambda xs: lstm(params, xs, backend=backend, **keywords))
        memory = run.lower(xs).compile().memory_analysis()
        return memory.output_size_in_bytes + memory.temp_size_in_bytes

    outputs = 4 * steps * rows * units
    assert stored() >= outputs
    assert stored(final_state_only=True) <= stored() - outputs


def test_the_tpu_kernel_writes_no_array_over_all_steps():
    params, xs = init_lstm(jax.random.key(0), I, 128), jnp.ones((8, B, I))  # one block of steps

    def results(**keywords):
        run = jax.jit(lambda params: lstm(params, xs, **keywords))
        text = jax.export.export(run, platforms=["tpu"])(params).mlir_module()
        (call,) = re.findall(r"@tpu_custom_call.*-> (.*)", text)
        return call

    assert f"tensor<8x{B}x128xf32>" in results()
    assert f"tensor<8x{B}x128xf32>" not in results(final_state_only=True)


def test_stacks_and_partitions():
    params = init_stack(jax.random.key(0), I, 8, 2, bidirectional=True)
    xs = jax.random.normal(jax.random.key(1), (T, B, I))
    states, _ = lstm_stack(params, xs, bidirectional=True)
    assert_close(
        lstm_stack(params, xs, bidirectional=True, final_state_only=True), states, atol=1e-6
    )
    with jax.set_mesh(jax.make_mesh((2, 4), ("data", "model"))):
        partition = Partition(batch="data", hidden="model")
        got = lstm_stack(params, xs, bidirectional=True, final_state_only=True, partition=partition)
    assert_close(got, states, atol=1e-6)
