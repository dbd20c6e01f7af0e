"""Tokens/s of the trainer on the built-in text, with the model of ``configs/char_lm.py``."""

import argparse
import contextlib
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu_record import NO_TIME, Deadline, add_choices, status_of

DTYPES = ("bfloat16", "float32")
"""Values of ``model.dtype``. On NVIDIA GPUs JAX multiplies float32 arrays in TF32 by default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_choices(parser, "--dtypes", DTYPES)
    parser.add_argument("--steps", type=int, default=2800, help="training steps (default: 2800)")


def run(args: argparse.Namespace, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Yields a row per dtype."""
    for dtype in args.dtypes:
        row: dict[str, Any] = {"experiment": "char_lm", "dtype": dtype, "steps": args.steps}
        if deadline.is_over:
            yield row | {"status": NO_TIME}
            continue
        try:
            yield row | {"status": "ok"} | measure(experiment(dtype, args.steps))
        except Exception as error:  # the other dtype must still run
            yield row | {"status": status_of(error)}


def experiment(dtype: str, steps: int) -> Any:
    """Returns ``configs/char_lm.py`` for some steps on one device, evaluated at the end."""
    from configs.char_lm import config
    from lstm_jax.training.config import Mesh

    every = config.train.steps_per_dispatch
    if steps % every or steps < 4 * every:
        raise ValueError(
            f"--steps must be a multiple of {every}, at least {4 * every}, got {steps}."
        )
    return replace(
        config,
        model=replace(config.model, dtype=dtype),
        train=replace(
            config.train,
            steps=steps,
            log_every=math.gcd(steps, config.train.log_every),
            eval_every=steps,
            checkpoint_every=steps,
        ),
        mesh=Mesh(data=1),
    )


def measure(config: Any) -> dict[str, Any]:
    """Trains in a temporary directory.

    Returns:
      ``tokens_per_second`` over the steps after the first quarter, without evaluation and checkpoints;
      ``seconds`` of the whole run with compilation; and ``eval_loss``, in nats per character.
    """
    from lstm_jax.training import Hook, fit

    steps, every = config.train.steps, config.train.steps_per_dispatch
    first = steps // 4 // every * every
    times: dict[int, float] = {}

    class Timer(Hook):
        """Notes the time before the first measured step and before the last dispatch."""

        def before_steps(self, run: Any, step: int, n: int) -> None:
            if step - 1 in (first, steps - every):
                jax.block_until_ready(run.state)
                times[step - 1] = time.perf_counter()

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        metrics = fit(replace(config, workdir=Path(name) / "run"), hooks=[Timer()])
    assert metrics is not None
    tokens = (steps - every - first) * config.data.batch_size * config.data.sequence_length
    return {
        "tokens_per_second": tokens / (times[steps - every] - times[first]),
        "seconds": time.perf_counter() - started,
        "eval_loss": metrics["eval/loss"],
    }


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    head = f"{row['experiment']} {row['dtype']:9} {row['steps']:,} steps  "
    if row["status"] != "ok":
        return head + row["status"]
    return (
        f"{head}{row['tokens_per_second']:,.0f} tokens/s  eval_loss {row['eval_loss']:.3f}  "
        f"{row['seconds']:.0f} s with compilation"
    )
