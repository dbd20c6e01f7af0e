"""Whole runs that meet signals, corrupt checkpoints and NaN. See ``docs/reliability.md``."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training import loop
from lstm_jax.training.config import Data, Optimizer, Sample
from lstm_jax.training.errors import NotFiniteError, RunError
from lstm_jax.training.loop import fit
from tests.cases import nightly
from tests.training.runs import (
    corrupt_checkpoint,
    data_files,
    events,
    fit_until_signal,
    latest_step,
    logged_metrics,
    same_metrics_and_params,
    send_signal_during,
    small_config,
    text_data,
)

STRICT = False


@pytest.mark.parametrize(
    "case",
    [
        (signal.SIGTERM, "step", 5, 10),  # between logs
        (signal.SIGINT, "step", 6, 12),  # at a log and an evaluation
        (signal.SIGTERM, "evaluation", 2, 12),
        (signal.SIGHUP, "save", 2, 8),  # of the training state, after the best model
        (signal.SIGTERM, "evaluation", 5, 24),  # of the best model, at the end
        *nightly(
            (signal.SIGINT, "step", 5, 10),
            (signal.SIGTERM, "step", 6, 12),
            (signal.SIGINT, "evaluation", 2, 12),
            (signal.SIGTERM, "save", 2, 8),
            (signal.SIGINT, "evaluation", 5, 24),
        ),
    ],
)
def test_a_run_stopped_by_a_signal_equals_an_uninterrupted_run(
    tmp_path, uninterrupted, monkeypatch, capsys, case
):
    number, where, call, step = case
    handler = signal.getsignal(signal.SIGINT)
    resumed = dataclasses.replace(uninterrupted, workdir=tmp_path / "resumed")
    with monkeypatch.context() as patch:
        send_signal_during(patch, where, number, call)
        assert fit(resumed) is None
    name = signal.Signals(number).name
    assert f"Received {name}: saved a checkpoint at step {step}." in capsys.readouterr().out
    assert latest_step(resumed) == step
    assert signal.getsignal(signal.SIGINT) is handler
    fit(resumed)
    assert same_metrics_and_params(uninterrupted, resumed)
    assert events(resumed) == ["started", f"stopped by {name}", "resumed", "finished"]


def test_the_command_exits_with_0_on_sigterm(tmp_path, text):
    command = [sys.executable, "train.py", "--data.path", text, "--workdir", tmp_path / "run"]
    flags = ["--model.hidden-size", "8", "--train.steps", "1000000"]
    # jax 0.10.0 writes a message to stderr when it reads a program from the cache of the tests.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    process = subprocess.Popen(
        [*map(str, command), *flags],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Received SIGTERM: saved a checkpoint at step" in out
    assert err == ""


def truncate(checkpoint):
    for path in data_files(checkpoint):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(checkpoint):
    for path in data_files(checkpoint):
        path.unlink()


def change_notes(checkpoint):
    path = checkpoint / "notes" / "metadata"
    path.write_text(path.read_text().replace("float32", "float64", 1))


@pytest.mark.parametrize(
    "case",
    [
        ("checkpoints", truncate),
        ("best", delete),
        ("checkpoints", corrupt_checkpoint),
        ("best", change_notes),
        *nightly(
            ("best", truncate),
            ("checkpoints", delete),
            ("best", corrupt_checkpoint),
            ("checkpoints", change_notes),
        ),
    ],
)
def test_a_corrupt_checkpoint_is_renamed_and_the_previous_one_is_used(
    tmp_path, uninterrupted, monkeypatch, capsys, case
):
    name, make_corrupt = case
    resumed = fit_until_signal(uninterrupted, tmp_path / "resumed", monkeypatch)
    checkpoint = resumed.run_dir / name / str(latest_step(resumed, name))
    make_corrupt(checkpoint)
    capsys.readouterr()
    fit(resumed)
    printed = capsys.readouterr().out
    assert re.search(rf"warning: .*{checkpoint}\b.*renamed to {checkpoint.name}\.corrupt", printed)
    assert checkpoint.with_name(f"{checkpoint.name}.corrupt").is_dir()
    assert ("resuming from step 16" if name == "checkpoints" else "from step 18") in printed
    assert any(str(checkpoint) in event for event in events(resumed))
    assert same_metrics_and_params(uninterrupted, resumed)


def test_the_error_for_a_checkpoint_of_another_network_names_its_arrays(tmp_path, monkeypatch):
    experiment = small_config(tmp_path)
    fit(experiment)
    longer = dataclasses.replace(experiment.train, steps=32)
    make = loop.make_program

    def make_with_other_shapes(*args, **parts):
        program = make(*args, **parts)

        def init():
            state = program.init()
            kernel = state.params["output_layer"]["kernel"][:, :0]
            return state._replace(params=state.params | {"output_layer": {"kernel": kernel}})

        return program._replace(init=init)

    monkeypatch.setattr(loop, "make_program", make_with_other_shapes)
    with pytest.raises(RunError) as error:
        fit(dataclasses.replace(experiment, train=longer))
    for names in (
        "checkpoints/24",
        r"params\.output_layer\.bias\b.*float32\[1\]",
        r"params\.output_layer\.kernel\b.*float32\[8, 1\].*float32\[8, 0\]",
    ):
        assert re.search(names, str(error.value))


def insert_nan(monkeypatch, step):
    """Sets the weights of the batch of a step to NaN, and with them its loss and gradient."""
    make = loop.make_dataset

    def make_with_nan(*args):
        dataset = make(*args)

        def batch(n, rows):
            batch = dataset.batch(n, rows)
            return batch._replace(weights=batch.weights * (np.nan if n == step - 1 else 1))

        return dataclasses.replace(dataset, batch=batch)

    monkeypatch.setattr(loop, "make_dataset", make_with_nan)


def test_nan_stops_the_run_before_the_next_checkpoint(tmp_path, text, monkeypatch):
    experiment = small_config(tmp_path, data=text_data(text))
    insert_nan(monkeypatch, 11)
    names = r"\b11\b.*\bnan\b.*\b8\b.*--train\.on-nan skip"
    with pytest.raises(NotFiniteError, match=names):
        fit(experiment)
    assert logged_metrics(experiment)[-1]["step"] == 8
    assert latest_step(experiment) == 8


def test_nan_is_not_saved_after_a_signal(tmp_path, text, monkeypatch):
    experiment = small_config(tmp_path, data=text_data(text))
    insert_nan(monkeypatch, 9)
    # Step 10 is between the logs of steps 8 and 12.
    send_signal_during(monkeypatch, "step", signal.SIGTERM, 5)
    with pytest.raises(NotFiniteError, match=r"\b9\b.*\bnan\b"):
        fit(experiment)
    assert latest_step(experiment) == 8


def test_steps_with_nan_are_skipped_and_counted(tmp_path, text, monkeypatch):
    skip = dataclasses.replace(small_config(tmp_path).train, on_nan="skip")
    experiment = small_config(tmp_path, data=text_data(text), train=skip)
    insert_nan(monkeypatch, 11)
    fit(experiment)
    skipped = {
        line["step"]: line["train/skipped"]
        for line in logged_metrics(experiment)
        if "train/skipped" in line
    }
    assert skipped == {4: 0, 8: 0, 12: 1, 16: 0, 20: 0, 24: 0}
    assert all(
        np.isfinite(line["train/loss"])
        for line in logged_metrics(experiment)
        if "train/loss" in line
    )


def test_skipping_every_step_is_an_error(tmp_path):
    diverging = Optimizer(
        name="sgd", learning_rate=1e38, warmup_steps=0, clip_norm=None, schedule="constant"
    )
    skip = dataclasses.replace(small_config(tmp_path).train, on_nan="skip")
    with pytest.raises(NotFiniteError, match=r"\b\d+\b.*\b(nan|inf)\b"):
        fit(
            small_config(
                tmp_path,
                optimizer=diverging,
                train=skip,
                data=Data(task="adding", sequence_length=6, batch_size=4, eval_sequences=20),
                sample=Sample(),
            )
        )
