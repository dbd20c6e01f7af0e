"""A trained model, from its run folder."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from lstm_jax.training.checkpoint import Checkpoints
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.tasks import make_task
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.evaluation import figures_of, in_line, parts_of
from lstm_jax.training.model import SequenceModel, make_model
from lstm_jax.training.run import RunFolder
from lstm_jax.training.step import make_evaluation


@dataclass(frozen=True)
class Saved:
    """A run as it can be used again.

    Attributes:
      model: the network, an NNX module with the best parameters.
      params: those parameters as a dict, for ``nnx.merge(graphdef, params)``.
      graphdef: the network without its parameters.
      vocabulary: of a language model, else None.
      config: the experiment.
      step: when the parameters were the best.
    """

    model: SequenceModel
    params: Any
    graphdef: Any
    vocabulary: Vocabulary | None
    config: Experiment
    step: int


def load(run_dir: str | Path) -> Saved:
    """The best model of a run.

    Raises:
      ConfigError: if the folder holds no run, or no model was saved yet.
    """
    folder = RunFolder(Path(run_dir))
    experiment = folder.experiment()
    if not folder.file("best").is_dir():
        raise ConfigError(f"{run_dir} holds no model yet: it was not evaluated once.")
    graphdef, params = make_model(folder.sizes(), experiment.model, experiment.seed)
    best = Checkpoints(folder.file("best"), keep=1, read_only=True).newest(
        params, say=warnings.warn
    )
    if best is None:
        raise ConfigError(f"{run_dir} holds no model that is whole.")
    words = folder.file("vocabulary.json")
    return Saved(
        model=nnx.merge(graphdef, best.state),
        params=best.state,
        graphdef=graphdef,
        vocabulary=Vocabulary.load(words) if words.exists() else None,
        config=experiment,
        step=best.step,
    )


def evaluate_saved(run_dir: str | Path) -> Iterator[str]:
    """The best model's figures on the held-out data, and on the test part if there is one; in lines.

    Raises:
      ConfigError: as :func:`load` does, or if the data cannot be used any more.
    """
    saved = load(run_dir)
    task = make_task(saved.config.data, saved.config.seed)
    RunFolder(Path(run_dir)).check_data(task.fingerprint(), task.vocabulary)
    evaluate = make_evaluation(saved.graphdef, task)
    for part, name, chunks in parts_of(task):
        sums = evaluate(saved.params, chunks)
        assert sums is not None  # nothing stops it
        figures = figures_of(sums, task, part)
        yield f"best, of step {saved.step:,}: {name}: {in_line(figures, task, part)}"
