"""Our LSTM beside others: the same weights and inputs, compared first, then timed in turns.

``python -m benchmarks.peers`` prints a table and, with ``--json FILE``, keeps every sample.
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
"""Of the largest error over the largest value; a gate in a wrong place gives about 1."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line, prints the table and returns what goes to the JSON."""
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
        if args.json:  # after every shape: what was measured is kept if a later one fails
            args.json.write_text(json.dumps(record, indent=1))
    return record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    p.add_argument("--shapes", nargs="+", type=sizes, metavar="T,B,I,H")
    p.add_argument("--repeats", type=int, default=20, help="rounds")
    p.add_argument("--json", type=Path, metavar="FILE", help="where every sample goes")
    p.add_argument("--backend", default="auto", help="the one of ours that ratios are against")
    p.add_argument(
        "--direction", choices=["both", "forward"], default="both", help="with gradients or without"
    )
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--tf32", action="store_true", help="on a GPU, for all; else full float32")
    p.add_argument("--gemm", type=int, metavar="N", help="size of the product that gives the bound")
    return p


def set_tf32(allow: bool) -> None:
    """TF32 for everyone or for no one. On other platforms than GPUs there is nothing to set."""
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
    """What makes the subject of each row; the first is the one that ratios are against."""
    on_gpu = jax.default_backend() == "gpu"
    wanted = [backend, "auto", "xla", "scan", "cudnn"] if on_gpu else [backend, "scan"]
    builders = {f"lstm_jax {b}": partial(models.ours, backend=b) for b in dict.fromkeys(wanted)}
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
            p: figures(problem, p, samples[name, p], samples[names[0], p], rate, built[name])
            for p in passes
        }
    return result


def default_gemm() -> int:
    """Large enough that more would not raise the rate."""
    return 2048 if jax.default_backend() == "cpu" else 8192


def build(
    problem: Problem, passes: tuple[str, ...], backend: str
) -> tuple[dict[str, Subject], dict[str, str]]:
    """The subjects that could be built, and why the others could not."""
    built, notes = {}, {}
    for name, make in rows(backend).items():
        try:
            built[name] = make(problem, passes)
        except ImportError:
            notes[name] = "not installed"
        except Exception as error:  # one peer's failure must not cost the others' figures
            notes[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    return built, notes


def compare(built: dict[str, Subject], tolerance: float) -> dict[str, float]:
    """The largest error of each, relative to the first; a peer that computes another thing raises.

    Raises:
      ValueError: naming the peer, the array and the error.
    """
    results = {
        name: {k: v for get in subject.results.values() for k, v in get().items()}
        for name, subject in built.items()
    }
    want = next(iter(results.values()))
    errors = {}
    for name, got in results.items():
        each = relative_errors(got, want)
        worst = max(each, key=lambda k: each[k])
        if each[worst] > tolerance:
            raise ValueError(
                f"{name} differs from {next(iter(results))} in {worst} by {each[worst]:.1e} of "
                f"the largest value, more than {tolerance:.0e}: the weights are converted wrongly."
            )
        errors[name] = each[worst]
    return errors


def relative_errors(
    got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The largest error of each array of ``want``, relative to its largest value. NaN gives infinity."""
    errors = {}
    for name, value in want.items():
        error = float(np.abs(np.asarray(got[name], np.float64) - value).max() / np.abs(value).max())
        errors[name] = float("inf") if np.isnan(error) else error
    return errors


def figures(
    problem: Problem,
    name: str,
    samples: list[float],
    base: list[float],
    rate: float,
    subject: Subject,
) -> dict[str, Any]:
    """Of one row and pass."""
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


LEGEND = """milliseconds
ratio: to the first row, median over the rounds. bound: its share of min, FLOP over the GEMM's rate.
compile: seconds. memory: temporaries of the gradient, in MB and in arrays of [T, B, H].
error: the largest against the first row, relative to the largest value."""


def table(problem: Problem, measured: dict[str, Any]) -> str:
    """One shape's rows, as text."""
    rate = measured["gemm_flop_per_s"]
    bounds = [f"{1e3 * problem.flop(p) / rate:.3g} ms {p}" for p in (FORWARD, BOTH)]
    lines = [
        f"{problem}    GEMM {rate / 1e9:,.0f} GFLOP/s; bound {', '.join(bounds)}",
        f"{'':23}{'forward':^28} {BOTH:^28}  {'compile':^13}{'memory':^15}",
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
    """The four columns of one pass."""
    if not row:
        return cell(None, 8) * 2 + cell(None, 6) * 2
    share = f"{row['share_of_bound']:6.0%}"
    return (
        cell(row["min_ms"], 8, 3) + cell(row["median_ms"], 8, 3) + cell(row["ratio"], 6, 2) + share
    )


def cell(value: float | None, width: int, digits: int = 2) -> str:
    """A number, with as many digits as there is room for; a dash for None."""
    if value is None:
        return f"{'-':>{width}}"
    digits = min(digits, max(0, 4 - len(str(int(value)))))
    return f"{value:{width}.{digits}f}"


if __name__ == "__main__":
    main(sys.argv[1:])
