"""Metrics: what they are called, and how they follow from losses and counts."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

StepMetrics = dict[str, np.ndarray]
"""Metrics of several steps by name, each ``[n]``."""


class Metric(NamedTuple):
    """A metric by which results on a dataset are compared.

    Attributes:
      label: Its name in lines of output.
      unit: Its name in plots and tables.
      of: ``(loss, accuracy) -> value``.
    """

    label: str
    unit: str
    of: Callable[[float, float], float]


def bits(nats: float) -> float:
    """Converts nats to bits.

    >>> round(bits(math.log(8)), 3)
    3.0
    """
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """Returns the number of equally likely tokens that would be as hard to predict.

    >>> round(perplexity(math.log(50)))
    50
    """
    return math.exp(min(nats, 700.0))


METRICS = {
    "bits": Metric("bits/token", "bits per token", lambda loss, accuracy: bits(loss)),
    "perplexity": Metric("perplexity", "perplexity", lambda loss, accuracy: perplexity(loss)),
    "nats": Metric("nats/step", "nats per step", lambda loss, accuracy: loss),
    "mse": Metric("mse", "mean squared error", lambda loss, accuracy: loss),
    "accuracy": Metric("accuracy", "accuracy", lambda loss, accuracy: accuracy),
}
"""The metrics that a dataset can name."""

MACHINE = ("tokens_per_second", "tokens_per_second_per_device", "memory_peak_gib")
"""The metrics that depend on the machine and the clock; all others follow from the seed."""

NOT_AVERAGED = ("skipped", "learning_rate", "tokens")


def train_metrics(steps: StepMetrics, metric: str) -> dict[str, float]:
    """Returns means over steps, the last learning rate, and the number of skipped steps.

    Steps whose update was skipped are left out of the means.

    Args:
      steps: Metrics of each step.
      metric: The metric of the dataset.
    """
    skipped = steps.get("skipped", np.zeros(len(steps["loss"]), bool))
    means = {
        f"train/{name}": float(values[~skipped].mean())
        for name, values in steps.items()
        if name not in NOT_AVERAGED
    }
    if "learning_rate" in steps:
        means["train/learning_rate"] = float(steps["learning_rate"][~skipped][-1])
    if "skipped" in steps:
        means["train/skipped"] = int(skipped.sum())
    accuracy = means.get("train/accuracy", float("nan"))
    return means | {f"train/{metric}": METRICS[metric].of(means["train/loss"], accuracy)}


def first_not_finite(steps: StepMetrics) -> int | None:
    """Returns the first step, from 0, with a loss or gradient that is not finite, else None.

    Skipped steps do not count, unless all were skipped.
    """
    fine = np.isfinite(steps["loss"]) & np.isfinite(steps["gradient_norm"])
    if "skipped" in steps and not steps["skipped"].all():
        fine |= steps["skipped"]
    return None if fine.all() else int(np.argmin(fine))


def machine_metrics(tokens_per_second: float, devices: int) -> dict[str, float]:
    """Returns the speed if it is known, and the peak memory of a device if the device tells it."""
    metrics: dict[str, float] = {}
    if tokens_per_second:
        values = (tokens_per_second, tokens_per_second / devices)
        metrics |= dict(zip(MACHINE, values, strict=False))
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    if known := [peak for peak in peaks if peak is not None]:
        metrics["memory_peak_gib"] = max(known) / 2**30
    return metrics
