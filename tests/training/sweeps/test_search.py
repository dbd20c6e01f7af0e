"""The search: Optuna chooses, the runs are a sweep's."""

import builtins
import json
import re

import pytest

from lstm_jax.training.cli import main
from lstm_jax.training.run_dir import RunDir
from lstm_jax.training.sweeps.child import Children
from tests.training.conftest import stand_in, table_in

STRICT = False
SPACE = """
search = {
    "optimizer.learning_rate": Range(1e-4, 1e-1, log=True),
    "model.hidden_size": Range(2, 9),
    "optimizer.name": ["sgd", "adam"],
}
"""


def search(path, folder, trials, *flags):
    args = [str(path), "--search", str(trials), "--workdir", str(folder), *flags]
    return main(args, default_config=path)


def test_without_optuna(config, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert search(config(SPACE), tmp_path / "w", 1) == 2
    assert re.search(r"--search.*\[search\]", capsys.readouterr().err)
    assert not (tmp_path / "w").exists()


def test_mistakes_are_seen_before_anything_runs(config, tmp_path, capsys):
    path = config('search = {"model.droput": Range(0.0, 0.5)}')
    assert search(path, tmp_path / "w", 1) == 2
    assert re.search(r"model\.droput\b.*model\.dropout\b", capsys.readouterr().err)
    assert not (tmp_path / "w").exists()


def test_a_search_goes_on_where_it_was(config, tmp_path, ran, capsys):
    pytest.importorskip("optuna")
    path, folder = config(SPACE), tmp_path / "w"
    assert search(path, folder, 3) == 0
    assert capsys.readouterr().out.startswith("3 runs, 0 complete, 3 remaining")
    assert len(ran) == len({*ran}) == 3
    assert search(path, folder, 5) == 0
    assert len(ran) == len({*ran}) == 5  # a sampler that began anew would draw the first again
    assert capsys.readouterr().out.startswith("5 runs, 3 complete, 2 remaining")
    assert search(path, folder, 5) == 0
    assert len(ran) == 5
    rows = table_in(folder)
    assert [*rows] == ran
    for name in ran:
        result = json.loads((folder / name / "result.json").read_text())
        assert rows[name]["validation loss"] == f"{result['metrics']['eval/loss']:.4f}"
        experiment = RunDir(folder / name).experiment()
        assert 1e-4 <= experiment.optimizer.learning_rate <= 1e-1
        assert 2 <= experiment.model.hidden_size <= 9
    assert (folder / "sweep.png").exists()


def test_a_trial_that_was_stopped_is_run_to_its_end(
    config,
    tmp_path,
    ran,
    monkeypatch,
):
    pytest.importorskip("optuna")
    path, folder, begun = config(SPACE), tmp_path / "w", []

    def stopped(self, experiment):
        begun.append(experiment.run_dir.name)
        self.stopped = len(begun) == 2
        return "stopped" if self.stopped else stand_in(experiment)

    with monkeypatch.context() as patch:
        patch.setattr(Children, "run", stopped)
        assert search(path, folder, 3) == 0
    assert len(begun) == 2
    assert search(path, folder, 3) == 0
    assert ran[0] == begun[1]
    assert len(ran) == 2


def test_a_trial_that_failed_is_counted_and_said(config, tmp_path, ran, capsys):
    pytest.importorskip("optuna")
    path = config('search = {"optimizer.learning_rate": [9.0], "train.steps": [8, 9]}')
    assert search(path, tmp_path / "w", 6) == 1
    statuses = {row["status"] for row in table_in(tmp_path / "w").values()}
    assert statuses == {"diverged", "cannot be run"}
    assert "train.steps_per_dispatch" in capsys.readouterr().out
    count = len(ran)
    assert search(path, tmp_path / "w", 6) == 1
    assert len(ran) == count


def test_another_space_needs_another_folder(config, tmp_path, ran, capsys):
    pytest.importorskip("optuna")
    assert search(config('search = {"seed": [1, 2]}'), tmp_path / "w", 1) == 0
    assert search(config('search = {"seed": [1, 3]}'), tmp_path / "w", 2) == 2
    assert re.search("search.*--workdir", capsys.readouterr().err)
    assert len(ran) == 1
