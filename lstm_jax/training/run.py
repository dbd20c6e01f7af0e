"""The state of a run and the operations of the training loop, and the base class of hooks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from lstm_jax.training.checkpointing.run_checkpoints import RunCheckpoints
from lstm_jax.training.config import Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import stack
from lstm_jax.training.errors import NotFiniteError
from lstm_jax.training.evaluation import eval_metrics, splits
from lstm_jax.training.metrics import (
    StepMetrics,
    first_not_finite,
    machine_metrics,
    train_metrics,
)
from lstm_jax.training.monitoring.clock import Clock, duration
from lstm_jax.training.monitoring.progress import Progress
from lstm_jax.training.parallel import processes
from lstm_jax.training.program import Program
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.signals import Signal
from lstm_jax.training.train_state import TrainState

IN_FLIGHT = 2
"""Maximum number of dispatched calls that are not finished. More would delay signals and progress."""


class Hook:
    """Base class of hooks, callbacks of the training loop. Every method does nothing by default.

    With several processes, hooks are called in every process.

    >>> class Loud(Hook):
    ...     def on_eval(self, run, metrics):
    ...         run.say(f"{run.step}: {metrics['eval/loss']}")
    """

    def on_start(self, run: "Run") -> None:
        """Called once, after the run was restored or initialized."""

    def before_steps(self, run: "Run", first: int, n: int) -> None:
        """Called before steps ``first`` to ``first + n - 1`` are dispatched. Steps count from 1."""

    def after_steps(self, run: "Run", metrics: Any) -> None:
        """Called after steps are dispatched. Reading ``metrics`` waits until the device finishes them."""

    def on_log(self, run: "Run", metrics: dict[str, float]) -> None:
        """Called every ``train.log_every`` steps with ``train/...`` metrics."""

    def on_eval(self, run: "Run", metrics: dict[str, float]) -> None:
        """Called after each evaluation with ``eval/...`` metrics."""

    def on_finish(self, run: "Run", params: Any, metrics: dict[str, float]) -> None:
        """Called after the last step with the parameters and the metrics of the best model."""

    def close(self) -> None:
        """Called when the run ends, also after an error or a signal."""


@dataclass
class Run:
    """The state of a run during training. It is passed to hooks.

    Attributes:
      config: The experiment.
      dataset: The dataset.
      program: The compiled functions.
      run_dir: The run directory.
      checkpoints: The checkpoints of training states and best models.
      hooks: The hooks.
      progress: Console output with the progress bar.
      state: The training state; ``state.params`` are the parameters.
      step: Number of completed or dispatched steps.
      pending: Metrics of the steps since the last log, on the device.
      history: The lines of metrics.jsonl as dicts.
      is_evaluated: Whether the parameters that training starts from need no evaluation.
      is_stopped_early: Whether a hook has called :meth:`stop_early`.
      signal: The first received signal, false if none was received.
      best_step: The step of the best model, set at the end.
    """

    config: Experiment
    dataset: Dataset
    program: Program
    run_dir: RunDir
    checkpoints: RunCheckpoints
    hooks: Sequence[Hook]
    progress: Progress
    state: TrainState
    step: int
    pending: list[Any]
    history: list[dict[str, Any]]
    is_evaluated: bool = True
    is_stopped_early: bool = False
    signal: Signal = field(default_factory=Signal)
    best_step: int = 0

    def __post_init__(self) -> None:
        self.first, self.clock = self.step, Clock(self.config.train.steps)

    # operations of the training loop

    def start(self) -> None:
        """Calls the hooks before the first step."""
        for hook in self.hooks:
            hook.on_start(self)

    def batches(self) -> Iterator[tuple[int, Batch | None]]:
        """Yields ``(step, batches)`` for each dispatch. ``step`` is the number of steps after it.

        ``batches`` is None if batches are generated on the device.
        """
        if self.is_stopped_early:
            return
        n, dataset, layout = (
            self.config.train.steps_per_dispatch,
            self.dataset,
            self.program.layout,
        )
        batch_size = self.config.data.batch_size
        rows = layout.local_rows(batch_size)
        for first in range(self.step, self.config.train.steps, n):
            batches = None
            if dataset.batch is not None:
                batches = stack([dataset.batch(step, rows) for step in range(first, first + n)])
                batches = layout.shard_batches(batches, rows, batch_size)
            yield first + n, batches

    def train_steps(self, batches: Batch | None) -> None:
        """Dispatches the next steps to the device without waiting for their results."""
        n = self.config.train.steps_per_dispatch
        if len(self.pending) >= IN_FLIGHT:
            jax.block_until_ready(self.pending[-IN_FLIGHT])
        for hook in self.hooks:
            hook.before_steps(self, self.step + 1, n)
        self.state, metrics = self.program.train_steps(self.state, batches)
        self.step += n
        self.pending.append(metrics)
        for hook in self.hooks:
            hook.after_steps(self, metrics)
        if not self.clock.running:
            jax.block_until_ready(metrics)
            self.clock.start(self.step)  # excludes compilation

    def log(self) -> None:
        """Writes the mean metrics of the steps since the last log.

        Raises:
          NotFiniteError: If a loss or a gradient is not finite.
          RunError: If the metrics or an earlier checkpoint cannot be written.
        """
        steps = self._pending_metrics()
        self._check_finite(steps)
        numbers = np.arange(self.step - len(steps["loss"]), self.step)
        self.clock.tokens += float(steps["tokens"][numbers >= self.clock.first].sum())
        metrics = train_metrics(steps, self.dataset.metric)
        self.pending = []
        metrics |= machine_metrics(self.clock.tokens_per_second, self.program.layout.mesh.size)
        self.history.append({"step": self.step, **metrics})
        self.run_dir.log(self.step, metrics)
        for hook in self.hooks:
            hook.on_log(self, metrics)
        self.checkpoints.check()

    def evaluate(self) -> bool:
        """Evaluates the parameters on the validation set and saves them if their loss is the lowest.

        Returns:
          False if a signal interrupted the evaluation, else True.
        """
        with self._pause():
            sums = self.program.evaluate(self.state.params, self.dataset.eval, self.is_interrupted)
            if sums is None:
                return False
            metrics = eval_metrics(sums, self.dataset, "eval")
            self.checkpoints.save_if_best(self.step, self.state.params, metrics["eval/loss"])
            self.history.append({"step": self.step, **metrics})
            for hook in self.hooks:
                hook.on_eval(self, metrics)
            self.checkpoints.best.wait()  # the model must be on disk before metrics.jsonl refers to it
            self.run_dir.log(self.step, metrics)
        return True

    def save(self) -> None:
        """Starts to save a checkpoint of the training state in the background.

        Raises:
          NotFiniteError: If a loss, a gradient or a parameter is not finite.
          RunError: If this or the previous checkpoint cannot be written.
        """
        if self.checkpoints.states.latest() == self.step:
            return
        with self._pause():
            steps = self._pending_metrics()
            self._check_finite(steps)
            self.checkpoints.save(self.step, self.state, steps)

    def report(self) -> dict[str, float] | None:
        """Evaluates the best model on the validation and test sets. Returns None after a signal."""
        best = self.checkpoints.best_model(self.state.params)
        self.best_step = best.step
        metrics: dict[str, float] = {}
        for split in splits(self.dataset):
            sums = self.program.evaluate(best.state, split.batches, self.is_interrupted)
            if sums is None:
                return None
            metrics |= eval_metrics(sums, self.dataset, split.name)
        self.progress.close()
        for hook in self.hooks:
            hook.on_finish(self, best.state, metrics)
        return metrics

    def finish(self, metrics: dict[str, float] | None, seconds: float) -> None:
        """Writes result.json, or an event if a signal stopped the run.

        Args:
          metrics: The result of :meth:`report`; None if a signal stopped the run.
          seconds: Duration of this call of ``fit``.
        """
        if metrics is None:
            signal = self.signal.name or "a signal to another process"
            self.run_dir.event(self.step, f"stopped by {signal}")
            self.say(
                f"Received {signal}: saved a checkpoint at step {self.step:,}. Run the same command "
                "to resume."
            )
        else:
            result = {"step": self.best_step, "metric": self.dataset.metric, "metrics": metrics}
            self.run_dir.finish(result | {"seconds": seconds})
            self.run_dir.event(self.step, "finished")
        processes.wait_for_all("the end")
        self.say(f"{duration(seconds)} in all; {self.run_dir.path}")

    # methods for hooks

    def say(self, text: str, color: str = "") -> None:
        """Prints a line in the first process. On a terminal, ``color`` is red, green, yellow or cyan."""
        self.progress.say(text, color)

    def stop_early(self, reason: str) -> None:
        """Ends training after these steps, which are evaluated and saved as the last steps are.

        A run that is resumed later does not know of it: a hook that stops training should check
        ``run.history`` in ``on_start``, as :class:`~lstm_jax.training.hooks.EarlyStopping` does.
        """
        if not self.is_stopped_early:
            self.say(f"stopped early: {reason}")
        self.is_stopped_early = True

    # signals

    def is_interrupted(self) -> bool:
        """Returns whether a signal was received. Always False with several processes."""
        return bool(self.signal) and processes.is_single_process()

    def should_stop(self) -> bool:
        """Returns whether to stop now because of a signal.

        Several processes agree on the answer, at steps that log.
        """
        if processes.is_single_process():
            return bool(self.signal)
        logs = self.step % self.config.train.log_every == 0
        return logs and processes.any_of(bool(self.signal))

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Closes checkpoints, hooks and the progress bar on exit, even if closing one of them fails."""
        with ExitStack() as stack:
            stack.callback(self.checkpoints.close)
            for hook in self.hooks:
                stack.callback(hook.close)
            stack.callback(self.progress.close)
            yield

    @contextmanager
    def _pause(self) -> Iterator[None]:
        """Stops the clock inside the block."""
        jax.block_until_ready(self.state)
        with self.clock.paused():
            yield

    def _pending_metrics(self) -> StepMetrics:
        """Returns the metrics of every step since the last log."""
        parts = jax.device_get(self.pending)
        if len({frozenset(part) for part in parts}) > 1:  # from a checkpoint of other settings
            names = set.intersection(*map(set, parts)) | {"tokens", "skipped"}
            parts = [_with_names(part, names) for part in parts]
        return {name: np.concatenate([p[name] for p in parts]) for name in (parts or [{}])[0]}

    def _check_finite(self, steps: StepMetrics) -> None:
        bad = first_not_finite(steps) if steps else None
        if bad is None:
            return
        step = self.step - len(steps["loss"]) + bad + 1
        latest = self.checkpoints.states.latest()
        saved = "No checkpoint was saved."
        if latest is not None:
            saved = f"The latest checkpoint, of step {latest:,}, is finite."
        skip = ""
        if self.config.train.on_nan != "skip":
            skip = ", or resume with --train.on-nan skip"
        raise NotFiniteError(
            f"step {step:,}: the loss is {steps['loss'][bad]}, the gradient norm is "
            f"{steps['gradient_norm'][bad]}. {saved} Lower optimizer.learning_rate or "
            f"optimizer.clip_norm, check the data of that step for NaN{skip}."
        )


def _with_names(steps: StepMetrics, names: set[str]) -> StepMetrics:
    """Returns the metrics with these names. Missing tokens are 0, and missing steps not skipped."""
    n = len(steps["loss"])
    missing = {"tokens": np.zeros(n, np.float32), "skipped": np.zeros(n, bool)}
    return {name: steps[name] if name in steps else missing[name] for name in sorted(names)}
