"""Compares this project with other LSTM implementations, on the same weights and inputs.

Results are compared first, and then all implementations are timed in interleaved rounds.
``python -m benchmarks.peers`` prints a table. ``--json FILE`` also stores every sample.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import models, subjects
from benchmarks.problem import Problem, sizes
from benchmarks.subjects import BOTH, FORWARD, Subject
from benchmarks.timing import environment, gemm_rate, heading, interleaved, median_ratio

SHAPES = [
    (128, 32, 256, 256),
    (128, 64, 512, 512),
    (512, 32, 128, 128),
    (100, 16, 1024, 1024),
    (128, 1, 256, 256),
]
GPU_SHAPES = [
    (256, 64, 128, 128),
    (256, 1, 256, 256),
    (256, 16, 256, 256),
    (256, 64, 512, 512),
    (256, 16, 768, 768),
    (256, 64, 1024, 1024),
    (256, 64, 2048, 2048),
]
TOLERANCE = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 0.2}
"""Tolerance of the maximum error relative to the maximum value. With gates in a wrong order it is about 1."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line, prints the table and returns the content of the JSON file."""
    args = parser().parse_args(argv)
    passes = (FORWARD,) if args.direction == "forward" else (FORWARD, BOTH)
    set_tf32(args.tf32)
    record: dict[str, Any] = environment()
    record["settings"] = {k: v for k, v in vars(args).items() if k not in ("json", "shapes")}
    record["shapes"] = []
    print(heading(record))
    print(f"{args.dtype}{', TF32' if args.tf32 else ''}, {args.repeats} rounds; {LEGEND}")
    on_gpu = jax.default_backend() == "gpu"
    for shape in args.shapes or (GPU_SHAPES if on_gpu else SHAPES):
        problem = Problem(*shape, args.dtype)
        measured = measure(problem, passes, args)
        record["shapes"].append(measured)
        print("\n" + table(problem, measured), flush=True)
        if args.json:  # after every shape, in case a later shape fails
            args.json.write_text(json.dumps(record, indent=1))
    return record


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    p.add_argument("--shapes", nargs="+", type=sizes, metavar="T,B,I,H")
    p.add_argument("--repeats", type=int, default=20, help="number of rounds")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write every sample to this file")
    p.add_argument("--backend", default="auto", help="backend of the first row, the base of ratios")
    p.add_argument(
        "--direction", choices=["both", "forward"], default="both", help="with gradients or without"
    )
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--tf32", action="store_true", help="allow TF32 on GPUs, for all libraries")
    p.add_argument("--gemm", type=int, metavar="N", help="size of the product for the bound")
    return p


def set_tf32(allow: bool) -> None:
    """Allows or disallows TF32 in JAX and torch. It has no effect on platforms other than GPUs."""
    if jax.default_backend() != "gpu":
        return
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if allow else "highest")
    try:
        import torch
    except ImportError:
        return
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow


def rows(backend: str) -> dict[str, Callable[[Problem, tuple[str, ...]], Subject]]:
    """Returns the builder of each row's subject, by name. The first row is the base of ratios."""
    on_gpu = jax.default_backend() == "gpu"
    names = [backend, "auto", "xla", "scan", "cudnn"] if on_gpu else [backend, "scan"]
    builders = {f"lstm_jax {b}": partial(models.ours, backend=b) for b in dict.fromkeys(names)}
    builders["lstm_cell in a scan"] = models.our_cell

    def in_jax(build: Any) -> Callable[[Problem, tuple[str, ...]], Subject]:
        return lambda problem, passes: subjects.in_jax(build(problem), problem, passes)

    jax_rows = {name: in_jax(build) for name, build in (builders | models.PEERS).items()}
    return jax_rows | {"torch nn.LSTM": subjects.in_torch}


def measure(problem: Problem, passes: tuple[str, ...], args: Any) -> dict[str, Any]:
    """Builds every row, compares their results, then times them."""
    built, notes = build(problem, passes, args.backend)
    names = list(built)
    if not names or names[0] != f"lstm_jax {args.backend}":
        raise ValueError(f"lstm_jax {args.backend}: {notes[f'lstm_jax {args.backend}']}")
    tolerance = TOLERANCE["tf32" if args.tf32 and args.dtype == "float32" else args.dtype]
    errors = compare(built, tolerance)
    runs = {(name, p): built[name].runs[p] for name in names for p in passes}
    rate = gemm_rate(args.gemm or default_gemm(), args.dtype)
    samples = interleaved(runs, args.repeats)
    rate = max(rate, gemm_rate(args.gemm or default_gemm(), args.dtype))
    shape = {k: getattr(problem, k) for k in "TBIH"}
    result: dict[str, Any] = {"shape": shape, "gemm_flop_per_s": rate, "rows": {}}
    for name in rows(args.backend):
        if name in notes:
            result["rows"][name] = {"status": notes[name]}
            continue
        result["rows"][name] = {"status": "ok", "error": errors[name]} | {
            p: metrics(problem, p, samples[name, p], samples[names[0], p], rate, built[name])
            for p in passes
        }
    return result


def default_gemm() -> int:
    """Returns a size of a square product that is large enough to reach the maximum rate."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def build(
    problem: Problem, passes: tuple[str, ...], backend: str
) -> tuple[dict[str, Subject], dict[str, str]]:
    """Builds the subjects. Returns them by name, and the reasons for those that cannot be built."""
    built, notes = {}, {}
    for name, make in rows(backend).items():
        try:
            built[name] = make(problem, passes)
        except ImportError:
            notes[name] = "not installed"
        except Exception as error:  # a failure of one library must not prevent the other rows
            notes[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return built, notes


def compare(built: dict[str, Subject], tolerance: float) -> dict[str, float]:
    """Returns the maximum relative error of each subject, with the first as the reference.

    Raises:
      ValueError: If an error exceeds ``tolerance``. The message names the subject, the array and the error.
    """
    results = {
        name: {k: v for get in subject.results.values() for k, v in get().items()}
        for name, subject in built.items()
    }
    expected = next(iter(results.values()))
    errors = {}
    for name, got in results.items():
        by_array = relative_errors(got, expected)
        worst = max(by_array, key=lambda k: by_array[k])
        if by_array[worst] > tolerance:
            raise ValueError(
                f"expected {name} to equal {next(iter(results))} to {tolerance:.0e} of the maximum value, "
                f"got a difference in {worst} of {by_array[worst]:.1e}; check the conversion of the weights."
            )
        errors[name] = by_array[worst]
    return errors


def relative_errors(
    got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Returns the maximum error of each array, relative to its maximum value. For NaN it is infinite."""
    errors = {}
    for name, value in expected.items():
        error = float(np.abs(np.asarray(got[name], np.float64) - value).max() / np.abs(value).max())
        errors[name] = float("inf") if np.isnan(error) else error
    return errors


def metrics(
    problem: Problem,
    name: str,
    samples: list[float],
    base: list[float],
    rate: float,
    subject: Subject,
) -> dict[str, Any]:
    """Returns the metrics of one row and pass."""
    temp = subject.temp_bytes.get(name)
    return {
        "min_ms": min(samples),
        "median_ms": statistics.median(samples),
        "ratio": median_ratio(samples, base),
        "share_of_bound": 1e3 * problem.flop(name) / rate / min(samples),
        "compile_s": subject.compile_s.get(name),
        "temp_mb": None if temp is None else temp / 1e6,
        "temp_arrays": None if temp is None else temp / problem.array_bytes,
        "samples_ms": samples,
    }


LEGEND = """times in milliseconds
ratio: time over the first row's, median over rounds. bound: (FLOP of the products / GEMM rate) over min.
compile: seconds. temp memory: temporaries of the gradient, in MB and in arrays [T, B, H].
error: maximum difference from the first row, relative to the maximum value."""


def table(problem: Problem, measured: dict[str, Any]) -> str:
    """Formats the rows of one shape."""
    rate = measured["gemm_flop_per_s"]
    bounds = [f"{1e3 * problem.flop(p) / rate:.3g} ms {p}" for p in (FORWARD, BOTH)]
    lines = [
        f"{problem}    GEMM {rate / 1e9:,.0f} GFLOP/s; bound {', '.join(bounds)}",
        f"{'':23}{'forward':^28} {BOTH:^28}  {'compile':^13}{'temp memory':^15}",
        f"{'':23}{TIMES} {TIMES}  {'fwd':>6} {'both':>6}{'MB':>8} {'[TBH]':>6}{'error':>9}",
    ]
    for name, row in measured["rows"].items():
        if row["status"] != "ok":
            lines.append(f"{name:23}  {row['status']}"[:118])
            continue
        forward, both = row[FORWARD], row.get(BOTH, {})
        lines.append(
            f"{name:23}{times(forward)} {times(both)}  {cell(forward.get('compile_s'), 6, 2)} "
            f"{cell(both.get('compile_s'), 6, 2)}{cell(both.get('temp_mb'), 8, 1)} "
            f"{cell(both.get('temp_arrays'), 6, 1)}{row['error']:9.0e}"
        )
    return "\n".join(line.rstrip() for line in lines)


TIMES = f"{'min':>8}{'median':>8}{'ratio':>6}{'bound':>6}"


def times(row: dict[str, Any]) -> str:
    """Formats the four columns of one pass."""
    if not row:
        return cell(None, 8) * 2 + cell(None, 6) * 2
    share = f"{row['share_of_bound']:6.0%}"
    return (
        cell(row["min_ms"], 8, 3) + cell(row["median_ms"], 8, 3) + cell(row["ratio"], 6, 2) + share
    )


def cell(value: float | None, width: int, digits: int = 2) -> str:
    """Formats a number with up to ``digits`` decimals, and None as a dash."""
    if value is None:
        return f"{'-':>{width}}"
    digits = min(digits, max(0, 4 - len(str(int(value)))))
    return f"{value:{width}.{digits}f}"


if __name__ == "__main__":
    main(sys.argv[1:])
