"""For the tests of sweeps and searches: a config file to end as one likes, and runs that stand in."""

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
def text(tmp_path):
    """A short text in a file."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60, encoding="utf-8")
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


@pytest.fixture
def config(tmp_path):
    """Writes a config file that ends so."""

    def write(text):
        path = tmp_path / "c.py"
        path.write_text(CONFIG + text)
        return path

    return write


@pytest.fixture
def ran(monkeypatch):
    """Runs that stand in for training; their names."""
    from lstm_jax.training.sweeps.child import Children  # not before pytest's import hook is there

    names = []

    def run(self, experiment):
        names.append(experiment.run_dir.name)
        return stand_in(experiment)

    monkeypatch.setattr(Children, "run", run)
    return names


def stand_in(experiment):
    """Leaves behind what a run does; a learning rate above 1 diverges."""
    from lstm_jax.training.model import Sizes
    from lstm_jax.training.run_dir import RunDir

    folder, loss = RunDir(experiment.run_dir), 1 / experiment.model.hidden_size
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.start(experiment)
    folder.write_settings(experiment)
    folder.model_files.write(Sizes(0, 2, 1), "", None, print)
    for step in range(4, experiment.train.steps + 1, 4):
        if experiment.optimizer.learning_rate > 1:
            return "diverged"
        folder.log(step, {"eval/loss": loss / step, "eval/mse": loss / step})
    figures = {"eval/loss": loss / step, "eval/mse": loss / step, "test/mse": 2 * loss / step}
    folder.finish({"step": step, "metric": "mse", "metrics": figures, "seconds": 65.0})
    return "incomplete"


def table_in(folder):
    """The rows of sweep.md by their first column."""
    lines = (folder / "sweep.md").read_text().splitlines()
    head, _, *rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
