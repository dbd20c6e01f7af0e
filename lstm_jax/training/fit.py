"""Trains a model in a run directory, from which it can be resumed, reviewed and used."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np

from lstm_jax.training.checkpointing.run_checkpoints import RunCheckpoints, Start, restore
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.config.json import as_json, differences
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.make import make_dataset
from lstm_jax.training.data.sequences import stack
from lstm_jax.training.errors import NotFiniteError
from lstm_jax.training.evaluation import (
    Metrics,
    eval_metrics,
    first_bad,
    in_line,
    parts_of,
    training_metrics,
)
from lstm_jax.training.generate import generate
from lstm_jax.training.metrics import METRICS, Clock, duration, machine_metrics
from lstm_jax.training.monitoring import console as output
from lstm_jax.training.monitoring.plots import plot_curves
from lstm_jax.training.monitoring.profiler import Profile
from lstm_jax.training.monitoring.progress import Progress
from lstm_jax.training.monitoring.trackers import check_writers, make_writers
from lstm_jax.training.optimizer import make_schedule
from lstm_jax.training.parallel import processes as distributed
from lstm_jax.training.parallel.layout import alone, on_the_host, rows_here, spread
from lstm_jax.training.program import Program, make_program
from lstm_jax.training.run_dir.run_dir import RunDir
from lstm_jax.training.signals import on_signals


def train(experiment: Experiment) -> dict[str, float] | None:
    """Runs or resumes an experiment, and prints its progress. Changes nothing if it is complete.

    Returns:
      The metrics of the best model: ``eval/...``, and ``test/...`` if there is a test set. None if a
      signal stopped training; the same call resumes it.

    Raises:
      ConfigError: if the data or the run directory cannot be used; nothing is written then.
      RunError: if training diverges or the directory cannot be written any more.
    """
    started = time.monotonic()
    distributed.start(experiment.mesh)
    task = make_dataset(experiment)
    program = make_program(experiment, task, jax.devices())
    check(experiment, task)  # before anything is written: what cannot run leaves no directory
    folder = RunDir(experiment.run_dir, writes=distributed.is_first())
    complete = folder.result(experiment, same_data=True)  # as check has compared
    distributed.wait_for_all("the directory was checked")
    if complete is not None:
        if folder.writes:
            output.say(_summary(folder, complete))
        return complete["figures"]
    if experiment.mesh.data is None and program.mesh.size < jax.device_count() and folder.writes:
        output.say(
            f"using {program.mesh.size} of {jax.device_count()} devices, the most that divide "
            f"data.batch_size {experiment.data.batch_size}"
        )
    with folder.held(_warn_before), jax.set_mesh(program.mesh):
        trainer = Trainer(experiment, task, program, folder)
        figures = trainer.run()
        seconds = time.monotonic() - started
        if figures is not None:
            best = {"step": trainer.best_step, "figure": task.metric, "figures": figures}
            folder.finish(best | {"seconds": seconds})
            folder.event(trainer.done, "finished")
        distributed.wait_for_all("the end")
    trainer.progress.say(f"{duration(seconds)} in all; {folder.path}")
    return figures


def check(experiment: Experiment, task: Dataset) -> None:
    """Checks what can be checked only once the data was read. Writes nothing.

    Raises:
      ConfigError: if the model or the sample does not fit the task, or the run directory belongs to
        another experiment or to other data.
    """
    if experiment.model.bidirectional and task.predicts_next:
        raise ConfigError(
            "model.bidirectional: expected False where the next step is predicted: read backward, it "
            "would be seen."
        )
    if task.vocabulary is not None and not len(task.vocabulary.encode(experiment.sample.prompt)):
        raise ConfigError(
            f"sample.prompt: expected at least one {task.vocabulary.unit}, got "
            f"{experiment.sample.prompt!r}."
        )
    check_writers(experiment.log)
    folder = RunDir(experiment.run_dir)
    folder.check(experiment)
    folder.check_data(task.fingerprint(), task.vocabulary)


def _summary(folder: RunDir, result: dict[str, Any]) -> str:
    unit, _ = METRICS[result["figure"]]
    value = result["figures"][f"eval/{result['figure']}"]
    return (
        f"{folder.path} is complete: best step {result['step']:,}, {unit} {value:.4f}, loss "
        f"{result['figures']['eval/loss']:.4f}. Raise --train.steps to continue, or choose another "
        "directory with --workdir."
    )


def _warn_before(text: str) -> None:
    """Warns before there is a trainer."""
    output.complain(f"warning: {text}")


SAME_NUMBERS = ("workdir", "data.path", "log.tensorboard", "log.wandb", "log.profile", "train.keep_last",
                "train.keep_best", "train.patience")  # fmt: skip
"""Fields that may change without changing the metrics and the models of any step."""


class Trainer:
    """One experiment in its run directory."""

    def __init__(self, experiment: Experiment, task: Dataset, program: Program, folder: RunDir):
        self.experiment, self.task, self.program = experiment, task, program
        self.folder, self.mesh = folder, program.mesh
        run = experiment.train
        self.progress = Progress(run.steps, silent=not distributed.is_first())
        start = restore(self.folder, program.start(), run.steps_per_dispatch)
        self.first, self.state, self.since_log = start.step, start.state, start.since_log
        self.is_evaluated = self._is_evaluated(start)
        if start.step and not folder.knows_its_data():
            start.warnings.append(
                f"{folder.file('task.json')} is missing or corrupt: the data was not compared with "
                "that of the earlier steps"
            )
        distributed.wait_for_all("the checkpoints were read")
        # Up to here nothing was changed.
        before = self.folder.begin(experiment)
        self.folder.write_task(program.sizes, task.fingerprint(), task.vocabulary, self._warn)
        # Other settings may not lead to the same metrics and models again.
        repeats = before is None or set(differences(before, experiment)) <= set(SAME_NUMBERS)
        self.checkpoints = RunCheckpoints(self.folder, start, run, repeats, self._warn)
        self.folder.cut(start.step, self.is_evaluated, repeats, self._warn)
        self.folder.write_settings(experiment)
        for warning in start.warnings:
            self._warn(warning)
        self.progress.begin(self.first)
        distributed.wait_for_all("the directory was cut")
        self.history = self.folder.metrics()
        steps_of_a_sequence = np.shape(task.eval.weights)[1]
        self.clock = Clock(run.steps, steps_of_a_sequence * experiment.data.batch_size)
        self.writers = (
            make_writers(
                experiment.log, self.folder.path, experiment.name, self.first, as_json(experiment)
            )
            if distributed.is_first()
            else []
        )
        self.profile = Profile(experiment.log.profile, self.folder.file("profile"))
        changes = [] if before is None else _changes(before, experiment, self.first)
        self._event(self.first, "; ".join(["resumed" if self.first else "started", *changes]))
        for change in changes:
            self.progress.say(f"changed: {change}")

    def run(self) -> dict[str, float] | None:
        """Trains to the end, and reports; or to a signal."""
        self._introduce()
        with on_signals() as self.stop:
            with ExitStack() as closing:  # each is closed, also if closing another one fails
                for part in (self.checkpoints, *self.writers, self.profile, self.progress):
                    closing.callback(part.close)
                figures = self._report() if self._train() else None
            if figures is None:
                signal = self.stop.signal or "a signal to another process"
                self._event(self.done, f"stopped by {signal}")
                self.progress.say(
                    f"Received {signal}: saved a checkpoint at step {self.done:,}. Run the same "
                    "command to resume."
                )
        return figures

    def _train(self) -> bool:
        """Trains, and returns whether the end was reached."""
        run = self.experiment.train
        self.done, stops = self.first, False
        if not self.is_evaluated and not self._evaluate(self.done):
            return False  # the checkpoint of this step exists
        for done, batches in () if self._is_out_of_patience() else self._dispatches():
            self.done = done
            self.profile.before(done - run.steps_per_dispatch + 1, run.steps_per_dispatch)
            self.state, metrics = self.program.update(self.state, batches)
            self.since_log.append(metrics)
            self.profile.after(done, metrics)
            if not self.clock.running:
                jax.block_until_ready(metrics)
                self.clock.start(done)  # from here on, so that compilation is left out
            end = done == run.steps
            if done % run.log_every == 0 or end:
                self._log(done)
            evaluates = done % run.eval_every == 0 or end
            stops = self._is_told(done)
            saves = done % run.checkpoint_every == 0 or end or stops
            if evaluates or saves:
                jax.block_until_ready(self.state)  # or the clock would leave training out too
            with self.clock.paused():
                if evaluates and not stops:
                    self._evaluate(done)
                    end = end or self._is_out_of_patience()
                    stops = stops or self._is_stopped()
                if saves or end or stops:
                    self._save(done)
                    stops = stops or self._is_stopped()
            if end or stops:
                break
        return not stops

    def _warn(self, text: str) -> None:
        self.progress.say(f"warning: {text}")
        self._event(0, text)

    def _event(self, step: int, what: str) -> None:
        self.folder.event(step, what)

    def _introduce(self) -> None:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        since = f", resuming from step {self.first:,}" if self.first else ""
        self.progress.say(f"{self.experiment.name}: {self.task.summary}")
        self.progress.say(f"{size:,} parameters, {self.experiment.train.steps:,} steps{since}")

    def _dispatches(self) -> Iterator[tuple[int, Batch | None]]:
        """For each call of the compiled function: the steps done after it, and its batches."""
        n, last = self.experiment.train.steps_per_dispatch, self.experiment.train.steps
        B = self.experiment.data.batch_size
        rows = rows_here(self.mesh, B)
        for first in range(self.first, last, n):
            batches = None
            if self.task.batch is not None:
                indices = np.arange(B) if rows is None else rows
                batches = stack(
                    [self.task.batch(step, indices) for step in range(first, first + n)]
                )
                batches = spread(self.mesh, batches, B, rows)
            yield first + n, batches

    def _steps(self) -> Metrics:
        """The figures of every step since the last log."""
        dispatches = jax.device_get(self.since_log)
        names = dispatches[0] if dispatches else ()
        return {name: np.concatenate([d[name] for d in dispatches]) for name in names}

    def _log(self, done: int) -> None:
        steps = self._steps()
        self._check_finite(steps, done)
        figures = training_metrics(steps, self.task)
        self.since_log = []
        speed = self.clock.tokens_per_second(done)
        self._write(done, figures | machine_metrics(speed, self.mesh.size))
        self.progress.step(done, figures, self.task.metric, speed, self.clock.left(done))
        self.checkpoints.check()

    def _check_finite(self, steps: Metrics, done: int) -> None:
        bad = first_bad(steps) if steps else None
        if bad is None:
            return
        step = done - len(steps["loss"]) + bad + 1
        whole = self.checkpoints.states.latest()
        raise NotFiniteError(
            f"step {step:,} gave a loss of {steps['loss'][bad]} and a gradient norm of "
            f"{steps['gradient_norm'][bad]}; "
            + (
                "nothing was saved yet"
                if whole is None
                else f"the checkpoint of step {whole:,} is good"
            )
            + ". Lower optimizer.learning_rate or optimizer.clip_norm, look for NaN in the data of that step"
            + (
                "."
                if self.experiment.train.on_nan == "skip"
                else ", or resume with --train.on-nan skip."
            )
        )

    def _save(self, done: int) -> None:
        if self.checkpoints.states.latest() == done:
            return
        steps = self._steps()
        self._check_finite(steps, done)
        self.checkpoints.save(done, self.state, steps)

    def _is_evaluated(self, start: Start) -> bool:
        """Whether nothing is left of the evaluation at the first step.

        A signal or a kill may have interrupted it, or its model, the best so far, may be lost.
        """
        run, step = self.experiment.train, start.step
        if not step or (step % run.eval_every and step < run.steps):
            return True
        lines = [line for line in self.folder.metrics() if line["step"] == step]
        losses = [line["eval/loss"] for line in lines if "eval/loss" in line]
        return bool(losses) and not losses[-1] < start.best_loss

    def _evaluate(self, done: int) -> bool:
        """Evaluates, and returns whether it was finished. A signal may interrupt it."""
        sums = self.program.evaluate(self.state.params, self.task.eval, self._is_stopped)
        if sums is None:
            return False
        figures = eval_metrics(sums, self.task, "eval")
        self.checkpoints.offer(done, self.state.params, figures["eval/loss"])
        text = self._text(self.state.params)
        self.checkpoints.best.wait()  # the best model is on the disk before a line says so
        if text is not None:
            self.folder.sample(done, text)
        self._write(done, figures)
        self.progress.say(f"step {done:>7,}  held out: {in_line(figures, self.task, 'eval')}")
        self._plot()
        return True

    def _is_stopped(self) -> bool:
        """At any moment; several processes stop together, see :meth:`_is_told`."""
        return bool(self.stop) and distributed.is_alone()

    def _is_told(self, done: int) -> bool:
        """After a dispatch; several processes ask each other when they log."""
        if distributed.is_alone():
            return bool(self.stop)
        return done % self.experiment.train.log_every == 0 and distributed.any_of(bool(self.stop))

    def _is_out_of_patience(self) -> bool:
        losses, patience = self._held_out_losses(), self.experiment.train.patience
        if patience is None or not losses or len(losses) - 1 - int(np.argmin(losses)) < patience:
            return False
        self.progress.say(f"stopped early: {patience} evaluations without a better held-out loss")
        return True

    def _held_out_losses(self) -> list[float]:
        return [line["eval/loss"] for line in self.history if "eval/loss" in line]

    def _text(self, params: Any) -> str | None:
        """A sample of a language model, None of others."""
        vocabulary = self.task.vocabulary
        if vocabulary is None:
            return None
        params = on_the_host(self.mesh, params)
        if not distributed.is_first():
            return None
        one = alone(self.experiment)  # a text is one sequence, for one device
        with jax.set_mesh(one):
            params = jax.device_put(params, one.devices.item())
            return generate(self.program.undivided, params, vocabulary, self.experiment.sample)

    def _plot(self) -> None:
        if not distributed.is_first():
            return
        unit, _ = METRICS[self.task.metric]
        plot = plot_curves(self.history, self.task.metric, unit, self.task.baselines)
        self.folder.replace("curves.png", plot)

    def _write(self, step: int, figures: dict[str, float]) -> None:
        self.folder.log(step, figures)
        self.history.append({"step": step, **figures})
        for writer in self.writers:
            writer.write(step, figures)

    def _report(self) -> dict[str, float] | None:
        """The best model once more, on the held-out data and on the test part; None if stopped."""
        best = self.checkpoints.best_model(self.state.params)
        self.best_step = best.step
        figures: dict[str, float] = {}
        lines = []
        for part, name, chunks in parts_of(self.task):
            sums = self.program.evaluate(best.state, chunks, self._is_stopped)
            if sums is None:
                return None
            figures |= eval_metrics(sums, self.task, part)
            lines.append(
                f"best, of step {best.step:,}: {name}: {in_line(figures, self.task, part)}"
            )
        self.progress.close()
        if (text := self._text(best.state)) is not None:
            self.progress.say(f"\na sample of the best model:\n\n{text}\n")
        for line in lines:
            self.progress.say(line)
        return figures


def _changes(before: Experiment, now: Experiment, step: int) -> list[str]:
    """Returns sentences about what has changed since the run was last started.

    Args:
      before: The experiment then.
      now: The experiment.
      step: The step from which the run is resumed.
    """
    changes = list(differences(before, now).values())
    old, new = (float(make_schedule(e.optimizer, e.train)(step)) for e in (before, now))
    if step and not math.isclose(old, new, rel_tol=1e-3):
        changes.append(f"the learning rate at step {step:,} was {old:.3g}, now {new:.3g}")
        decays = now.optimizer.schedule in ("cosine", "linear")
        if decays and not now.optimizer.decay_steps and before.train.steps != now.train.steps:
            end = before.optimizer.decay_steps or before.train.steps
            changes[-1] += (
                f", as the schedule ends at train.steps; --optimizer.decay-steps {end} keeps the old "
                f"schedule, with a learning rate of 0 from step {end:,} on"
            )
    return changes
