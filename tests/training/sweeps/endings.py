"""Functions that stand in for ``train`` and end in different ways. Processes of runs import them."""

import os
import signal
import time

from lstm_jax.training.config import ConfigError


def end(experiment):
    """Calls the function with the name of the experiment."""
    return globals()[experiment.name](experiment)


def no_result(experiment):
    return 0


def diverged(experiment):
    return 1


def config_error(experiment):
    raise ConfigError("data.path: no such file.")


def bug(experiment):
    raise ZeroDivisionError("a bug")


def killed(experiment):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal(experiment):
    """Waits for a signal; then writes a file and exits with 0, as a run does."""
    experiment.workdir.mkdir()

    def save(number, frame):
        (experiment.workdir / "saved").write_text(signal.Signals(number).name)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, save)
    signal.signal(signal.SIGINT, save)
    (experiment.workdir / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return 1
