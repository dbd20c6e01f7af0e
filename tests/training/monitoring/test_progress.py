"""The progress bar."""

import sys

from lstm_jax.training.monitoring.progress import Progress


def test_steps_before_a_resume_do_not_count_for_the_rate(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress(steps=1000)
    progress.start(400)
    bar = progress.bar
    assert (bar.initial, bar.n, bar.last_print_n) == (400, 400, 400)
    progress.close()
