"""The run directory: which directories are accepted, and when a run is complete."""

import dataclasses
import json

import pytest

from lstm_jax.training.config import (
    ConfigError,
    Model,
    Optimizer,
    Sample,
)
from lstm_jax.training.loop import fit
from lstm_jax.training.model import Sizes
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.run_dir.lock import LOCK, SOFT_LOCK
from tests.training.runs import (
    create_run_dir,
    file_contents,
    small_config,
)

STRICT = False


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"model": Model(hidden_size=9)}, r"model\.hidden_size\b.*\b8\b.*\b9\b"),
        ({"seed": 4}, r"\bseed\b.*\b0\b.*\b4\b"),
        ({"name": "other"}, r"\bname\b.*\bsmall\b.*\bother\b"),
        ({"optimizer": Optimizer(name="sgd")}, r"optimizer\.name\b.*\badamw\b.*\bsgd\b"),
    ],
)
def test_a_run_dir_of_another_experiment_is_refused(tmp_path, change, names):
    experiment = small_config(tmp_path)
    create_run_dir(experiment)
    before = file_contents(experiment.run_dir)
    with pytest.raises(ConfigError, match=rf"workdir.*{experiment.run_dir}.*{names}"):
        fit(dataclasses.replace(experiment, **change))
    assert file_contents(experiment.run_dir) == before


def test_a_directory_with_other_files_is_refused(tmp_path):
    experiment = small_config(tmp_path)
    experiment.run_dir.mkdir()
    (experiment.run_dir / "thesis.tex").write_text("text")
    with pytest.raises(ConfigError, match=rf"workdir.*{experiment.run_dir}"):
        fit(experiment)
    assert [path.name for path in experiment.run_dir.iterdir()] == ["thesis.tex"]


def test_a_run_dir_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=rf"workdir.*{tmp_path}/file/run"):
        fit(small_config(tmp_path, "file/run"))


@pytest.mark.parametrize("names", [[LOCK], [LOCK, "config.json.new"], [LOCK, SOFT_LOCK]])
def test_a_run_killed_while_its_directory_was_created_starts_again(tmp_path, names):
    run = small_config(tmp_path)
    run.run_dir.mkdir()
    for name in names:
        (run.run_dir / name).write_text('{"nam' if name == "config.json.new" else "")
    assert fit(run) is not None


def test_a_new_run_dir_holds_its_experiment(tmp_path):
    run = small_config(tmp_path)
    create_run_dir(run)
    assert RunDir(run.run_dir).experiment() == run


@pytest.fixture
def complete(tmp_path):
    """A run directory whose result is that of its experiment, and the experiment."""
    experiment = small_config(tmp_path)
    create_run_dir(experiment)
    run_dir = RunDir(experiment.run_dir)
    run_dir.model_files.write(Sizes(0, 2, 1), "", None, pytest.fail)
    metrics = {"eval/loss": 0.5, "eval/mse": 0.5}
    run_dir.finish({"step": 24, "metric": "mse", "metrics": metrics, "seconds": 1.0})
    return run_dir, experiment


def test_a_result_is_valid_for_experiments_with_the_same_result(complete, tmp_path):
    run_dir, experiment = complete
    assert run_dir.result(experiment)["step"] == 24
    moved = dataclasses.replace(experiment, workdir=tmp_path / "moved", sample=Sample(length=5))
    assert run_dir.result(moved) is not None
    train = dataclasses.replace(experiment.train, steps=48)
    for change in ({"train": train}, {"seed": 1}):
        assert run_dir.result(dataclasses.replace(experiment, **change)) is None
    run_dir.start(experiment)
    assert run_dir.result(experiment) is None  # a run that was started again is not complete


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"step": 1, "metric": "mse", "seconds": 1}'])
def test_an_invalid_result_does_not_count(complete, content):
    run_dir, experiment = complete
    run_dir.file("result.json").write_text(content)
    assert run_dir.result(experiment) is None


def test_truncate_drops_lines_after_a_step(tmp_path):
    run_dir = RunDir(tmp_path)
    for step in (2, 4, 6):
        run_dir.log(step, {"train/loss": 1.0})
        run_dir.log(step, {"eval/loss": 2.0})
        run_dir.sample(step, "a")
    run_dir.truncate(4, evaluated=False, reproducible=False, warn=pytest.fail)
    steps = [(line["step"], "eval/loss" in line) for line in run_dir.metrics()]
    assert steps == [(2, False), (2, True), (4, False)]  # the evaluation of step 4 is repeated
    superseded = (tmp_path / "metrics.jsonl.superseded").read_text().splitlines()
    assert [json.loads(line)["step"] for line in superseded] == [4, 6, 6]
    assert (tmp_path / "samples.txt").read_text() == "=== step 2\na\n\n"
    assert (tmp_path / "samples.txt.superseded").read_text().count("=== step ") == 2


def test_other_processes_write_nothing(tmp_path):
    run_dir = RunDir(tmp_path, writes=False)
    run_dir.log(2, {"train/loss": 1.0})
    run_dir.event(2, "started")
    run_dir.sample(2, "a")
    run_dir.replace("curves.png", b"")
    run_dir.finish({})
    assert list(tmp_path.iterdir()) == []
