"""Checkpointing in time: its memory, and programs whose size does not depend on the sequence length."""

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import init_lstm, lstm

B, I, H, EVERY = 8, 16, 64, 128


def of_all_outputs(state, hs):
    return (hs**2).sum()


def of_the_final_state(state, hs):
    return (state.h**2).sum()


def gradient(of, argnums, every=EVERY):
    def loss(params, xs):
        return of(*lstm(params, xs, remat_every=every))

    return jax.grad(loss, argnums)


def shapes(T):
    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), I, H))
    return params, jax.ShapeDtypeStruct((T, B, I), jnp.float32)


def memory(function, T):
    """Returns the temporary memory of the compiled program, in arrays ``[T, B, H]``."""
    compiled = jax.jit(function).lower(*shapes(T)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / (T * B * H * 4)


@pytest.mark.parametrize(
    ("of", "argnums", "most"), [(of_all_outputs, (0, 1), 2.2), (of_the_final_state, 0, 0.3)]
)
def test_remat_every_limits_the_memory_of_a_long_sequence(of, argnums, most):
    assert memory(gradient(of, argnums), T=16384) < most
    assert memory(gradient(of, argnums, every=None), T=16384) > 6  # without checkpointing


@pytest.mark.parametrize("every", [None, EVERY])
@pytest.mark.parametrize("of", [of_all_outputs, of_the_final_state])
def test_the_program_does_not_grow_with_the_sequence(of, every):
    function = jax.jit(gradient(of, (0, 1), every))
    short, long = (function.trace(*shapes(T)) for T in (256, 16384))
    assert str(short.jaxpr).count(" = ") == str(long.jaxpr).count(" = ")
    short, long = (len(traced.lower().compile().as_text()) for traced in (short, long))
    assert long < 1.1 * short
