"""``fit`` with a dataset, a model, a loss, an optimizer and hooks of one's own."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lstm_jax.nnx import LSTM
from lstm_jax.training import Batch, Dataset, Hook, fit, load
from lstm_jax.training.config import ConfigError, Data, Experiment, Mesh, Train
from lstm_jax.training.inference import evaluate
from lstm_jax.training.train_step import count_tokens
from tests.cases import nightly

STRICT = False
T, B, K = 5, 8, 2


class Model(nnx.Module):
    """An LSTM and an output layer."""

    def __init__(self, rngs, partition=None, outputs=K):
        self.lstm = LSTM(3, 4, time_major=True, partition=partition, rngs=rngs)
        self.output = nnx.Linear(4, outputs, rngs=rngs)

    def initialize_carry(self, batch_size):
        return self.lstm.initialize_carry((batch_size, 3))

    def __call__(self, inputs, carry=None, *, lengths=None, resets=None, dropout_key=None):
        carry, hs = self.lstm(
            inputs, initial_carry=carry, seq_lengths=lengths, resets=resets, return_carry=True
        )
        return carry, self.output(hs)


def model(**changes):
    return Model(nnx.Rngs(0), **changes)


def batch(step, rows):
    """Sequences of several lengths; their class is the sign of the first input."""
    rng = np.random.default_rng(step)
    inputs = rng.standard_normal((T, B, 3)).astype(np.float32)[:, rows]
    lengths = rng.integers(2, T + 1, B)[rows]
    targets = np.broadcast_to((inputs[0, :, 0] > 0).astype(np.int32), (T, len(rows)))
    weights = (np.arange(T)[:, None] == lengths - 1).astype(np.float32)
    return Batch(inputs, targets, weights, lengths)


def stacked(batch):
    return Batch(*(None if a is None else a[None] for a in batch))


def make_dataset(**changes):
    fields = {
        "batch": batch, "eval": stacked(batch(10**6, np.arange(B))), "input_size": 3,
        "output_size": K, "loss": "cross_entropy", "metric": "accuracy",
    }  # fmt: skip
    return Dataset(**fields | changes)


def generate(key):
    inputs = jax.random.normal(key, (T, B, 3))
    targets = jnp.broadcast_to(jnp.int32(inputs[0, :, 0] > 0), (T, B))
    return Batch(inputs, targets, jnp.ones((T, B)))


def make_config(tmp_path, steps=8, mesh=Mesh(data=1), **train):
    return Experiment(
        name="own",
        workdir=tmp_path / "run",
        data=Data(task="custom", batch_size=B),
        train=Train(
            steps=steps,
            log_every=4,
            eval_every=4,
            checkpoint_every=4,
            steps_per_dispatch=2,
            **train,
        ),
        mesh=mesh,
    )


def lines(config):
    text = (config.run_dir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def smoothed(outputs, targets):
    return optax.softmax_cross_entropy(
        outputs, optax.smooth_labels(jax.nn.one_hot(targets, K), 0.1)
    )


MASKED = optax.masked(optax.adam(1e-2), lambda params: jax.tree.map(lambda a: a.ndim > 1, params))
PARTS = {
    "dataset": {},
    "generated": {"dataset": make_dataset(batch=None, generate=generate)},
    "stateful": {"dataset": make_dataset(stateful=True), "model": model()},
    "model": {"model": model()},
    "loss": {"loss": smoothed},
    "optimizer": {"optimizer": optax.chain(optax.clip(1.0), optax.adam(1e-2))},
    "masked": {"optimizer": MASKED},
    "injected": {"optimizer": optax.inject_hyperparams(optax.sgd)(learning_rate=0.25)},
    "multi_steps": {"optimizer": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation()},
}


@pytest.mark.parametrize(
    "name",
    [
        "stateful",
        "masked",
        "injected",
        *nightly(*sorted(set(PARTS) - {"stateful", "masked", "injected"})),
    ],
)
def test_own_parts_train_and_resume_as_an_uninterrupted_run(tmp_path, name):
    parts = {"dataset": make_dataset(), **PARTS[name]}
    whole = make_config(tmp_path / "whole")
    metrics = fit(whole, **parts, hooks=[])
    assert set(metrics) == {"eval/loss", "eval/accuracy"}
    resumed = make_config(tmp_path / "resumed")
    constant = name in ("optimizer", "masked", "injected", "multi_steps")
    if constant:  # the schedule of the config ends at train.steps
        fit(make_config(tmp_path / "resumed", steps=4), **parts, hooks=[])
        assert fit(resumed, **parts, hooks=[]) == metrics
    rates = {line["train/learning_rate"] for line in lines(whole) if "train/learning_rate" in line}
    assert (rates == {0.25}) == (name == "injected")
    own = parts.get("model")
    saved = load(whole.run_dir, model=own)
    assert saved.model(batch(0, np.arange(B)).inputs)[1].shape == (T, B, K)
    loss = parts.get("loss")
    (line,) = evaluate(whole.run_dir, dataset=parts["dataset"], model=own, loss=loss)
    assert f"loss {metrics['eval/loss']:.4f}" in line


@pytest.mark.parametrize(
    "mesh",
    [
        Mesh(data=4, model=2, parameters="sharded"),
        *nightly(Mesh(), Mesh(parameters="sharded", axis_types="explicit")),
    ],
)
def test_an_own_model_on_several_devices(tmp_path, mesh):
    losses = []
    for n, (where, own) in enumerate(
        [
            (Mesh(data=1), model()),
            (mesh, lambda partition: model(partition=partition)),
            (mesh, model()),
        ]
    ):
        config = make_config(tmp_path / str(n), mesh=where)
        losses.append(fit(config, dataset=make_dataset(), model=own, hooks=[])["eval/loss"])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    assert load(config.run_dir, model=lambda partition: model(partition=partition)).step in (4, 8)


class NoCarry(nnx.Module):
    def __init__(self):
        self.lstm = LSTM(3, 4, rngs=nnx.Rngs(0))

    def __call__(self, inputs, carry=None, **_):
        return carry, inputs


class Normalized(Model):
    def __init__(self, rngs):
        super().__init__(rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)


class OnlyOutputs(Model):
    def __call__(self, inputs, carry=None, **keywords):
        return super().__call__(inputs, carry, **keywords)[1]


def ignores_rows(step, rows):
    return batch(step, np.arange(B))


def large_classes(step, rows):
    made = batch(step, rows)
    return made._replace(targets=made.targets + 5)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({"dataset": {"batch": None}}, r"dataset.*\bbatch\b.*\bgenerate\b"),
        ({"dataset": {"generate": generate}}, r"dataset.*\bbatch\b.*\bgenerate\b"),
        ({"dataset": {"metric": "mae"}}, r"dataset\.metric.*'mae'"),
        ({"dataset": {"loss": "mae"}}, r"dataset\.loss.*'mae'"),
        ({"dataset": {"eval": batch(0, np.arange(B))}}, r"dataset\.eval.*\(5, 8\)"),
        ({"dataset": {"eval": stacked(batch(0, np.arange(B))._replace(weights=np.zeros((T, B))))}},
         r"dataset\.eval.*\b0\b"),
        ({"dataset": {"batch": ignores_rows}}, r"dataset\.batch.*\b7\b.*\(5, 8\)"),
        ({"dataset": {"batch": large_classes}}, r"dataset\.batch.*\b5 to 6\b"),
        ({"dataset": {"output_size": 3}, "model": model()}, r"model.*\(5, 8, 3\).*\(5, 8, 2\)"),
        ({"model": OnlyOutputs(nnx.Rngs(0))}, r"model.*\(carry, outputs\)"),
        ({"model": lambda partition: None}, r"model.*NoneType"),
        ({"model": NoCarry(), "dataset": {"stateful": True}}, r"model.*initialize_carry.*NoCarry"),
        ({"model": Normalized(nnx.Rngs(0))}, r"model\.norm.*BatchStat"),
        ({"loss": lambda outputs, targets: smoothed(outputs, targets).mean()}, r"loss.*\(5, 8\).*\(\)"),
        ({"loss": lambda outputs, targets: outputs - targets}, "loss.*ValueError"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, parts, names):
    parts = parts | {"dataset": make_dataset(**parts.get("dataset", {}))}
    config = make_config(tmp_path)
    with pytest.raises(ConfigError, match=names):
        fit(config, **parts, hooks=[])
    assert not config.run_dir.exists()


class Recorder(Hook):
    """Records the calls that it receives."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def on_start(self, run):
        self.calls.append("start")

    def after_steps(self, run, metrics):
        if run.step == self.stop_at:
            run.stop_early("enough")

    def on_log(self, run, metrics):
        assert "train/loss" in metrics
        self.calls.append(f"log {run.step}")

    def on_eval(self, run, metrics):
        assert "eval/loss" in metrics
        self.calls.append(f"eval {run.step}")

    def on_finish(self, run, params, metrics):
        self.calls.append(f"finish {run.step}")

    def close(self):
        self.calls.append("close")


def test_hooks_are_called_in_order(tmp_path):
    hook = Recorder()
    fit(make_config(tmp_path), dataset=make_dataset(), hooks=[hook])
    assert hook.calls == ["start", "log 4", "eval 4", "log 8", "eval 8", "finish 8", "close"]


def test_a_hook_ends_training_at_any_step(tmp_path):
    hook = Recorder(stop_at=6)
    metrics = fit(make_config(tmp_path), dataset=make_dataset(), hooks=[hook])
    assert hook.calls == ["start", "log 4", "eval 4", "eval 6", "finish 6", "close"]
    assert set(metrics) == {"eval/loss", "eval/accuracy"}


def test_hooks_are_closed_if_one_fails_to_start(tmp_path):
    class Failing(Hook):
        def on_start(self, run):
            raise OSError("no network")

    hook = Recorder()
    with pytest.raises(OSError, match="no network"):
        fit(make_config(tmp_path), dataset=make_dataset(), hooks=[hook, Failing()])
    assert hook.calls == ["start", "close"]


def test_a_custom_task_needs_its_dataset(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.task.*'custom'.*dataset"):
        fit(make_config(tmp_path))


def test_brackets_in_the_run_directory_are_refused(tmp_path):
    config = dataclasses.replace(make_config(tmp_path), workdir=tmp_path / "a[b]")
    with pytest.raises(ConfigError, match=r"workdir.*a\[b\]"):
        fit(config, dataset=make_dataset(), hooks=[])
    assert not config.run_dir.exists()


def test_tokens_are_valid_steps():
    made = batch(0, np.arange(B))
    assert int(count_tokens(made)) == made.lengths.sum() < T * B
