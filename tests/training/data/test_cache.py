import errno
import os
from pathlib import Path

import pytest

from lstm_jax.training.data.cache import CacheError, atomic_path, cache_dir

STRICT = False
pytestmark = pytest.mark.usefixtures("cache")


def test_the_cache_directory(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("LSTM_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "lstm_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "lstm_jax"


def test_an_incomplete_file_does_not_replace_a_complete_one(tmp_path):
    path = tmp_path / "a"
    path.write_text("good")

    def write():
        with atomic_path(path) as new:
            new.write_text("hal")
            raise OSError(28, "No space left on device")

    with pytest.raises(
        CacheError, match=rf"data\.path.*{path}.*{os.strerror(errno.ENOSPC)}.*LSTM_JAX_CACHE"
    ):
        write()
    assert path.read_text() == "good"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("home", ["unknown", "url"])
def test_no_cache_directory(monkeypatch, home):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LSTM_JAX_CACHE")
    monkeypatch.setattr(Path, "home", unknown)
    if home == "url":
        monkeypatch.setenv("LSTM_JAX_CACHE", "s3://bucket/cache")
    with pytest.raises(CacheError, match="LSTM_JAX_CACHE"):
        cache_dir()
