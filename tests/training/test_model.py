"""The model of an experiment."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax.training import config
from lstm_jax.training.config import ConfigError
from lstm_jax.training.model import SequenceModel, Sizes, merge, split
from tests.cases import assert_close
from tests.training.language_model import (
    SIZES,
    SMALL,
    B,
    T,
    V,
    graphdef_and_params,
    random_ids,
)

STRICT = False


@pytest.fixture
def model():
    """A language model of two layers, with dropout."""
    return SequenceModel(SIZES, SMALL, rngs=nnx.Rngs(0))


def test_chunks_give_the_outputs_of_the_whole_sequence(model):
    ids = random_ids(1)[0]
    carry, outputs = model(ids)
    middle, first = model(ids[:3])
    end, second = model(ids[3:], middle)
    assert_close(jnp.concatenate([first, second]), outputs, atol=1e-5)
    assert_close(end, carry, atol=1e-5)


def test_a_reset_starts_a_sequence_from_zeros(model):
    ids = random_ids(1)[0]
    carry, _ = model(ids)
    resets = np.zeros((T, B), bool)
    resets[0, 1] = True
    _, logits = model(ids[:T], carry, resets=resets)
    _, fresh = model(ids[:T])
    assert_close(logits[:, 1], fresh[:, 1], atol=1e-5)
    assert not jnp.allclose(logits[:, 0], fresh[:, 0], atol=1e-3)


def test_dropout_is_applied_only_with_a_key(model):
    ids, carry = random_ids(1)[0], model.initialize_carry(B)
    outputs = [model(ids, carry, dropout_key=jax.random.key(k))[1] for k in (0, 0, 1)]
    assert_close(outputs[0], outputs[1], atol=0)
    assert not jnp.allclose(outputs[0], outputs[2])
    assert_close(model(ids, carry)[1], model(ids, carry)[1], atol=0)


def test_an_rnn_has_no_cell_state():
    rnn = SequenceModel(SIZES, config.Model(cell="rnn", hidden_size=6, chrono=9), rngs=nnx.Rngs(0))
    carry, logits = rnn(random_ids(1)[0])
    assert logits.shape == (T + 1, B, V)
    assert carry[0].C is None


def test_a_bidirectional_model_ignores_padding():
    both = config.Model(hidden_size=6, bidirectional=True)
    model = SequenceModel(Sizes(0, 3, 2), both, rngs=nnx.Rngs(0))
    xs = np.random.default_rng(0).standard_normal((T, B, 3)).astype("f")
    lengths = np.array([8, 3, 1, 8])
    _, outputs = model(xs, lengths=lengths)
    assert outputs.shape == (T, B, 2)
    _, alone = model(xs[:3, 1:2])
    assert_close(outputs[:3, 1:2], alone, atol=1e-5)


def test_tied_embeddings_share_the_embedding_with_the_output_layer():
    tied = config.Model(hidden_size=6, embedding_size=6, tied_embeddings=True)
    _, params = graphdef_and_params(tied)
    assert sorted(params) == ["bias", "embedding", "lstm"]
    model = SequenceModel(SIZES, tied, rngs=nnx.Rngs(0))
    before = model(random_ids(1)[0])[1]
    model.embedding.embedding[...] = 2 * model.embedding.embedding[...]
    assert not jnp.allclose(model(random_ids(1)[0])[1], before)


def test_chrono_and_forget_bias_initialize_the_forget_gate():
    _, params = graphdef_and_params(config.Model(hidden_size=50, chrono=30))
    forget = params["lstm"]["l0f"]["bias"][50:100]
    assert 0 <= forget.min() < 1 < forget.max() <= np.log(29) + 1e-6
    _, params = graphdef_and_params(config.Model(hidden_size=50, forget_bias=2.5))
    assert (params["lstm"]["l0f"]["bias"][50:100] == 2.5).all()


@pytest.mark.parametrize("tied", [False, True])
def test_bfloat16_models_keep_parameters_and_cell_states_in_float32(tied):
    sizes = {"hidden_size": 16, "embedding_size": 16, "num_layers": 2, "tied_embeddings": tied}
    ids = np.arange(T * B).reshape(T, B) % V
    outputs = {}
    for dtype in ("float32", "bfloat16"):
        graphdef, params = graphdef_and_params(config.Model(dtype=dtype, **sizes))
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        carry, outputs[dtype] = nnx.merge(graphdef, params)(ids)
        assert {(state.C.dtype, state.h.dtype) for state in carry} == {
            (jnp.dtype("float32"), jnp.dtype(dtype))
        }
        start = nnx.merge(graphdef, params).initialize_carry(B)
        assert jax.tree.map(jnp.result_type, start) == jax.tree.map(jnp.result_type, carry)
        assert outputs[dtype].dtype == jnp.float32
    assert (outputs["float32"] != outputs["bfloat16"]).any()
    np.testing.assert_allclose(outputs["bfloat16"], outputs["float32"], atol=0.02)


@pytest.mark.parametrize("tied", [False, True])
def test_bfloat16_gradients_are_summed_in_float32(tied):
    """Checks the embedding and the output bias. Sums in bfloat16 would be wrong by 30 to 80 %."""
    sizes = Sizes(3, 0, 3)
    shape = config.Model(hidden_size=8, embedding_size=8, num_layers=1, tied_embeddings=tied)
    ids = np.random.default_rng(0).integers(0, 3, (128, 64))

    def gradient(dtype):
        graphdef, params = graphdef_and_params(dataclasses.replace(shape, dtype=dtype), sizes)

        def loss(params):
            _, logits = nnx.merge(graphdef, params)(ids)
            return optax.softmax_cross_entropy_with_integer_labels(logits, 1 - (ids == 1)).sum()

        return jax.jit(jax.grad(loss))(params)

    got, want = gradient("bfloat16"), gradient("float32")
    for name in ("embedding.embedding", "bias" if tied else "output_layer.bias"):
        a, b = got, want
        for key in name.split("."):
            a, b = a[key], b[key]
        assert a.dtype == jnp.float32
        assert np.abs(a - b).max() / np.abs(b).max() < 1e-2, name


def test_merge_is_the_inverse_of_split(model):
    ids = random_ids(1)[0]
    graphdef, params = split(model)
    assert_close(merge(graphdef, params)(ids), model(ids), atol=0)


def test_only_parameters_are_trained():
    class WithKeys(nnx.Module):
        def __init__(self):
            self.rngs = nnx.Rngs(0)

    with pytest.raises(ConfigError, match=r"model\.rngs\b.*nnx\.Param.*dropout_key"):
        split(WithKeys())
