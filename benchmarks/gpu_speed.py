"""Microseconds per time step of ``auto``, ``cudnn`` and other libraries on a GPU.

All rows of a shape have the same weights and inputs. Their outputs and gradients are compared before they are
timed in one process, in rounds.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from benchmarks import models, subjects
from benchmarks.gpu_record import (
    DTYPES,
    NO_TIME,
    Deadline,
    add_choices,
    array_dtype,
    products_in,
    status_of,
)
from benchmarks.peers import TOLERANCE, relative_errors
from benchmarks.problem import Problem, sizes
from benchmarks.subjects import BOTH, FORWARD, Subject
from benchmarks.timing import interleaved

SHAPES = [(256, B, H, H) for H in (256, 1024) for B in (16, 64)]
LOOP_GRAPHS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,COLLECTIVES,"
    "CONDITIONAL,DYNAMIC_SLICE_FUSION,WHILE"
}
"""Compiler options with which XLA captures a whole loop over time as one CUDA graph."""
Build = Callable[[Problem, tuple[str, ...]], Subject]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    add_choices(parser, "--rows", ROWS)
    add_choices(parser, "--dtypes", DTYPES)
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=sizes,
        default=SHAPES,
        metavar="T,B,I,H",
        help="(default: T 256, B 16 and 64, H 256 and 1024)",
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="timed calls of each row (default: 20)"
    )


def run(args: argparse.Namespace, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Yields a row per dtype, shape and library."""
    for dtype in args.dtypes:
        for shape in args.shapes:
            problem = Problem(*shape, array_dtype(dtype))
            names = {"shape": dict(zip("TBIH", shape, strict=True)), "dtype": dtype}
            if deadline.is_over:
                measured = {name: {"status": NO_TIME} for name in args.rows}
            else:
                with products_in(dtype):
                    measured = measure(problem, args.rows, args.rounds, TOLERANCE[dtype])
            for name, row in measured.items():
                yield names | {"row": name} | row


def measure(
    problem: Problem, names: list[str], rounds: int, tolerance: float
) -> dict[str, dict[str, Any]]:
    """Compiles, compares and times rows.

    Args:
      problem: The shape and the dtype.
      names: Keys of :data:`ROWS`. The others are compared with the first one that runs.
      rounds: Timed calls of each row.
      tolerance: The largest accepted error of an array, relative to its largest value.

    Returns:
      By name a ``status`` and, if it is "ok", the times of each pass.
    """
    passes = (FORWARD, BOTH)
    rows: dict[str, dict[str, Any]] = {}
    built: dict[str, Subject] = {}
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            subject = ROWS[name](problem, passes)
            results[name] = {k: v for p in passes for k, v in subject.results[p]().items()}
        except Exception as error:  # the other rows must still run
            rows[name] = {"status": status_of(error)}
            continue
        errors = relative_errors(results[name], next(iter(results.values())))
        worst = max(errors, key=lambda k: errors[k])
        if errors[worst] <= tolerance:
            built[name] = subject
            rows[name] = {"status": "ok", "error": errors[worst]}
        else:
            text = f"wrong: {worst} differs from {next(iter(results))} by {errors[worst]:.1e}"
            rows[name] = {"status": text}
    runs = {(name, p): subject.runs[p] for name, subject in built.items() for p in passes}
    for (name, p), samples in interleaved(runs, rounds).items():
        rows[name][p] = {
            "min_us_per_step": 1e3 * min(samples) / problem.T,
            "median_us_per_step": 1e3 * statistics.median(samples) / problem.T,
            "compile_s": built[name].compile_s.get(p),
            "samples_ms": samples,
        }
    return rows


def ours(
    problem: Problem,
    passes: tuple[str, ...],
    compiler_options: dict[str, str] | None = None,
    **keywords: Any,
) -> Subject:
    """Our ``lstm`` with some of its keywords and some options of the compiler."""
    return subjects.in_jax(models.ours(problem, **keywords), problem, passes, compiler_options)


def peer(name: str, problem: Problem, passes: tuple[str, ...]) -> Subject:
    """Another library in JAX."""
    return subjects.in_jax(models.PEERS[name](problem), problem, passes)


def torch(problem: Problem, passes: tuple[str, ...]) -> Subject:
    """``torch.nn.LSTM``, which is cuDNN on a GPU."""
    import torch

    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("torch was installed without CUDA")
    return subjects.in_torch(problem, passes)


ROWS: dict[str, Build] = {
    "auto": ours,
    "auto + loop graphs": partial(ours, compiler_options=LOOP_GRAPHS),
    "auto unroll=16": partial(ours, unroll=16),
    "auto unroll=16 + loop graphs": partial(ours, unroll=16, compiler_options=LOOP_GRAPHS),
    "cudnn": partial(ours, backend="cudnn"),
    "flax.linen": partial(peer, "flax.linen time-major"),
    "flax.nnx": partial(peer, "flax.nnx"),
    "torch nn.LSTM": torch,
}
"""Functions that compile each row. ``auto`` runs 8 time steps per iteration on a GPU."""


def line(row: dict[str, Any]) -> str:
    """A row as text: minimum and median of each pass, in microseconds per step."""
    shape = ",".join(str(size) for size in row["shape"].values())
    head = f"{shape:17} {row['dtype']:9} {row['row']:29} "
    if row["status"] != "ok":
        return head + row["status"]
    times = (row[p][f"{kind}_us_per_step"] for p in (FORWARD, BOTH) for kind in ("min", "median"))
    return head + " ".join(f"{time:8.2f}" for time in times)


HEADING = f"{'T,B,I,H':17} {'dtype':9} {'us per step':29} {'forward':>17} {BOTH:>17}\n" + (
    f"{'':58}" + " ".join(f"{kind:>8}" for kind in ("min", "median") * 2)
)
