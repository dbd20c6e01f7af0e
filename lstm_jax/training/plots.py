"""``curves.png``: how the figures went."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def plot_curves(
    metrics: list[dict[str, Any]], figure: str, unit: str, baselines: dict[str, float], path: Path
) -> None:
    """Training and held-out figures over steps, with the baselines as lines across."""
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
        for part, color, marker in (("train", "0.65", ""), ("eval", "tab:blue", "o")):
            points = [
                (m["step"], m[f"{part}/{figure}"]) for m in metrics if f"{part}/{figure}" in m
            ]
            if points:
                label = "training" if part == "train" else "held out"
                ax.plot(*zip(*points, strict=True), color=color, marker=marker, ms=4, label=label)
        for n, (name, value) in enumerate(baselines.items()):
            ax.axhline(value, color=f"C{n + 1}", ls="--", lw=1, label=f"{name} {value:.4g}")
        ax.set_xlabel("step")
        ax.set_ylabel(unit)
        ax.legend(frameon=False)
        fig.savefig(path, dpi=120)
        plt.close(fig)
