"""The compiled training step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training import config
from lstm_jax.training.config import (
    Data,
    Experiment,
    Log,
    Mesh,
    Model,
    Optimizer,
    Train,
)
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.loop import fit
from lstm_jax.training.optimizer import make_optimizer
from lstm_jax.training.program import make_program
from lstm_jax.training.train_step import count_tokens
from tests.cases import assert_close
from tests.training.language_model import (
    TRAIN,
    compiled_steps,
    initial_state,
    next_token_batches,
    random_ids,
)
from tests.training.runs import (
    logged_metrics,
    small_config,
)

STRICT = False


def test_one_dispatch_of_n_steps_equals_n_dispatches():
    optimizer = make_optimizer(config.Optimizer(warmup_steps=2), TRAIN)
    batches = next_token_batches(random_ids(6))
    graphdef, state = initial_state(optimizer)
    keywords = {"seed": 3, "reset_probability": 0.5}
    at_once, _ = compiled_steps(state, graphdef, optimizer, 6, **keywords)(state, batches)
    _, one_by_one = initial_state(optimizer)
    one = compiled_steps(one_by_one, graphdef, optimizer, 1, **keywords)
    for n in range(6):
        part = jax.tree.map(lambda a, n=n: a[n : n + 1], batches)
        one_by_one, _ = one(one_by_one, part)
    assert int(at_once.step) == 6
    assert_close(one_by_one, at_once, atol=0)


def test_the_training_state_is_donated():
    optimizer = make_optimizer(config.Optimizer(), TRAIN)
    graphdef, before = initial_state(optimizer)
    compiled_steps(before, graphdef, optimizer, 1)(before, next_token_batches(random_ids(1)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.carry)))


B = 64


@pytest.fixture
def update(text):
    """``update(reset_probability, step, start)``: the final C ``[B, H]`` of one update.

    All rows of the batch are the same, and the carry is ``start`` everywhere before the update.
    """
    base = Experiment(
        model=Model(hidden_size=4, dropout=0.0),
        data=Data(path=text, batch_size=B, sequence_length=3),
        optimizer=Optimizer(warmup_steps=0),
        train=Train(steps=1, log_every=1, eval_every=1, checkpoint_every=1, steps_per_dispatch=1),
        mesh=Mesh(data=1),
    )
    dataset = make_dataset(base)
    one = dataset.batch(0, np.array([0]))
    batch = jax.tree.map(lambda a: np.repeat(a[None], B, axis=-1), one)
    programs = {}

    def update(reset_probability, step=0, start=1.0):
        data = dataclasses.replace(base.data, reset_probability=reset_probability)
        experiment = dataclasses.replace(base, data=data)
        if reset_probability not in programs:
            programs[reset_probability] = make_program(experiment, dataset, jax.devices())
        program = programs[reset_probability]
        with jax.set_mesh(program.layout.mesh):
            state = program.init()
            carry = jax.tree.map(lambda a: jnp.full_like(a, start), state.carry)
            state = state._replace(step=jnp.full_like(state.step, step), carry=carry)
            state, _ = program.train_steps(state, batch)
        return np.asarray(state.carry[0].C)

    return update


def test_sequences_start_from_zeros_with_the_reset_probability(update):
    """The final carry of a row shows whether the row started from zeros."""
    continued, zero = update(0.0), update(0.0, start=0.0)
    assert (continued == continued[0]).all()
    assert not np.allclose(continued[0], zero[0], atol=1e-3)
    resets = []
    for step in range(20):
        carry = update(0.25, step)
        is_zero, is_continued = (
            np.isclose(carry, c, atol=1e-6).all(axis=1) for c in (zero, continued)
        )
        assert (is_zero ^ is_continued).all()
        resets.append(is_zero)
    assert np.mean(resets) == pytest.approx(0.25, abs=0.05)  # 1,280 draws: 4 standard deviations


def test_resets_differ_between_sequences_and_steps(update):
    continued = update(0.0)
    resets = np.array([~np.isclose(update(0.5, step), continued).all(axis=1) for step in range(6)])
    assert (resets.any(axis=1) & ~resets.all(axis=1)).all()  # some sequences of each step
    assert (resets[1:] != resets[:-1]).any(axis=1).all()  # other ones than in the previous step


def test_norms_by_array_leave_other_metrics_unchanged(tmp_path):
    experiment = small_config(tmp_path, log=Log(norms=True))
    fit(experiment)
    fit(without := small_config(tmp_path, "without"))
    lines = [line for line in logged_metrics(experiment) if "train/loss" in line]
    names = {name for name in lines[0] if "/parameter_norm/" in name}
    arrays = {n.removeprefix("train/parameter_norm/") for n in names}
    assert {"lstm.l0f.w_h", "output_layer.kernel"} <= arrays
    assert {n.replace("parameter", "gradient") for n in names} < set(lines[0])
    plain = [
        {name: value for name, value in line.items() if "_norm/" not in name}
        for line in logged_metrics(experiment)
    ]
    for line, other in zip(plain, logged_metrics(without), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert value == pytest.approx(other[name], rel=1e-5)


def test_the_gradient_norm_follows_from_the_norms_by_array(tmp_path):
    every = Train(steps=2, log_every=1, eval_every=2, checkpoint_every=2, steps_per_dispatch=1)
    experiment = small_config(tmp_path, train=every, log=Log(norms=True))
    fit(experiment)
    for line in logged_metrics(experiment)[:2]:
        parts = [v for name, v in line.items() if name.startswith("train/gradient_norm/")]
        assert np.sqrt(np.square(parts).sum()) == pytest.approx(
            line["train/gradient_norm"], rel=1e-5
        )


@pytest.mark.parametrize(("lengths", "tokens"), [(None, 12), (np.array([4, 1, 2]), 7)])
def test_count_tokens_leaves_out_padding(lengths, tokens):
    weights = np.zeros((4, 3), np.float32)  # a step counts even if its prediction has no weight
    count = count_tokens(Batch(weights, weights, weights, lengths))
    assert (count, count.dtype) == (tokens, np.float32)
