"""The table of metrics, and their computation from losses and counts."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

StepMetrics = dict[str, np.ndarray]
"""Metrics by name, each an array ``[n]`` with one value per step."""


class Metric(NamedTuple):
    """The main metric of a dataset.

    Attributes:
      label: Name in console output.
      unit: Name in plots and tables.
      of: Function ``(loss, accuracy) -> value``.
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
    """Returns ``exp(nats)``, the number of equally likely tokens with the same loss.

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
"""Metrics by name, for ``Dataset.metric``."""

MACHINE = ("tokens_per_second", "tokens_per_second_per_device", "memory_peak_gib")
"""Metrics that depend on the machine and are not reproducible from the seed."""

NOT_AVERAGED = ("skipped", "learning_rate", "tokens")


def train_metrics(steps: StepMetrics, metric: str) -> dict[str, float]:
    """Returns the means over steps, the latest learning rate, and the number of skipped steps.

    The means exclude skipped steps.

    Args:
      steps: Metrics of each step.
      metric: Name of the main metric.
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
    """Returns the index of the first step with a loss or gradient that is not finite, or None.

    Skipped steps are ignored, unless all steps were skipped.
    """
    fine = np.isfinite(steps["loss"]) & np.isfinite(steps["gradient_norm"])
    if "skipped" in steps and not steps["skipped"].all():
        fine |= steps["skipped"]
    return None if fine.all() else int(np.argmin(fine))


def machine_metrics(tokens_per_second: float, devices: int) -> dict[str, float]:
    """Returns tokens per second if it is not 0, and the peak memory if the devices report it."""
    metrics: dict[str, float] = {}
    if tokens_per_second:
        values = (tokens_per_second, tokens_per_second / devices)
        metrics |= dict(zip(MACHINE, values, strict=False))
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use") for d in jax.local_devices()]
    if known := [peak for peak in peaks if peak is not None]:
        metrics["memory_peak_gib"] = max(known) / 2**30
    return metrics
