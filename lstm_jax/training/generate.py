"""Text from a trained language model."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.model import Carry


def generate(
    graphdef: Any,
    params: Any,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    temperature: float,
    key: jax.Array,
) -> str:
    """Continues a prompt by ``length`` characters, drawn at a temperature."""
    ids = jnp.asarray(vocabulary.encode(prompt))
    return prompt + vocabulary.decode(_sample(graphdef, params, ids, length, temperature, key))


@partial(jax.jit, static_argnames=("graphdef", "length"))
def _sample(
    graphdef: Any, params: Any, ids: jax.Array, length: int, temperature: ArrayLike, key: jax.Array
) -> jax.Array:
    model = nnx.merge(graphdef, params)

    def draw(
        state: tuple[Carry, jax.Array], key: jax.Array
    ) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        carry, logits = state
        logits = logits.at[0].set(-jnp.inf)  # never the unknown symbol
        id_ = jax.random.categorical(key, logits / temperature)
        carry, logits = model(carry, id_[None, None])
        return (carry, logits[0, 0]), id_

    carry, logits = model(model.initialize_carry(1), ids[:, None])
    _, drawn = jax.lax.scan(draw, (carry, logits[-1, 0]), jax.random.split(key, length))
    return drawn
