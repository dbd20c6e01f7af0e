"""Measures how time and memory of forward + backward grow with T, B and H, varied one at a time.

``python -m benchmarks.growth`` prints a table and writes ``growth.json`` and ``growth.png``.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.models import ours
from benchmarks.problem import Problem, sizes
from benchmarks.subjects import BOTH, in_jax
from benchmarks.timing import environment, heading, interleaved

BASE = (128, 32, 256, 256)
QUICK = (16, 4, 16, 16)
AXES = {"T": "time steps T", "B": "batch size B", "H": "hidden size H"}
VARIANTS = ("auto", "scan", "auto, remat")
POWERS = {"T": (-2, 4), "B": (-5, 3), "H": (-2, 2)}
"""Range of the exponent k of each axis, whose sizes are 2^k times the base."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line and returns the content of the JSON file."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    p.add_argument(
        "--out",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="output directory (default: the current directory)",
    )
    p.add_argument("--quick", action="store_true", help="run two tiny sizes per axis, as a test")
    p.add_argument("--base", type=sizes, metavar="T,B,I,H", help="sizes of the axes not varied")
    p.add_argument("--repeats", type=int, help="number of rounds")
    args = p.parse_args(argv)
    base = Problem(*(args.base or (QUICK if args.quick else BASE)))
    repeats = args.repeats or (2 if args.quick else 10)

    record: dict[str, Any] = environment()
    record["settings"] = {"base": {k: getattr(base, k) for k in "TBIH"}, "repeats": repeats}
    record["points"] = []
    print(heading(record))
    print(f"float32, {repeats} rounds; forward + backward; base {base}; remat_every √T\n")
    print(HEADER)
    measured: dict[Problem, list[dict[str, Any]]] = {}  # the base belongs to all axes
    for axis in AXES:
        for size in axis_sizes(axis, base, args.quick):
            problem = replace(base, **{axis: size})
            if problem not in measured:
                measured[problem] = measure(problem, repeats)
            points = [{"axis": axis, "size": size} | point for point in measured[problem]]
            record["points"] += points
            print(line(points), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "growth.json").write_text(json.dumps(record, indent=1))
    plot(record, args.out / "growth.png")
    return record


def axis_sizes(axis: str, base: Problem, quick: bool) -> list[int]:
    """Returns the sizes of an axis, the base times powers of two."""
    first, last = (0, 1) if quick else POWERS[axis]
    around = [round(getattr(base, axis) * 2.0**k) for k in range(first, last + 1)]
    return sorted({max(1, n) for n in around})


def measure(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """Measures all variants of a problem, in interleaved rounds."""
    keywords: dict[str, dict[str, Any]] = {
        "auto": {"backend": "auto"},
        "scan": {"backend": "scan"},
        "auto, remat": {"backend": "auto", "remat_every": max(1, round(math.sqrt(problem.T)))},
    }
    built = {v: in_jax(ours(problem, **keywords[v]), problem, (BOTH,)) for v in VARIANTS}
    samples = interleaved({v: subject.runs[BOTH] for v, subject in built.items()}, repeats)
    return [
        {
            "variant": variant,
            **{k: getattr(problem, k) for k in "TBIH"},
            "min_ms": min(samples[variant]),
            "median_ms": statistics.median(samples[variant]),
            "temp_mb": (subject.temp_bytes[BOTH] or 0) / 1e6,
            "samples_ms": samples[variant],
        }
        for variant, subject in built.items()
    ]


HEADER = (
    f"{'':29}{'min ms':^36}{'temporary MB':^36}\n"
    f"{'':2}{'T':>5}{'B':>6}{'I':>7}{'H':>7}  " + "".join(f"{v:>12}" for v in VARIANTS * 2)
)


def line(points: list[dict[str, Any]]) -> str:
    """Formats a row of the table."""
    p = points[0]
    shape = f"{p['axis']:2}{p['T']:5}{p['B']:6}{p['I']:7}{p['H']:7}  "
    times = "".join(f"{p['min_ms']:12.2f}" for p in points)
    return shape + times + "".join(f"{p['temp_mb']:12.2f}" for p in points)


def plot(record: dict[str, Any], path: Path) -> None:
    """Plots time in the upper row and memory in the lower row, with a column per axis."""
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    with plt.rc_context(style | {"grid.alpha": 0.3, "axes.axisbelow": True}):
        fig, panels = plt.subplots(
            2, 3, figsize=(10, 6), sharex="col", sharey="row", layout="constrained"
        )
        for column, axis in enumerate(AXES):
            for row, metric in enumerate(("min_ms", "temp_mb")):
                plot_panel(panels[row, column], record["points"], axis, metric)
            fixed = [f"{k} {v}" for k, v in record["settings"]["base"].items() if k != axis]
            panels[0, column].set_title(", ".join(fixed), fontsize=10)
            panels[1, column].set_xlabel(AXES[axis])
        panels[0, 0].set_ylabel("forward + backward, ms")
        panels[1, 0].set_ylabel("temporary memory, MB")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        fig.savefig(path, dpi=120)
        plt.close(fig)


def plot_panel(ax: Any, points: list[dict[str, Any]], axis: str, metric: str) -> None:
    """Plots a metric against an axis, with a dotted line for proportional growth."""
    points = [p for p in points if p["axis"] == axis]
    for n, variant in enumerate(VARIANTS):
        curve = [(p["size"], p[metric]) for p in points if p["variant"] == variant]
        label = "auto, remat_every √T" if variant == "auto, remat" else variant
        ax.plot(*zip(*curve, strict=True), marker="osD"[n], ms=4, color=f"C{n}", label=label)
    ends = min(p["size"] for p in points), max(p["size"] for p in points)
    top = max(p[metric] for p in points)
    ax.plot(ends, (top * ends[0] / ends[1], top), ls=":", color="0.6", label="proportional")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.minorticks_off()
    ticks = sorted({p["size"] for p in points})
    ax.set_xticks(ticks, [str(t) for t in ticks])


if __name__ == "__main__":
    main(sys.argv[1:])
