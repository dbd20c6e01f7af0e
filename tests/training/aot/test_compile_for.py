"""Training steps compiled for TPUs that are not there, as a person asks for it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_jax.training.aot.compiled_step import GIB, memory_of_error
from lstm_jax.training.aot.slices import CHIPS, Slice
from lstm_jax.training.cli import main

STRICT = False
ROOT = Path(__file__).parents[3]
CONFIG = """
from lstm_jax.training.config import *
config = Experiment(
    name="tiny",
    model=Model(hidden_size=128, num_layers=2, embedding_size=128),
    data=Data(unit="word", vocabulary_size=1000, batch_size=64, sequence_length=32),
    train=Train(steps=8, log_every=4, eval_every=4, checkpoint_every=4, steps_per_dispatch=4),
)
"""
with_the_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, TPU's compiler, is not installed"
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def compile_for(config, *args):
    """The exit code, the lines, and what is on stderr."""
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", config, "--compile-for", *args],
        cwd=config.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert sorted(config.parent.iterdir()) == [config]  # no run folder
    return done.returncode, done.stdout.splitlines(), done.stderr


def starting(lines, beginning):
    (line,) = [line for line in lines if line.strip().startswith(beginning)]
    return line.strip()


@with_the_compiler
def test_data_parallelism_runs_the_kernel_and_sums_gradients_once(config):
    code, lines, _ = compile_for(config, "v5e:2x2")
    assert code == 0
    assert lines[0] == "tiny on v5e:2x2: 4 chips, TPU v5 lite"
    assert "l0f, l1f: tpu" in lines
    # [2048, 128] times four [128, 512] and one [128, 1000], and twice that backward; and d_w_h of the
    # first step and of reset_state, in two layers.
    flops = 3 * 2 * 32 * 64 * (4 * 128 * 512 + 128 * 1000) + 2 * 2 * 2 * 64 * 128 * 512
    assert starting(lines, "FLOPs").startswith(f"FLOPs per step, of matrix products: {flops:.3g},")
    assert starting(lines, "all-reduce").endswith("2.0 MiB in total, outside time loops")
    assert starting(lines, "inside a time loop") == "inside a time loop: none"
    assert " of 15.75 GiB (arguments " in starting(lines, "memory per chip")
    assert lines[-1].startswith("fits: 15.7")


@pytest.mark.nightly
@with_the_compiler
def test_fsdp_in_parts_gathers_outside_the_time_loops(config):
    args = [
        "--mesh.parameters",
        "sharded",
        "--train.grad_accum_steps",
        "2",
        "--model.hidden-size",
        "120",
    ]
    code, lines, _ = compile_for(config, "v5e:2x2", *args)
    assert code == 0
    assert "l0f, l1f: fused (H = 120 is not a multiple of 128)" in lines
    assert starting(lines, "all-gather").endswith("outside time loops")
    assert starting(lines, "inside a time loop") == "inside a time loop: none"


@pytest.mark.nightly
@with_the_compiler
def test_hidden_units_that_are_split_are_gathered_at_every_step(config):
    code, lines, _ = compile_for(config, "v6e:2x2", "--mesh.model", "2")
    assert code == 0
    inside = [line for line in lines if line.endswith("inside time loops")]
    gathered = [line for line in inside if line.startswith("  all-gather")]
    # h, forward, in both layers, at 32 steps; [32, 128] in bfloat16, as the product reads it
    assert gathered == ["  all-gather: 64 of 512.0 KiB in total, inside time loops"]
    assert starting(lines, "inside a time loop") != "inside a time loop: none"


@with_the_compiler
@pytest.mark.parametrize(
    ("args", "least"),
    [
        pytest.param(
            ["--data.batch-size", "65536", "--data.sequence-length", "256"],
            16,
            id="temporaries",
            marks=pytest.mark.nightly,
        ),
        pytest.param(["--data.vocabulary-size", "20000000"], 57, id="arguments"),
    ],
)
def test_too_much_memory_is_said_with_how_much(config, args, least):
    """Of the arguments alone: parameters and two moments of 2 * 20e6 * 128 numbers are 57 GiB."""
    code, lines, errors = compile_for(config, "v5e:2x2", *args)
    assert code == 1, errors
    assert "Traceback" not in errors
    needed = float(starting(lines, "memory per chip").split()[3].replace(",", ""))
    assert needed > least
    assert " of 15.75 GiB (arguments " in starting(lines, "memory per chip")
    assert lines[-1] == f"does not fit: {needed - 15.75:,.2f} GiB too large"


@with_the_compiler
@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["v5e:3x3"], r"--compile-for.*'v5e:3x3'.*INVALID_ARGUMENT"),
        (
            ["v5e:2x2", "--mesh.data", "4", "--data.batch-size", "63"],
            r"data\.batch_size.*\b4\b.*\b63\b",
        ),
    ],
)
def test_what_cannot_be_compiled_for_exits_with_2(config, args, names):
    code, lines, errors = compile_for(config, *args)
    assert (code, lines) == (2, [])
    assert re.search(names, errors)
    assert errors.count("\n") == 1


OF_EACH_GENERATION = "v4:2x2x4.*v5e:4x4.*v5p:2x2x4.*v6e:4x4.*tpu7x:2x2x1"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("v9:2x2", OF_EACH_GENERATION),
        ("v5e", OF_EACH_GENERATION),
        ("v5e:0x4", OF_EACH_GENERATION),
        ("v5e:2x2x2", r"\b2\b.*\bv5e\b.*v5e:4x4"),
        ("v4:2x2", r"\b3\b.*\bv4\b.*v4:2x2x4"),
    ],
)
def test_an_unknown_slice_names_those_that_are_known(config, capsys, name, known):
    assert main([str(config), "--compile-for", name], config) == 2
    assert re.search(f"--compile-for.*{known}.*'{name}'", capsys.readouterr().err)


def test_without_the_compiler_it_says_how_to_get_it(config, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(config), "--compile-for", "v5e:2x2"], config) == 2
    assert re.search(r"--compile-for.*lstm-jax\[tpu-aot\]", capsys.readouterr().err)


def test_one_thing_at_a_time(config, capsys):
    assert main([str(config), "--compile-for", "v5e:2x2", "--dry-run"], config) == 2
    assert re.search("--compile-for.*--dry-run", capsys.readouterr().err)


@pytest.mark.parametrize("name", CHIPS)
def test_slices_of_every_generation(name):
    slice_ = Slice(f"{name}:{CHIPS[name].example}")
    assert slice_.chips == {"v4": 16, "v5e": 16, "v5p": 16, "v6e": 16, "tpu7x": 4}[name]
    assert slice_.topology()["chips_per_host_bounds"] == (2, 2, 1)
    assert Slice("v5e:1x1").topology()["chips_per_host_bounds"] == (1, 1, 1)


def test_other_errors_of_the_compiler_are_not_about_memory():
    assert memory_of_error("INTERNAL: Mosaic failed", GIB) is None
    assert memory_of_error("RESOURCE_EXHAUSTED: in the sky", GIB) is None
