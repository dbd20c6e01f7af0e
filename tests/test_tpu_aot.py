"""Programs that are compiled for TPUs ahead of time, on a machine without a TPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, TPU's compiler, is not installed"
)
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
FORWARD_AND_GRADIENT = pytest.mark.parametrize("name", ["forward", "gradient"])


def compiled(*names):
    """Compiles ``tests.tpu_programs`` in a separate process, and returns their contents by name."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.tpu_programs", *names],
        cwd=Path(__file__).parents[1],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def programs():
    """Programs with one or two time loops, and a training step."""
    kinds = ["one chip", "jit", "shard_map", "explicit", "vmap", "fsdp"]
    names = [f"{kind}, {name}" for kind in kinds for name in ("forward", "gradient")]
    partitions = ["partition, batch", "partition, weights at rest"]
    return compiled(*names, *partitions, "scatter", "training, auto, sharded")


@pytest.fixture(scope="module")
def training_steps():
    """All training steps, each of which takes 12 seconds to compile."""
    axes = ("auto", "explicit")
    kinds = ("replicated", "sharded", "hidden")
    return compiled(*(f"training, {a}, {kind}" for a in axes for kind in kinds))


def test_one_chip_runs_the_kernel_and_no_loop_of_xla(programs):
    forward, gradient = programs["one chip, forward"], programs["one chip, gradient"]
    assert (forward["kernels"], forward["loops"]) == (1, 0)
    assert (gradient["kernels"], gradient["loops"]) == (2, 0)


@FORWARD_AND_GRADIENT
def test_a_partitioned_batch_runs_xla_without_communication_in_its_loops(programs, name):
    program = programs[f"jit, {name}"]
    assert program["kernels"] == 0
    assert program["loops"]
    assert program["in_loops"] == []


@FORWARD_AND_GRADIENT
def test_shard_map_runs_the_kernel_on_every_chip(programs, name):
    kernels = {"forward": 1, "gradient": 2}[name]
    assert programs[f"shard_map, {name}"]["kernels"] == kernels


@pytest.mark.parametrize("name", ["batch", "weights at rest"])
def test_a_partition_runs_the_kernel_on_every_chip(programs, name):
    program = programs[f"partition, {name}"]
    assert (program["kernels"], program["loops"]) == (2, 0)
    assert program["collectives"]


def check_training_step(program):
    """Checks that two layers have a forward and a backward kernel each, as predicted from the jaxpr."""
    assert program["kernels"] == 4
    assert program["backends"] == [["tpu", None]] * 2
    assert program["collectives"]
    assert program["in_loops"] == []


def test_a_training_step_runs_the_kernel_and_does_not_communicate_in_time_loops(programs):
    check_training_step(programs["training, auto, sharded"])


@pytest.mark.nightly
@pytest.mark.parametrize("axes", ["auto", "explicit"])
@pytest.mark.parametrize("parameters", ["replicated", "sharded"])
def test_every_training_step_runs_the_kernel(training_steps, axes, parameters):
    check_training_step(training_steps[f"training, {axes}, {parameters}"])


@pytest.mark.nightly
@pytest.mark.parametrize("axes", ["auto", "explicit"])
def test_sharded_hidden_units_are_gathered_in_every_step(training_steps, axes):
    program = training_steps[f"training, {axes}, hidden"]
    assert program["kernels"] == 0
    assert [backend for backend, _ in program["backends"]] == ["xla"] * 2
    assert program["in_loops"]


@FORWARD_AND_GRADIENT
def test_explicit_axes_compile_without_communication_in_their_loops(programs, name):
    assert programs[f"explicit, {name}"]["in_loops"] == []


@FORWARD_AND_GRADIENT
def test_vmap_over_layers_compiles(programs, name):
    assert programs[f"vmap, {name}"]["collectives"] == []


def test_a_scattered_sum_is_recognized(programs):
    """A scattered sum of a large array is a fusion around a sum in TPU programs."""
    kinds = programs["scatter"]["collectives"]
    assert "reduce-scatter" in kinds
    assert "all-reduce" not in kinds


@FORWARD_AND_GRADIENT
def test_weights_sharded_over_the_batch_axis_are_gathered_before_the_loop(programs, name):
    program = programs[f"fsdp, {name}"]
    assert program["collectives"]
    assert program["loops"]
    assert program["in_loops"] == []
