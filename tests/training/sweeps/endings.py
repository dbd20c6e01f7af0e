"""Ways in which a run can end; named by the experiment, and imported by its process."""

import os
import signal
import time

from lstm_jax.training.config import ConfigError


def end(experiment):
    """Stands in for ``train``."""
    return globals()[experiment.name](experiment)


def good(experiment):
    return 0


def diverged(experiment):
    return 1


def cannot(experiment):
    raise ConfigError("data.path: nothing there.")


def bug(experiment):
    raise ZeroDivisionError("a bug")


def killed(experiment):
    os.kill(os.getpid(), signal.SIGKILL)


def patient(experiment):
    """Until a signal comes; then saves and ends as a run does."""
    experiment.workdir.mkdir()

    def save(number, frame):
        (experiment.workdir / "saved").write_text(signal.Signals(number).name)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
    (experiment.workdir / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return 1
