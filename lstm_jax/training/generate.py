"""Text from a trained language model."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from lstm_jax.training.config import ConfigError, Sample
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.model import Carry


def generate(graphdef: Any, params: Any, vocabulary: Vocabulary, sample: Sample) -> str:
    """Continues ``sample.prompt`` by ``sample.length`` symbols.

    Raises:
      ConfigError: if the prompt holds no symbol.
    """
    ids = vocabulary.encode(sample.prompt)
    if not len(ids):
        raise ConfigError(f"the prompt {sample.prompt!r} holds no {vocabulary.unit}.")
    top_k = min(sample.top_k or len(vocabulary), len(vocabulary) - 1)
    key = jax.random.key(sample.seed)
    drawn = _draw(graphdef, params, ids, sample.length, top_k, sample.temperature, key)
    return vocabulary.join(
        [
            sample.prompt.rstrip() if vocabulary.unit == "word" else sample.prompt,
            vocabulary.decode(drawn),
        ]
    )


@partial(jax.jit, static_argnames=("graphdef", "length", "top_k"))
def _draw(
    graphdef: Any,
    params: Any,
    ids: ArrayLike,
    length: int,
    top_k: int,
    temperature: ArrayLike,
    key: jax.Array,
) -> jax.Array:
    model = nnx.merge(graphdef, params)

    def draw(
        state: tuple[Carry, jax.Array], key: jax.Array
    ) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        carry, logits = state
        logits = logits.at[0].set(-jnp.inf)  # never the unknown symbol
        likely, candidates = jax.lax.top_k(logits, top_k)
        drawn = candidates[jax.random.categorical(key, likely / temperature)]
        carry, outputs = model(drawn[None, None], carry)
        return (carry, outputs[0, 0]), drawn

    carry, outputs = model(jnp.asarray(ids)[:, None])
    _, drawn = jax.lax.scan(draw, (carry, outputs[-1, 0]), jax.random.split(key, length))
    return drawn
