"""A run while it trains: the order in which hooks are called, and early stopping."""

import dataclasses

import pytest

from lstm_jax.training.config import Train
from lstm_jax.training.loop import fit
from lstm_jax.training.run import Hook
from tests.training.runs import logged_metrics, small_config

STRICT = False
METHODS = (
    "on_start", "before_steps", "after_steps", "on_log", "on_eval", "on_finish", "close",
)  # fmt: skip
TRAIN = Train(steps=4, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2)


def recording_hook(name, calls):
    """Returns a hook that adds ``(name, method)`` to ``calls`` whenever it is called."""

    def record(method):
        return lambda self, *args: calls.append((name, method))

    return type("Recording", (Hook,), {method: record(method) for method in METHODS})()


def test_hooks_are_called_in_order(tmp_path):
    calls = []
    hooks = [recording_hook(name, calls) for name in "ab"]
    fit(small_config(tmp_path, train=TRAIN), hooks=hooks)
    dispatch = ["before_steps", "after_steps", "on_log"]
    expected = ["on_start", *dispatch, *dispatch, "on_eval", "on_finish"]
    assert calls[:-2] == [(name, method) for method in expected for name in "ab"]
    assert calls[-2:] == [("b", "close"), ("a", "close")]  # as nested contexts


def test_hooks_are_closed_after_an_error(tmp_path):
    class Failing(Hook):
        def on_log(self, run, metrics):
            raise ZeroDivisionError

    calls = []
    hooks = [recording_hook("a", calls), Failing()]
    with pytest.raises(ZeroDivisionError):
        fit(small_config(tmp_path, train=TRAIN), hooks=hooks)
    assert calls[-1] == ("a", "close")


def test_stop_early_ends_the_run_after_the_evaluation(tmp_path, capsys):
    class Stopping(Hook):
        def on_eval(self, run, metrics):
            run.stop_early("enough")
            run.stop_early("again")

    train = dataclasses.replace(TRAIN, steps=40)
    config = small_config(tmp_path, train=train)
    assert "eval/loss" in fit(config, hooks=[Stopping()])
    assert logged_metrics(config)[-1]["step"] == 4
    assert (config.run_dir / "result.json").exists()
    assert capsys.readouterr().out.count("stopped early: enough") == 1
