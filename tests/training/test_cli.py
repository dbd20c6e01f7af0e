"""The command line: commands run in new processes, most errors in this process."""

import dataclasses
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lstm_jax
from lstm_jax.training.cli import Action, main, parse
from lstm_jax.training.config import read_config
from lstm_jax.training.registry import OPTIMIZERS, TASKS

STRICT = False

ROOT = Path(__file__).parent.parent.parent
QUICKSTART = ROOT / "configs" / "quickstart.py"
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
    """Runs ``python train.py ARGS``."""
    return subprocess.run(
        [sys.executable, "train.py", *args],
        cwd=ROOT, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def exit_code(*args):
    """Returns the exit code of ``python train.py ARGS``, run in this process."""
    try:
        return main(args, default_config=QUICKSTART)
    except SystemExit as ended:
        return ended.code


def one_message(capsys):
    """Returns what was written to stderr, without tyro's box and line breaks; stdout must be empty."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return " ".join(re.sub("[│─╭╮╰╯]+", "", printed.err).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a complete run, and its output."""
    parent = tmp_path_factory.mktemp("run")
    (parent / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 50)
    result = train(
        "--data.path", str(parent / "text.txt"), "--workdir", str(parent / "run"), *SMALL
    )
    assert result.returncode == 0, result.stderr
    return parent / "run", result.stdout


def test_a_small_run_prints_progress_baselines_metrics_and_a_sample(run):
    lines = run[1].splitlines()
    assert lines[:3] == [
        "quickstart: task text, 20 steps",
        "data     text.txt",
        "         2,025 characters for training, 225 for validation, vocabulary of 29",
    ]
    assert any(line.startswith("step 10/20  loss") and "grad_norm" in line for line in lines)
    evaluations = [line for line in lines if "  eval  loss" in line]
    assert len(evaluations) == 3
    assert all("5-gram baseline" in line for line in evaluations)
    assert "unigram baseline" in evaluations[-1]  # of the best checkpoint
    assert "Sample from the best model" in run[1]


def test_evaluate_prints_the_metrics_of_the_run(run):
    result = train("evaluate", str(run[0]))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in run[1]


def test_generate_warns_of_tokens_that_the_model_does_not_know(run, capsys):
    assert exit_code("generate", str(run[0]), "--prompt", "the \u20ac\u00df", "--length", "3") == 0
    assert "'\u20ac', '\u00df'" in capsys.readouterr().err


def test_generate_follows_its_flags(run, capsys):
    flags = ["--prompt", "the", "--length", "30", "--temperature", "0.5", "--top-k", "3"]

    def generated(seed):
        assert exit_code("generate", str(run[0]), *flags, "--seed", seed) == 0
        return capsys.readouterr().out

    first = generated("1")
    assert generated("1") == first != generated("2")
    assert first.startswith("the")
    assert len(first.rstrip("\n")) == 33


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["evaluate", "nowhere"], "nowhere"),
        (["generate", "nowhere"], "nowhere"),
        (["generate", "nowhere", "--temperature", "0"], "sample.temperature"),
        (["evaluate"], "RUN"),
        (["evaluate", "s3://bucket/run"], "s3://bucket/run"),
    ],
)
def test_mistakes_in_other_commands_exit_with_2(args, name, capsys):
    assert exit_code(*args) == 2
    assert name in one_message(capsys)


def shown_by(help_text):
    """Returns the help of every flag, without boxes and line breaks."""
    words = " ".join(help_text.replace("│", " ").split())
    flags = re.split(r"(?<!,) (?=--[a-z])", words)
    return {flag.split()[0].rstrip(","): flag for flag in flags}


def every_flag(group, prefix="--"):
    """Yields a flag and its default for each field of a dataclass and of nested dataclasses."""
    for field in dataclasses.fields(group):
        flag, value = f"{prefix}{field.name.replace('_', '-')}", getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from every_flag(value, f"{flag}.")
        else:
            yield flag, value


def help_of(capsys, *args):
    """Returns what ``python train.py ARGS`` prints, if it exits with 0."""
    assert exit_code(*args) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["train"]])
@pytest.mark.parametrize("config", ["quickstart", "adding"])
def test_help_shows_every_field_with_its_default(config, command, capsys):
    path = ROOT / "configs" / f"{config}.py"
    experiment = read_config(path).config
    flags = {**dict(every_flag(experiment)), **dict(every_flag(Action()))}
    assert len(flags) > 30
    for option in ("--help", "--help-verbose"):
        printed = help_of(capsys, *command, str(path), option)
        assert path.name in printed
        assert all(f"  {name}" in printed for name in ("train", "evaluate RUN", "generate RUN"))
        shown = shown_by(printed)
        for flag, value in flags.items():
            text = repr(value) if isinstance(value, str) and " " in value else str(value)
            assert f"(default: {text})" in shown[flag], flag
    for flag in flags:  # of --help-verbose
        assert len(shown[flag].split("(default")[0].split()) > 3, f"{flag} is not explained"


def test_help_shows_the_choices_of_the_tables(capsys):
    shown = shown_by(help_of(capsys, "--help"))
    assert f"{{{','.join(TASKS)}}}" in shown["--data.task"].replace(", ", ",")
    assert f"{{{','.join(OPTIMIZERS)}}}" in shown["--optimizer.name"]


def test_the_groups_of_help_are_in_the_order_of_their_use(capsys):
    boxes = re.findall(r"^\W*(\w+) options\W*$", help_of(capsys, "--help"), re.MULTILINE)
    assert boxes == ["model", "data", "optimizer", "train", "sample", "log", "mesh"]


@pytest.mark.parametrize("args", [["--help"], ["evaluate", "--help"], ["generate", "--help"]])
def test_help_fits_80_columns(args, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_of(capsys, *args).splitlines())) <= 80


def test_help_in_a_process_is_wrapped_without_ragged_lines_or_colours():
    """``tests/test_imports.py`` checks what is imported for it."""
    result = train("--help-verbose")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    boxes = [line for line in result.stdout.splitlines() if line.startswith("│")]
    assert {len(line) for line in boxes} == {80}
    ragged = [
        line
        for line, after in itertools.pairwise(line.strip("│").rstrip() for line in boxes)
        if line.startswith("       ") and after.startswith("       ")
        and len(f"{line} {after.split()[0]}") <= 77
    ]  # fmt: skip
    assert not ragged


def test_version(capsys):
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"lstm_jax {lstm_jax.__version__}\n"


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["--model.hiden-size", "3"], "--model.hidden-size"),
        (["--train.setps=4"], "--train.steps"),
        (["--hidden-size", "3"], "--model.hidden-size"),
        (["--sweeep"], "--sweep"),
        (["--model.hidden-size", "many"], "--model.hidden-size INT"),
        (["--model.dropout", "some"], "--model.dropout FLOAT"),
        (["--optimizer.clip-norm", "big"], "--optimizer.clip-norm {None}|FLOAT"),
        (["--search", "many"], "--search {None}|INT"),
        (["--search", "0"], "--search"),
        (["--sweep", "--dry-run"], "--sweep and --dry-run"),
        (["--sweep"], "--sweep"),
        (["--search", "3"], "--search"),
        (["--model.hidden-size", "0"], "model.hidden_size"),
        (["--model.cell", "gru"], "--model.cell"),
        (["--model.dropout", "1.5"], "model.dropout"),
        (["--train.steps", "25"], "train.steps_per_dispatch"),
        (["--data.path", "nowhere.txt"], "data.path"),
        (["--seed", "-1"], "seed"),
        (["--data.task", "arrays"], "data.path"),
        (["--data.sequence-length", "99999"], "data.sequence_length"),
        (["--model.tied-embeddings"], "model.embedding_size"),
        (["--model.bidirectional"], "model.bidirectional"),
        (["nowhere.py"], "nowhere.py"),
        (["train", "nowhere.py"], "nowhere.py"),
        (["generat", "run"], "generate"),
        (["--data.task", "sums"], "adding"),
        (["--optimizer.name", "adan"], "adamw"),
        (["--optimizer.momentum", "0.9"], "optimizer.momentum"),
        (["README.md"], "--data.path README.md"),
    ],
)
def test_mistakes_exit_with_2_and_one_message_and_write_nothing(args, name, tmp_path, capsys):
    assert exit_code(*args, "--workdir", str(tmp_path / "run")) == 2
    assert name in one_message(capsys)
    assert not (tmp_path / "run").exists()


def test_without_its_packages_the_trainer_says_what_to_install():
    script = "import sys; sys.modules['tyro'] = None; import runpy; runpy.run_path('train.py')"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "tyro" in result.stderr
    assert ".[train]" in result.stderr


def test_a_mistake_in_a_new_process_exits_with_2(tmp_path):
    result = train("--train.setps=4", "--workdir", str(tmp_path / "run"))
    assert (result.returncode, result.stdout) == (2, "")
    assert "--train.steps" in result.stderr
    assert not (tmp_path / "run").exists()


NUMBERS = np.random.default_rng(0).standard_normal((20, 6, 3))
NOT_FINITE = np.where(np.arange(3) == 1, np.nan, NUMBERS)


@pytest.mark.parametrize(
    ("content", "task", "name"),
    [
        (b"", "text", "got 0 "),
        (b"tiny text here", "text", "data.batch_size"),
        (b"a" * 5000, "text", "data.vocabulary_size"),
        (b"na\xefve" * 1000, "text", "byte 2"),
        (b"no zip", "arrays", ".npz"),
        ({"inputs": NUMBERS[0]}, "arrays", "inputs of shape (6, 3)"),
        ({"inputs": NUMBERS > 0}, "arrays", "dtype bool"),
        ({"inputs": NUMBERS, "lengths": np.full(20, 7)}, "arrays", "lengths[0] = 7"),
        ({"inputs": NUMBERS, "labels": np.full(20, -1)}, "arrays", "labels[0] = -1"),
        ({"inputs": NOT_FINITE}, "arrays", "inputs[0, 0, 1]"),
        ({"inputs": np.array([{}], object)}, "arrays", "data"),
    ],
)
def test_bad_data_exits_with_2_and_writes_nothing(tmp_path, capsys, content, task, name):
    path = tmp_path / "data"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            np.savez(file, **content)
    flags = ["--data.task", task, "--data.path", str(path), "--workdir", str(tmp_path / "run")]
    assert exit_code(*flags) == 2
    assert name in one_message(capsys)
    assert not (tmp_path / "run").exists()


def test_a_text_in_place_of_a_config_is_not_run(tmp_path, capsys):
    path = tmp_path / "my_text.txt"
    path.write_text(f"open({str(tmp_path / 'trapped')!r}, 'w')")
    assert exit_code(str(path)) == 2
    assert f"--data.path {path}" in one_message(capsys)
    assert not (tmp_path / "trapped").exists()


def test_a_config_that_is_not_python_exits_with_2(tmp_path, capsys):
    path = tmp_path / "c.py"
    path.write_text("learning_rate: 0.1", encoding="utf-8")
    assert main([str(path)], default_config=path) == 2
    path.write_text("{{ not Python", encoding="utf-8")
    assert main([str(path)], default_config=path) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == printed.count(str(path)) == 2


def test_a_run_dir_of_another_experiment_exits_with_2(run, capsys):
    before = (run[0] / "config.json").read_bytes()
    flags = ["--data.task", "adding", "--data.sequence-length", "16", "--workdir", str(run[0])]
    assert exit_code(*flags) == 2
    assert str(run[0]) in one_message(capsys)
    assert (run[0] / "config.json").read_bytes() == before


def test_a_changed_vocabulary_exits_with_2_and_leaves_the_run_unchanged(run, capsys):
    text = run[0].parent / "text.txt"
    content = text.read_text()
    before = {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()}
    text.write_text(content.replace("z", "Z"))
    flags = ["--data.path", str(text), "--workdir", str(run[0]), *SMALL]
    try:
        assert exit_code(*flags) == 2
    finally:
        text.write_text(content)
    message = one_message(capsys)
    assert "'Z'" in message
    assert "'z'" in message
    assert {path: path.read_bytes() for path in run[0].rglob("*") if path.is_file()} == before


def test_diverging_exits_with_1(tmp_path, capsys):
    diverging = [
        "--optimizer.name",
        "sgd",
        "--optimizer.learning-rate",
        "1e30",
        "--optimizer.warmup-steps",
        "0",
    ]
    flags = [*diverging, "--optimizer.clip-norm", "None", "--data.task", "adding", *SMALL]
    assert exit_code(*flags, "--workdir", str(tmp_path / "run")) == 1
    assert "optimizer.learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("evalute", r"\bevalute\b.*\bevaluate\?"),
        ("trian", r"\btrian\b.*\btrain\?"),
        ("x", r"\bx\b.*\btrain, evaluate, generate\b"),
    ],
)
def test_a_mistyped_command(word, names, capsys):
    assert exit_code(word, "runs/mine") == 2
    assert re.search(names, one_message(capsys))


def test_flags_override_the_config_file(tmp_path):
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


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket/run", "hdfs://host/run"])
def test_a_url_is_refused(tmp_path, monkeypatch, capsys, url):
    monkeypatch.chdir(tmp_path)
    for args in (["--workdir", url], ["--data.path", url], ["evaluate", url], ["generate", url]):
        assert exit_code(*args) == 2
        message = one_message(capsys)
        assert url in message
        assert "rclone sync" in message
    assert list(tmp_path.iterdir()) == []


def test_a_url_is_refused_before_anything_is_imported():
    script = (
        "import sys; sys.modules['flax'] = None\n"
        "from pathlib import Path; from lstm_jax.training.cli import main\n"
        "sys.exit(main(['evaluate', 's3://b/run'], Path('configs/quickstart.py')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "s3://b/run" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_the_file_system_is_one_line(tmp_path, capsys):
    name = str(tmp_path / ("x" * 300))
    for args in (["--workdir", name], ["--data.path", name], [name], ["evaluate", name]):
        assert exit_code(*args) in (1, 2)
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
