"""Figures elsewhere: TensorBoard, Weights & Biases, norms by layer, a profile, the machine's."""

import importlib.machinery
import importlib.util
import signal
import sys
import types

import numpy as np
import pytest

from lstm_jax.training.config import ConfigError, Log, Train
from lstm_jax.training.loop import fit
from lstm_jax.training.metrics import MACHINE, machine_metrics
from tests.training.test_loop import figures, small
from tests.training.test_reliability import ask_to_stop_in

STRICT = False


def events_of(folder):
    """What TensorBoard would show: ``{(name, step): values}``."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):  # length, its checksum, the record, its checksum
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(value.simple_value)
    return found


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="no tensorboardX")
def test_tensorboard_has_the_lines_of_metrics(tmp_path):
    experiment = small(tmp_path, log=Log(tensorboard=True))
    fit(experiment)
    shown = events_of(experiment.run_dir / "tensorboard")
    for line in figures(experiment):
        for name, value in line.items():
            if name != "step":
                assert shown[name, line["step"]] == [pytest.approx(value, rel=1e-6)]


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that keeps what it is given."""
    kept = types.SimpleNamespace(began=[], lines=[], ended=0)

    class Run:
        def log(self, figures, step):
            kept.lines.append((step, figures))

        def finish(self):
            kept.ended += 1

    def init(**keywords):
        kept.began.append(keywords)
        return Run()

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return kept


def test_weights_and_biases_goes_on_in_the_same_run(tmp_path, wandb, monkeypatch):
    experiment = small(tmp_path, log=Log(wandb="lstm"))
    with monkeypatch.context() as patch:
        ask_to_stop_in(patch, "step", signal.SIGTERM, 5)
        fit(experiment)
    fit(experiment)
    first, second = wandb.began
    assert first == second
    assert (first["project"], first["name"], first["resume"]) == ("lstm", "small", "allow")
    assert first["config"]["model"]["hidden_size"] == 8
    assert wandb.ended == 2
    lines = [{"step": step, **line} for step, line in wandb.lines]
    kept = [{k: v for k, v in line.items() if k not in MACHINE} for line in lines]
    assert kept == figures(experiment)


@pytest.mark.parametrize(
    ("log", "package"), [(Log(tensorboard=True), "tensorboardX"), (Log(wandb="p"), "wandb")]
)
def test_a_missing_package_is_said_before_anything_is_written(tmp_path, monkeypatch, log, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    experiment = small(tmp_path, log=log)
    with pytest.raises(ConfigError, match=rf"log\.\w+\W.*\b{package}\b"):
        fit(experiment)
    assert not experiment.run_dir.exists()


def test_norms_by_layer_are_those_of_the_whole(tmp_path):
    experiment = small(tmp_path, log=Log(norms=True))
    fit(experiment)
    fit(without := small(tmp_path, "without"))
    lines = [line for line in figures(experiment) if "train/loss" in line]
    names = {name for name in lines[0] if "/parameter_norm/" in name}
    arrays = {n.removeprefix("train/parameter_norm/") for n in names}
    assert {"lstm.l0f.w_h", "output_layer.kernel"} <= arrays
    assert {n.replace("parameter", "gradient") for n in names} < set(lines[0])
    plain = [
        {name: value for name, value in line.items() if "_norm/" not in name}
        for line in figures(experiment)
    ]
    for line, other in zip(plain, figures(without), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert value == pytest.approx(other[name], rel=1e-5)


def test_the_norm_of_all_follows_from_those_of_the_parts(tmp_path):
    every = Train(steps=2, log_every=1, eval_every=2, checkpoint_every=2, steps_per_dispatch=1)
    experiment = small(tmp_path, train=every, log=Log(norms=True))
    fit(experiment)
    for line in figures(experiment)[:2]:
        parts = [v for name, v in line.items() if name.startswith("train/gradient_norm/")]
        assert np.sqrt(np.square(parts).sum()) == pytest.approx(
            line["train/gradient_norm"], rel=1e-5
        )


@pytest.mark.parametrize("steps", [(3, 5), (23, 40)])
def test_a_profile_of_some_steps(tmp_path, monkeypatch, steps):
    calls = []
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(f"jax.profiler.{name}", lambda *a, name=name: calls.append((name, *a)))
    experiment = small(tmp_path, log=Log(profile=steps))
    fit(experiment)
    assert calls == [("start_trace", str(experiment.run_dir / "profile")), ("stop_trace",)]


def test_a_profile_is_written(tmp_path):
    experiment = small(tmp_path, log=Log(profile=(5, 6)))
    fit(experiment)
    assert list((experiment.run_dir / "profile").rglob("*.xplane.pb"))


def test_what_devices_say_of_their_memory(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"peak_bytes_in_use": 3 * 2**29}

    monkeypatch.setattr("jax.local_devices", lambda: [Device(), Device()])
    assert machine_metrics(100.0, devices=2) == {
        "tokens_per_second": 100.0,
        "tokens_per_second_per_device": 50.0,
        "memory_peak_gib": 1.5,
    }
