"""What happens besides training: console, samples, plots, trackers, profiles, early stopping."""

# ruff: noqa: D102 (the base class documents the methods)
from typing import Any

import jax
import numpy as np

from lstm_jax.training.config import Experiment
from lstm_jax.training.config.json import as_json
from lstm_jax.training.evaluation import describe, splits
from lstm_jax.training.inference import generate
from lstm_jax.training.metrics import METRICS
from lstm_jax.training.monitoring.plots import plot_curves
from lstm_jax.training.monitoring.profiler import Profiler
from lstm_jax.training.monitoring.trackers import Tracker, make_trackers
from lstm_jax.training.parallel.mesh import one_device
from lstm_jax.training.run import Hook, Run


def default_hooks(config: Experiment) -> list[Hook]:
    """Returns the hooks of an experiment.

    >>> hooks = [*default_hooks(Experiment()), Hook()]      # all of them, and one more
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
    """Prints metrics, and a progress bar on a terminal."""

    def on_start(self, run: Run) -> None:
        size = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
        resumed = f", resuming from step {run.first:,}" if run.first else ""
        run.progress.start(run.first)
        run.say(f"{run.config.name}: {run.dataset.summary}")
        run.say(f"{size:,} parameters, {run.config.train.steps:,} steps{resumed}")

    def on_log(self, run: Run, metrics: dict[str, float]) -> None:
        speed, left = run.clock.tokens_per_second, run.clock.time_left(run.step)
        run.progress.step(run.step, metrics, run.dataset.metric, speed, left)

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        split = splits(run.dataset)[0]
        line = describe(metrics, run.dataset, split)
        run.say(f"step {run.step:>7,}  {split.title}: {line}")

    def on_finish(self, run: Run, params: Any, metrics: dict[str, float]) -> None:
        for split in splits(run.dataset):
            line = describe(metrics, run.dataset, split)
            run.say(f"best, of step {run.best_step:,}: {split.title}: {line}")


class Samples(Hook):
    """Writes a text of a language model to samples.txt at each evaluation, and prints the best model's."""

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        if (text := _sample(run, run.state.params)) is not None:
            run.run_dir.sample(run.step, text)

    def on_finish(self, run: Run, params: Any, metrics: dict[str, float]) -> None:
        if (text := _sample(run, params)) is not None:
            run.say(f"\na sample of the best model:\n\n{text}\n")


class Curves(Hook):
    """Plots the metrics to curves.png at each evaluation."""

    def on_eval(self, run: Run, metrics: dict[str, float]) -> None:
        if run.run_dir.writes:
            name = run.dataset.metric
            plot = plot_curves(run.history, name, METRICS[name].unit, run.dataset.baselines)
            run.run_dir.replace("curves.png", plot)


class Trackers(Hook):
    """Sends all metrics to TensorBoard and Weights & Biases, if ``log`` asks for it."""

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
    """Writes a profile of some steps into the run directory, for xprof.

    Args:
      steps: Numbers of the first and the last step, or None.
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
      patience: Number of evaluations, or None.
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
    """Returns a text of a language model, None of other models and in all processes but the first."""
    vocabulary, layout = run.dataset.vocabulary, run.program.layout
    if vocabulary is None:
        return None
    params = layout.to_host(params)
    if not run.run_dir.writes:
        return None
    mesh = one_device(run.config)  # a text is one sequence, for one device
    with jax.set_mesh(mesh):
        params = jax.device_put(params, mesh.devices.item())
        return generate(run.program.graphdef, params, vocabulary, run.config.sample)
