"""How time and memory of forward + backward grow with T, B and H, one varied at a time.

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
"""From which to which power of two times the base each is varied."""


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the command line and returns what goes to the JSON."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    p.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="here by default")
    p.add_argument("--quick", action="store_true", help="two tiny sizes an axis: does it run?")
    p.add_argument("--base", type=sizes, metavar="T,B,I,H", help="what the others stay at")
    p.add_argument("--repeats", type=int, help="rounds")
    args = p.parse_args(argv)
    base = Problem(*(args.base or (QUICK if args.quick else BASE)))
    repeats = args.repeats or (2 if args.quick else 10)

    record: dict[str, Any] = environment()
    record["settings"] = {"base": {k: getattr(base, k) for k in "TBIH"}, "repeats": repeats}
    record["points"] = []
    print(heading(record))
    print(f"float32, {repeats} rounds; forward + backward; base {base}; remat_every √T\n")
    print(HEADER)
    known: dict[Problem, list[dict[str, Any]]] = {}  # the base is a point of every axis
    for axis in AXES:
        for size in axis_sizes(axis, base, args.quick):
            problem = replace(base, **{axis: size})
            if problem not in known:
                known[problem] = measure(problem, repeats)
            points = [{"axis": axis, "size": size} | point for point in known[problem]]
            record["points"] += points
            print(line(points), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "growth.json").write_text(json.dumps(record, indent=1))
    plot(record, args.out / "growth.png")
    return record


def axis_sizes(axis: str, base: Problem, quick: bool) -> list[int]:
    """Powers of two around the base."""
    first, last = (0, 1) if quick else POWERS[axis]
    around = [round(getattr(base, axis) * 2.0**k) for k in range(first, last + 1)]
    return sorted({max(1, n) for n in around})


def measure(problem: Problem, repeats: int) -> list[dict[str, Any]]:
    """One point of every variant, timed in turns."""
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
    """One row of the table."""
    p = points[0]
    shape = f"{p['axis']:2}{p['T']:5}{p['B']:6}{p['I']:7}{p['H']:7}  "
    times = "".join(f"{p['min_ms']:12.2f}" for p in points)
    return shape + times + "".join(f"{p['temp_mb']:12.2f}" for p in points)


def plot(record: dict[str, Any], path: Path) -> None:
    """Time above, memory below; one column an axis."""
    style = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}
    with plt.rc_context(style | {"grid.alpha": 0.3, "axes.axisbelow": True}):
        fig, panels = plt.subplots(
            2, 3, figsize=(10, 6), sharex="col", sharey="row", layout="constrained"
        )
        for column, axis in enumerate(AXES):
            for row, figure in enumerate(("min_ms", "temp_mb")):
                panel(panels[row, column], record["points"], axis, figure)
            fixed = [f"{k} {v}" for k, v in record["settings"]["base"].items() if k != axis]
            panels[0, column].set_title(", ".join(fixed), fontsize=10)
            panels[1, column].set_xlabel(AXES[axis])
        panels[0, 0].set_ylabel("forward + backward, ms")
        panels[1, 0].set_ylabel("temporary memory, MB")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        fig.savefig(path, dpi=120)
        plt.close(fig)


def panel(ax: Any, points: list[dict[str, Any]], axis: str, figure: str) -> None:
    """One figure against one axis, and what proportional growth would look like."""
    mine = [p for p in points if p["axis"] == axis]
    for n, variant in enumerate(VARIANTS):
        curve = [(p["size"], p[figure]) for p in mine if p["variant"] == variant]
        label = "auto, remat_every √T" if variant == "auto, remat" else variant
        ax.plot(*zip(*curve, strict=True), marker="osD"[n], ms=4, color=f"C{n}", label=label)
    ends = min(p["size"] for p in mine), max(p["size"] for p in mine)
    top = max(p[figure] for p in mine)
    ax.plot(ends, (top * ends[0] / ends[1], top), ls=":", color="0.6", label="proportional")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.minorticks_off()
    ticks = sorted({p["size"] for p in mine})
    ax.set_xticks(ticks, [str(t) for t in ticks])


if __name__ == "__main__":
    main(sys.argv[1:])
