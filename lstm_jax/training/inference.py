"""Trained models: loading them from a run directory, evaluating them, generating text."""

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
from lstm_jax.training.evaluation import describe, eval_metrics, make_evaluate, splits
from lstm_jax.training.losses import LOSSES, Loss
from lstm_jax.training.model import Carry, make_model, merge, split
from lstm_jax.training.parallel.layout import Layout
from lstm_jax.training.run_dir import RunDir


@dataclass(frozen=True)
class TrainedModel:
    """The best model of a run.

    Attributes:
      model: The model, an NNX module with the best parameters.
      params: These parameters as a dict.
      graphdef: The model without its parameters; ``nnx.merge(graphdef, params)`` is the model.
      vocabulary: The vocabulary of a language model, None of other models.
      config: The experiment.
      step: The step of the best parameters.
    """

    model: Any
    params: Any
    graphdef: Any
    vocabulary: Vocabulary | None
    config: Experiment
    step: int


def load(run_dir: str | Path, model: nnx.Module | None = None) -> TrainedModel:
    """Returns the best model of a run. Corrupt checkpoints are skipped with a warning.

    Args:
      run_dir: The run directory.
      model: A model of the same class and sizes, if one was passed to ``fit``.

    Raises:
      ConfigError: if the directory holds no run, no model was saved yet, or no model can be read.
      RunError: if the model is of another network than the code builds.
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
    model: nnx.Module | None = None,
    loss: Loss | None = None,
) -> Iterator[str]:
    """Yields lines with the best model's metrics on the validation data, and on the test data if any.

    Args:
      run_dir: The run directory.
      data_path: Where the data of the run is now; None is where it was.
      dataset: The dataset, if one was passed to ``fit``.
      model: A model of the same class and sizes, if one was passed to ``fit``.
      loss: The loss, if one was passed to ``fit``.

    Raises:
      ConfigError: as :func:`load`, or if the data is missing or has changed.
      RunError: as :func:`load`.
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
        assert sums is not None  # nothing interrupts it
        line = describe(eval_metrics(sums, dataset, part.name), dataset, part)
        yield f"best checkpoint: step {best.step:,}  {line}"


def generate(graphdef: Any, params: Any, vocabulary: Vocabulary, sample: Sample) -> str:
    """Returns ``sample.prompt``, continued by ``sample.length`` tokens.

    Raises:
      ConfigError: if the prompt holds no token.
    """
    ids = vocabulary.encode(sample.prompt)
    if not len(ids):
        raise ConfigError(f"the prompt {sample.prompt!r} holds no {vocabulary.unit}.")
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
    directory: RunDir, config: Experiment, model: nnx.Module | None
) -> tuple[Any, Checkpoint]:
    """Returns the model without its parameters, and the best parameters."""
    folder = directory.file("best")
    if not folder.is_dir():
        raise ConfigError(f"{directory.path} holds no model yet: it was not evaluated once.")
    if model is None:
        model = make_model(directory.model_files.sizes(), config.model, config.seed)
    graphdef, params = split(model)
    best, corrupt = Checkpoints(folder, read_only=True).restore_latest(params)
    for step, reason in corrupt.items():
        warnings.warn(
            f"the checkpoint {folder / str(step)} is corrupt, and was not used: {reason}",
            stacklevel=3,
        )
    if best is None:
        raise ConfigError(
            f"{folder} holds no model that can be read"
            f"{': all are corrupt. Restore them from a copy' if corrupt else ' yet'}."
        )
    if not best.verified:
        warnings.warn(
            f"the checkpoint {folder / str(best.step)} has no checksums: its numbers were not verified",
            stacklevel=3,
        )
    return graphdef, best
