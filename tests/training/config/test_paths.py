"""Paths of an experiment: expansion, and paths that are not local."""

from pathlib import Path

import pytest

from lstm_jax.training.config import (
    ConfigError,
    Data,
    Experiment,
)

STRICT = False


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("s3://bucket/run", r"s3://bucket/run"),
        ("gs:/bucket/run", r"gs://bucket/run"),
        ("~nobody_of_this_name/run", r"~nobody_of_this_name/run"),
    ],
)
def test_paths_that_are_not_local(path, names):
    with pytest.raises(ConfigError, match=rf"^workdir .*{names}"):
        Experiment(workdir=Path(path))
    with pytest.raises(ConfigError, match=rf"^data\.path .*{names}"):
        Data(path=Path(path))


def test_paths_are_expanded():
    assert Experiment(workdir=Path("~/run")).run_dir == Path.home() / "run"
    assert Data(path=Path("~/a.txt")).path == Path.home() / "a.txt"
    assert Experiment(name="x").run_dir == Path("runs/x")


def test_paths_may_be_strings():
    assert Data(path="a.txt").path == Path("a.txt")
    assert Experiment(workdir="runs/a").run_dir == Path("runs/a")


def test_a_tilde_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Experiment(workdir=Path("~/run")).run_dir == tmp_path / "run"
    assert Data(path=Path("~/text.txt")).path == tmp_path / "text.txt"
    assert Data(path=Path("name:text8")).path == Path("name:text8")
    with pytest.raises(ConfigError, match=r"workdir.*~nobody-of-that-name"):
        Experiment(workdir=Path("~nobody-of-that-name/run"))
