"""The figures of a model on a task, and how they are said."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from lstm_jax.training.data.task import Task
from lstm_jax.training.metrics import FIGURES


def figures_of(sums: dict[str, Any], task: Task, part: str) -> dict[str, float]:
    """What :func:`~lstm_jax.training.step.make_evaluation` summed up, as ``part/...`` figures."""
    loss = float(sums["loss"]) / float(sums["weight"])
    accuracy = float(sums["hits"]) / float(sums["scored"]) if "hits" in sums else float("nan")
    figures = {f"{part}/loss": loss}
    if "hits" in sums:
        figures[f"{part}/accuracy"] = accuracy
    _, of = FIGURES[task.figure]
    return figures | {f"{part}/{task.figure}": of(loss, accuracy)}


def training_figures(dispatches: Iterable[dict[str, Any]], task: Task) -> dict[str, float]:
    """Means over the steps of some dispatches."""
    metrics = list(dispatches)
    mean = {n: float(np.concatenate([m[n] for m in metrics]).mean()) for n in metrics[0]}
    figures = {f"train/{name}": value for name, value in mean.items()}
    _, of = FIGURES[task.figure]
    return figures | {f"train/{task.figure}": of(mean["loss"], mean.get("accuracy", float("nan")))}


def in_line(figures: dict[str, float], task: Task, part: str) -> str:
    """The task's figure with the baselines beside it."""
    unit, _ = FIGURES[task.figure]
    baselines = task.test_baselines if part == "test" else task.baselines
    others = [f"{name} {value:.4f}" for name, value in baselines.items()]
    line = ", ".join([f"model {figures[f'{part}/{task.figure}']:.4f}", *others]) + f" ({unit})"
    more = [name for name in ("loss", "accuracy") if f"{part}/{name}" in figures]
    same = {"mse": "loss", "nats": "loss", "accuracy": "accuracy"}.get(task.figure)
    return "; ".join([line, *(f"{n} {figures[f'{part}/{n}']:.4f}" for n in more if n != same)])
