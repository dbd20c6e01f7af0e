"""Evaluates how well ``auto`` selects a backend on CPU, over many sizes.

    python -m benchmarks.choice [--T 1 2 8] [--B 1 8] [--H 64 128] [--rounds 5] [--json choice.json]

At each size the two backends that ``auto`` selects from are timed in interleaved rounds: a forward pass, a
rollout (16 calls in an outer scan, as in reinforcement learning, for T up to 8), and a forward and backward
pass. At T = 1, ``scan`` is timed too. Prints the time of the selected backend over the time of the fastest,
and the geometric mean of this ratio for each pass.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.problem import Problem, arrays
from benchmarks.timing import environment, heading, interleaved
from lstm_jax import LSTMState, lstm
from lstm_jax.backends import cpu
from lstm_jax.backends.problem import Operands

MAX_SIZE = 128 * 32 * 512**2
"""Maximum T · B · H² that is measured."""
CALLS = 16
"""Number of calls of a rollout."""


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Prints the table and returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--T", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 128])
    parser.add_argument("--B", nargs="+", type=int, default=[1, 8, 16, 32, 64, 256])
    parser.add_argument("--H", nargs="+", type=int, default=[64, 128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    print(heading(environment()))
    print("   T    B     H  pass      xla ms   cpu ms  scan ms  selected  time over fastest")
    rows = []
    for T, B, H in itertools.product(args.T, args.B, args.H):
        if T * B * H**2 > MAX_SIZE:
            continue
        for name, function in PASSES.items():
            if name != "rollout" or T <= 8:
                rows.append(measure(Problem(T, B, H, H), name, function, args.rounds))
                print(line(rows[-1]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for name in PASSES:
        ratios = [row["ratio"] for row in rows if row["pass"] == name]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            slow = sum(ratio > 1.15 for ratio in ratios)
            print(f"{name}: geometric mean {mean:.3f}, {slow} of {len(ratios)} above 1.15")
    return rows


def measure(problem: Problem, name: str, function: Callable[..., Any], rounds: int) -> dict:
    """Measures one row: the minimum time of each backend, in milliseconds."""
    params, xs, cotangent = arrays(problem)
    runs = {}
    for backend in ("xla", "cpu", *(["scan"] if problem.T == 1 else [])):
        compiled = jax.jit(partial(function, backend)).lower(params, xs, cotangent).compile()
        runs[backend] = lambda run=compiled: jax.block_until_ready(run(params, xs, cotangent))
    times = {backend: min(samples) for backend, samples in interleaved(runs, rounds).items()}
    chosen = choice(problem, "forward" if name == "gradient" else "infer")
    ratio = times[chosen] / min(times.values())
    shape = {"T": problem.T, "B": problem.B, "H": problem.H}
    return shape | {"pass": name, "ms": times, "chosen": chosen, "ratio": ratio}


def choice(problem: Problem, step: str) -> str:
    """Returns the backend that ``auto`` selects for the step."""
    params, xs, _ = arrays(problem)
    zero = jnp.zeros((problem.B, problem.H))
    state = LSTMState(zero, zero)
    return "cpu" if cpu.is_profitable(step, Operands(params, xs, state, state)) else "xla"


def forward(backend: str, params: Any, xs: jax.Array, cotangent: jax.Array) -> Any:
    """Computes the hidden states of one call."""
    return lstm(params, xs, backend=backend)[1]


def rollout(backend: str, params: Any, xs: jax.Array, cotangent: jax.Array) -> Any:
    """Runs calls one after another, each from the final state of the call before."""

    def call(state: LSTMState, n: jax.Array) -> tuple[LSTMState, jax.Array]:
        # The inputs differ in every call. XLA would project equal inputs only once.
        return lstm(params, xs + n, state, backend=backend)

    zero = jnp.zeros(cotangent.shape[1:])
    return jax.lax.scan(call, LSTMState(zero, zero), jnp.arange(CALLS, dtype=xs.dtype))


def gradient(backend: str, params: Any, xs: jax.Array, cotangent: jax.Array) -> Any:
    """Computes the gradient with respect to weights and inputs."""

    def loss(params: Any, xs: jax.Array) -> jax.Array:
        return (forward(backend, params, xs, cotangent) * cotangent).sum()

    return jax.grad(loss, argnums=(0, 1))(params, xs)


PASSES = {"forward": forward, "rollout": rollout, "gradient": gradient}


def line(row: dict[str, Any]) -> str:
    """Formats a row."""
    times = [row["ms"].get(backend) for backend in ("xla", "cpu", "scan")]
    cells = " ".join(f"{'-':>8}" if t is None else f"{t:8.3f}" for t in times)
    return (
        f"{row['T']:4} {row['B']:4} {row['H']:5}  {row['pass']:8} {cells}  "
        f"{row['chosen']:8}  {row['ratio']:.2f}"
    )


if __name__ == "__main__":
    main()
