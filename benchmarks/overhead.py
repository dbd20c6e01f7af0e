"""Measures the overhead of the training loop and of checkpoints over the compiled training steps.

    python -m benchmarks.overhead [--rounds N]

The same compiled steps are run in three ways, in rounds, in one process: bare, on one batch that is on the
device already; in the training loop, with new batches, metrics and a log line every 100 steps; and in the
training loop with a checkpoint every 100 steps. The loop's overhead is of interest for steps of about 1 ms,
and the overhead of checkpoints for steps of about 10 ms. Compilation and the final evaluation are not
included.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import jax
import numpy as np

from lstm_jax.training.config import Data, Experiment, Mesh, Model, Train
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.sequences import stack
from lstm_jax.training.hooks import default_hooks
from lstm_jax.training.loop import fit
from lstm_jax.training.program import Program, make_program
from lstm_jax.training.run import Hook

SIZES = {"1 ms": (64, 16, 16, 10), "10 ms": (160, 32, 32, 10)}
"""Hidden size, batch size, sequence length and steps per dispatch, by the approximate time of a step."""
WARMUP_STEPS = 100


class Timer(Hook):
    """Records the time after the warm-up steps, and the time before the last dispatch."""

    def before_steps(self, run, first, n):
        """Waits for the device at the start and at the end of the measured steps."""
        if first == WARMUP_STEPS + 1:
            jax.block_until_ready(run.state)
            self.started = time.perf_counter()
        if first == run.config.train.steps - n + 1:
            jax.block_until_ready(run.state)
            self.ended = time.perf_counter()


def experiment_of(size: str, steps: int, checkpoint_every: int) -> Experiment:
    """Returns the config of a character model, trained on a text from Python's standard library."""
    H, B, T, n = SIZES[size]
    return Experiment(
        name="overhead",
        model=Model(hidden_size=H),
        data=Data(batch_size=B, sequence_length=T),
        train=Train(
            steps=steps,
            log_every=100,
            eval_every=steps,
            checkpoint_every=checkpoint_every,
            steps_per_dispatch=n,
        ),
        mesh=Mesh(data=1),
    )


def bare(experiment: Experiment, dataset: Dataset, program: Program) -> float:
    """Returns the seconds per step of the compiled function without the training loop."""
    n, steps = experiment.train.steps_per_dispatch, experiment.train.steps
    assert dataset.batch is not None
    rows = np.arange(experiment.data.batch_size)
    batch = jax.device_put(stack([dataset.batch(step, rows) for step in range(n)]))
    state = program.init()
    for done in range(n, steps + 1, n):
        state, _ = program.train_steps(state, batch)
        if done == WARMUP_STEPS:
            jax.block_until_ready(state)
            start = time.perf_counter()
        if done == steps - n:
            jax.block_until_ready(state)
            return (time.perf_counter() - start) / (steps - n - WARMUP_STEPS)
    raise AssertionError


def in_training_loop(experiment: Experiment, dataset: Dataset) -> float:
    """Returns the seconds per step in the training loop."""
    timer = Timer()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        experiment = replace(experiment, workdir=Path(name) / "run")
        fit(experiment, dataset=dataset, hooks=[*default_hooks(experiment), timer])
    run = experiment.train
    return (timer.ended - timer.started) / (run.steps - run.steps_per_dispatch - WARMUP_STEPS)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line and prints a line per size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1100)
    arguments = parser.parse_args(argv)
    steps = arguments.steps
    for size in SIZES:
        plain, checkpointed = (experiment_of(size, steps, every) for every in (steps, 100))
        dataset = make_dataset(plain)
        program = make_program(plain, dataset, jax.devices())
        samples = []
        with jax.set_mesh(program.layout.mesh):
            bare(plain, dataset, program)  # compiles
            for _ in range(arguments.rounds):
                samples.append(
                    (
                        bare(plain, dataset, program),
                        in_training_loop(plain, dataset),
                        in_training_loop(checkpointed, dataset),
                    )
                )
        bare_ms, loop_ms, saving_ms = (1e3 * median(s) for s in zip(*samples, strict=True))
        loop_overhead = median(s[1] / s[0] for s in samples) - 1
        saving_overhead = median(s[2] / s[1] for s in samples) - 1
        print(
            f"bare step {bare_ms:.2f} ms; in the training loop {loop_ms:.2f} ms ({loop_overhead:+.1%}); "
            f"with a checkpoint every 100 steps {saving_ms:.2f} ms ({saving_overhead:+.1%})",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
