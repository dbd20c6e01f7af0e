"""What a run survives: signals, kills, damage, full disks, NaN. ``docs/reliability.md`` has the table."""

import contextlib
import dataclasses
import errno
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lstm_jax.training import loop, program
from lstm_jax.training.checkpointing.checkpoints import Checkpoints
from lstm_jax.training.config import ConfigError, Data, Model, Optimizer, Sample, Train
from lstm_jax.training.errors import NotFiniteError, RunError
from lstm_jax.training.inference import load
from lstm_jax.training.loop import fit
from lstm_jax.training.run import Run
from lstm_jax.training.run_dir import RunDir
from tests.cases import nightly
from tests.training.test_loop import figures, small, text_data

STRICT = False


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of a text that nothing disturbed; ``run_dir`` has no trace of another test."""
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    experiment = small(folder, "whole", data=text_data(path))
    fit(experiment)
    return experiment


def same(one, other):
    """The same figures, and the same parameters bit for bit."""
    params = [jax.tree.leaves(load(e.run_dir).params) for e in (one, other)]
    equal = all((a == b).all() for a, b in zip(*params, strict=True))
    return equal and figures(one) == figures(other)


def newest(experiment, folder="checkpoints"):
    return Checkpoints(experiment.run_dir / folder, keep=2, read_only=True).latest()


def events(experiment):
    lines = (experiment.run_dir / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


# kill -9


def slowly(experiment):
    """A run that takes long enough to be killed in; its steps are the same."""
    dispatches = Run.batches

    def slow(self):
        for dispatch in dispatches(self):
            time.sleep(0.005)
            yield dispatch

    Run.batches = slow
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        fit(experiment)


def lines(experiment, name):
    path = experiment.run_dir / name
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(child, condition):
    while not condition():
        assert child.is_alive()
        time.sleep(0.002)


@pytest.mark.parametrize("kills", [3, *nightly(20)])
def test_killed_at_random_is_as_if_never_killed(tmp_path, text, kills):
    """kill -9 in steps, evaluations and saves: a save is under way most of the time."""
    often = Train(
        steps=96 + 24 * kills, log_every=4, eval_every=24, checkpoint_every=8, steps_per_dispatch=2
    )
    whole, killed = (
        small(tmp_path, name, data=text_data(text), train=often) for name in ("whole", "killed")
    )
    fit(whole)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_reliability"])
    chance = random.Random(0)
    reached = set()
    for n in range(kills):
        child = context.Process(target=slowly, args=(killed,))
        child.start()
        wait_for(child, lambda n=n: lines(killed, "events.jsonl") > n)
        enough = lines(killed, "metrics.jsonl") + chance.randint(0, 10)
        wait_for(child, lambda enough=enough: lines(killed, "metrics.jsonl") >= enough)
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        reached.add(newest(killed))
    assert len(reached) > kills / 4  # they resumed from different steps
    fit(killed)
    assert same(whole, killed)
    assert not list(killed.run_dir.glob("*/*tmp*"))


# SIGTERM and SIGINT


def ask_to_stop_in(monkeypatch, where, number, after):
    """Sends this process a signal the n-th time that it is in a step, an evaluation or a save."""
    calls = {"n": 0}

    def when_called(function):
        def called(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == after:
                os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        return called

    if where == "save":
        monkeypatch.setattr(Checkpoints, "save", when_called(Checkpoints.save))
        return
    name = {"step": "make_train_steps", "evaluation": "make_evaluate"}[where]
    make = getattr(program, name)
    monkeypatch.setattr(program, name, lambda *args, **kwargs: when_called(make(*args, **kwargs)))


@pytest.mark.parametrize(
    "case",
    [
        (signal.SIGTERM, "step", 5, 10),  # between logs
        (signal.SIGINT, "step", 6, 12),  # at a log and an evaluation
        (signal.SIGTERM, "evaluation", 2, 12),
        (signal.SIGHUP, "save", 2, 8),  # of a checkpoint, after that of the best model
        (signal.SIGTERM, "evaluation", 5, 24),  # the report's
        *nightly(
            (signal.SIGINT, "step", 5, 10),
            (signal.SIGTERM, "step", 6, 12),
            (signal.SIGINT, "evaluation", 2, 12),
            (signal.SIGTERM, "save", 2, 8),
            (signal.SIGINT, "evaluation", 5, 24),
        ),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_as_if_never_stopped(
    tmp_path, whole, monkeypatch, capsys, case
):
    number, where, after, step = case
    handler = signal.getsignal(signal.SIGINT)
    stopped = dataclasses.replace(whole, workdir=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        ask_to_stop_in(patch, where, number, after)
        assert fit(stopped) is None
    name = signal.Signals(number).name
    assert f"Received {name}: saved a checkpoint at step {step}." in capsys.readouterr().out
    assert newest(stopped) == step
    assert signal.getsignal(signal.SIGINT) is handler
    fit(stopped)
    assert same(whole, stopped)
    assert events(stopped) == ["started", f"stopped by {name}", "resumed", "finished"]


def test_the_command_ends_well_on_sigterm(tmp_path, text):
    command = [sys.executable, "train.py", "--data.path", text, "--workdir", tmp_path / "run"]
    small_model = ["--model.hidden-size", "8", "--train.steps", "1000000"]
    # jax 0.10.0 writes a message of its own when it reads a program from the tests' cache.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    process = subprocess.Popen(
        [*map(str, command), *small_model],
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


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    experiment = small(tmp_path)
    folder = RunDir(experiment.run_dir)
    with (
        folder.locked(pytest.fail),
        pytest.raises(ConfigError, match=rf"workdir.*{experiment.run_dir}"),
    ):
        fit(experiment)
    fit(experiment)


# damage


def data_files(folder):
    """The files that hold numbers; which of them are read, Orbax decides."""
    return list((folder / "state").rglob("d/*"))


def truncate(folder):
    for path in data_files(folder):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(folder):
    for path in data_files(folder):
        path.unlink()


def corrupt(folder):
    for path in data_files(folder):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def garble_the_notes(folder):
    path = folder / "notes" / "metadata"
    path.write_text(path.read_text().replace("float32", "float64", 1))


@pytest.mark.parametrize(
    "case",
    [
        ("checkpoints", truncate),
        ("best", delete),
        ("checkpoints", corrupt),
        ("best", garble_the_notes),
        *nightly(
            ("best", truncate),
            ("checkpoints", delete),
            ("best", corrupt),
            ("checkpoints", garble_the_notes),
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path, whole, monkeypatch, capsys, case
):
    folder, harm = case
    hurt = dataclasses.replace(whole, workdir=tmp_path / "hurt")
    with monkeypatch.context() as patch:
        ask_to_stop_in(patch, "step", signal.SIGTERM, 9)  # after step 18
        fit(hurt)
    checkpoint = hurt.run_dir / folder / str(newest(hurt, folder))
    harm(checkpoint)
    capsys.readouterr()
    fit(hurt)
    printed = capsys.readouterr().out
    assert re.search(rf"warning: .*{checkpoint}\b.*renamed to {checkpoint.name}\.corrupt", printed)
    assert checkpoint.with_name(f"{checkpoint.name}.corrupt").is_dir()
    assert ("resuming from step 16" if folder == "checkpoints" else "from step 18") in printed
    assert any(str(checkpoint) in event for event in events(hurt))
    assert same(whole, hurt)


def test_a_damaged_best_model_is_passed_over_by_load(tmp_path):
    experiment = small(tmp_path)
    fit(experiment)
    step = load(experiment.run_dir).step
    checkpoint = experiment.run_dir / "best" / str(step)
    corrupt(checkpoint)
    with pytest.warns(UserWarning, match=str(checkpoint)):
        assert load(experiment.run_dir).step < step


def test_a_checkpoint_of_another_network_is_refused_with_its_arrays(tmp_path, monkeypatch):
    experiment = small(tmp_path)
    fit(experiment)
    longer = dataclasses.replace(experiment.train, steps=32)
    make = loop.make_program

    def changed(*args, **parts):
        made = make(*args, **parts)

        def init():
            state = made.init()
            kernel = state.params["output_layer"]["kernel"][:, :0]
            return state._replace(params=state.params | {"output_layer": {"kernel": kernel}})

        return made._replace(init=init)

    monkeypatch.setattr(loop, "make_program", changed)
    with pytest.raises(RunError) as error:
        fit(dataclasses.replace(experiment, train=longer))
    for names in (
        "checkpoints/24",
        r"params\.output_layer\.bias\b.*float32\[1\]",
        r"params\.output_layer\.kernel\b.*float32\[8, 1\].*float32\[8, 0\]",
    ):
        assert re.search(names, str(error.value))


# disks


@pytest.fixture
def disk(tmp_path):
    """``mount(options)`` of a small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system is not permitted here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_a_full_disk_ends_the_run_and_leaves_it_good(tmp_path, disk):
    large = {"model": Model(hidden_size=96, embedding_size=4, dropout=0.2)}
    fit(whole := small(tmp_path, **large))
    full = dataclasses.replace(whole, workdir=disk("size=4m") / "run")
    (full.run_dir.parent / "other").write_bytes(bytes(3_200_000))
    with pytest.raises(RunError, match=rf"{full.run_dir}.*{os.strerror(errno.ENOSPC)}"):
        fit(full)
    (full.run_dir.parent / "other").unlink()
    fit(full)
    assert same(whole, full)


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_lost(tmp_path, disk):
    folder = disk("size=2m")
    experiment = small(tmp_path, train=Train(
        steps=8, log_every=4, eval_every=8, checkpoint_every=8, steps_per_dispatch=4
    ))  # fmt: skip
    experiment = dataclasses.replace(experiment, workdir=folder / "run")
    fit(experiment)
    before = figures(experiment)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    longer = dataclasses.replace(experiment.train, steps=16)
    names = rf"workdir.*{experiment.run_dir}.*{os.strerror(errno.EROFS)}"
    with pytest.raises(ConfigError, match=names):
        fit(dataclasses.replace(experiment, train=longer))
    assert figures(experiment) == before
    assert load(experiment.run_dir).step == 8  # what is there can still be read


# NaN


def with_nan_at(monkeypatch, step):
    """The weights of one batch are NaN; the loss is then too, and its gradient."""
    make = loop.make_dataset

    def made(*args):
        dataset = make(*args)

        def batch(n, rows):
            batch = dataset.batch(n, rows)
            return batch._replace(weights=batch.weights * (np.nan if n == step - 1 else 1))

        return dataclasses.replace(dataset, batch=batch)

    monkeypatch.setattr(loop, "make_dataset", made)


def test_nan_stops_before_the_next_save_and_names_its_step(tmp_path, text, monkeypatch):
    experiment = small(tmp_path, data=text_data(text))
    with_nan_at(monkeypatch, 11)
    names = r"\b11\b.*\bnan\b.*\b8\b.*--train\.on-nan skip"
    with pytest.raises(NotFiniteError, match=names):
        fit(experiment)
    assert figures(experiment)[-1]["step"] == 8
    assert newest(experiment) == 8


def test_nan_is_not_saved_when_a_signal_comes(tmp_path, text, monkeypatch):
    experiment = small(tmp_path, data=text_data(text))
    with_nan_at(monkeypatch, 9)
    ask_to_stop_in(monkeypatch, "step", signal.SIGTERM, 5)  # step 10: logs are at 8 and 12
    with pytest.raises(NotFiniteError, match=r"\b9\b.*\bnan\b"):
        fit(experiment)
    assert newest(experiment) == 8


def test_a_step_that_is_not_finite_can_be_skipped_and_is_counted(tmp_path, text, monkeypatch):
    often = dataclasses.replace(small(tmp_path).train, on_nan="skip")
    experiment = small(tmp_path, data=text_data(text), train=often)
    with_nan_at(monkeypatch, 11)
    fit(experiment)
    skipped = {
        line["step"]: line["train/skipped"]
        for line in figures(experiment)
        if "train/skipped" in line
    }
    assert skipped == {4: 0, 8: 0, 12: 1, 16: 0, 20: 0, 24: 0}
    assert all(
        np.isfinite(line["train/loss"]) for line in figures(experiment) if "train/loss" in line
    )


def test_skipping_every_step_is_an_error(tmp_path):
    wild = Optimizer(
        name="sgd", learning_rate=1e38, warmup_steps=0, clip_norm=None, schedule="constant"
    )
    skip = dataclasses.replace(small(tmp_path).train, on_nan="skip")
    with pytest.raises(NotFiniteError, match=r"\b\d+\b.*\b(nan|inf)\b"):
        fit(
            small(
                tmp_path,
                optimizer=wild,
                train=skip,
                data=Data(task="adding", sequence_length=6, batch_size=4, eval_sequences=20),
                sample=Sample(),
            )
        )


# changes


def test_a_changed_learning_rate_is_gone_on_with_and_noted(tmp_path, capsys):
    experiment = small(tmp_path)
    fit(experiment)
    slower = dataclasses.replace(
        experiment,
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=1e-4),
        train=dataclasses.replace(experiment.train, steps=32),
    )
    fit(slower)
    assert "changed: optimizer.learning_rate was 0.006, now 0.0001" in capsys.readouterr().out
    assert (
        "optimizer.learning_rate was 0.006, now 0.0001; train.steps was 24, now 32"
        in events(experiment)[2]
    )
