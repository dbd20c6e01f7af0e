"""An experiment is one frozen dataclass. Standard library only: ``--help`` must answer at once."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


class ConfigError(ValueError):
    """What a person wrote cannot be run; the message says why and how to mend it."""


@dataclass(frozen=True)
class Model:
    """The network."""

    cell: Literal["lstm", "rnn"] = "lstm"
    """The LSTM, or the plain tanh RNN that it is compared with."""
    hidden_size: int = 256
    """Units a layer."""
    num_layers: int = 1
    """Layers."""
    embedding_size: int = 64
    """Size of the vector that stands for a symbol."""
    dropout: float = 0.15
    """Share of activations dropped between layers and before the output."""

    def __post_init__(self) -> None:
        _positive(self, "hidden_size", "num_layers", "embedding_size")
        _probability(self, "dropout")


@dataclass(frozen=True)
class Data:
    """The task and its batches."""

    task: Literal["text"] = "text"
    """text: predict the next character."""
    path: Path | None = None
    """A UTF-8 text file, its last tenth held out; None is the corpus that comes with Python."""
    batch_size: int = 16
    """Sequences a batch, each reading its own part of the corpus."""
    sequence_length: int = 64
    """Time steps a batch; the state is carried from one batch to the next."""

    reset_probability: float = 0.02
    """Chance that a sequence starts a batch from a zero state: a model that never saw one in the
    middle of a text is lost when it is evaluated or prompted there."""

    def __post_init__(self) -> None:
        _positive(self, "batch_size", "sequence_length")
        _probability(self, "reset_probability")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = 6e-3
    """At its peak."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0; it then falls to 0 along a cosine."""
    weight_decay: float = 0.0
    """Decoupled, on matrices only."""
    clip_norm: float = 1.0
    """Gradients with a larger global norm are scaled down to it."""

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "clip_norm")


@dataclass(frozen=True)
class Train:
    """The loop."""

    steps: int = 2400
    """Updates."""
    log_every: int = 200
    """Steps between progress lines."""
    eval_every: int = 800
    """Steps between evaluations on the held-out text."""
    steps_per_dispatch: int = 10
    """Steps in one call of the compiled function; must divide the other numbers here."""

    def __post_init__(self) -> None:
        _positive(self, "steps", "log_every", "eval_every", "steps_per_dispatch")
        for name in ("steps", "log_every", "eval_every"):
            if getattr(self, name) % self.steps_per_dispatch:
                raise ConfigError(
                    f"train.{name}: expected a multiple of train.steps_per_dispatch "
                    f"({self.steps_per_dispatch}), got {getattr(self, name)}."
                )


@dataclass(frozen=True)
class Experiment:
    """Trains an LSTM on a task; see configs/ for examples."""

    name: str = "char_lm"
    """What to call it."""
    seed: int = 0
    """Every random draw follows from it."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)


def read_config(path: Path) -> Experiment:
    """Runs a config file and takes its ``config``.

    Raises:
      ConfigError: if the file is missing, fails, or defines no ``config`` of the right type.
    """
    if not path.is_file():
        raise ConfigError(f"config file {path} not found.")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        raise ConfigError(f"config file {path} failed: {type(error).__name__}: {error}") from error
    config = names.get("config")
    if not isinstance(config, Experiment):
        raise ConfigError(
            f"config file {path}: expected it to define config = Experiment(...), got "
            f"{'nothing' if config is None else type(config).__name__}."
        )
    return config


def _positive(group: object, *names: str) -> None:
    for name in names:
        _require(group, name, getattr(group, name) > 0, "a positive number")


def _probability(group: object, name: str) -> None:
    _require(group, name, 0.0 <= getattr(group, name) < 1.0, "a number in [0, 1)")


def _require(group: object, name: str, fulfilled: bool, expected: str) -> None:
    if not fulfilled:
        where = f"{type(group).__name__.lower()}.{name}"
        raise ConfigError(f"{where}: expected {expected}, got {getattr(group, name)}.")
