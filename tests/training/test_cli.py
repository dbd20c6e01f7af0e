"""The command line as a person meets it: in a process of its own."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from lstm_jax.training.cli import parse
from lstm_jax.training.config import ConfigError, Experiment

STRICT = False

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "--model.hidden-size",
    "16",
    "--data.batch-size",
    "4",
    "--data.sequence-length",
    "16",
    "--train.steps",
    "20",
    "--train.log-every",
    "10",
    "--train.eval-every",
    "10",
    "--train.steps-per-dispatch",
    "5",
]


def train(*args):
    return subprocess.run(
        [sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_small_run_prints_progress_baselines_figures_and_a_sample(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 50)
    result = train("--data.path", str(path), *SMALL)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "char_lm: text.txt"
    assert lines[1] == "2,025 characters to learn from, 225 held out, 29 symbols"
    assert any(line.startswith("step     10  train") and "seconds" not in line for line in lines)
    held_out = [line for line in lines if "held out: model" in line]
    assert len(held_out) == 3
    assert all("unigram baseline" in line and "5-gram baseline" in line for line in held_out)
    assert "a sample at temperature 0.7" in result.stdout


def test_the_same_seed_prints_the_same_figures(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 50)
    first, again, other = (
        [
            line
            for line in train("--data.path", str(path), *SMALL, *more).stdout.splitlines()
            if "held out: " in line
        ][:2]
        for more in ([], [], ["--seed", "1"])
    )
    assert first == again != other


def test_help_answers_at_once_and_shows_every_field():
    began = time.monotonic()
    result = train("--help")
    assert time.monotonic() - began < 5  # about one second on a quiet machine
    assert result.returncode == 0
    for flag in (
        "--model.hidden-size",
        "--data.path",
        "--optimizer.learning-rate",
        "--train.steps",
    ):
        assert flag in result.stdout
    assert "char_lm.py" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.hiden-size", "3"], "hidden-size"),
        (["--model.hidden-size", "many"], "many"),
        (["--model.hidden-size", "0"], "model.hidden_size: expected a positive number, got 0"),
        (["--model.cell", "gru"], "rnn"),
        (["--model.dropout", "1.5"], r"model.dropout: expected a number in [0, 1), got 1.5"),
        (["--train.steps", "25"], "train.steps: expected a multiple of train.steps_per_dispatch"),
        (["--data.path", "nowhere.txt"], "data.path: cannot read nowhere.txt"),
        (["nowhere.py"], "config file nowhere.py not found"),
    ],
)
def test_mistakes_exit_with_2_and_one_message(args, message):
    result = train(*args)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", "").split())  # tyro draws a box
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = ", "failed: SyntaxError"),
        ("import nothing_here", "failed: ModuleNotFoundError"),
        ("settings = 1", "to define config = Experiment.*got nothing"),
        ("config = {}", "got dict"),
    ],
)
def test_config_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "c.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse([str(path)], default_config=path)


def test_the_command_line_goes_over_the_file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from lstm_jax.training.config import Experiment, Model\n"
        "config = Experiment(name='mine', model=Model(hidden_size=7, num_layers=3))"
    )
    experiment = parse([str(path), "--model.num-layers", "2"], default_config=Path("none.py"))
    assert (experiment.name, experiment.model.hidden_size, experiment.model.num_layers) == (
        "mine",
        7,
        2,
    )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.name)
def test_every_config_can_be_read(path):
    assert isinstance(parse([], default_config=path), Experiment)
