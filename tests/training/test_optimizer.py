"""Optimizers, schedules and the logged learning rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.training import config
from lstm_jax.training.config import ConfigError, Optimizer, Train
from lstm_jax.training.data.text import cut_into_rows
from lstm_jax.training.loop import fit
from lstm_jax.training.optimizer import is_decayed, learning_rate, make_optimizer, make_schedule
from tests.cases import nightly
from tests.training.language_model import (
    TRAIN,
    B,
    T,
    V,
    compiled_steps,
    evaluate,
    graphdef_and_params,
    initial_state,
    next_token_batches,
)
from tests.training.runs import (
    learning_rates,
    small_config,
)

STRICT = False


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "lion"])
def test_every_optimizer_learns_a_cycle(name):
    """Trains on a cycle of seven tokens, which can be predicted perfectly."""
    rate = {"sgd": 0.5, "lion": 6e-3, "rmsprop": 3e-3}.get(name, 1e-2)
    momentum = 0.9 if name in ("sgd", "rmsprop") else None
    settings = config.Optimizer(name=name, learning_rate=rate, warmup_steps=10, momentum=momentum)
    train = dataclasses.replace(TRAIN, steps=200, eval_every=50)
    optimizer = make_optimizer(settings, train)
    cycle = (np.arange(200 * T)[:, None] + np.arange(B)) % V
    data = np.stack([cycle[n * T : (n + 1) * T + 1] for n in range(199)])
    graphdef, state = initial_state(optimizer)
    state, metrics = compiled_steps(state, graphdef, optimizer, 199)(
        state, next_token_batches(data)
    )
    assert metrics["loss"][0] > 1.8
    sums = evaluate(graphdef, state.params, cut_into_rows(np.arange(100) % V, 2, T))
    assert sums["loss"] / sums["weight"] < 0.4
    assert sums["correct"] / sums["scored"] > 0.9


def test_weight_decay_skips_biases():
    _, params = graphdef_and_params()
    flags = {
        jax.tree_util.keystr(path): flag
        for path, flag in jax.tree_util.tree_leaves_with_path(is_decayed(params))
    }
    assert len(flags) == 9
    assert {path for path, flag in flags.items() if not flag} == {p for p in flags if "bias" in p}
    assert sum(not flag for flag in flags.values()) == 3


def update_sizes(settings, steps=10):
    """Returns the largest update of each step, for gradients of 1e6."""
    train = dataclasses.replace(TRAIN, steps=steps)
    optimizer = make_optimizer(settings, train)
    params = {"kernel": jnp.zeros(4)}
    state, sizes = optimizer.init(params), []
    for _ in range(steps):
        gradient = {"kernel": jnp.full(4, 1e6)}
        updates, state = optimizer.update(gradient, state, params, value=jnp.float32(1.0))
        sizes.append(float(jnp.abs(updates["kernel"]).max()))
    return np.array(sizes)


def test_schedules_and_clipping_scale_the_updates():
    plain = config.Optimizer(
        name="sgd", momentum=0.0, learning_rate=1.0, warmup_steps=5, clip_norm=1.0
    )
    warmup = np.array([0, 0.2, 0.4, 0.6, 0.8])
    decays = {
        "constant": np.ones(5),
        "cosine": 0.5 * (1 + np.cos(np.pi * np.arange(5) / 5)),
        "linear": 1 - np.arange(5) / 5,
    }
    for schedule, decay in decays.items():
        sizes = update_sizes(dataclasses.replace(plain, schedule=schedule))
        np.testing.assert_allclose(sizes, 0.5 * np.concatenate([warmup, decay]), atol=1e-6)
    unclipped = dataclasses.replace(plain, clip_norm=None, schedule="constant", warmup_steps=0)
    np.testing.assert_allclose(update_sizes(unclipped), 1e6)


def test_a_plateau_halves_the_learning_rate():
    settings = config.Optimizer(
        name="sgd",
        momentum=0.0,
        learning_rate=1.0,
        schedule="plateau",
        warmup_steps=0,
        plateau_patience=2,
    )
    sizes = update_sizes(settings, steps=12)  # a loss that never improves
    assert sizes[0] == 0.5
    assert sizes[-1] <= 0.125
    assert set(np.round(np.log2(sizes), 6)) <= set(range(-12, 0))


@pytest.mark.parametrize("schedule", ["cosine", *nightly("constant", "linear")])
def test_the_learning_rate_is_logged(tmp_path, schedule):
    run = small_config(tmp_path, optimizer=Optimizer(warmup_steps=2, schedule=schedule))
    fit(run)
    rate = make_schedule(run.optimizer, run.train)
    assert learning_rates(run) == {
        s: pytest.approx(float(rate(s - 1)), rel=1e-5) for s in range(4, 25, 4)
    }


@pytest.mark.parametrize("name", ["lion", *nightly("adam", "sgd", "rmsprop")])
def test_the_logged_learning_rate_falls_on_a_plateau(tmp_path, name):
    tiny = Optimizer(
        name=name, learning_rate=1e-30, warmup_steps=0, schedule="plateau", plateau_patience=1
    )
    run = small_config(tmp_path, optimizer=tiny)
    fit(run)
    logged = list(learning_rates(run).values())
    assert logged[0] == pytest.approx(1e-30)
    assert logged[-1] < 0.6 * logged[0]


def test_the_learning_rate_is_the_scale_of_the_update():
    """Includes updates in which a plateau lowers the learning rate."""
    settings = Optimizer(
        name="sgd", learning_rate=0.5, momentum=0.0, warmup_steps=3, schedule="plateau",
        plateau_patience=1, clip_norm=None,
    )  # fmt: skip
    run = Train(steps=30, log_every=2, eval_every=2, checkpoint_every=2, steps_per_dispatch=2)
    optimizer, schedule = make_optimizer(settings, run), make_schedule(settings, run)
    params = {"w": np.ones(1, np.float32)}
    state, logged = optimizer.init(params), []
    for _ in range(12):
        updates, after = optimizer.update(params, state, params, value=1.0)
        logged.append(float(learning_rate(schedule, state, after)))
        assert -float(updates["w"][0]) == pytest.approx(logged[-1])
        state = after
    assert logged[3] == 0.25  # half of the peak of 0.5
    assert 0 < logged[-1] < 0.1


def test_decay_steps_needs_a_schedule_that_decays():
    with pytest.raises(ConfigError, match=r"optimizer\.decay_steps.*constant.*\b9\b"):
        Optimizer(schedule="constant", decay_steps=9)
    with pytest.raises(ConfigError, match=r"optimizer\.decay_steps.*\b0\b"):
        Optimizer(decay_steps=0)
    rate = make_schedule(Optimizer(decay_steps=10, warmup_steps=0, schedule="linear"), Train())
    np.testing.assert_allclose([rate(5), rate(10), rate(99)], [3e-3, 0, 0], rtol=1e-6)
