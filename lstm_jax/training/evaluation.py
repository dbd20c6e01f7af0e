"""The figures of a model on a task, and how they are said."""

from typing import Any

import numpy as np

from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.metrics import METRICS

Metrics = dict[str, np.ndarray]


def eval_metrics(sums: dict[str, Any], task: Dataset, part: str) -> dict[str, float]:
    """What :func:`~lstm_jax.training.train_step.make_evaluation` summed up, as ``part/...`` figures."""
    loss = float(sums["loss"]) / float(sums["weight"])
    accuracy = float(sums["hits"]) / float(sums["scored"]) if "hits" in sums else float("nan")
    figures = {f"{part}/loss": loss}
    if "hits" in sums:
        figures[f"{part}/accuracy"] = accuracy
    _, of = METRICS[task.metric]
    return figures | {f"{part}/{task.metric}": of(loss, accuracy)}


def training_metrics(steps: Metrics, task: Dataset) -> dict[str, float]:
    """Returns means over steps, and the last learning rate.

    Steps whose update was skipped are counted, and left out of the means.
    """
    skipped = steps.get("skipped", np.zeros(len(steps["loss"]), bool))
    figures = {
        f"train/{name}": float(values[~skipped].mean())
        for name, values in steps.items()
        if name not in ("skipped", "learning_rate")
    }
    if "learning_rate" in steps:  # not in what an earlier version saved
        figures["train/learning_rate"] = float(steps["learning_rate"][~skipped][-1])
    if "skipped" in steps:
        figures["train/skipped"] = int(skipped.sum())
    _, of = METRICS[task.metric]
    accuracy = figures.get("train/accuracy", float("nan"))
    return figures | {f"train/{task.metric}": of(figures["train/loss"], accuracy)}


def first_bad(steps: Metrics) -> int | None:
    """The first step, from 0, whose loss or gradient is not finite and whose update was not skipped."""
    fine = np.isfinite(steps["loss"]) & np.isfinite(steps["gradient_norm"])
    if "skipped" in steps and not steps["skipped"].all():
        fine |= steps["skipped"]
    return None if fine.all() else int(np.argmin(fine))


def parts_of(task: Dataset) -> list[tuple[str, str, Batch]]:
    """What is reported on in the end: the key of its figures, its name for people, its chunks."""
    parts = [("eval", "held out", task.eval)]
    return parts if task.test is None else [*parts, ("test", "test", task.test)]


def in_line(figures: dict[str, float], task: Dataset, part: str) -> str:
    """The task's figure with the baselines beside it."""
    unit, _ = METRICS[task.metric]
    baselines = task.test_baselines if part == "test" else task.baselines
    others = [f"{name} {value:.4f}" for name, value in baselines.items()]
    line = ", ".join([f"model {figures[f'{part}/{task.metric}']:.4f}", *others]) + f" ({unit})"
    more = [name for name in ("loss", "accuracy") if f"{part}/{name}" in figures]
    same = {"mse": "loss", "nats": "loss", "accuracy": "accuracy"}.get(task.metric)
    return "; ".join([line, *(f"{n} {figures[f'{part}/{n}']:.4f}" for n in more if n != same)])
