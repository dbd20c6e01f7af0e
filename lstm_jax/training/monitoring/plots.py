"""The plots ``curves.png`` of a run and ``sweep.png`` of a sweep."""

import io
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "legend.frameon": False,
}
DASHES = ("--", "-.", ":")
MARKERS = "os^Dv*"


def plot_curves(
    metrics: list[dict[str, Any]], metric: str, unit: str, baselines: dict[str, float]
) -> bytes:
    """Returns a PNG plot of the main metric over steps in training and validation, with baselines.

    Args:
      metrics: Lines of metrics.jsonl as dicts.
      metric: Name of the main metric.
      unit: Label of the y axis.
      baselines: Values of the main metric for predictors without a network, by name.
    """
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
        lines = {"train": ("training", "0.6", "."), "eval": ("validation", "black", "o")}
        for split, (label, color, marker) in lines.items():
            name = f"{split}/{metric}"
            points = [(m["step"], m[name]) for m in metrics if name in m]
            if points:
                ax.plot(*zip(*points, strict=True), color=color, marker=marker, ms=5, label=label)
        for n, (name, value) in enumerate(baselines.items()):
            dashes = DASHES[n % len(DASHES)]
            ax.axhline(value, color=f"C{n}", ls=dashes, lw=1.3, label=f"{name} {value:.4g}")
        ax.set_xlabel("step")
        ax.set_ylabel(unit)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        fig.legend(loc="outside lower center", ncols=2)
        return _png(fig)


def plot_sweep(curves: list[tuple[str, list[tuple[int, float]], bool]], label: str) -> bytes:
    """Returns a PNG plot of the validation curves of runs.

    The limits of the y axis fit the complete runs, so that a diverged run does not flatten the curves.

    Args:
      curves: ``(name, [(step, value), ...], is_complete)`` of each run, best run first.
      label: Label of the y axis.
    """
    named = min(len(curves), 24)  # more lines cannot be distinguished in a legend
    more = f", {len(curves) - named} more not listed" if len(curves) > named else ""
    with plt.rc_context(STYLE):
        fig, ax = plt.subplots(figsize=(8, 4.2 + 0.17 * named), layout="constrained")
        done = [y for _, points, complete in curves if complete for _, y in points]
        if done and 0 < 30 * min(done) < max(done):
            ax.set_yscale("log")
        colors = plt.get_cmap("viridis")  # dark to light, also in greyscale
        for n, (name, points, complete) in enumerate(sorted(curves, key=lambda c: not c[2])):
            if done and not complete:
                ax.axis(ax.axis())  # freezes the limits
            ax.plot(
                *(zip(*points, strict=True) if points else ([], [])),
                color=colors(0.85 * n / max(len(curves) - 1, 1)),
                ls="-" if complete else ":",
                lw=2.5 if n == 0 else 1.2,
                marker=MARKERS[n % len(MARKERS)],
                ms=4,
                label=name if n < named else None,
                zorder=3 if n == 0 else 2,
            )
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        fig.legend(loc="outside lower left", fontsize=8, title=f"best first{more}")
        return _png(fig)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    plt.close(figure)
    return content.getvalue()
