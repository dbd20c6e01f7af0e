"""An experiment is one frozen dataclass. Imports nothing slow: ``--help`` must answer at once."""

import runpy
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin, get_type_hints

TaskName = Literal[
    "text", "adding", "copy", "temporal_order", "reber", "images", "piano_roll", "arrays"
]
NEED_A_PATH = ("images", "piano_roll", "arrays")


class ConfigError(ValueError):
    """What a person wrote cannot be run; the message says why and how to mend it."""


@dataclass(frozen=True)
class Model:
    """The network: an embedding for symbols, LSTM layers, a linear read-out."""

    cell: Literal["lstm", "rnn"] = "lstm"
    """The LSTM, or the plain tanh RNN that it is compared with."""
    hidden_size: int = 256
    """Units a layer and direction."""
    num_layers: int = 1
    """Layers."""
    bidirectional: bool = False
    """Reads in both directions; only where whole sequences are classified or measured."""
    embedding_size: int = 64
    """Size of the vector that stands for a symbol."""
    tied_embeddings: bool = False
    """Reads out with the embedding's own matrix; embedding_size must equal hidden_size."""
    dropout: float = 0.0
    """Share of activations dropped between layers and before the read-out."""
    input_dropout: float = 0.0
    """Share of the layers' inputs dropped."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate."""
    chrono: int | None = None
    """Longest dependency expected, in steps: spreads the forget biases up to it (chrono
    initialization), in place of forget_bias. lstm only."""

    def __post_init__(self) -> None:
        _types(self)
        _positive(self, "hidden_size", "num_layers", "embedding_size")
        _probability(self, "dropout")
        _probability(self, "input_dropout")
        if self.chrono is not None:
            _require(self, "chrono", self.chrono >= 2, "at least 2")
        if self.tied_embeddings:
            same = self.embedding_size == self.hidden_size
            _require(self, "embedding_size", same, f"hidden_size ({self.hidden_size}) when tied")


@dataclass(frozen=True)
class Data:
    """The task and its batches."""

    task: TaskName = "text"
    """text: predict the next symbol. adding, copy, temporal_order, reber: generated. images,
    piano_roll, arrays: from files."""
    path: Path | None = None
    """text: a UTF-8 file or a folder of .txt files, the last tenth held out (None: the corpus that
    comes with Python). images: a folder of IDX files. piano_roll: .mat or .npz. arrays: .npz."""
    unit: Literal["character", "word"] = "character"
    """text: what a symbol is."""
    vocabulary_size: int = 10_000
    """text in words: at most so many, the most frequent ones."""
    image_order: Literal["rows", "pixels", "permuted"] = "rows"
    """images: one row a step, one pixel a step, or the pixels in a fixed random order."""
    batch_size: int = 16
    """Sequences a batch."""
    sequence_length: int = 64
    """text: steps a batch, the state carried on. adding, copy, temporal_order, reber: steps of a
    sequence (copy: of the delay). Others: as the files have it."""
    reset_probability: float = 0.02
    """text: chance that a sequence starts a batch from a zero state; a model that never saw one in
    the middle of a text is lost when it is evaluated or prompted there."""
    held_out_sequences: int = 1000
    """adding, copy, temporal_order, reber: fresh sequences to evaluate on."""

    def __post_init__(self) -> None:
        _types(self)
        _positive(self, "batch_size", "sequence_length", "vocabulary_size", "held_out_sequences")
        _probability(self, "reset_probability")
        if self.task in NEED_A_PATH:
            _require(self, "path", self.path is not None, f"a path for the task {self.task!r}")


@dataclass(frozen=True)
class Optimizer:
    """How gradients become updates."""

    name: Literal["adamw", "adam", "sgd", "rmsprop", "lion"] = "adamw"
    """The rule."""
    learning_rate: float = 6e-3
    """At its peak."""
    schedule: Literal["constant", "cosine", "linear", "plateau"] = "cosine"
    """From the peak: stay, fall to 0 along a cosine or a line, or halve when the training loss has
    not improved for plateau_patience * eval_every steps."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises from 0."""
    plateau_patience: int = 3
    """plateau: in evaluation intervals."""
    weight_decay: float = 0.0
    """adamw, lion: decoupled, on matrices only."""
    momentum: float = 0.9
    """sgd, rmsprop."""
    clip_norm: float | None = 1.0
    """Gradients with a larger global norm are scaled down to it; None for no clipping."""

    def __post_init__(self) -> None:
        _types(self)
        _positive(self, "learning_rate", "plateau_patience")
        _probability(self, "momentum")
        _require(self, "warmup_steps", self.warmup_steps >= 0, "0 or more")
        _require(self, "weight_decay", self.weight_decay >= 0, "0 or more")
        if self.name not in ("adamw", "lion"):
            _require(
                self, "weight_decay", self.weight_decay == 0, f"0 with {self.name}, which has none"
            )
        if self.clip_norm is not None:
            _positive(self, "clip_norm")


@dataclass(frozen=True)
class Train:
    """The loop."""

    steps: int = 2400
    """Updates."""
    log_every: int = 200
    """Steps between progress lines."""
    eval_every: int = 800
    """Steps between evaluations."""
    checkpoint_every: int = 800
    """Steps between checkpoints; one is also saved at the end."""
    steps_per_dispatch: int = 10
    """Steps in one call of the compiled function; must divide the other numbers here."""
    patience: int | None = None
    """Stops early after so many evaluations without a better held-out loss; None never does."""

    def __post_init__(self) -> None:
        _types(self)
        numbers = ("steps", "log_every", "eval_every", "checkpoint_every")
        _positive(self, *numbers, "steps_per_dispatch")
        for name in numbers:
            divides = getattr(self, name) % self.steps_per_dispatch == 0
            n = self.steps_per_dispatch
            _require(self, name, divides, f"a multiple of train.steps_per_dispatch ({n})")
        aligned = self.checkpoint_every % self.log_every == 0
        n = self.log_every
        _require(self, "checkpoint_every", aligned, f"a multiple of train.log_every ({n})")
        if self.patience is not None:
            _positive(self, "patience")


@dataclass(frozen=True)
class Sample:
    """Text written at each evaluation, from a fixed prompt and seed."""

    prompt: str = "The "
    """What it starts from."""
    length: int = 400
    """Symbols to add."""
    temperature: float = 0.7
    """Below 1 the likely is drawn more often, above 1 less often."""
    top_k: int | None = None
    """Draws from the k likeliest only; None from all."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        _types(self)
        _positive(self, "length", "temperature")
        _require(self, "prompt", self.prompt != "", "at least one character")
        if self.top_k is not None:
            _positive(self, "top_k")


@dataclass(frozen=True)
class Experiment:
    """Trains an LSTM on a task; see configs/ for examples."""

    name: str = "char_lm"
    """What to call it."""
    seed: int = 0
    """Every random draw follows from it."""
    workdir: Path | None = None
    """The run folder; None is runs/NAME. The same command again resumes from there."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    sample: Sample = field(default_factory=Sample)

    def __post_init__(self) -> None:
        _types(self)
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed: expected 0 to {2**31 - 1}, got {self.seed}.")
        if self.model.bidirectional and self.data.task not in (
            "adding",
            "temporal_order",
            "images",
            "arrays",
        ):
            raise ConfigError(
                f"model.bidirectional: expected False for the task {self.data.task!r}, which predicts "
                "what comes next: read backward, it would be seen."
            )
        if self.model.tied_embeddings and self.data.task != "text":
            raise ConfigError(
                f"model.tied_embeddings: expected False for the task {self.data.task!r}; only text has "
                "the same symbols on both sides."
            )

    @property
    def run_dir(self) -> Path:
        """Where the run leaves its files."""
        return self.workdir or Path("runs") / self.name


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


def _types(group: object) -> None:
    """Values are of the types that the fields say: a config file can hold anything."""
    for name, hint in get_type_hints(type(group)).items():
        value = getattr(group, name)
        if get_origin(hint) is Literal:
            allowed = get_args(hint)
            _require(group, name, value in allowed, f"one of {', '.join(allowed)}")
            continue
        kinds = get_args(hint) or (hint,)
        fits = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
        fits = fits and (not isinstance(value, bool) or bool in kinds)
        names = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
        _require(group, name, fits, f"{names}")


def _positive(group: object, *names: str) -> None:
    for name in names:
        _require(group, name, getattr(group, name) > 0, "a positive number")


def _probability(group: object, name: str) -> None:
    _require(group, name, 0.0 <= getattr(group, name) < 1.0, "a number in [0, 1)")


def _require(group: object, name: str, fulfilled: bool, expected: str) -> None:
    if not fulfilled:
        where = name if isinstance(group, Experiment) else f"{type(group).__name__.lower()}.{name}"
        raise ConfigError(f"{where}: expected {expected}, got {getattr(group, name)}.")
