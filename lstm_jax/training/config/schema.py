"""An experiment is one frozen dataclass. Imports nothing slow: ``--help`` must answer at once."""

import difflib
import re
import runpy
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lstm_jax.training.errors import ConfigError

TaskName = Literal[
    "text", "adding", "copy", "temporal_order", "reber", "images", "piano_roll", "arrays"
]
NEED_A_PATH = ("images", "piano_roll", "arrays")
SOURCES = ("hf", "name")
SUBCOMMANDS = ("evaluate", "generate")


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
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; parameters, cell states and losses stay float32."""
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
    comes with Python); hf:NAME or hf:NAME:CONFIG of the Hugging Face Hub; name:text8, name:enwik8,
    name:wikitext-103, name:ptb. images: a folder of IDX files; name:mnist. piano_roll: .mat or .npz.
    arrays: .npz."""
    unit: Literal["character", "word", "token"] = "character"
    """text: what a symbol is; a token is what stands between spaces, for text that was split before."""
    vocabulary_size: int = 10_000
    """text in words or tokens: at most so many, the most frequent ones."""
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
    eval_sequences: int = 1000
    """adding, copy, temporal_order, reber: fresh sequences to evaluate on."""
    eval_batch_size: int | None = None
    """Sequences per evaluation batch. None: as many as training holds at once (batch_size divided by
    train.grad_accum_steps); for text at most 8 rows, or 64 for a text of 32 MB or more."""

    def __post_init__(self) -> None:
        _types(self)
        object.__setattr__(self, "path", local_path("data.path", self.path))
        _positive(self, "batch_size", "sequence_length", "vocabulary_size", "eval_sequences")
        _probability(self, "reset_probability")
        if self.eval_batch_size is not None:
            _positive(self, "eval_batch_size")
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
    decay_steps: int | None = None
    """cosine, linear: Step at which the learning rate reaches 0; None is train.steps."""
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
        if self.decay_steps is not None:
            _positive(self, "decay_steps")
            decays = self.schedule in ("cosine", "linear")
            _require(self, "decay_steps", decays, f"None with the schedule {self.schedule!r}")
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
    keep_last: int = 2
    """Number of recent checkpoints to keep. Keep at least 2, so that a corrupt one can be skipped."""
    keep_best: int = 2
    """Number of best models to keep. The best one of each checkpoint is kept as well."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Where the loss or the gradient is not finite: stop, or skip the update and count it."""
    grad_accum_steps: int = 1
    """Parts that a batch is cut into along its sequences, run one after the other to save memory; the
    update is that of the whole batch."""
    patience: int | None = None
    """Stops early after so many evaluations without a better held-out loss; None never does."""

    def __post_init__(self) -> None:
        _types(self)
        numbers = ("steps", "log_every", "eval_every", "checkpoint_every")
        _positive(
            self, *numbers, "steps_per_dispatch", "grad_accum_steps", "keep_last", "keep_best"
        )
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
class Log:
    """What is written beside metrics.jsonl."""

    tensorboard: bool = False
    """Figures for TensorBoard in the run folder (needs tensorboardX)."""
    wandb: str | None = None
    """Figures to this project of Weights & Biases (needs wandb)."""
    norms: bool = False
    """Norms of each parameter and its gradient among the figures."""
    profile: tuple[int, int] | None = None
    """Profiles the steps from the first to the second number, into the run folder; view with xprof."""

    def __post_init__(self) -> None:
        _types(self)
        if self.profile is not None:
            first, last = self.profile
            _require(
                self, "profile", 0 < first <= last, "two steps, the first not after the second"
            )


@dataclass(frozen=True)
class Mesh:
    """Many devices; a run may go on with others than it began with."""

    data: int | None = None
    """Devices over which the sequences of a batch are sharded. None is the largest number of devices
    that divides the batch."""
    model: int = 1
    """Devices that share out the hidden units of each layer, for layers too large for one device."""
    parameters: Literal["replicated", "sharded"] = "replicated"
    """sharded: parameters and the optimizer's state are split over the data devices (FSDP), and
    gathered a layer at a time."""
    axis_types: Literal["auto", "explicit"] = "auto"
    """Axis types of the mesh: XLA propagates shardings, or they are part of jax's types."""
    coordinator_address: str | None = None
    """HOST:PORT where several processes meet; auto: as the cluster says; None: so under srun, mpirun
    or on a TPU pod that names its workers, else one process."""
    num_processes: int | None = None
    """With HOST:PORT: how many processes."""
    process_id: int | None = None
    """With HOST:PORT: which of them this is, from 0."""

    def __post_init__(self) -> None:
        _types(self)
        _positive(self, "model")
        if self.data is not None:
            _positive(self, "data")
        if self.num_processes is not None:
            _positive(self, "num_processes")
        addressed = self.coordinator_address not in (None, "auto")
        for name in ("num_processes", "process_id"):
            said = getattr(self, name) is not None
            _require(
                self, name, said == addressed, "it together with mesh.coordinator_address HOST:PORT"
            )
        if self.process_id is not None:
            fits = 0 <= self.process_id < (self.num_processes or 0)
            _require(self, "process_id", fits, "0 to mesh.num_processes - 1")


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
    log: Log = field(default_factory=Log)
    mesh: Mesh = field(default_factory=Mesh)
    sample: Sample = field(default_factory=Sample)

    def __post_init__(self) -> None:
        _types(self)
        object.__setattr__(self, "workdir", local_path("workdir", self.workdir))
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
        if self.model.hidden_size % self.mesh.model:
            raise ConfigError(
                f"mesh.model: expected a divisor of model.hidden_size ({self.model.hidden_size}), got "
                f"{self.mesh.model}."
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


def local_path(name: str, path: Path | None) -> Path | None:
    """Returns a path with ``~`` expanded.

    Args:
      name: What to call it in an error.
      path: The path, or None.

    Raises:
      ConfigError: if it is a URL, or its home directory is unknown.

    >>> local_path("workdir", Path("s3://bucket/run"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lstm_jax.training.config.ConfigError: workdir: expected a local directory or file, got s3://bucket/run...
    """
    if path is None:
        return None
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", str(path))  # pathlib has made // to /
    if scheme:
        url = f"{scheme[1]}://{str(path)[scheme.end() :]}"
        raise ConfigError(
            f"{name}: expected a local directory or file, got {url}. Use a local one and copy it, for "
            "instance with `aws s3 sync`, `gcloud storage rsync` or `rclone sync`."
        )
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}: cannot expand {path}: {error}") from error


def named_source(path: Path) -> tuple[str, str] | None:
    """The kind and name of what is no path, though it stands in the place of one; else None.

    >>> named_source(Path("name:text8")), named_source(Path("hf:owner/set")), named_source(Path("a.txt"))
    (('name', 'text8'), ('hf', 'owner/set'), None)
    """
    kind, colon, name = path.as_posix().partition(":")
    return (kind, name) if colon and kind in SOURCES else None


@dataclass(frozen=True)
class Range:
    """What a search draws a field from: numbers from ``low`` to ``high``, whole ones if both are."""

    low: int | float
    high: int | float
    log: bool = False
    """Evenly in the logarithm: each order of magnitude as often as another."""

    def __post_init__(self) -> None:
        _types(self)
        _require(self, "high", self.low < self.high, f"more than low ({self.low})")
        if self.log:
            _require(self, "low", self.low > 0, "a positive number with log=True")


@dataclass(frozen=True)
class ConfigFile:
    """What a config file defines; ``sweep`` and ``search`` are looked at when they are asked for."""

    path: Path
    config: Experiment
    sweep: Any = None
    """A dict of fields to lists of values (a grid), or a list of dicts of fields to values."""
    search: Any = None
    """A dict of fields to a :class:`Range` or a list of values."""


def read_config(path: Path) -> ConfigFile:
    """Runs a config file and takes what it defines.

    Raises:
      ConfigError: if the file is missing, fails, or defines no ``config`` of the right type.
    """
    path = local_path("config file", path) or path
    if not path.is_file():
        near = difflib.get_close_matches(str(path), SUBCOMMANDS, n=1)
        hint = (
            f"Did you mean {near[0]}?" if near else f"The commands are {' and '.join(SUBCOMMANDS)}."
        )
        raise ConfigError(f"config file {path} not found. {hint}")
    if path.suffix != ".py":  # a text given by mistake must not be run as Python
        raise ConfigError(
            f"expected a config file (.py), got {path}; to train on it pass --data.path {path}."
        )
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)  # a config may import a module beside it, as a script may
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        said = f"{type(error).__name__}: {error}{_nearest_keyword(str(error))}"
        raise ConfigError(f"config file {path} failed: {said}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    config = names.get("config")
    if not isinstance(config, Experiment):
        raise ConfigError(
            f"config file {path}: expected it to define config = Experiment(...), got "
            f"{'nothing' if config is None else type(config).__name__}."
        )
    return ConfigFile(path, config, names.get("sweep"), names.get("search"))


def locate(experiment: Experiment) -> Experiment:
    """The experiment with ``data.path`` as it is from any folder.

    Raises:
      ConfigError: if nothing is there.
    """
    path = experiment.data.path
    if path is None or named_source(path):
        return experiment
    if not path.exists():
        raise ConfigError(
            f"data.path: cannot read {path}: no such file or folder (data sets are written name:NAME "
            "or hf:NAME)."
        )
    return replace(experiment, data=replace(experiment.data, path=path.resolve()))


def _nearest_keyword(error: str) -> str:
    """For a keyword that no group has, the one that was meant (from 3.13 on Python itself says it)."""
    wrong = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'$", error)
    group = globals().get(wrong[1]) if wrong else None
    if wrong is None or group is None:
        return ""
    near = difflib.get_close_matches(wrong[2], [f.name for f in fields(group)], n=1)
    return f". Did you mean '{near[0]}'?" if near else ""


def _types(group: object) -> None:
    """Checks that each value has the type of its field, after :func:`plain`."""
    for name, hint in get_type_hints(type(group)).items():
        object.__setattr__(group, name, plain(hint, getattr(group, name)))
        expected = type_error(hint, getattr(group, name))
        _require(group, name, expected is None, f"{expected}")


def plain(hint: Any, value: Any) -> Any:
    """Returns a value as Python has it: numbers of NumPy as Python's, 64.0 as 64 where the field is an int.

    >>> import numpy as np
    >>> plain(int, np.int64(64)), plain(int | None, np.float64(64.0)), plain(float, np.float32(0.5))
    (64, 64, 0.5)
    """
    if isinstance(value, tuple):
        return tuple(plain(int, item) for item in value)
    if getattr(value, "shape", None) == ():
        value = value.item()
    kinds = get_args(hint) or (hint,)
    is_int = int in kinds and float not in kinds
    return int(value) if is_int and isinstance(value, float) and value.is_integer() else value


def listed(values: Any) -> Any:
    """Returns an array of NumPy, or a list of its numbers, as a list of Python's; other values as they are.

    >>> import numpy as np
    >>> listed(np.arange(16, 64, 16)), listed([np.int64(16), "lstm"])
    ([16, 32, 48], [16, 'lstm'])
    """
    if getattr(values, "shape", ()):
        return values.tolist()
    if not isinstance(values, list | tuple):
        return values
    return [v.item() if getattr(v, "shape", None) == () else v for v in values]


def type_error(hint: Any, value: object) -> str | None:
    """What a field of this type takes, if the value is nothing of that kind.

    >>> type_error(float, 1), type_error(int | None, 1.5)
    (None, 'int or None')
    """
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        return None if value in allowed else f"one of {', '.join(allowed)}"
    kinds = tuple(get_origin(kind) or kind for kind in get_args(hint) or (hint,))
    fits = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
    if fits and (not isinstance(value, bool) or bool in kinds):
        return None
    return " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)


def _positive(group: object, *names: str) -> None:
    for name in names:
        _require(group, name, getattr(group, name) > 0, "a positive number")


def _probability(group: object, name: str) -> None:
    _require(group, name, 0.0 <= getattr(group, name) < 1.0, "a number in [0, 1)")


def _require(group: object, name: str, fulfilled: bool, expected: str) -> None:
    if not fulfilled:
        where = name if isinstance(group, Experiment) else f"{type(group).__name__.lower()}.{name}"
        raise ConfigError(f"{where}: expected {expected}, got {getattr(group, name)}.")
