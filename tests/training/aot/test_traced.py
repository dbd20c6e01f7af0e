"""FLOPs of traced programs."""

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import init_lstm, lstm
from lstm_jax.training.jaxprs import matmul_flops

STRICT = False


@pytest.mark.parametrize("backend", ["auto", "xla", "scan"])
@pytest.mark.parametrize(("T", "B", "H"), [(8, 4, 16), (300, 64, 256)])
def test_flops_of_the_layer(backend, T, B, H):
    """FLOPs are those of the products with both weights, and three times as many with gradients."""
    params = jax.eval_shape(lambda: init_lstm(jax.random.key(0), H, H))
    xs = jax.ShapeDtypeStruct((T, B, H), jnp.float32)

    def run(params, xs):
        return lstm(params, xs, backend=backend)[1].sum()

    forward = 16 * T * B * H**2
    assert matmul_flops(jax.make_jaxpr(run)(params, xs)) == forward
    gradient = matmul_flops(jax.make_jaxpr(jax.grad(run, (0, 1)))(params, xs))
    assert 3 * forward <= gradient <= 3.1 * forward  # with the gradient of the initial state
