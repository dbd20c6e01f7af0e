"""The command line as a person meets it: in a process of its own."""

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training.cli import HowToRun, main, parse
from lstm_jax.training.config import ConfigError, Experiment, read_config

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
    "--train.checkpoint-every",
    "10",
    "--train.steps-per-dispatch",
    "5",
    "--mesh.data",
    "1",
]


def train(*args):
    return subprocess.run(
        [sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 50)
    result = train(
        "--data.path", str(folder / "text.txt"), "--workdir", str(folder / "run"), *SMALL
    )
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_a_small_run_prints_progress_baselines_figures_and_a_sample(run):
    lines = run[1].splitlines()
    assert lines[0] == "quickstart: text.txt"
    assert lines[1] == "2,025 characters to learn from, 225 held out, 29 symbols"
    assert any("step      10  loss" in line and "gradient norm" in line for line in lines)
    held_out = [line for line in lines if "held out: model" in line]
    assert len(held_out) == 3
    assert all("unigram baseline" in line and "5-gram baseline" in line for line in held_out)
    assert "a sample of the best model" in run[1]


def test_evaluate_prints_the_figures_of_the_run(run):
    result = train("evaluate", str(run[0]))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in run[1]


def test_generate_follows_its_flags(run):
    keywords = ["--prompt", "the", "--length", "30", "--temperature", "0.5", "--top-k", "3"]
    first, again, other = (
        train("generate", str(run[0]), *keywords, "--seed", seed) for seed in ("1", "1", "2")
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout == again.stdout != other.stdout
    assert first.stdout.startswith("the")
    assert len(first.stdout.rstrip("\n")) == 33


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", "nowhere"], "nowhere is no run folder"),
        (["generate", "nowhere"], "nowhere is no run folder"),
        (["generate", "nowhere", "--temperature", "0"], "sample.temperature: expected a positive"),
        (["evaluate"], "the run folder. (required)"),
    ],
)
def test_mistakes_in_other_commands(args, message):
    result = train(*args)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert "Traceback" not in result.stderr


def shown_by(help_text):
    """From every flag to what the help says of it; boxes and line breaks left out."""
    words = " ".join(help_text.replace("│", " ").split())
    flags = re.split(r"(?<!,) (?=--[a-z])", words)
    return {flag.split()[0].rstrip(","): flag for flag in flags}


def every_flag(group, prefix="--"):
    """All fields of a dataclass and of those inside it, as flags, with their values."""
    for field in dataclasses.fields(group):
        flag, value = f"{prefix}{field.name.replace('_', '-')}", getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from every_flag(value, f"{flag}.")
        else:
            yield flag, value


@pytest.mark.parametrize("config", ["quickstart", "adding"])
def test_help_shows_every_field_with_the_default_that_the_config_gives_it(config, capsys):
    path = ROOT / "configs" / f"{config}.py"
    with pytest.raises(SystemExit) as ended:
        main(["--help"], default_config=path)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert str(path.name) in printed
    shown = shown_by(printed)
    flags = {**dict(every_flag(read_config(path).config)), **dict(every_flag(HowToRun()))}
    assert len(flags) > 30
    for flag, value in flags.items():
        text = repr(value) if isinstance(value, str) and " " in value else str(value)
        assert f"(default: {text})" in shown[flag], flag
        assert len(shown[flag].split("(default")[0].split()) > 2, f"{flag} is not explained"


def test_help_answers_at_once():
    """And on 80 columns, to a pipe."""
    best = float("inf")
    for _ in range(3):
        began = time.monotonic()
        result = train("--help")
        best = min(best, time.monotonic() - began)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert (
        best < 5
    )  # 0.8 s on a quiet machine; this says that nothing like Flax is imported, or Orbax
    script = "import sys; from lstm_jax.training import cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"flax", "orbax", "optax", "matplotlib", "scipy", "optuna", "tqdm"} & {*modules}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.hiden-size", "3"], "Perhaps you meant: --model.hidden-size INT"),
        (["--train.setps=4"], "Perhaps you meant: --train.steps INT"),
        (["--hidden-size", "3"], "Perhaps you meant: --model.hidden-size INT"),
        (["--sweeep"], "Perhaps you meant: --sweep"),
        (["--model.hidden-size", "many"], "Argument helptext: --model.hidden-size INT"),
        (["--model.dropout", "some"], "Argument helptext: --model.dropout FLOAT"),
        (["--optimizer.clip-norm", "big"], "--optimizer.clip-norm {None}|FLOAT"),
        (["--search", "many"], "--search {None}|INT"),
        (["--search", "0"], "--search: expected a positive number"),
        (["--sweep"], "quickstart.py defines none; add sweep = {"),
        (["--search", "3"], "quickstart.py defines none; add search = {"),
        (["--model.hidden-size", "0"], "model.hidden_size: expected a positive number, got 0"),
        (["--model.cell", "gru"], "Expected one of ('lstm', 'rnn')"),
        (["--model.dropout", "1.5"], r"model.dropout: expected a number in [0, 1), got 1.5"),
        (["--train.steps", "25"], "train.steps: expected a multiple of train.steps_per_dispatch"),
        (["--data.path", "nowhere.txt"], "data.path: cannot read nowhere.txt: no such file"),
        (["--seed", "-1"], "seed: expected 0 to 2147483647, got -1"),
        (["--data.task", "arrays"], "data.path: expected a path for the task 'arrays'"),
        (["--data.sequence-length", "99999"], "a batch reads 1599985: lower"),
        (["--model.tied-embeddings"], "model.embedding_size: expected hidden_size (256) when tied"),
        (["--model.bidirectional"], "model.bidirectional: expected False for the task 'text'"),
        (["nowhere.py"], "config file nowhere.py not found"),
    ],
)
def test_mistakes_exit_with_2_and_one_message_and_write_nothing(args, message, tmp_path):
    result = train(*args, "--workdir", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert result.returncode == 2
    said = re.sub("[│─]+", "", result.stderr)  # tyro draws a box
    assert message in " ".join(said.split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


NUMBERS = np.random.default_rng(0).standard_normal((20, 6, 3))
NOT_FINITE = np.where(np.arange(3) == 1, np.nan, NUMBERS)


@pytest.mark.parametrize(
    ("content", "task", "message"),
    [
        (b"", "text", "has 0 characters; at least 10 are needed"),
        (b"tiny text here", "text", "but a batch reads 1025: lower data.batch_size"),
        (b"a" * 5000, "text", "has 1 characters to tell apart"),
        (b"na\xefve" * 1000, "text", "is not UTF-8 (byte 2); convert it"),
        (b"no zip", "arrays", "no usable .npz file"),
        ({"inputs": NUMBERS[0]}, "arrays", "inputs of shape (6, 3)"),
        ({"inputs": NUMBERS > 0}, "arrays", "dtype bool"),
        (
            {"inputs": NUMBERS, "lengths": np.full(20, 7)},
            "arrays",
            "lengths[0] = 7; expected 2 to 6",
        ),
        ({"inputs": NUMBERS, "labels": np.full(20, -1)}, "arrays", "labels[0] = -1; expected 0 to"),
        ({"inputs": NOT_FINITE}, "arrays", "inputs[0, 0, 1] that is not finite"),
        ({"inputs": np.array([{}], object)}, "arrays", "it holds objects"),
    ],
)
def test_bad_data_exits_with_2_and_writes_nothing(tmp_path, capsys, content, task, message):
    path = tmp_path / "data"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            np.savez(file, **content)
    flags = ["--data.task", task, "--data.path", str(path), "--workdir", str(tmp_path / "run")]
    assert main(flags, default_config=ROOT / "configs" / "quickstart.py") == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_not_python_exits_with_2(tmp_path, capsys):
    path = tmp_path / "c.py"
    path.write_text("learning_rate: 0.1", encoding="utf-8")
    assert main([str(path)], default_config=path) == 2
    path.write_text("{{ not Python", encoding="utf-8")
    assert main([str(path)], default_config=path) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 2
    assert "failed: NameError" in printed or "got nothing" in printed
    assert "failed: SyntaxError" in printed


def test_a_folder_of_another_experiment_exits_with_2(run, capsys):
    before = (run[0] / "config.json").read_bytes()
    flags = ["--data.task", "adding", "--data.sequence-length", "16", "--workdir", str(run[0])]
    assert main(flags, default_config=ROOT / "configs" / "quickstart.py") == 2
    assert "belongs to another experiment" in capsys.readouterr().err
    assert (run[0] / "config.json").read_bytes() == before


def test_a_vocabulary_that_changed_exits_with_2_and_leaves_the_run_as_it_was(run, capsys):
    text = run[0].parent / "text.txt"
    content = text.read_text()
    before = {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()}
    text.write_text(content.replace("z", "Z"))
    flags = ["--data.path", str(text), "--workdir", str(run[0]), *SMALL]
    try:
        assert main(flags, default_config=ROOT / "configs" / "quickstart.py") == 2
    finally:
        text.write_text(content)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "the vocabulary had 29 symbols and has 29; new: 'Z'; gone: 'z'" in printed.err
    assert {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()} == before


def test_diverging_exits_with_1(tmp_path, capsys):
    wild = [
        "--optimizer.name",
        "sgd",
        "--optimizer.learning-rate",
        "1e30",
        "--optimizer.warmup-steps",
        "0",
    ]
    flags = [*wild, "--optimizer.clip-norm", "None", "--data.task", "adding", *SMALL]
    code = main([*flags, "--workdir", str(tmp_path / "run")], ROOT / "configs" / "quickstart.py")
    assert code == 1
    assert "gave a loss of" in capsys.readouterr().err


@pytest.mark.usefixtures("unannotated")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = ", "failed: SyntaxError"),
        ("import nothing_here", "failed: ModuleNotFoundError"),
        ("settings = 1", "to define config = Experiment.*got nothing"),
        ("config = {}", "got dict"),
        ("\0", "failed: (SyntaxError|ValueError)"),
        (
            "from lstm_jax.training.config import *; config = Experiment(model=Model(hiden_size=3))",
            "failed: TypeError: .*hiden_size.*Did you mean 'hidden_size'",
        ),
        (
            "from lstm_jax.training.config import *; config = Experiment(model=Model(cell='gru'))",
            "model.cell: expected one of lstm, rnn, got gru",
        ),
        (
            "from lstm_jax.training.config import *; config = Experiment(train=Train(steps=1e3))",
            "train.steps: expected int, got 1000.0",
        ),
        (
            "from lstm_jax.training.config import *; config = Experiment(optimizer={})",
            "optimizer: expected Optimizer, got {}",
        ),
    ],
)
def test_config_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "c.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        parse([str(path)], default_config=path)


def test_the_command_line_goes_over_the_file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from lstm_jax.training.config import Experiment, Model\n"
        "config = Experiment(name='mine', model=Model(hidden_size=7, num_layers=3))"
    )
    request = parse([str(path), "--model.num-layers", "2"], default_config=Path("none.py"))
    experiment = request.experiment
    assert (experiment.name, experiment.model.hidden_size, experiment.model.num_layers) == (
        "mine",
        7,
        2,
    )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.name)
def test_every_config_can_be_read(path, tmp_path):
    experiment = parse(["--data.path", str(tmp_path)], default_config=path).experiment
    assert isinstance(experiment, Experiment)
    assert experiment.name == path.stem
