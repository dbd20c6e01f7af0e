"""Two processes on one machine, compared with one process on two devices."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lstm_jax.training.config import ConfigError, Mesh
from lstm_jax.training.metrics import MACHINE
from lstm_jax.training.parallel.processes import is_multi_process, start

ROOT = Path(__file__).parents[3]
CONFIG = """
from pathlib import Path

from lstm_jax.training.config import *

config = Experiment(
    model=Model(hidden_size=8, embedding_size=4),
    data=Data(path=Path({text!r}), batch_size=4, sequence_length=8, reset_probability=0.2),
    optimizer=Optimizer(warmup_steps=0, schedule="constant"),
    train=Train(steps=8, log_every=2, eval_every=4, checkpoint_every=4, steps_per_dispatch=2),
    mesh=Mesh(parameters="sharded"),
    sample=Sample(prompt="the ", length=5),
)
"""


@pytest.fixture
def config(tmp_path):
    text, path = tmp_path / "text.txt", tmp_path / "config.py"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
    path.write_text(CONFIG.format(text=str(text)), encoding="utf-8")
    return path


started = []


@pytest.fixture(autouse=True)
def kill_remaining_processes():
    """A process whose peer failed would wait for minutes."""
    yield
    while started:
        process = started.pop()
        process.kill()
        process.communicate()


def start_training(config, devices, *args):
    """Starts ``train.py`` in a process with a number of devices."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "train.py", str(config), *map(str, args)]
    pipe = subprocess.PIPE
    started.append(
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)
    )
    return started[-1]


def wait(process):
    """Waits for a process that succeeds, and returns its output."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-4000:]
    return out


def start_two_processes(config, *args):
    """Starts two processes of one device each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        start_training(
            config, 1, *args, "--mesh.coordinator-address", address, "--mesh.num-processes", 2,
            "--mesh.process-id", i,
        )
        for i in range(2)
    ]  # fmt: skip


def train_in_two_processes(config, *args):
    """Returns the output of each process."""
    return [wait(process) for process in start_two_processes(config, *args)]


def logged_metrics(run_dir):
    """Returns the lines of metrics.jsonl, without metrics that depend on the clock."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MACHINE} for line in lines]


def test_two_processes_equal_one_process_with_two_devices(tmp_path, config):
    one, two = tmp_path / "one", tmp_path / "two"
    wait(start_training(config, 2, "--workdir", one))
    train_in_two_processes(config, "--workdir", two, "--train.steps", 4)
    first, second = train_in_two_processes(config, "--workdir", two)
    assert "resuming from step 4" in first
    assert "best checkpoint: step 8  eval" in first
    assert "step" not in second  # only the first process prints
    got, want = logged_metrics(two), logged_metrics(one)
    assert [line["step"] for line in got] == [2, 4, 4, 6, 8, 8]
    for got_line, want_line in zip(got, want, strict=True):
        assert got_line == pytest.approx(want_line, rel=1e-5)
    samples = [(run_dir / "samples.txt").read_text() for run_dir in (one, two)]
    assert samples[0] == samples[1]
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}


@pytest.mark.nightly
def test_a_signal_to_one_process_stops_both_and_they_resume(tmp_path, config):
    """The signal comes after 60 lines of metrics. The run is saving most of the time."""
    run_dir = tmp_path / "run"
    processes = start_two_processes(config, "--workdir", run_dir, "--train.steps", 100_000)
    lines = run_dir / "metrics.jsonl"
    for _ in range(3000):
        if lines.exists() and lines.read_text().count("\n") > 60:
            break
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    first, second = map(wait, processes)
    message = re.search(
        r"Received a signal to another process: saved a checkpoint at step ([\d,]+)\.", first
    )
    assert message, first
    assert "Received" not in second  # only the first process prints
    step = int(message[1].replace(",", ""))
    first, _ = train_in_two_processes(config, "--workdir", run_dir, "--train.steps", step + 4)
    assert f"resuming from step {step:,}" in first


FAILS = """
import sys
from lstm_jax.training.parallel import processes
processes.SECONDS_TO_END = 2
if sys.argv[-1] == "1":
    from lstm_jax.training.errors import RunError
    from lstm_jax.training.run_dir import RunDir
    def sync(self):
        raise RunError("no room for the second process.")
    RunDir.sync = sync
"""


def test_a_process_that_fails_ends_the_others(tmp_path, config):
    config.write_text(config.read_text() + FAILS)
    first, second = start_two_processes(config, "--workdir", tmp_path / "run")
    assert "error: no room for the second process." in second.communicate(timeout=200)[1]
    assert "another task died" in first.communicate(timeout=200)[1]
    assert first.returncode != 0 != second.returncode


@pytest.mark.parametrize(
    ("environment", "is_one_of_several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, False),  # a batch script, outside srun
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a[1-2]"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, True),
    ],
)
def test_several_processes_are_detected_from_the_environment(environment, is_one_of_several):
    assert is_multi_process(environment) == is_one_of_several


def test_the_error_of_processes_that_cannot_connect_names_the_flags(monkeypatch):
    def initialize(*args, **kwargs):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(
        ConfigError,
        match=r"mesh\.coordinator_address.*coordinator_address.*--mesh\.coordinator-address HOST:PORT",
    ):
        start(Mesh(coordinator_address="auto"))
    start(Mesh())  # a single process
