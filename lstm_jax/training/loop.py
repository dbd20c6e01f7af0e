"""Trains a model, and leaves behind all that is needed to go on, to look back and to use it."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from lstm_jax.training import distributed
from lstm_jax.training.checkpoint import quiet
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.config_json import as_json
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.task import Task
from lstm_jax.training.data.tasks import make_task
from lstm_jax.training.errors import NotFiniteError
from lstm_jax.training.evaluation import (
    Metrics,
    figures_of,
    first_bad,
    in_line,
    parts_of,
    training_figures,
)
from lstm_jax.training.generate import generate
from lstm_jax.training.kept import Kept
from lstm_jax.training.metrics import FIGURES, Clock, duration, machine_figures
from lstm_jax.training.plots import plot_curves
from lstm_jax.training.profile import Profile
from lstm_jax.training.program import Program, make_program
from lstm_jax.training.progress import Progress
from lstm_jax.training.run import RunFolder
from lstm_jax.training.sharding import alone, on_the_host, rows_here, spread
from lstm_jax.training.stopping import on_signals
from lstm_jax.training.writers import check_writers, make_writers


def train(experiment: Experiment) -> dict[str, float] | None:
    """Runs an experiment, or goes on with it, and prints its progress.

    Returns:
      The figures of the best model: ``eval/...``, and ``test/...`` where there is a test part. None if a
      signal ended it early; the same call goes on from there.

    Raises:
      ConfigError: if the data or the run folder cannot be used; nothing is written then.
      RunError: if training diverges or the folder cannot be written any more.
    """
    started = time.monotonic()
    distributed.start(experiment.mesh)
    task = make_task(experiment.data, experiment.seed)
    program = make_program(experiment, task, jax.devices())
    check(experiment, task)  # all this before the folder: what cannot be run leaves none
    distributed.wait_for_all("the folder was checked")
    folder = RunFolder(experiment.run_dir, writes=distributed.is_first())
    with folder.held(), quiet(), jax.set_mesh(program.mesh):
        trainer = Trainer(experiment, task, program, folder)
        figures = trainer.run()
        seconds = time.monotonic() - started
        if figures is not None:
            best = {"step": trainer.best_step, "figure": task.figure, "figures": figures}
            folder.finish(best | {"seconds": seconds})
        distributed.wait_for_all("the end")
    trainer.progress.say(f"{duration(seconds)} in all; {folder.path}")
    return figures


def check(experiment: Experiment, task: Task) -> None:
    """What can only be seen once the data was read.

    Raises:
      ConfigError: if the model or the sample does not fit the task.
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
    folder = RunFolder(experiment.run_dir)
    folder.check(experiment)
    folder.check_data(task.fingerprint(), task.vocabulary)


class Trainer:
    """One experiment in its run folder."""

    def __init__(self, experiment: Experiment, task: Task, program: Program, folder: RunFolder):
        self.experiment, self.task, self.program = experiment, task, program
        self.folder, self.mesh = folder, program.mesh
        run = experiment.train
        changes = self.folder.begin(experiment)
        self.folder.write_task(program.sizes, task.fingerprint(), task.vocabulary)

        self.progress = Progress(run.steps, silent=not distributed.is_first())
        self.kept = Kept(self.folder, run, self._warn)
        self.first, self.state, self.since_log = self.kept.go_on(
            program.start(), run.steps_per_dispatch
        )
        self.progress.begin(self.first)
        distributed.wait_for_all("the folder was cut")
        self.history = self.folder.metrics()
        steps_of_a_sequence = np.shape(task.held_out.weights)[1]
        self.clock = Clock(run.steps, steps_of_a_sequence * experiment.data.batch_size)
        self.writers = (
            make_writers(
                experiment.log, self.folder.path, experiment.name, self.first, as_json(experiment)
            )
            if distributed.is_first()
            else []
        )
        self.profile = Profile(experiment.log.profile, self.folder.file("profile"))
        self._event(
            self.first, "; ".join(["begun" if not self.first else "gone on with", *changes])
        )
        for change in changes:
            self.progress.say(f"changed: {change}")

    def run(self) -> dict[str, float] | None:
        """Trains to the end, and reports; or to a signal."""
        self._introduce()
        with on_signals() as self.stop:
            try:
                figures = self._report() if self._train() else None
            finally:
                self.progress.close()
                self.profile.close()
                for writer in self.writers:
                    writer.close()
                self.kept.close()
            if figures is None:
                signal = self.stop.signal or "a signal to another process"
                self._event(self.done, f"stopped by {signal}")
                self.progress.say(
                    f"stopped by {signal} after step {self.done:,}, and saved; the same command "
                    "goes on from there"
                )
        return figures

    def _train(self) -> bool:
        """Whether the end was reached, and not a signal."""
        run = self.experiment.train
        self.done, stops = self.first, False
        if self.done % run.eval_every == 0 and self.done and not self._was_evaluated(self.done):
            self._evaluate(self.done)  # which a signal had cut short
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
        since = f", going on from step {self.first:,}" if self.first else ""
        self.progress.say(f"{self.experiment.name}: {self.task.summary}")
        self.progress.say(f"{size:,} parameters, {self.experiment.train.steps:,} steps{since}")

    def _dispatches(self) -> Iterator[tuple[int, Batch | None]]:
        """For each call of the compiled function: the steps done after it, and its batches."""
        n, last = self.experiment.train.steps_per_dispatch, self.experiment.train.steps
        B = self.experiment.data.batch_size
        rows = rows_here(self.mesh, B)
        for first in range(self.first, last, n):
            batches = None if self.task.batches is None else self.task.batches(first, n, rows)
            yield first + n, None if batches is None else spread(self.mesh, batches, B, rows)

    def _steps(self) -> Metrics:
        """The figures of every step since the last log."""
        dispatches = jax.device_get(self.since_log)
        names = dispatches[0] if dispatches else ()
        return {name: np.concatenate([d[name] for d in dispatches]) for name in names}

    def _log(self, done: int) -> None:
        steps = self._steps()
        self._check_finite(steps, done)
        figures = training_figures(steps, self.task)
        self.since_log = []
        speed = self.clock.tokens_per_second(done)
        self._write(done, figures | machine_figures(speed, self.mesh.size))
        self.progress.step(done, figures, self.task.figure, speed, self.clock.left(done))
        self.kept.check()

    def _check_finite(self, steps: Metrics, done: int) -> None:
        bad = first_bad(steps) if steps else None
        if bad is None:
            return
        step = done - len(steps["loss"]) + bad + 1
        whole = self.kept.newest.latest()
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
                else ", or go on with --train.on-nan skip."
            )
        )

    def _save(self, done: int) -> None:
        if self.kept.newest.latest() == done:
            return
        steps = self._steps()
        self._check_finite(steps, done)
        self.kept.save(done, self.state, steps)

    def _was_evaluated(self, step: int) -> bool:
        return any("eval/loss" in line for line in self.history if line["step"] == step)

    def _evaluate(self, done: int) -> None:
        sums = self.program.evaluate(self.state.params, self.task.held_out, self._is_stopped)
        if sums is None:
            return
        figures = figures_of(sums, self.task, "eval")
        self._write(done, figures)
        self.progress.say(f"step {done:>7,}  held out: {in_line(figures, self.task, 'eval')}")
        self.kept.offer(done, self.state.params, figures["eval/loss"])
        if (text := self._text(self.state.params)) is not None:
            self.folder.sample(done, text)
        self._plot()

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
        unit, _ = FIGURES[self.task.figure]
        path = self.folder.file("curves.png")
        plot_curves(self.history, self.task.figure, unit, self.task.baselines, path)

    def _write(self, step: int, figures: dict[str, float]) -> None:
        self.folder.log(step, figures)
        self.history.append({"step": step, **figures})
        for writer in self.writers:
            writer.write(step, figures)

    def _report(self) -> dict[str, float] | None:
        """The best model once more, on the held-out data and on the test part; None if stopped."""
        best = self.kept.best_model(self.state.params)
        self.best_step = best.step
        figures: dict[str, float] = {}
        lines = []
        for part, name, chunks in parts_of(self.task):
            sums = self.program.evaluate(best.state, chunks, self._is_stopped)
            if sums is None:
                return None
            figures |= figures_of(sums, self.task, part)
            lines.append(
                f"best, of step {best.step:,}: {name}: {in_line(figures, self.task, part)}"
            )
        self.progress.close()
        if (text := self._text(best.state)) is not None:
            self.progress.say(f"\na sample of the best model:\n\n{text}\n")
        for line in lines:
            self.progress.say(line)
        self._event(self.done, "finished")
        return figures
