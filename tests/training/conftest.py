"""Fixtures for tests of the trainer: texts, the data cache, an uninterrupted run."""

import pytest

TEXT = "the quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture
def text(tmp_path):
    """A short text in a file."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """The data cache of all tests, so that none writes into the user's home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_JAX_CACHE", str(tmp_path_factory.mktemp("data_cache")))
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The data cache of one test."""
    monkeypatch.setenv("LSTM_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The experiment of an uninterrupted run on a text. Tests copy its run directory."""
    from lstm_jax.training.loop import fit  # after pytest has installed its import hook
    from tests.training.runs import small_config, text_data

    parent = tmp_path_factory.mktemp("uninterrupted")
    (parent / "text.txt").write_text(TEXT, encoding="utf-8")
    config = small_config(parent, data=text_data(parent / "text.txt"))
    fit(config)
    return config
