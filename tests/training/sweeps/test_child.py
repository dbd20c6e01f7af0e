"""Runs in new processes: their status, and signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lstm_jax.training.config import Experiment
from lstm_jax.training.sweeps.child import Children
from tests.training.sweeps.endings import end

STRICT = False
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("no_result", "incomplete", ""),
        ("diverged", "failed", ""),
        ("config_error", "cannot be run", "error: data.path: no such file.\n"),
        ("bug", "crashed", "ZeroDivisionError: a bug\n"),
        ("killed", "crashed (exit code -9)", ""),
    ],
)
def test_the_status_of_each_ending(name, status, message, capfd):
    with Children(end) as children:
        assert children.run(Experiment(name=name)) == status
    assert not children.stopped
    assert capfd.readouterr().err.endswith(message)


def wait_for(path):
    """Waits until a file has content, and returns the content."""
    for _ in range(600):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} was not written")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_forwarded_and_handlers_are_restored(number, tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def send_signal():
        wait_for(tmp_path / "run" / "pid")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send_signal)
    with Children(end) as children:
        thread.start()
        assert (
            children.run(Experiment(name="wait_for_signal", workdir=tmp_path / "run")) == "stopped"
        )
        assert children.stopped
    thread.join()
    assert (tmp_path / "run" / "saved").read_text() == number.name
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_stops_when_its_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "from pathlib import Path\n"
        "from lstm_jax.training.sweeps.child import Children\n"
        "from lstm_jax.training.config import Experiment\n"
        "from tests.training.sweeps.endings import end\n"
        "if __name__ == '__main__':\n"
        "    with Children(end) as children:\n"
        f"        children.run(Experiment(name='wait_for_signal', workdir=Path({str(tmp_path / 'run')!r})))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], env=environment) as parent:
        wait_for(tmp_path / "run" / "pid")
        parent.kill()
    assert wait_for(tmp_path / "run" / "saved") == "SIGTERM"
