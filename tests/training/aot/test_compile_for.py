"""Training steps compiled for TPUs on a machine without them."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, TPU's compiler, is not installed"
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def compile_for(config, *args):
    """Returns the exit code, the lines on stdout, and stderr."""
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", config, "--compile-for", *args],
        cwd=config.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert sorted(config.parent.iterdir()) == [config]  # no run directory
    return done.returncode, done.stdout.splitlines(), done.stderr


def line_starting_with(lines, start):
    """Returns the only line with this start."""
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line.strip()


@needs_compiler
def test_data_parallelism_runs_the_kernel_and_sums_gradients_once(config):
    code, lines, _ = compile_for(config, "v5e:2x2")
    assert code == 0
    assert lines[0] == "tiny on v5e:2x2: 4 chips, TPU v5 lite"
    assert "l0f, l1f: tpu" in lines
    # [2048, 128] times four [128, 512] and one [128, 1000], twice that in the backward pass, and d_w_h
    # of the first step and of reset_state in two layers.
    flops = 3 * 2 * 32 * 64 * (4 * 128 * 512 + 128 * 1000) + 2 * 2 * 2 * 64 * 128 * 512
    assert line_starting_with(lines, "FLOPs").startswith(
        f"FLOPs per step, of matrix products: {flops:.3g},"
    )
    assert line_starting_with(lines, "all-reduce").endswith("2.0 MiB in total, outside time loops")
    assert line_starting_with(lines, "inside a time loop") == "inside a time loop: none"
    assert " of 15.75 GiB (arguments " in line_starting_with(lines, "memory per chip")
    assert lines[-1].startswith("fits: 15.7")


@pytest.mark.nightly
@needs_compiler
def test_fsdp_with_gradient_accumulation_gathers_outside_the_time_loops(config):
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
    assert line_starting_with(lines, "all-gather").endswith("outside time loops")
    assert line_starting_with(lines, "inside a time loop") == "inside a time loop: none"


@pytest.mark.nightly
@needs_compiler
def test_sharded_hidden_units_are_gathered_at_every_step(config):
    code, lines, _ = compile_for(config, "v6e:2x2", "--mesh.model", "2")
    assert code == 0
    inside = [line for line in lines if line.endswith("inside time loops")]
    gathered = [line for line in inside if line.startswith("  all-gather")]
    # h [32, 128] in bfloat16, in the forward pass, in both layers, at 32 steps
    assert gathered == ["  all-gather: 64 of 512.0 KiB in total, inside time loops"]
    assert line_starting_with(lines, "inside a time loop") != "inside a time loop: none"


@needs_compiler
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
def test_the_report_says_how_much_memory_is_missing(config, args, least):
    """A vocabulary of 20 million needs 57 GiB for parameters and two moments of 2 * 20e6 * 128 numbers."""
    code, lines, errors = compile_for(config, "v5e:2x2", *args)
    assert code == 1, errors
    assert "Traceback" not in errors
    needed = float(line_starting_with(lines, "memory per chip").split()[3].replace(",", ""))
    assert needed > least
    assert " of 15.75 GiB (arguments " in line_starting_with(lines, "memory per chip")
    assert lines[-1] == f"does not fit: {needed - 15.75:,.2f} GiB too large"


@needs_compiler
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
def test_an_unusable_slice_or_batch_exits_with_2(config, args, names):
    code, lines, errors = compile_for(config, *args)
    assert (code, lines) == (2, [])
    assert re.search(names, errors)
    assert errors.count("\n") == 1


EXAMPLES = "v4:2x2x4.*v5e:4x4.*v5p:2x2x4.*v6e:4x4.*tpu7x:2x2x1"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("v9:2x2", EXAMPLES),
        ("v5e", EXAMPLES),
        ("v5e:0x4", EXAMPLES),
        ("v5e:2x2x2", r"\b2\b.*\bv5e\b.*v5e:4x4"),
        ("v4:2x2", r"\b3\b.*\bv4\b.*v4:2x2x4"),
    ],
)
def test_the_error_for_an_unknown_slice_names_the_known_ones(config, capsys, name, known):
    assert main([str(config), "--compile-for", name], config) == 2
    assert re.search(f"--compile-for.*{known}.*'{name}'", capsys.readouterr().err)


def test_the_error_without_the_compiler_names_its_package(config, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(config), "--compile-for", "v5e:2x2"], config) == 2
    assert re.search(r"--compile-for.*lstm-jax\[tpu-aot\]", capsys.readouterr().err)


def test_compile_for_and_dry_run_exclude_each_other(config, capsys):
    assert main([str(config), "--compile-for", "v5e:2x2", "--dry-run"], config) == 2
    assert re.search("--compile-for.*--dry-run", capsys.readouterr().err)
