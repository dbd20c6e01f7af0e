import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax.training import config
from lstm_jax.training.data.stream import evaluation_batches
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.generate import generate
from lstm_jax.training.model import LanguageModel
from lstm_jax.training.optimizer import decays, make_optimizer
from lstm_jax.training.state import TrainState
from lstm_jax.training.step import make_evaluation, make_train_steps
from tests.cases import assert_close

STRICT = False

V, B, T = 7, 4, 8
SMALL = config.Model(hidden_size=16, embedding_size=5, num_layers=2, dropout=0.3)


@pytest.fixture
def model():
    return LanguageModel(V, SMALL, rngs=nnx.Rngs(0))


def start(model, optimizer):
    _, params = nnx.split(model)
    params = jax.tree.map(jnp.copy, params)
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), model.initialize_carry(B)
    )


def batches(n, seed=0):
    return np.random.default_rng(seed).integers(0, V, (n, T + 1, B))


def test_reading_in_chunks_is_reading_at_once(model):
    ids = batches(1)[0]
    carry, whole = model(model.initialize_carry(B), ids)
    middle, first = model(model.initialize_carry(B), ids[:3])
    end, second = model(middle, ids[3:])
    assert_close(jnp.concatenate([first, second]), whole, atol=1e-5)
    assert_close(end, carry, atol=1e-5)


def test_a_reset_forgets_what_was_read(model):
    ids = batches(1)[0]
    carry, _ = model(model.initialize_carry(B), ids)
    resets = np.zeros((T, B), bool)
    resets[0, 1] = True
    _, logits = model(carry, ids[:T], resets=resets)
    _, fresh = model(model.initialize_carry(B), ids[:T])
    assert_close(logits[:, 1], fresh[:, 1], atol=1e-5)
    assert not jnp.allclose(logits[:, 0], fresh[:, 0], atol=1e-3)


def test_dropout_needs_its_key_only_in_training(model):
    ids, carry = batches(1)[0], model.initialize_carry(B)
    wet = [model(carry, ids, dropout_key=jax.random.key(k))[1] for k in (0, 0, 1)]
    assert_close(wet[0], wet[1], atol=0)
    assert not jnp.allclose(wet[0], wet[2])
    assert_close(model(carry, ids)[1], model(carry, ids)[1], atol=0)


def test_the_rnn_is_a_model_too():
    rnn = LanguageModel(V, config.Model(cell="rnn", hidden_size=6), rngs=nnx.Rngs(0))
    carry, logits = rnn(rnn.initialize_carry(B), batches(1)[0])
    assert logits.shape == (T + 1, B, V)
    assert carry[0].C is None


def test_steps_in_one_dispatch_equal_steps_in_many(model):
    graphdef, _ = nnx.split(model)
    optimizer = make_optimizer(config.Optimizer(warmup_steps=2), steps=6)
    steps = make_train_steps(graphdef, optimizer, seed=3, reset_probability=0.5)
    data = batches(6)
    together, _ = steps(start(model, optimizer), data)
    one_by_one = start(model, optimizer)
    for n in range(6):
        one_by_one, _ = steps(one_by_one, data[n : n + 1])
    assert int(together.step) == 6
    assert_close(one_by_one, together, atol=0)


def test_a_step_writes_over_the_state_it_was_given(model):
    graphdef, _ = nnx.split(model)
    optimizer = make_optimizer(config.Optimizer(), steps=10)
    before = start(model, optimizer)
    make_train_steps(graphdef, optimizer, 0, 0.0)(before, batches(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.carry)))


def test_training_learns_a_pattern(model):
    """A cycle of symbols can be predicted perfectly."""
    graphdef, _ = nnx.split(model)
    optimizer = make_optimizer(config.Optimizer(learning_rate=2e-2, warmup_steps=10), steps=200)
    steps = make_train_steps(graphdef, optimizer, 0, 0.02)
    cycle = (np.arange(200 * T)[:, None] + np.arange(B)) % V
    data = np.stack([cycle[n * T : (n + 1) * T + 1] for n in range(199)])
    state, _ = steps(start(model, optimizer), data)
    chunks, weights = evaluation_batches(np.arange(100) % V, 2, T)
    nats = make_evaluation(graphdef)(state.params, model.initialize_carry(2), chunks, weights)
    assert float(nats) < 0.2 < np.log(V)


def test_evaluation_is_the_mean_over_the_whole_text(model):
    ids = np.random.default_rng(0).integers(0, V, 50)
    chunks, weights = evaluation_batches(ids, 1, T)
    graphdef, params = nnx.split(model)
    got = make_evaluation(graphdef)(params, model.initialize_carry(1), chunks, weights)
    _, logits = model(model.initialize_carry(1), ids[:-1, None])
    want = optax.softmax_cross_entropy_with_integer_labels(logits[:, 0], jnp.asarray(ids[1:]))
    np.testing.assert_allclose(got, want.mean(), rtol=1e-5)


def test_an_untrained_model_is_near_uniform(model):
    graphdef, params = nnx.split(model)
    chunks, weights = evaluation_batches(np.random.default_rng(0).integers(0, V, 400), 4, T)
    nats = make_evaluation(graphdef)(params, model.initialize_carry(4), chunks, weights)
    np.testing.assert_allclose(nats, np.log(V), rtol=0.1)


def test_weight_decay_leaves_biases_alone(model):
    _, params = nnx.split(model)
    flags = {
        jax.tree_util.keystr(path): flag
        for path, flag in jax.tree_util.tree_leaves_with_path(decays(params))
    }
    assert len(flags) == 9
    assert {path for path, flag in flags.items() if not flag} == {p for p in flags if "bias" in p}
    assert sum(not flag for flag in flags.values()) == 3


def test_clipping_and_schedule():
    optimizer = make_optimizer(
        config.Optimizer(learning_rate=1.0, warmup_steps=5, clip_norm=1.0), steps=10
    )
    params = {"kernel": jnp.zeros(4)}
    state = optimizer.init(params)
    sizes = []
    for _ in range(10):
        updates, state = optimizer.update({"kernel": jnp.full(4, 1e6)}, state, params)
        sizes.append(float(jnp.abs(updates["kernel"]).max()))
    assert sizes[0] == 0.0
    assert int(np.argmax(sizes)) == 5
    assert sizes[-1] < 0.2


def test_generation_follows_its_seed_and_never_draws_the_unknown(model):
    graphdef, params = nnx.split(model)
    vocabulary = Vocabulary(("\N{REPLACEMENT CHARACTER}", *"abcdef"))

    def text(seed, temperature=1.0):
        return generate(
            graphdef,
            params,
            vocabulary,
            "ab",
            200,
            temperature=temperature,
            key=jax.random.key(seed),
        )

    assert text(0) == text(0) != text(1)
    assert text(0).startswith("ab")
    assert len(text(0)) == 202
    assert set(text(0)) == set("abcdef")
    assert len(set(text(0, temperature=1e-4))) <= len(set(text(0)))
