"""Fixtures for tests of sweeps and searches: config files, and runs that do not train."""

import pytest

CONFIG = """
from lstm_jax.training.config import *
config = Experiment(
    name="tiny",
    model=Model(hidden_size=4),
    data=Data(task="adding", sequence_length=6, batch_size=4, eval_sequences=20),
    optimizer=Optimizer(name="sgd", schedule="constant", clip_norm=None, warmup_steps=0),
    train=Train(steps=8, log_every=4, eval_every=4, checkpoint_every=4, steps_per_dispatch=4),
    mesh=Mesh(data=1),
)
"""


@pytest.fixture
def write_config(tmp_path):
    """``write_config(text)``: the path of a config file that ends with a text."""

    def write(text):
        path = tmp_path / "c.py"
        path.write_text(CONFIG + text)
        return path

    return write


@pytest.fixture
def trained(monkeypatch):
    """Replaces training by :func:`fake_run`. The names of the runs, in order."""
    from lstm_jax.training.sweeps.child import (
        Children,  # after pytest has installed its import hook
    )
    from tests.training.sweeps.fake_runs import fake_run

    names = []

    def run(self, experiment):
        names.append(experiment.run_dir.name)
        return fake_run(experiment)

    monkeypatch.setattr(Children, "run", run)
    return names
