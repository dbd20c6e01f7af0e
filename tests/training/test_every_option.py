"""Every option of ``data``, ``model``, ``optimizer`` and ``train`` has an effect.

A case changes one option, and names a function that shows the effect: in the batches, the compiled
program, the initial parameters, the learning rates, or the metrics and checkpoints of a run.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from lstm_jax.training.config import (
    Data,
    Experiment,
    Mesh,
    Model,
    Optimizer,
    Sample,
    Train,
)
from lstm_jax.training.config.overrides import apply, values
from lstm_jax.training.data import make_dataset
from lstm_jax.training.loop import fit
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.optimizer import make_schedule
from lstm_jax.training.program import make_program
from lstm_jax.training.run_dir import RunDir
from tests.training.data.build import write_images

STRICT = False
GROUPS = ("data", "model", "optimizer", "train")
TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An experiment with a small language model. Its directory holds other data, too."""
    directory = tmp_path_factory.mktemp("data")
    (directory / "text.txt").write_text(TEXT, encoding="utf-8")
    (directory / "other.txt").write_text(TEXT[5:] + TEXT[:5], encoding="utf-8")
    write_images(directory / "images")
    return Experiment(
        model=Model(hidden_size=4, embedding_size=3),
        data=Data(path=directory / "text.txt", batch_size=4, sequence_length=6, eval_sequences=8),
        optimizer=Optimizer(learning_rate=0.1, warmup_steps=2),
        train=Train(steps=8, log_every=2, eval_every=2, checkpoint_every=2, steps_per_dispatch=2),
        sample=Sample(length=5),
        mesh=Mesh(data=1),
    )


def arrays(tree):
    return [(np.shape(a), np.asarray(a).tobytes()) for a in jax.tree.leaves(tree)]


def batches(config):
    """Returns the first batches and the validation set."""
    dataset = make_dataset(config)
    rows = np.arange(config.data.batch_size)
    if dataset.batch is None:
        return arrays((dataset.generate(jax.random.key(0)), dataset.eval))
    return arrays(([dataset.batch(step, rows) for step in range(2)], dataset.eval))


def program(config):
    """Returns the lowered training step, as text."""
    dataset = make_dataset(config)
    rows = np.arange(config.data.batch_size)
    program = make_program(config, dataset, jax.devices())
    batches = None
    if dataset.batch is not None:
        n = config.train.steps_per_dispatch
        batches = jax.tree.map(lambda a: np.stack([a] * n), dataset.batch(0, rows))
    with jax.set_mesh(program.layout.mesh):
        return program.train_steps.lower(program.state, batches).as_text()


def initial(config):
    """Returns the initial training state."""
    return arrays(make_program(config, make_dataset(config), jax.devices()).init())


def rates(config):
    """Returns the learning rate of every step."""
    schedule = make_schedule(config.optimizer, config.train)
    return [float(schedule(step)) for step in range(config.train.steps)]


def run(config):
    """Returns the metrics of a run, and the steps of its checkpoints and best models."""
    with tempfile.TemporaryDirectory() as directory:
        config = dataclasses.replace(config, workdir=Path(directory) / "run")
        fit(config, hooks=None if config.train.patience else [])
        run_dir = RunDir(config.run_dir)
        steps = [sorted(p.name for p in run_dir.file(f).iterdir()) for f in ("checkpoints", "best")]
        lines = [{k: v for k, v in line.items() if k not in MACHINE} for line in run_dir.metrics()]
        return lines, steps


WORDS = {"data.unit": "word"}
ADDING = {"data.task": "adding", "data.path": None}
IMAGES = {"data.task": "images", "data.path": "images", "data.batch_size": 2}
SGD = {"optimizer.name": "sgd"}
PLATEAU = {"optimizer.schedule": "plateau"}
FLAT = {"optimizer.learning_rate": 1e-30}

CASES = {
    # option: (value, function that shows the effect, other options in both experiments)
    "data.task": ("adding", batches, {"data.path": None}),
    "data.path": ("other.txt", batches, {}),
    "data.unit": ("word", batches, {}),
    "data.vocabulary_size": (5, batches, WORDS),
    "data.image_order": ("pixels", batches, IMAGES),
    "data.batch_size": (2, batches, {}),
    "data.eval_batch_size": (2, batches, {}),
    "data.sequence_length": (5, batches, {}),
    "data.reset_probability": (0.5, program, {}),
    "data.eval_sequences": (9, batches, ADDING),
    "model.cell": ("rnn", program, {}),
    "model.hidden_size": (5, program, {}),
    "model.num_layers": (2, program, {}),
    "model.bidirectional": (True, program, ADDING),
    "model.embedding_size": (4, program, {}),
    "model.tied_embeddings": (True, program, {"model.embedding_size": 4}),
    "model.dropout": (0.5, program, {}),
    "model.input_dropout": (0.5, program, {}),
    "model.forget_bias": (2.0, initial, {}),
    "model.chrono": (9, initial, {}),
    "model.dtype": ("bfloat16", program, {}),
    "optimizer.name": ("adam", program, {"optimizer.b1": 0.8}),
    "optimizer.learning_rate": (0.2, rates, {}),
    "optimizer.schedule": ("linear", rates, {}),
    "optimizer.warmup_steps": (3, rates, {}),
    "optimizer.decay_steps": (6, rates, {}),
    "optimizer.plateau_patience": (1, program, PLATEAU),
    "optimizer.clip_norm": (0.5, program, {}),
    "optimizer.weight_decay": (0.5, program, {}),
    "optimizer.momentum": (0.5, program, SGD),
    "optimizer.b1": (0.5, program, {}),
    "optimizer.b2": (0.5, program, {}),
    "optimizer.eps": (0.5, program, {}),
    "train.steps": (6, run, {}),
    "train.log_every": (4, run, {"train.checkpoint_every": 4}),
    "train.eval_every": (4, run, {}),
    "train.checkpoint_every": (8, run, {}),
    "train.steps_per_dispatch": (1, program, {}),
    "train.grad_accum_steps": (2, program, {}),
    "train.keep_last": (1, run, {}),
    "train.keep_best": (1, run, {"train.checkpoint_every": 8}),
    "train.patience": (1, run, FLAT),
    "train.on_nan": ("skip", program, {}),
}


def changed(base, changes):
    """Returns the experiment with changes. Paths are relative to the directory of the text."""
    path = changes.get("data.path")
    files = {"data.path": base.data.path.parent / path} if path is not None else {}
    return apply(base, changes | files)


@functools.cache
def observed(observe, config):
    return observe(config)


@pytest.mark.parametrize("option", CASES)
def test_an_option_has_an_effect(base, option):
    value, observe, common = CASES[option]
    before, after = (changed(base, c) for c in (common, common | {option: value}))
    assert values(before)[option] != values(after)[option]
    assert observed(observe, before) != observed(observe, after)


@pytest.mark.parametrize("observe", [batches, program, initial, rates, run])
def test_without_a_change_nothing_differs(base, observe):
    """Shows that the test above can fail."""
    assert observe(base) == observe(changed(base, {}))


def test_every_option_has_a_case():
    options = {name for name in values(Experiment()) if name.split(".")[0] in GROUPS}
    assert options == set(CASES)
