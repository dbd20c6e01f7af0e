"""Training metrics, and metrics of the machine."""

import numpy as np
import pytest

from lstm_jax.training.metrics import METRICS, first_not_finite, machine_metrics, train_metrics

STRICT = False


def test_machine_metrics_hold_speed_and_peak_memory(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"peak_bytes_in_use": 3 * 2**29}

    monkeypatch.setattr("jax.local_devices", lambda: [Device(), Device()])
    assert machine_metrics(100.0, devices=2) == {
        "tokens_per_second": 100.0,
        "tokens_per_second_per_device": 50.0,
        "memory_peak_gib": 1.5,
    }


STEPS = {
    "loss": np.array([1.0, np.nan, 3.0]),
    "gradient_norm": np.array([2.0, 1.0, 4.0]),
    "learning_rate": np.array([0.1, 0.2, 0.3]),
    "tokens": np.array([8.0, 8.0, 8.0]),
    "skipped": np.array([False, True, False]),
}


def test_train_metrics_are_means_over_steps_that_were_not_skipped():
    assert train_metrics(STEPS, "nats") == {
        "train/loss": 2.0,
        "train/gradient_norm": 3.0,
        "train/learning_rate": 0.3,
        "train/skipped": 1,
        "train/nats": 2.0,
    }


def test_the_first_step_that_is_not_finite():
    unskipped = {name: values for name, values in STEPS.items() if name != "skipped"}
    assert first_not_finite(unskipped) == 1
    assert first_not_finite(STEPS) is None
    assert first_not_finite(STEPS | {"skipped": np.ones(3, bool)}) == 1  # nothing was trained
    infinite = unskipped | {"loss": np.ones(3), "gradient_norm": np.array([1.0, 1.0, np.inf])}
    assert first_not_finite(infinite) == 2


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("bits", 3.0),
        ("perplexity", 8.0),
        ("nats", np.log(8)),
        ("mse", np.log(8)),
        ("accuracy", 0.5),
    ],
)
def test_metrics_follow_from_loss_and_accuracy(metric, value):
    assert METRICS[metric].of(np.log(8), 0.5) == pytest.approx(value)
