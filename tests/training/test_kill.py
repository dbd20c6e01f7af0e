"""Kill -9 at any event of the file system: the same command then gives an uninterrupted run."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time

import jax
import pytest

from lstm_jax.training.config import Train
from lstm_jax.training.inference import load
from lstm_jax.training.loop import fit
from tests.training.inotify import Watch
from tests.training.test_loop import figures, small, text_data

STRICT = False
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")
AT_ONCE, TESTS = 25, 24  # 600 events; a run has about 500


def experiment(folder):
    """Two evaluations, two checkpoints of states and of models, samples."""
    short = Train(
        steps=8, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2, keep_last=1
    )
    return small(folder, "run", data=text_data(folder / "text.txt"), train=short)


def silently(experiment):
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        fit(experiment)


def everything(experiment):
    """Returns the content of a run directory, without what depends on the clock."""
    folder = experiment.run_dir
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"]
    saved = load(folder)
    params = [leaf.tobytes() for leaf in map(jax.device_get, jax.tree.leaves(saved.params))]
    return {
        "metrics": figures(experiment),
        "samples": (folder / "samples.txt").read_bytes(),
        "result": result,
        "best": (saved.step, params),
        "names": sorted(path.name for path in folder.iterdir()),
    }


def put_text(folder):
    folder.mkdir(exist_ok=True)
    text = "the quick brown fox jumps over the lazy dog. " * 60
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return experiment(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = put_text(tmp_path_factory.mktemp("whole"))
    fit(run)
    return everything(run)


def killed_at(run, event):
    """Trains in a process of its own, killed at an event; returns the number of events."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_kill"])
    watch, count = Watch(run.workdir.parent), 0
    child = context.Process(target=silently, args=(run,))
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
def test_killed_it_resumes_as_if_never_killed(tmp_path, whole, event):
    run = put_text(tmp_path / "killed")
    assert event <= killed_at(run, event) < event + 60  # several events may come at once
    fit(run)
    assert everything(run) == whole


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(TESTS))
def test_killed_at_every_event_it_resumes_as_if_never_killed(tmp_path, whole, part):
    for event in range(part * AT_ONCE + 1, (part + 1) * AT_ONCE + 1):
        run = put_text(tmp_path / f"{event}")
        count = killed_at(run, event)
        silently(run)
        assert everything(run) == whole, event
        shutil.rmtree(run.workdir)
    if part == TESTS - 1:
        assert count < event  # the last kill came too late: every event was met
