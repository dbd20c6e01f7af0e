"""How runs in processes of their own end, and what signals do to them."""

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
    ("how", "status", "said"),
    [
        ("good", "incomplete", ""),  # it left no result
        ("diverged", "failed", ""),
        ("cannot", "cannot be run", "error: data.path: nothing there.\n"),
        ("bug", "crashed", "ZeroDivisionError: a bug\n"),
        ("killed", "crashed (exit code -9)", ""),
    ],
)
def test_how_a_run_ended(how, status, said, capfd):
    with Children(end) as children:
        assert children.run(Experiment(name=how)) == status
    assert not children.stopped
    assert capfd.readouterr().err.endswith(said)


def wait_for(path):
    for _ in range(600):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_on_to_the_run_and_handlers_come_back(number, tmp_path):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def later():
        wait_for(tmp_path / "run" / "pid")
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=later)
    with Children(end) as children:
        thread.start()
        assert children.run(Experiment(name="patient", workdir=tmp_path / "run")) == "stopped"
        assert children.stopped
    thread.join()
    assert (tmp_path / "run" / "saved").read_text() == number.name
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_parent_that_is_killed_takes_its_run_with_it(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "from pathlib import Path\n"
        "from lstm_jax.training.sweeps.child import Children\n"
        "from lstm_jax.training.config import Experiment\n"
        "from tests.training.sweeps.endings import end\n"
        "if __name__ == '__main__':\n"
        "    with Children(end) as children:\n"
        f"        children.run(Experiment(name='patient', workdir=Path({str(tmp_path / 'run')!r})))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], env=environment) as parent:
        wait_for(tmp_path / "run" / "pid")
        parent.kill()
    assert wait_for(tmp_path / "run" / "saved") == "SIGTERM"
