"""Runs that write files as training does, without training, and the table of a sweep."""

from lstm_jax.training.model import Sizes
from lstm_jax.training.run_dir import RunDir


def fake_run(experiment):
    """Writes the files of a complete run. A learning rate above 1 diverges.

    The validation loss falls with ``model.hidden_size`` and with the steps.
    """
    run_dir, loss = RunDir(experiment.run_dir), 1 / experiment.model.hidden_size
    run_dir.path.mkdir(parents=True, exist_ok=True)
    run_dir.start(experiment)
    run_dir.write_settings(experiment)
    run_dir.model_files.write(Sizes(0, 2, 1), "", None, print)
    for step in range(4, experiment.train.steps + 1, 4):
        if experiment.optimizer.learning_rate > 1:
            return "diverged"
        run_dir.log(step, {"eval/loss": loss / step, "eval/mse": loss / step})
    metrics = {"eval/loss": loss / step, "eval/mse": loss / step, "test/mse": 2 * loss / step}
    run_dir.finish({"step": step, "metric": "mse", "metrics": metrics, "seconds": 65.0})
    return "incomplete"


def read_table(directory):
    """Returns the rows of sweep.md by their first column."""
    lines = (directory / "sweep.md").read_text().splitlines()
    head, _, *rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if "|" in line]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
