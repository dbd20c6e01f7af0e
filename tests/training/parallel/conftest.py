"""Data of tests on several devices."""

import numpy as np
import pytest

TEXT = "the quick brown fox jumps over the lazy dog. " * 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data groups: a text with a carried state, generated data, arrays with lengths."""
    from lstm_jax.training.config import Data  # after pytest has installed its import hook

    directory = tmp_path_factory.mktemp("data")
    text = directory / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.standard_normal((70, 5, 2)), "labels": np.arange(70) % 2}
    np.savez(directory / "own.npz", lengths=rng.integers(1, 6, 70), **arrays)
    return {
        "text": Data(path=text, batch_size=32, sequence_length=8, reset_probability=0.2),
        "generated": Data(
            task="temporal_order", sequence_length=20, batch_size=32, eval_sequences=9
        ),
        "arrays": Data(task="arrays", path=directory / "own.npz", batch_size=32),
    }
