"""Whole runs: reproducible metrics, files of the run directory, results."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lstm_jax.training.config import (
    ConfigError,
    Data,
    Optimizer,
    Train,
)
from lstm_jax.training.config.json import from_json
from lstm_jax.training.inference import evaluate, load
from lstm_jax.training.loop import fit
from tests.training.runs import (
    logged_metrics,
    small_config,
    text_data,
)

STRICT = False


def test_the_same_seed_gives_the_same_metrics(tmp_path, text):
    first, again, other = (
        small_config(tmp_path, name, data=text_data(text)) for name in ("first", "again", "other")
    )
    other = dataclasses.replace(other, seed=1)
    for experiment in (first, again, other):
        fit(experiment)
    assert logged_metrics(first) == logged_metrics(again) != logged_metrics(other)
    samples = [(e.run_dir / "samples.txt").read_text() for e in (first, again)]
    assert samples[0] == samples[1]
    assert samples[0].count("=== step ") == 4


def test_a_complete_run_is_not_trained_again(tmp_path, capsys):
    experiment = small_config(tmp_path)
    first = fit(experiment)
    before = logged_metrics(experiment)
    assert fit(experiment) == first
    assert logged_metrics(experiment) == before
    assert "is complete" in capsys.readouterr().out


def test_the_files_of_a_complete_run(tmp_path, text):
    experiment = small_config(tmp_path, data=text_data(text))
    metrics = fit(experiment)
    run_dir = experiment.run_dir
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "config.json", "environment.json", "task.json", "vocabulary.json", "metrics.jsonl",
        "samples.txt", "curves.png", "result.json", "checkpoints", "best", "events.jsonl", ".lock",
    }  # fmt: skip
    assert from_json(json.loads((run_dir / "config.json").read_text())) == experiment
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = logged_metrics(experiment)
    assert [line["step"] for line in lines if "train/loss" in line] == [4, 8, 12, 16, 20, 24]
    eval_losses = {line["step"]: line["eval/loss"] for line in lines if "eval/loss" in line}
    assert sorted(eval_losses) == [6, 12, 18, 24]
    assert metrics["eval/loss"] == pytest.approx(min(eval_losses.values()), rel=1e-6)
    assert load(run_dir).step == min(eval_losses, key=eval_losses.get)


def test_the_best_model_is_evaluated_on_the_test_set(tmp_path, capsys):
    rng = np.random.default_rng(0)
    xs, labels = rng.standard_normal((40, 5, 2)), rng.integers(0, 2, 40)
    path = tmp_path / "own.npz"
    np.savez(path, inputs=xs, labels=labels, test_inputs=xs[:9], test_labels=labels[:9])
    experiment = small_config(tmp_path, data=Data(task="arrays", path=path, batch_size=4))
    metrics = fit(experiment)
    assert 0 <= metrics["test/accuracy"] <= 1
    assert "  test  " in capsys.readouterr().out
    assert len(list(evaluate(experiment.run_dir))) == 2


def test_unusable_data_creates_no_run_dir(tmp_path):
    experiment = small_config(tmp_path, data=Data(task="adding", sequence_length=1))
    with pytest.raises(ConfigError):
        fit(experiment)
    assert not experiment.run_dir.exists()


def test_a_plateau_schedule_can_be_saved_before_its_first_loss(tmp_path):
    """The best loss in the state of Optax's plateau is infinite at first."""
    late = Train(steps=8, log_every=4, eval_every=8, checkpoint_every=4, steps_per_dispatch=4)
    experiment = small_config(tmp_path, train=late, optimizer=Optimizer(schedule="plateau"))
    fit(experiment)
    assert logged_metrics(experiment)[-1]["step"] == 8
