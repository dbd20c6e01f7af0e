"""Hooks: early stopping, samples, curves, trackers, profiles."""

import importlib.machinery
import importlib.util
import signal
import sys
import types

import pytest

from lstm_jax.training.config import (
    Experiment,
    Log,
    Optimizer,
    Train,
)
from lstm_jax.training.hooks import EarlyStopping, default_hooks
from lstm_jax.training.loop import fit
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.run import Run
from tests.training.runs import logged_metrics, send_signal_during, small_config

STRICT = False


def test_a_run_stops_early_without_a_lower_loss(tmp_path, capsys):
    patient = Train(
        steps=200, log_every=4, eval_every=4, checkpoint_every=4, steps_per_dispatch=4, patience=2
    )
    tiny = Optimizer(learning_rate=1e-30, warmup_steps=0)
    experiment = small_config(tmp_path, train=patient, optimizer=tiny)
    fit(experiment)
    assert logged_metrics(experiment)[-1]["step"] == 12  # the first evaluation is the best
    before = logged_metrics(experiment)
    fit(experiment)
    assert logged_metrics(experiment) == before
    assert capsys.readouterr().out.count("stopped early: 2 evaluations") == 1


def tensorboard_scalars(directory):
    """Returns the scalars in event files, as ``{(name, step): values}``."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(directory.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):  # length, its checksum, the record, its checksum
            size = int.from_bytes(content[position : position + 8], "little")
            event = Event.FromString(content[position + 12 : position + 12 + size])
            position += 16 + size
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="no tensorboardX")
def test_tensorboard_shows_the_logged_metrics(tmp_path):
    experiment = small_config(tmp_path, log=Log(tensorboard=True))
    fit(experiment)
    shown = tensorboard_scalars(experiment.run_dir / "tensorboard")
    for line in logged_metrics(experiment):
        for name, value in line.items():
            if name != "step":
                assert shown[name, line["step"]] == [pytest.approx(value, rel=1e-6)]


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package that records its calls."""
    calls = types.SimpleNamespace(init=[], log=[], finished=0)

    class Run:
        def log(self, metrics, step):
            calls.log.append((step, metrics))

        def finish(self):
            calls.finished += 1

    def init(**keywords):
        calls.init.append(keywords)
        return Run()

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_weights_and_biases_resumes_the_same_run(tmp_path, wandb, monkeypatch):
    experiment = small_config(tmp_path, log=Log(wandb="lstm"))
    with monkeypatch.context() as patch:
        send_signal_during(patch, "step", signal.SIGTERM, 5)
        fit(experiment)
    fit(experiment)
    first, second = wandb.init
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("lstm", "small", "allow")
    assert first["config"]["model"]["hidden_size"] == 8
    assert wandb.finished == 2
    lines = [{"step": step, **line} for step, line in wandb.log]
    logged = [{k: v for k, v in line.items() if k not in MACHINE} for line in lines]
    assert logged == logged_metrics(experiment)


@pytest.mark.parametrize("steps", [(3, 5), (23, 40)])
def test_a_profile_starts_and_stops_once(tmp_path, monkeypatch, steps):
    calls = []
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(f"jax.profiler.{name}", lambda *a, name=name: calls.append((name, *a)))
    experiment = small_config(tmp_path, log=Log(profile=steps))
    fit(experiment)
    assert calls == [("start_trace", str(experiment.run_dir / "profile")), ("stop_trace",)]


def test_a_profile_is_written(tmp_path):
    experiment = small_config(tmp_path, log=Log(profile=(5, 6)))
    fit(experiment)
    assert list((experiment.run_dir / "profile").rglob("*.xplane.pb"))


def test_the_default_hooks_follow_the_config():
    config = Experiment(log=Log(profile=(3, 5)), train=Train(patience=2))
    hooks = {type(hook).__name__: hook for hook in default_hooks(config)}
    assert list(hooks) == ["Samples", "Trackers", "Console", "Curves", "Profile", "EarlyStopping"]
    assert hooks["Profile"].profiler.steps == (3, 5)
    assert hooks["EarlyStopping"].patience == 2


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([], 1, False),
        ([1.0, 2.0], 2, False),
        ([1.0, 2.0, 2.0], 2, True),
        ([1.0, 2.0, 0.5, 0.6], 2, False),
        ([1.0, 1.0], 1, True),  # an equal loss is not lower
        ([1.0, 2.0, 3.0], None, False),
    ],
)
def test_early_stopping_counts_evaluations_since_the_lowest_loss(losses, patience, stops):
    reasons = []
    history = [{"step": n, "eval/loss": loss} for n, loss in enumerate(losses)]
    run = object.__new__(Run)  # without its other parts
    run.history, run.stop_early = history, reasons.append
    EarlyStopping(patience).on_eval(run, {})
    assert len(reasons) == stops
