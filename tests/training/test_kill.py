"""Runs that are killed: the same command gives the result of an uninterrupted run."""

import multiprocessing
import os
import random
import shutil
import signal
import time

import pytest

from lstm_jax.training.config import Train
from lstm_jax.training.loop import fit
from lstm_jax.training.run import Run
from tests.cases import nightly
from tests.training.inotify import Watch
from tests.training.runs import (
    TEXT,
    fit_silently,
    latest_step,
    outcome,
    same_metrics_and_params,
    small_config,
    text_data,
)

STRICT = False

KILLS_PER_TEST, TESTS = 25, 24
"""A run has about 500 events of the file system."""


def short_config(directory):
    """Writes a text, and returns an experiment on it with two evaluations and two checkpoints."""
    directory.mkdir(exist_ok=True)
    (directory / "text.txt").write_text(TEXT, encoding="utf-8")
    short = Train(
        steps=8, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2, keep_last=1
    )
    return small_config(directory, "run", data=text_data(directory / "text.txt"), train=short)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The outcome of an uninterrupted run."""
    run = short_config(tmp_path_factory.mktemp("uninterrupted"))
    fit(run)
    return outcome(run)


def fit_and_kill_at(run, event):
    """Trains in a new process, and kills it at an event. Returns the number of events."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_kill"])
    watch, count = Watch(run.workdir.parent), 0
    child = context.Process(target=fit_silently, args=(run,))
    child.start()
    while child.is_alive() and count < event:
        count += len(watch.events())
        time.sleep(0.0002)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    watch.close()
    return count


@pytest.mark.parametrize("event", [60, 200, 400])
def test_a_killed_run_equals_an_uninterrupted_run(tmp_path, expected, event):
    run = short_config(tmp_path / "killed")
    assert event <= fit_and_kill_at(run, event) < event + 60  # several events may come at once
    fit(run)
    assert outcome(run) == expected


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(TESTS))
def test_a_run_killed_at_any_event_equals_an_uninterrupted_run(tmp_path, expected, part):
    for event in range(part * KILLS_PER_TEST + 1, (part + 1) * KILLS_PER_TEST + 1):
        run = short_config(tmp_path / f"{event}")
        count = fit_and_kill_at(run, event)
        fit_silently(run)
        assert outcome(run) == expected, event
        shutil.rmtree(run.workdir)
    if part == TESTS - 1:
        assert count < event  # the run ended before the last kill: no event was left out


def fit_slowly(experiment):
    """Trains with a pause before every dispatch, so that the process can be killed between dispatches."""
    all_batches = Run.batches

    def slow_batches(self):
        for dispatch in all_batches(self):
            time.sleep(0.005)
            yield dispatch

    Run.batches = slow_batches
    fit_silently(experiment)


def count_lines(experiment, name):
    """Returns the number of lines in a file of the run directory, 0 without the file."""
    path = experiment.run_dir / name
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(child, condition):
    """Waits while a process runs, until a condition holds."""
    while not condition():
        assert child.is_alive()
        time.sleep(0.002)


@pytest.mark.parametrize("kills", [3, *nightly(20)])
def test_a_run_killed_at_random_equals_an_uninterrupted_run(tmp_path, text, kills):
    """Kills the run in steps, evaluations and saves. It is saving most of the time."""
    train = Train(
        steps=96 + 24 * kills, log_every=4, eval_every=24, checkpoint_every=8, steps_per_dispatch=2
    )
    uninterrupted, killed = (
        small_config(tmp_path, name, data=text_data(text), train=train)
        for name in ("uninterrupted", "killed")
    )
    fit(uninterrupted)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_kill"])
    chance = random.Random(0)
    steps = set()
    for n in range(kills):
        child = context.Process(target=fit_slowly, args=(killed,))
        child.start()
        wait_for(child, lambda n=n: count_lines(killed, "events.jsonl") > n)
        enough = count_lines(killed, "metrics.jsonl") + chance.randint(0, 10)
        wait_for(child, lambda enough=enough: count_lines(killed, "metrics.jsonl") >= enough)
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        steps.add(latest_step(killed))
    assert len(steps) > kills / 4  # the run was resumed from different steps
    fit(killed)
    assert same_metrics_and_params(uninterrupted, killed)
    assert not list(killed.run_dir.glob("*/*tmp*"))
