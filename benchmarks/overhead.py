"""What the trainer costs around its steps: the loop, and saving.

    python -m benchmarks.overhead [--rounds N]

Three ways to run the same compiled steps, in rounds, in one process: bare (one batch that lies on the
device, again and again); in the trainer's loop (fresh batches, metrics, a line every 100 steps); and
in the loop with a checkpoint every 100 steps. The first two are wanted at a step of about 1 ms, the
last two at about 10 ms. The final evaluation and compilation are left out of all.
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
"""Hidden size, batch, sequence length, steps a dispatch."""
WARM = 100


class Timed(Hook):
    """Notes when the first hundred steps and the last ones were done."""

    def before_steps(self, run, first, n):
        """Waits for the device where the measured steps begin and end."""
        if first == WARM + 1:
            jax.block_until_ready(run.state)
            self.started = time.perf_counter()
        if first == run.config.train.steps - n + 1:
            jax.block_until_ready(run.state)
            self.ended = time.perf_counter()


def experiment_of(size: str, steps: int, checkpoint_every: int) -> Experiment:
    """A character model on the text that comes with Python."""
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
    """Seconds a step of the compiled function alone."""
    n, steps = experiment.train.steps_per_dispatch, experiment.train.steps
    assert dataset.batch is not None
    rows = np.arange(experiment.data.batch_size)
    batch = jax.device_put(stack([dataset.batch(step, rows) for step in range(n)]))
    state = program.init()
    for done in range(n, steps + 1, n):
        state, _ = program.train_steps(state, batch)
        if done == WARM:
            jax.block_until_ready(state)
            began = time.perf_counter()
        if done == steps - n:
            jax.block_until_ready(state)
            return (time.perf_counter() - began) / (steps - n - WARM)
    raise AssertionError


def in_the_loop(experiment: Experiment, dataset: Dataset) -> float:
    """Seconds a step of the same in the trainer."""
    timed = Timed()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        experiment = replace(experiment, workdir=Path(name) / "run")
        fit(experiment, dataset=dataset, hooks=[*default_hooks(experiment), timed])
    run = experiment.train
    return (timed.ended - timed.started) / (run.steps - run.steps_per_dispatch - WARM)


def main(argv: list[str] | None = None) -> None:
    """Prints a line a size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1100)
    arguments = parser.parse_args(argv)
    steps = arguments.steps
    for size in SIZES:
        plain, saving = (experiment_of(size, steps, every) for every in (steps, 100))
        dataset = make_dataset(plain)
        program = make_program(plain, dataset, jax.devices())
        samples = []
        with jax.set_mesh(program.layout.mesh):
            bare(plain, dataset, program)  # compiles
            for _ in range(arguments.rounds):
                samples.append(
                    (
                        bare(plain, dataset, program),
                        in_the_loop(plain, dataset),
                        in_the_loop(saving, dataset),
                    )
                )
        step, loop, saved = (1e3 * median(column) for column in zip(*samples, strict=True))
        around = median(s[1] / s[0] for s in samples) - 1
        saves = median(s[2] / s[1] for s in samples) - 1
        print(
            f"a step of {step:.2f} ms; in the loop {loop:.2f} ms ({around:+.1%}); with a checkpoint "
            f"every 100 steps {saved:.2f} ms ({saves:+.1%})",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
