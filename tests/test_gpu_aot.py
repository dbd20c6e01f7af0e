"""Kernel launches per time step of programs compiled for an NVIDIA H100, with its compiler but no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_static
from tests.compilation import CONFIG

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(
        not gpu_static.is_installed(),
        reason="the GPU compiler is not installed: pip install 'lstm-jax[gpu-aot]'",
    ),
]
LOOPS = {"forward": 1, "forward + backward": 2}
LIMITS = {"forward": 2.75, "forward + backward": 6.75}


def run(folder, *options):
    """Returns the rows of the benchmark, from a process that compiles with default options."""
    file = folder / "rows.json"
    fast = {"XLA_FLAGS", *(name.upper() for name in CONFIG)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_static", *options, "--json", str(file)],
        cwd=Path(__file__).parents[1],
        env={name: value for name, value in os.environ.items() if name not in fast},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {row["pass"]: row for row in json.loads(file.read_text())}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Returns the rows of one shape, by pass."""
    options = ["--sizes", "64,512", "--dtypes", "bfloat16", "--programs", "jit"]
    return run(tmp_path_factory.mktemp("gpu_static"), *options)


def test_loop_graphs_leave_no_loop_to_the_host(rows, tmp_path):
    """The host runs no loop in the rows "loop graphs" of ``benchmarks.gpu speed``."""
    options = ["--sizes", "64,512", "--dtypes", "bfloat16", "--programs", "graphs"]
    graphs = run(tmp_path, *options)
    for name, loops in LOOPS.items():
        assert rows[name]["host_loops"] == loops
        assert graphs[name]["host_loops"] == 0


def test_a_training_step_on_eight_gpus_sums_gradients_once(tmp_path):
    """The only communication is the sum of gradients, outside of the time loops."""
    rows = run(tmp_path, "--programs", "trainer")
    assert rows["training step"]["launches_per_step"] <= 6.75
    assert rows["training step"]["collectives"] == []
    sent = rows["the same on 8"]["collectives"]
    assert {c["kind"] for c in sent} == {"all-reduce"}
    assert {tuple(c["loops"]) for c in sent} == {("jit(train_steps)/while",)}  # over training steps
    assert len(sent) <= 2  # the gradients, and the sum of the weights of the loss


@pytest.mark.parametrize("name", LIMITS)
def test_a_time_step_has_few_launches(rows, name):
    assert rows[name]["launches_per_step"] <= LIMITS[name]


@pytest.mark.parametrize("name", LIMITS)
def test_no_memcpy_of_a_time_loop_has_an_address_that_depends_on_the_step(rows, name):
    """Such a memcpy keeps XLA from capturing the loop as one CUDA graph."""
    assert [loop["dynamic_memcpys"] for loop in rows[name]["loops"]] == [0] * LOOPS[name]
