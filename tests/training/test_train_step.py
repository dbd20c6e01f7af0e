"""Which sequences of a batch start from zero (``data.reset_probability``)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training.config import Data, Experiment, Mesh, Model, Optimizer, Train
from lstm_jax.training.data import make_dataset
from lstm_jax.training.program import make_program

STRICT = False
B = 64


@pytest.fixture
def update(text):
    """Makes one update from a carry that is ``start`` everywhere; returns the final C, ``[B, H]``."""
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


def test_the_reset_probability_is_that_of_a_sequence_to_start_from_zero(update):
    """All rows read the same, so that a row's final carry says whether it started from zero."""
    kept, zero = update(0.0), update(0.0, start=0.0)
    assert (kept == kept[0]).all()
    assert not np.allclose(kept[0], zero[0], atol=1e-3)
    resets = []
    for step in range(20):
        carry = update(0.25, step)
        is_zero, is_kept = (np.isclose(carry, c, atol=1e-6).all(axis=1) for c in (zero, kept))
        assert (is_zero ^ is_kept).all()
        resets.append(is_zero)
    assert np.mean(resets) == pytest.approx(0.25, abs=0.05)  # 1,280 draws: 4 standard deviations


def test_each_sequence_is_reset_by_itself_and_in_other_steps(update):
    kept = update(0.0)
    resets = np.array([~np.isclose(update(0.5, step), kept).all(axis=1) for step in range(6)])
    assert (resets.any(axis=1) & ~resets.all(axis=1)).all()  # in each step some, not all
    assert (resets[1:] != resets[:-1]).any(axis=1).all()  # never those of the step before
