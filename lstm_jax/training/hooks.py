"""The default hooks: console output, samples, plots, trackers, profiles and early stopping."""

# ruff: noqa: D102 (the base class documents the methods)
import time
from typing import Any

import jax
import numpy as np

from lstm_jax.training.config import Experiment
from lstm_jax.training.config.json import as_json
from lstm_jax.training.data.outline import shapes_of
from lstm_jax.training.evaluation import describe_best, splits
from lstm_jax.training.inference import generate
from lstm_jax.training.jaxprs import recurrences
from lstm_jax.training.metrics import METRICS, train_metrics
from lstm_jax.training.monitoring.lines import position, speed, values
from lstm_jax.training.monitoring.plots import plot_curves
from lstm_jax.training.monitoring.profiler import Profiler
from lstm_jax.training.monitoring.trackers import Tracker, make_trackers
from lstm_jax.training.parallel.mesh import one_device
from lstm_jax.training.program import trace
from lstm_jax.training.run import IN_FLIGHT, Hook, Run


def default_hooks(config: Experiment) -> list[Hook]:
    """Returns the hooks that an experiment has by default.

    >>> hooks = [*default_hooks(Experiment()), Hook()]      # the default hooks and another hook
    """
    return [
        Samples(),
        Trackers(),
        Console(),
        Curves(),
        Profile(config.log.profile),
        EarlyStopping(config.train.patience),
    ]


class Console(Hook):
    """Prints metrics, and shows a progress bar on a terminal.

    Without a terminal, a line is printed at least every ``seconds``, also between two logs.
    """

    def __init__(self, seconds: float = 10.0):
        self.seconds, self.printed = seconds, time.monotonic()

    def on_start(self, run: Run) -> None:
        run.progress.start(run.first)
        for line in header(run):
            run.say(line)
        self.printed = time.monotonic()

    def after_steps(self, run: Run, metrics: Any) -> None:
        step = run.step - IN_FLIGHT * run.config.train.steps_per_dispatch
        if len(run.pending) <= IN_FLIGHT:
            return
        run.progress.move(step)
        if run.progress.bar is None and time.monotonic() > self.printed + self.seconds:
            finished = jax.device_get(run.pending[-1 - IN_FLIGHT])
            if not np.all(finished.get("skipped", False)):
                self._print(run, step, train_metrics(finished, run.dataset.metric), speed="")

    def on_log(self, run: Run, metrics: dict[str, float]) -> None:
        run.progress.move(run.step)
        tokens_per_second = run.clock.tokens_per_second
        self._print(run, run.step, metrics, speed(tokens_per_second) if tokens_per_second else "")

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        strongest = dict(list(run.dataset.baselines.items())[-1:])  # all are printed at the end
        line = values(metrics, run.dataset.metric, "eval", strongest)
        run.say(f"{position(run.step, run.config.train.steps)}  eval  {line}", "cyan")
        self.printed = time.monotonic()

    def on_finish(self, run: Run, params: Any, metrics: dict[str, float]) -> None:
        for split in splits(run.dataset):
            run.say(describe_best(run.best_step, metrics, run.dataset, split), "green")

    def _print(self, run: Run, step: int, metrics: dict[str, float], speed: str) -> None:
        left = run.clock.time_left(step)
        parts = [
            position(step, run.config.train.steps),
            values(metrics, run.dataset.metric, "train"),
            f"grad_norm {metrics['train/gradient_norm']:.2f}",
            speed,
            f"ETA {left}" if left and step < run.config.train.steps else "",
        ]
        run.say("  ".join(filter(None, parts)))
        self.printed = time.monotonic()


def header(run: Run) -> list[str]:
    """Returns the first lines of output: data, model, devices and the backend of the LSTM layers."""
    size = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    layout, steps = run.program.layout, run.config.train.steps
    device = layout.mesh.devices.flat[0]
    devices = f"{layout.mesh.size} x {device.device_kind}"
    if layout.mesh.size > 1:
        axes = ", ".join(f"{name} {n}" for name, n in layout.mesh.shape.items() if n > 1)
        devices += f" ({axes}{', parameters sharded' if layout.fsdp else ''})"
    resumed = f", resuming from step {run.first:,}" if run.first else ""
    summary = run.dataset.summary.replace("\n", "\n         ")
    return [
        f"{run.config.name}: task {run.config.data.task}, {steps:,} steps{resumed}",
        f"data     {summary}",
        f"model    {size:,} parameters",
        f"devices  {devices}; LSTM backend {_backends(run)}",
    ]


def _backends(run: Run) -> str:
    """Returns the names of the LSTM layers' backends, each with the reason if it is not a kernel."""
    device = run.program.layout.mesh.devices.flat[0]
    traced = trace(run.program, shapes_of(run.dataset, run.config))
    found = dict.fromkeys(recurrences(traced.jaxpr, device.platform, device.device_kind))
    names = [f"{backend} ({reason})" if reason else backend for backend, reason in found]
    return ", ".join(names) or "none"


class Samples(Hook):
    """Writes a sample of a language model to samples.txt at each evaluation. Prints one at the end."""

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        if (text := _sample(run, run.state.params)) is not None:
            run.run_dir.sample(run.step, text)

    def on_finish(self, run: Run, params: Any, metrics: dict[str, float]) -> None:
        if (text := _sample(run, params)) is not None:
            run.say(f"\nSample from the best model:\n\n{text}\n")


class Curves(Hook):
    """Plots the metrics to curves.png at each evaluation."""

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        if run.run_dir.writes:
            name = run.dataset.metric
            plot = plot_curves(run.history, name, METRICS[name].unit, run.dataset.baselines)
            run.run_dir.replace("curves.png", plot)


class Trackers(Hook):
    """Sends all metrics to TensorBoard and Weights & Biases, if they are enabled in ``config.log``."""

    def __init__(self) -> None:
        self.trackers: list[Tracker] = []

    def on_start(self, run: Run) -> None:
        if run.run_dir.writes:
            config = run.config
            self.trackers = make_trackers(
                config.log, run.run_dir.path, config.name, run.first, as_json(config)
            )

    def on_log(self, run: Run, metrics: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.write(run.step, metrics)

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        self.on_log(run, metrics)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


class Profile(Hook):
    """Writes a profile for xprof into the run directory.

    Args:
      steps: First and last step to profile, from 1. None disables the hook.
    """

    def __init__(self, steps: tuple[int, int] | None):
        self.profiler = Profiler(steps)

    def before_steps(self, run: Run, first: int, n: int) -> None:
        self.profiler.before(first, n, run.run_dir.file("profile"))

    def after_steps(self, run: Run, metrics: Any) -> None:
        self.profiler.after(run.step, metrics)

    def close(self) -> None:
        self.profiler.close()


class EarlyStopping(Hook):
    """Ends training after ``patience`` evaluations without a lower validation loss.

    Args:
      patience: Number of evaluations. None disables the hook.
    """

    def __init__(self, patience: int | None):
        self.patience = patience

    def on_start(self, run: Run) -> None:
        losses = [line["eval/loss"] for line in run.history if "eval/loss" in line]
        if self.patience is None or not losses:
            return
        if len(losses) - 1 - int(np.argmin(losses)) >= self.patience:
            run.stop_early(f"{self.patience} evaluations without a lower validation loss")

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        self.on_start(run)


def _sample(run: Run, params: Any) -> str | None:
    """Returns a text sample. Returns None if the model is no language model, or not in the first process."""
    vocabulary, layout = run.dataset.vocabulary, run.program.layout
    if vocabulary is None:
        return None
    params = layout.to_host(params)
    if not run.run_dir.writes:
        return None
    mesh = one_device(run.config)  # one sequence cannot be sharded over devices
    with jax.set_mesh(mesh):
        params = jax.device_put(params, mesh.devices.item())
        return generate(run.program.graphdef, params, vocabulary, run.config.sample)
