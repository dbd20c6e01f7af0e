"""The initial training state."""

import jax
import jax.numpy as jnp
import optax
import pytest

from lstm_jax.training.model import make_model
from lstm_jax.training.train_state import initializer
from tests.training.language_model import SIZES, SMALL

STRICT = False


@pytest.mark.parametrize("carry_size", [None, 3])
def test_the_initial_state_starts_from_zeros(carry_size):
    optimizer = optax.adam(1e-3)
    _, init = initializer(lambda: make_model(SIZES, SMALL, seed=0), optimizer, carry_size)
    state = jax.eval_shape(init)
    assert (state.step.shape, state.step.dtype) == ((), jnp.int32)
    assert jax.tree.map(jnp.shape, state.opt_state[0].mu) == jax.tree.map(jnp.shape, state.params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.carry)]
    assert shapes == ([] if carry_size is None else [(3, 16)] * 4)  # C and h of two layers
