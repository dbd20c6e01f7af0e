"""Searches with Optuna."""

import builtins
import json
import re

import pytest

from lstm_jax.training.cli import main
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.sweeps.child import Children
from tests.training.sweeps.fake_runs import fake_run, read_table

STRICT = False
SPACE = """
search = {
    "optimizer.learning_rate": Range(1e-4, 1e-1, log=True),
    "model.hidden_size": Range(2, 9),
    "optimizer.name": ["sgd", "adam"],
}
"""


def search(path, workdir, trials, *flags):
    """Returns the exit code of a search."""
    args = [str(path), "--search", str(trials), "--workdir", str(workdir), *flags]
    return main(args, default_config=path)


def test_the_error_without_optuna_names_the_extra(write_config, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert search(write_config(SPACE), tmp_path / "w", 1) == 2
    assert re.search(r"--search.*\[search\]", capsys.readouterr().err)
    assert not (tmp_path / "w").exists()


def test_mistakes_are_refused_before_anything_runs(write_config, tmp_path, capsys):
    path = write_config('search = {"model.droput": Range(0.0, 0.5)}')
    assert search(path, tmp_path / "w", 1) == 2
    assert re.search(r"model\.droput\b.*model\.dropout\b", capsys.readouterr().err)
    assert not (tmp_path / "w").exists()


def test_a_search_resumes(write_config, tmp_path, trained, capsys):
    pytest.importorskip("optuna")
    path, workdir = write_config(SPACE), tmp_path / "w"
    assert search(path, workdir, 3) == 0
    assert capsys.readouterr().out.startswith("3 runs, 0 complete, 3 remaining")
    assert len(trained) == len({*trained}) == 3
    assert search(path, workdir, 5) == 0
    # A sampler that started again would repeat its first trials.
    assert len(trained) == len({*trained}) == 5
    assert capsys.readouterr().out.startswith("5 runs, 3 complete, 2 remaining")
    assert search(path, workdir, 5) == 0
    assert len(trained) == 5
    rows = read_table(workdir)
    assert [*rows] == trained
    for name in trained:
        result = json.loads((workdir / name / "result.json").read_text())
        assert rows[name]["validation loss"] == f"{result['metrics']['eval/loss']:.4f}"
        experiment = RunDir(workdir / name).experiment()
        assert 1e-4 <= experiment.optimizer.learning_rate <= 1e-1
        assert 2 <= experiment.model.hidden_size <= 9
    assert (workdir / "sweep.png").exists()


def test_a_stopped_trial_is_resumed(
    write_config,
    tmp_path,
    trained,
    monkeypatch,
):
    pytest.importorskip("optuna")
    path, workdir, started = write_config(SPACE), tmp_path / "w", []

    def stop_second_run(self, experiment):
        started.append(experiment.run_dir.name)
        self.stopped = len(started) == 2
        return "stopped" if self.stopped else fake_run(experiment)

    with monkeypatch.context() as patch:
        patch.setattr(Children, "run", stop_second_run)
        assert search(path, workdir, 3) == 0
    assert len(started) == 2
    assert search(path, workdir, 3) == 0
    assert trained[0] == started[1]
    assert len(trained) == 2


def test_failed_trials_are_counted_and_reported(write_config, tmp_path, trained, capsys):
    pytest.importorskip("optuna")
    path = write_config('search = {"optimizer.learning_rate": [9.0], "train.steps": [8, 9]}')
    assert search(path, tmp_path / "w", 6) == 1
    statuses = {row["status"] for row in read_table(tmp_path / "w").values()}
    assert statuses == {"diverged", "cannot be run"}
    assert "train.steps_per_dispatch" in capsys.readouterr().out
    count = len(trained)
    assert search(path, tmp_path / "w", 6) == 1
    assert len(trained) == count


def test_another_space_needs_another_directory(write_config, tmp_path, trained, capsys):
    pytest.importorskip("optuna")
    assert search(write_config('search = {"seed": [1, 2]}'), tmp_path / "w", 1) == 0
    assert search(write_config('search = {"seed": [1, 3]}'), tmp_path / "w", 2) == 2
    assert re.search("search.*--workdir", capsys.readouterr().err)
    assert len(trained) == 1
