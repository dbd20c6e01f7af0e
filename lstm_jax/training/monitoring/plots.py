"""``curves.png`` and ``sweep.png``: how the figures went."""

import io
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def plot_curves(
    metrics: list[dict[str, Any]], figure: str, unit: str, baselines: dict[str, float]
) -> bytes:
    """Returns a PNG of training and validation metrics over steps, with the baselines as lines."""
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for part, color, marker in (("train", "0.65", ""), ("eval", "tab:blue", "o")):
            points = [
                (m["step"], m[f"{part}/{figure}"]) for m in metrics if f"{part}/{figure}" in m
            ]
            if points:
                label = "training" if part == "train" else "validation"
                ax.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4, label=label)
        for n, (name, value) in enumerate(baselines.items()):
            ax.axhline(value, color=f"C{n + 1}", ls="--", lw=1, label=f"{name} {value:.4g}")
        ax.set_xlabel("step")
        ax.set_ylabel(unit)
        ax.legend(frameon=False)
        return _png(fig)


def plot_sweep(curves: list[tuple[str, list[tuple[int, float]], bool]], label: str) -> bytes:
    """Returns a PNG of the validation curves of runs.

    The scale is that of the complete runs, so that one that diverged does not flatten the others.

    Args:
      curves: Of each run its name, points, and whether it is complete; the best run first.
      label: Of the y axis.
    """
    named = min(len(curves), 24)  # more lines than that no legend can tell apart
    more = f", {len(curves) - named} more not named" if len(curves) > named else ""
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        fig, ax = plt.subplots(figsize=(8, 4.2 + 0.17 * named), layout="constrained")
        done = [y for _, points, complete in curves if complete for _, y in points]
        if done and 0 < 30 * min(done) < max(done):
            ax.set_yscale("log")
        colors = plt.get_cmap("turbo")
        for n, (name, points, complete) in enumerate(sorted(curves, key=lambda c: not c[2])):
            if done and not complete:
                ax.axis(ax.axis())  # the limits stay as they are now
            color = colors(0.05 + 0.9 * n / max(len(curves) - 1, 1))
            ax.plot(
                *(zip(*points, strict=True) if points else ([], [])),
                color=color,
                ls="-" if complete else ":",
                lw=2.5 if n == 0 else 1.2,
                marker="o",
                ms=3,
                label=name if n < named else None,
                zorder=3 if n == 0 else 2,
            )
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        fig.legend(loc="outside lower left", frameon=False, fontsize=8, title=f"best first{more}")
        return _png(fig)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png")
    plt.close(figure)
    return content.getvalue()
