"""Trains a model, and leaves behind all that is needed to go on, to look back and to use it."""

import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax.training.checkpoint import Checkpoints, NotFiniteError
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.data.task import Task
from lstm_jax.training.data.tasks import make_task
from lstm_jax.training.evaluation import figures_of, in_line, training_figures
from lstm_jax.training.generate import generate
from lstm_jax.training.metrics import FIGURES, Clock, duration
from lstm_jax.training.model import Sizes, make_model
from lstm_jax.training.optimizer import make_optimizer
from lstm_jax.training.plots import plot_curves
from lstm_jax.training.progress import Progress
from lstm_jax.training.run import RunFolder
from lstm_jax.training.state import TrainState
from lstm_jax.training.step import make_evaluation, make_train_steps


def train(experiment: Experiment) -> dict[str, float]:
    """Runs an experiment, or goes on with it, and prints its progress.

    Returns:
      The figures of the best model: ``eval/...``, and ``test/...`` where there is a test part.

    Raises:
      ConfigError: if the data or the run folder cannot be used; nothing is written then.
      NotFiniteError: if training diverges.
    """
    started = time.monotonic()
    task = make_task(experiment.data, experiment.seed)
    check(experiment, task)  # all this before the folder: what cannot be run leaves none
    trainer = Trainer(experiment, task)
    figures = trainer.run()
    trainer.progress.say(f"{duration(time.monotonic() - started)} in all; {trainer.folder.path}")
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
    folder = RunFolder(experiment.run_dir)
    folder.check(experiment)
    folder.check_data(task.fingerprint())


class Trainer:
    """One experiment in its run folder."""

    def __init__(self, experiment: Experiment, task: Task):
        self.experiment, self.task = experiment, task
        sizes = Sizes(task.vocabulary_size, task.input_size, task.output_size)
        self.folder = RunFolder(experiment.run_dir)
        self.folder.begin(experiment)
        self.folder.write_task(sizes, task.fingerprint(), task.vocabulary)

        self.graphdef, self.state = self._start(sizes)
        self.newest = Checkpoints(self.folder.file("checkpoints"), keep=2)
        self.best = Checkpoints(self.folder.file("best"), keep=2)
        if (step := self.newest.latest()) is not None:
            self.state = self.newest.restore(step, self.state)
        self.first = int(self.state.step)
        if self.first % experiment.train.steps_per_dispatch:
            raise ConfigError(
                f"train.steps_per_dispatch: expected a divisor of {self.first}, the step to go on from, got "
                f"{experiment.train.steps_per_dispatch}."
            )
        self.folder.cut(self.first)
        self.history = self.folder.metrics()

        run = experiment.train
        steps_of_a_sequence = np.shape(task.held_out.weights)[1]
        self.clock = Clock(run.steps, steps_of_a_sequence * experiment.data.batch_size)
        self.progress = Progress(run.steps, self.first)
        self.evaluate = make_evaluation(self.graphdef, task)
        self.since_log: list[dict[str, jax.Array]] = []

    def run(self) -> dict[str, float]:
        """Trains to the end, and reports."""
        run = self.experiment.train
        update = make_train_steps(
            self.graphdef,
            self.task,
            make_optimizer(self.experiment.optimizer, run),
            seed=self.experiment.seed,
            reset_probability=self.experiment.data.reset_probability,
            n=run.steps_per_dispatch,
        )
        self._introduce()
        for done, batches in () if self._is_out_of_patience() else self._dispatches():
            self.state, metrics = update(self.state, batches)
            self.since_log.append(metrics)
            if not self.clock.running:
                jax.block_until_ready(metrics)
                self.clock.start(done)  # from here on, so that compilation is left out
            end = done == run.steps
            if done % run.log_every == 0 or end:
                self._log(done)
            if done % run.eval_every == 0 or done % run.checkpoint_every == 0 or end:
                jax.block_until_ready(self.state)  # or the clock would leave training out too
            with self.clock.paused():
                if done % run.eval_every == 0 or end:
                    self._evaluate(done)
                    end = end or self._is_out_of_patience()
                if done % run.checkpoint_every == 0 or end:
                    self.newest.save(done, self.state, self.state.params)
            if end:
                break
        return self._report()

    def _start(self, sizes: Sizes) -> tuple[Any, TrainState]:
        """The network, and the state before the first step."""
        experiment = self.experiment
        graphdef, params = make_model(sizes, experiment.model, experiment.seed)
        optimizer = make_optimizer(experiment.optimizer, experiment.train)
        carry = ()
        if self.task.carried:
            carry = nnx.merge(graphdef, params).initialize_carry(experiment.data.batch_size)
        step = jnp.zeros((), jnp.int32)
        return graphdef, TrainState(step, params, optimizer.init(params), carry)

    def _introduce(self) -> None:
        size = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        since = f", going on from step {self.first:,}" if self.first else ""
        self.progress.say(f"{self.experiment.name}: {self.task.summary}")
        self.progress.say(f"{size:,} parameters, {self.experiment.train.steps:,} steps{since}")

    def _dispatches(self) -> Iterator[tuple[int, Batch | None]]:
        """For each call of the compiled function: the steps done after it, and its batches."""
        n, last = self.experiment.train.steps_per_dispatch, self.experiment.train.steps
        for first in range(self.first, last, n):
            batches = None if self.task.batches is None else self.task.batches(first, n)
            yield first + n, batches

    def _log(self, done: int) -> None:
        figures = training_figures(self.since_log, self.task)
        self.since_log = []
        speed = self.clock.tokens_per_second(done)
        self._write(done, figures | ({"tokens_per_second": speed} if speed else {}))
        self.progress.step(done, figures, self.task.figure, speed, self.clock.left(done))

    def _evaluate(self, done: int) -> None:
        figures = figures_of(
            self.evaluate(self.state.params, self.task.held_out), self.task, "eval"
        )
        better = figures["eval/loss"] < min(self._held_out_losses(), default=np.inf)
        self._write(done, figures)
        self.progress.say(f"step {done:>7,}  held out: {in_line(figures, self.task, 'eval')}")
        if better:
            self.best.save(done, self.state.params, self.state.params)
        if (text := self._text(self.state.params)) is not None:
            self.folder.sample(done, text)
        self._plot()

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
        return generate(self.graphdef, params, vocabulary, self.experiment.sample)

    def _plot(self) -> None:
        unit, _ = FIGURES[self.task.figure]
        path = self.folder.file("curves.png")
        plot_curves(self.history, self.task.figure, unit, self.task.baselines, path)

    def _write(self, step: int, figures: dict[str, float]) -> None:
        self.folder.log(step, figures)
        self.history.append({"step": step, **figures})

    def _report(self) -> dict[str, float]:
        """The best model once more, on the held-out data and on the test part."""
        self.progress.close()
        step = self.best.latest()
        if step is None:
            raise NotFiniteError(
                "no evaluation gave a finite loss; lower optimizer.learning_rate or optimizer.clip_norm."
            )
        params = self.best.restore(step, self.state.params)
        figures = figures_of(self.evaluate(params, self.task.held_out), self.task, "eval")
        if (text := self._text(params)) is not None:
            self.progress.say(f"\na sample of the best model:\n\n{text}\n")
        self.progress.say(
            f"best, of step {step:,}: held out: {in_line(figures, self.task, 'eval')}"
        )
        if self.task.test is not None:
            test = figures_of(self.evaluate(params, self.task.test), self.task, "test")
            self.progress.say(f"best, of step {step:,}: test: {in_line(test, self.task, 'test')}")
            figures |= test
        return figures
