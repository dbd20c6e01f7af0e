"""A trained model, from its run directory."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flax import nnx

from lstm_jax.training.checkpointing.checkpoints import Checkpoint, Checkpoints
from lstm_jax.training.config import ConfigError, Experiment, local_path, locate
from lstm_jax.training.data.make import make_dataset
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.evaluation import eval_metrics, in_line, parts_of
from lstm_jax.training.model import SequenceModel, make_model
from lstm_jax.training.run_dir.run_dir import RunDir
from lstm_jax.training.train_step import make_evaluation


@dataclass(frozen=True)
class Saved:
    """A run, for inference.

    Attributes:
      model: The network, an NNX module with the best parameters.
      params: These parameters as a dict, for ``nnx.merge(graphdef, params)``.
      graphdef: The network without its parameters.
      vocabulary: Of a language model, else None.
      config: The experiment.
      step: The step of the best parameters.
    """

    model: SequenceModel
    params: Any
    graphdef: Any
    vocabulary: Vocabulary | None
    config: Experiment
    step: int


def load(run_dir: str | Path) -> Saved:
    """Returns the best model of a run. Corrupt checkpoints are skipped with a warning.

    Raises:
      ConfigError: if the directory holds no run, no model was saved yet, or no model can be read.
      RunError: if the model is of another network than the code builds.
    """
    folder = _open(run_dir)
    experiment = folder.experiment()
    graphdef, best = _best(folder, experiment)
    return Saved(
        model=nnx.merge(graphdef, best.state),
        params=best.state,
        graphdef=graphdef,
        vocabulary=folder.vocabulary() if experiment.data.task == "text" else None,
        config=experiment,
        step=best.step,
    )


def evaluate_saved(run_dir: str | Path, data_path: Path | None = None) -> Iterator[str]:
    """Yields lines with the best model's metrics on the validation set, and on the test set if there is one.

    Args:
      run_dir: The run directory.
      data_path: Where the data of the run is now; None is where it was.

    Raises:
      ConfigError: as :func:`load`, or if the data is missing or has changed.
      RunError: as :func:`load`.
    """
    folder = _open(run_dir)
    experiment = folder.experiment()
    graphdef, best = _best(folder, experiment)
    data = experiment.data if data_path is None else replace(experiment.data, path=data_path)
    task = make_dataset(locate(replace(experiment, data=data)))
    folder.check_data(task.fingerprint(), task.vocabulary)
    evaluate = make_evaluation(graphdef, task)
    for part, name, chunks in parts_of(task):
        sums = evaluate(best.state, chunks)
        assert sums is not None  # nothing stops it
        figures = eval_metrics(sums, task, part)
        yield f"best, of step {best.step:,}: {name}: {in_line(figures, task, part)}"


def _open(run_dir: str | Path) -> RunDir:
    path = Path(run_dir)
    return RunDir(local_path("RUN", path) or path)


def _best(folder: RunDir, experiment: Experiment) -> tuple[Any, Checkpoint]:
    """Returns the network without its parameters, and the best parameters."""
    if not folder.file("best").is_dir():
        raise ConfigError(f"{folder.path} holds no model yet: it was not evaluated once.")
    graphdef, params = make_model(folder.sizes(), experiment.model, experiment.seed)
    best, corrupt = Checkpoints(folder.file("best"), read_only=True).restore_latest(params)
    for step, reason in corrupt.items():
        warnings.warn(
            f"the checkpoint {folder.file('best') / str(step)} is corrupt, and was not used: {reason}",
            stacklevel=3,
        )
    if best is None:
        raise ConfigError(
            f"{folder.file('best')} holds no model that can be read"
            f"{': all are corrupt. Restore them from a copy' if corrupt else ' yet'}."
        )
    if not best.verified:
        warnings.warn(
            f"the checkpoint {folder.file('best') / str(best.step)} has no checksums: its numbers were "
            "not verified",
            stacklevel=3,
        )
    return graphdef, best
