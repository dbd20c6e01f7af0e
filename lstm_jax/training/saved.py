"""A trained model, from its run folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx

from lstm_jax.training.checkpoint import Checkpoints
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.model import SequenceModel, Sizes, make_model
from lstm_jax.training.run import RunFolder


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
    best = folder.file("best")
    step = Checkpoints(best, keep=1).latest() if best.is_dir() else None
    if step is None:
        raise ConfigError(f"{run_dir} holds no model yet: it was not evaluated once.")
    sizes = Sizes(
        **{
            k: v
            for k, v in json.loads(folder.file("task.json").read_text()).items()
            if k in Sizes._fields
        }
    )
    graphdef, params = make_model(sizes, experiment.model, experiment.seed)
    params = Checkpoints(best, keep=1).restore(step, params)
    words = folder.file("vocabulary.json")
    return Saved(
        model=nnx.merge(graphdef, params),
        params=params,
        graphdef=graphdef,
        vocabulary=Vocabulary.load(words) if words.exists() else None,
        config=experiment,
        step=step,
    )
