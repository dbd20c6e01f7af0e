"""Inference: loads trained models from run directories, evaluates them and generates text."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from lstm_jax.training.checkpointing.checkpoints import Checkpoint, Checkpoints
from lstm_jax.training.config import ConfigError, Experiment, Sample, local_path, locate
from lstm_jax.training.data import make_dataset
from lstm_jax.training.data.dataset import Dataset
from lstm_jax.training.data.vocabulary import Vocabulary
from lstm_jax.training.errors import RunError
from lstm_jax.training.evaluation import describe_best, eval_metrics, make_evaluate, splits
from lstm_jax.training.losses import LOSSES, Loss
from lstm_jax.training.model import Carry, ModelOrFunction, make_model, merge, split
from lstm_jax.training.parallel.layout import Layout
from lstm_jax.training.run_dir import RunDir


@dataclass(frozen=True)
class TrainedModel:
    """The best model of a run.

    Attributes:
      model: The model, an NNX module with the best parameters.
      params: The parameters as a dict.
      graphdef: The NNX graph definition; ``nnx.merge(graphdef, params)`` is the model.
      vocabulary: The vocabulary of a language model. None for other models.
      config: The experiment.
      step: The step of the best parameters.
    """

    model: Any
    params: Any
    graphdef: Any
    vocabulary: Vocabulary | None
    config: Experiment
    step: int


def load(run_dir: str | Path, model: ModelOrFunction | None = None) -> TrainedModel:
    """Loads the best model of a run. Corrupt checkpoints are skipped with a warning.

    Args:
      run_dir: The run directory.
      model: A model of the same class and sizes, or a function that returns it, if one was passed to
        ``fit``.

    Raises:
      ConfigError: If the directory is not a run directory, or has no model that can be read.
      RunError: If the saved parameters do not match the model.
    """
    directory = _open(run_dir)
    config = directory.experiment()
    graphdef, best = _best(directory, config, model)
    return TrainedModel(
        model=merge(graphdef, best.state),
        params=best.state,
        graphdef=graphdef,
        vocabulary=directory.model_files.vocabulary(),
        config=config,
        step=best.step,
    )


def evaluate(
    run_dir: str | Path,
    data_path: Path | None = None,
    *,
    dataset: Dataset | None = None,
    model: ModelOrFunction | None = None,
    loss: Loss | None = None,
) -> Iterator[str]:
    """Evaluates the best model of a run. Yields a line for the validation set and one for the test set.

    Args:
      run_dir: The run directory.
      data_path: New path of the data, if the data has moved. None is the path in the config.
      dataset: The dataset, if a dataset was passed to ``fit``.
      model: A model of the same class and sizes, if a model was passed to ``fit``.
      loss: The loss, if a loss was passed to ``fit``.

    Raises:
      ConfigError: As :func:`load`, or if the data is missing or has changed.
      RunError: As :func:`load`.
    """
    directory = _open(run_dir)
    config = directory.experiment()
    graphdef, best = _best(directory, config, model)
    if dataset is None:
        data = config.data if data_path is None else replace(config.data, path=data_path)
        dataset = make_dataset(locate(replace(config, data=data)))
    directory.model_files.check_data(dataset.fingerprint(), dataset.vocabulary)
    loss = LOSSES[dataset.loss] if loss is None else loss
    run = make_evaluate(graphdef, dataset, loss, Layout.single())
    for part in splits(dataset):
        sums = run(best.state, part.batches)
        assert sums is not None  # None is returned only if should_stop is given
        yield describe_best(best.step, eval_metrics(sums, dataset, part.name), dataset, part)


def generate(graphdef: Any, params: Any, vocabulary: Vocabulary, sample: Sample) -> str:
    """Returns ``sample.prompt`` followed by ``sample.length`` generated tokens.

    Raises:
      ConfigError: If the prompt has no tokens.
    """
    ids = vocabulary.encode(sample.prompt)
    if not len(ids):
        raise ConfigError(
            f"prompt must contain at least one {vocabulary.unit}, got {sample.prompt!r}."
        )
    top_k = min(sample.top_k or len(vocabulary), len(vocabulary) - 1)
    key = jax.random.key(sample.seed)
    drawn = _draw(graphdef, params, ids, sample.length, top_k, sample.temperature, key)
    prompt = sample.prompt.rstrip() if vocabulary.unit == "word" else sample.prompt
    return vocabulary.join([prompt, vocabulary.decode(drawn)])


@partial(jax.jit, static_argnames=("graphdef", "length", "top_k"))
def _draw(
    graphdef: Any,
    params: Any,
    ids: ArrayLike,
    length: int,
    top_k: int,
    temperature: ArrayLike,
    key: jax.Array,
) -> jax.Array:
    model = merge(graphdef, params)

    def draw(
        state: tuple[Carry, jax.Array], key: jax.Array
    ) -> tuple[tuple[Carry, jax.Array], jax.Array]:
        carry, logits = state
        logits = logits.at[0].set(-jnp.inf)  # never the unknown token
        likely, candidates = jax.lax.top_k(logits, top_k)
        drawn = candidates[jax.random.categorical(key, likely / temperature)]
        carry, outputs = model(drawn[None, None], carry)
        return (carry, outputs[0, 0]), drawn

    carry, outputs = model(jnp.asarray(ids)[:, None])
    _, drawn = jax.lax.scan(draw, (carry, outputs[-1, 0]), jax.random.split(key, length))
    return drawn


def _open(run_dir: str | Path) -> RunDir:
    return RunDir(local_path("RUN", Path(run_dir)))


def _best(
    directory: RunDir, config: Experiment, model: ModelOrFunction | None
) -> tuple[Any, Checkpoint]:
    """Returns the model without its parameters, and the best parameters."""
    folder = directory.file("best")
    if not folder.is_dir():
        raise ConfigError(
            f"{directory.path} has no saved model: no evaluation has finished. Resume the run first."
        )
    if model is None:
        made: Any = make_model(directory.model_files.sizes(), config.model, config.seed)
    else:
        made = model if isinstance(model, nnx.Module) else model(None)
    graphdef, params = split(made)
    try:
        best, corrupt = Checkpoints(folder, read_only=True).restore_latest(params)
    except RunError as error:
        hint = " If a model was passed to fit, pass it here, too." if model is None else ""
        raise RunError(f"{error}{hint}") from error
    for step, reason in corrupt.items():
        warnings.warn(
            f"the checkpoint {folder / str(step)} is corrupt and was skipped: {reason}",
            stacklevel=3,
        )
    if best is None:
        raise ConfigError(
            f"no model in {folder} can be read"
            f"{': all are corrupt. Restore them from a copy' if corrupt else ''}."
        )
    if not best.verified:
        warnings.warn(
            f"the checkpoint {folder / str(best.step)} has no checksums: its values were not verified",
            stacklevel=3,
        )
    return graphdef, best
