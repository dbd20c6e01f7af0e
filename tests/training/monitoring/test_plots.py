"""Plots of runs and sweeps."""

import math

from lstm_jax.training.monitoring import plots

STRICT = False


def test_a_diverged_run_does_not_set_the_scale(monkeypatch):
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    good = [(f"good {n}", [(10, 0.5), (20, 0.001 + n)], True) for n in range(30)]
    bad = [("bad", [(10, 1e30), (20, math.nan)], False), ("none", [], False)]
    plots.plot_sweep([*good, *bad], "loss")
    ax, (legend,) = figures[0].axes[0], figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"good {n}" for n in range(24)]
    assert legend.get_title().get_text() == "best first, 8 more not listed"
    assert ax.get_xlim()[0] < 10 < 20 < ax.get_xlim()[1]
    assert ax.get_ylim()[0] < 0.001 < 29.001 < ax.get_ylim()[1] < 100
    assert ax.get_yscale() == "log"
    plots.plot_sweep(bad, "loss")  # only this run can set the scale
    assert figures[1].axes[0].get_ylim()[1] > 1e29
    monkeypatch.undo()
    plots.plt.close("all")
