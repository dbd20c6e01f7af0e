"""Gradient accumulation over parts of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.grad_accum import Part, accumulate

STRICT = False
T, B = 3, 8


@pytest.mark.parametrize("n", [1, 2, 4])
def test_parts_add_up_to_the_gradient_of_the_batch(n):
    draw = np.random.default_rng(0).standard_normal
    xs, weights, carry = draw((T, B)), draw((T, B)) ** 2, draw((B, 2))
    lengths, resets = np.arange(B) % T + 1, draw((T, B)) > 0
    batch = Part(
        Batch(xs, xs, weights, lengths), resets, jax.random.key(0), jnp.asarray(weights.sum())
    )

    def gradient_of(carry, part):
        def loss(w):
            valid = jnp.arange(T)[:, None] < part.batch.lengths
            losses = (w * part.batch.inputs + part.resets) ** 2 * valid
            value = (losses * part.batch.weights).sum() / part.weight
            return value, (carry + part.batch.lengths[:, None], {"loss": value})

        return jax.grad(loss, has_aux=True)(2.0)

    gradient, (final, sums) = jax.jit(accumulate, static_argnums=(0, 3))(
        gradient_of, jnp.asarray(carry), batch, n
    )
    want, (want_final, want_sums) = gradient_of(jnp.asarray(carry), batch)
    np.testing.assert_allclose(gradient, want, rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], want_sums["loss"], rtol=1e-5)
    np.testing.assert_allclose(final, want_final)  # in the order of the batch
