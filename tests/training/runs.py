"""Helpers for tests of whole runs: small experiments, interrupted runs, and their results."""

import contextlib
import dataclasses
import json
import os
import signal

import jax

from lstm_jax.training import program
from lstm_jax.training.checkpointing.checkpoints import Checkpoints
from lstm_jax.training.config import Data, Experiment, Mesh, Model, Optimizer, Sample, Train
from lstm_jax.training.inference import load
from lstm_jax.training.loop import fit
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.run_dir import RunDir

TEXT = "the quick brown fox jumps over the lazy dog. " * 60


def small_config(tmp_path, name="run", **changes):
    """Returns an experiment of 24 steps in ``tmp_path / name``.

    Args:
      tmp_path: The parent of the run directory.
      name: The name of the run directory.
      **changes: Groups and fields of the experiment that replace the defaults.
    """
    groups = {
        "model": Model(hidden_size=8, embedding_size=4, dropout=0.2),
        "data": Data(task="adding", sequence_length=6, batch_size=4, eval_sequences=20),
        "optimizer": Optimizer(warmup_steps=2),
        "train": Train(
            steps=24, log_every=4, eval_every=6, checkpoint_every=8, steps_per_dispatch=2
        ),
        "mesh": Mesh(data=1),
        "sample": Sample(prompt="the ", length=20),
    }
    return Experiment(name="small", workdir=tmp_path / name, **groups | changes)


def text_data(path):
    """Returns the data group for a small text."""
    return Data(task="text", path=path, batch_size=4, sequence_length=8, reset_probability=0.2)


def create_run_dir(config):
    """Creates the run directory as it is when training starts."""
    run_dir = RunDir(config.run_dir)
    run_dir.path.mkdir(parents=True)
    run_dir.start(config)


# running


def fit_silently(config):
    """Trains without output."""
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):
        fit(config)


def send_signal_during(monkeypatch, where, number, call):
    """Sends this process a signal during training.

    Args:
      monkeypatch: Pytest's fixture, or a context of it.
      where: ``"step"``, ``"evaluation"`` or ``"save"``.
      number: The signal.
      call: The number of the step, evaluation or save, from 1, before which the signal is sent.
    """
    calls = {"n": 0}

    def with_signal(function):
        def called(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == call:
                os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        if hasattr(function, "trace"):  # of a jitted function
            called.trace = function.trace
        return called

    if where == "save":
        monkeypatch.setattr(Checkpoints, "save", with_signal(Checkpoints.save))
        return
    name = {"step": "make_train_steps", "evaluation": "make_evaluate"}[where]
    make = getattr(program, name)
    monkeypatch.setattr(program, name, lambda *args, **kwargs: with_signal(make(*args, **kwargs)))


def fit_until_signal(config, workdir, monkeypatch, where="step", call=9):
    """Trains in another directory until a signal stops the run.

    Args:
      config: The experiment.
      workdir: The other run directory.
      monkeypatch: Pytest's fixture.
      where: See :func:`send_signal_during`.
      call: See :func:`send_signal_during`. By default the run stops after step 18 of 24.
    """
    copy = dataclasses.replace(config, workdir=workdir)
    with monkeypatch.context() as patch:
        send_signal_during(patch, where, signal.SIGTERM, call)
        fit(copy)
    return copy


# results


def logged_metrics(config):
    """Returns the lines of metrics.jsonl, without metrics that depend on the clock."""
    lines = RunDir(config.run_dir).metrics()
    return [{k: v for k, v in line.items() if k not in MACHINE} for line in lines]


def learning_rates(config):
    """Returns the logged learning rates by step."""
    lines = logged_metrics(config)
    return {m["step"]: m["train/learning_rate"] for m in lines if "train/learning_rate" in m}


def events(config):
    """Returns the events in events.jsonl, without times and steps."""
    lines = (config.run_dir / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def latest_step(config, name="checkpoints"):
    """Returns the step of the latest checkpoint in ``checkpoints`` or ``best``."""
    return Checkpoints(config.run_dir / name, keep=2, read_only=True).latest()


def outcome(config):
    """Returns the content of a complete run directory, without values that depend on the clock."""
    run_dir = config.run_dir
    result = json.loads((run_dir / "result.json").read_text())
    del result["seconds"]
    best = load(run_dir)
    params = [leaf.tobytes() for leaf in map(jax.device_get, jax.tree.leaves(best.params))]
    return {
        "metrics": logged_metrics(config),
        "samples": (run_dir / "samples.txt").read_bytes(),
        "result": result,
        "best": (best.step, params),
        "names": sorted(path.name for path in run_dir.iterdir()),
    }


def same_metrics_and_params(one, other):
    """Whether two runs have the same metrics, and bitwise equal parameters."""
    params = [jax.tree.leaves(load(config.run_dir).params) for config in (one, other)]
    equal = all((a == b).all() for a, b in zip(*params, strict=True))
    return equal and logged_metrics(one) == logged_metrics(other)


def file_contents(directory, exclude=()):
    """Returns the content of each file below a directory, by its relative path."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in files if p.name not in exclude}


# corrupt checkpoints


def data_files(checkpoint):
    """Returns the files that hold numbers. Orbax decides which of them it reads."""
    return list((checkpoint / "state").rglob("d/*"))


def corrupt_checkpoint(checkpoint):
    """Flips a bit in each data file of a checkpoint."""
    for path in data_files(checkpoint):
        flip_bit(path)


def flip_bit(path):
    """Flips a bit in the middle of a file, unless it is empty."""
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)
