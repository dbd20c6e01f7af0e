"""The fields of an experiment. This module does not import JAX, so that ``--help`` is fast."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from lstm_jax.training.config.fields import (
    Fraction,
    Int,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    group,
)
from lstm_jax.training.config.paths import LocalPath
from lstm_jax.training.errors import ConfigError
from lstm_jax.training.registry import OPTIMIZERS, TASKS

if TYPE_CHECKING:
    TaskName = str
    OptimizerName = str
else:
    TaskName = Literal[tuple(TASKS)]
    OptimizerName = Literal[tuple(OPTIMIZERS)]


@group
class Model:
    """The network: embedding, recurrent layers and a linear output layer."""

    cell: Literal["lstm", "rnn"] = "lstm"
    """LSTM, or the plain tanh RNN for comparison."""
    hidden_size: PositiveInt = 256
    """Hidden units per layer and direction."""
    num_layers: PositiveInt = 1
    """Number of recurrent layers."""
    bidirectional: bool = False
    """Read sequences in both directions. Not for tasks that predict the next step."""
    embedding_size: PositiveInt = 64
    """Size of the token embeddings."""
    tied_embeddings: bool = False
    """Use the embedding matrix as the output layer (task text). Requires embedding_size ==
    hidden_size."""
    dropout: Fraction = 0.0
    """Probability of dropping an activation between layers and before the output layer."""
    input_dropout: Fraction = 0.0
    """Probability of dropping an input of the first layer."""
    forget_bias: float = 1.0
    """Initial bias of the forget gate."""
    chrono: Annotated[Int, Field(ge=2)] | None = None
    """Longest expected dependency in steps, for the chrono initialization of the forget and input
    gates. It replaces forget_bias. LSTM only."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype. Parameters, cell states and losses stay in float32."""

    @model_validator(mode="after")
    def _check(self) -> "Model":
        if self.tied_embeddings and self.embedding_size != self.hidden_size:
            raise ConfigError(
                f"model.embedding_size must be equal to model.hidden_size ({self.hidden_size}) if "
                f"model.tied_embeddings is True, got {self.embedding_size}."
            )
        return self


@group
class Data:
    """The task and its batches."""

    task: TaskName = "text"
    """text: predict the next token. adding, copy, temporal_order, reber: generated sequences. images,
    piano_roll, arrays: sequences from files. custom: the dataset that is passed to fit."""
    path: LocalPath | None = None
    """Data of the task. text: a UTF-8 file, a directory of .txt files, hf:NAME or hf:NAME:CONFIG for the
    Hugging Face Hub, or name:text8, name:enwik8, name:wikitext-103, name:ptb. None is the documentation
    that comes with Python. images: a directory of IDX files, or name:mnist. piano_roll: a .mat or .npz
    file. arrays: an .npz file."""
    unit: Literal["character", "word", "token"] = "character"
    """text: unit of the vocabulary. character, word, or token: a string between spaces, for text that is
    already tokenized."""
    vocabulary_size: PositiveInt = 10_000
    """text with unit word or token: maximum number of tokens in the vocabulary. The most frequent are
    kept."""
    image_order: Literal["rows", "pixels", "permuted"] = "rows"
    """images: one row per step, one pixel per step, or pixels in a fixed random order."""
    batch_size: PositiveInt = 16
    """Sequences per training batch."""
    eval_batch_size: PositiveInt | None = None
    """Sequences per evaluation batch. None is the number of sequences that training holds at once:
    batch_size / train.grad_accum_steps. For text, None is at most 8 rows, or 64 for a text of 32 MB or
    more."""
    sequence_length: PositiveInt = 64
    """text: steps per batch; the LSTM state continues in the next batch. Generated sequences: steps per
    sequence (copy: steps of the delay). Ignored for sequences from files."""
    reset_probability: Fraction = 0.02
    """text: probability that a sequence starts a batch from a zero state instead of the state of the
    previous batch. Text generation starts from a zero state, so training must include some."""
    eval_sequences: PositiveInt = 1000
    """Generated sequences: number of sequences in the validation set."""

    @model_validator(mode="after")
    def _check(self) -> "Data":
        if TASKS[self.task].needs_path and self.path is None:
            raise ConfigError(f"data.path must be given for the task {self.task!r}, got None.")
        return self


@group
class Optimizer:
    """The optimizer and its learning rate schedule."""

    name: OptimizerName = "adamw"
    """Optimizer of Optax."""
    learning_rate: PositiveFloat = 6e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "plateau"] = "cosine"
    """Learning rate after the warmup: constant, decay to 0 (cosine, linear), or halve when the training
    loss stops improving (plateau)."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warmup from 0 to the peak."""
    decay_steps: PositiveInt | None = None
    """cosine, linear: step at which the learning rate reaches 0. None is train.steps."""
    plateau_patience: PositiveInt = 3
    """plateau: number of evaluation intervals (train.eval_every) without improvement before the learning
    rate is halved."""
    clip_norm: PositiveFloat | None = 1.0
    """Maximum global norm of the gradients; larger ones are scaled down. None disables clipping."""
    weight_decay: NonNegativeFloat = 0.0
    """adamw, lion: decoupled weight decay of matrices. Biases are not decayed."""
    momentum: Fraction | None = None
    """sgd, rmsprop: momentum. None is the default of Optax."""
    b1: Fraction | None = None
    """adamw, adam, lion: decay rate of the first moment. None is the default of Optax."""
    b2: Fraction | None = None
    """adamw, adam: decay rate of the second moment. lion: decay rate of the momentum. None is the default
    of Optax."""
    eps: NonNegativeFloat | None = None
    """adamw, adam, rmsprop: constant added to the denominator. None is the default of Optax."""

    @model_validator(mode="after")
    def _check(self) -> "Optimizer":
        if self.decay_steps is not None and self.schedule not in ("cosine", "linear"):
            raise ConfigError(
                f"optimizer.decay_steps must be None with the schedule {self.schedule!r}, got "
                f"{self.decay_steps}."
            )
        arguments = {name for rule in OPTIMIZERS.values() for name in rule.arguments}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            accepted = field.name in OPTIMIZERS[self.name].arguments
            if field.name in arguments and not accepted and value != field.default:
                names = [n for n, rule in OPTIMIZERS.items() if field.name in rule.arguments]
                raise ConfigError(
                    f"optimizer.{field.name} must be {field.default} with the optimizer {self.name!r}, "
                    f"got {value}. It is an argument of {', '.join(names)}."
                )
        return self


@group
class Train:
    """The training loop."""

    steps: PositiveInt = 2400
    """Number of optimizer updates."""
    log_every: PositiveInt = 200
    """Steps between lines of training metrics, on the console and in metrics.jsonl."""
    eval_every: PositiveInt = 800
    """Steps between evaluations."""
    checkpoint_every: PositiveInt = 800
    """Steps between checkpoints. The last step is always saved."""
    steps_per_dispatch: PositiveInt = 10
    """Steps per call of the compiled function. Must divide steps, log_every, eval_every and
    checkpoint_every."""
    grad_accum_steps: PositiveInt = 1
    """Number of parts into which a batch is split to save memory. Their gradients are accumulated into
    one update."""
    keep_last: PositiveInt = 2
    """Number of recent checkpoints to keep. Keep at least 2, so that a corrupt one can be skipped."""
    keep_best: PositiveInt = 2
    """Number of best models to keep. The model that was best at each kept checkpoint is kept as well."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a lower validation loss. None trains for all steps."""
    on_nan: Literal["stop", "skip"] = "stop"
    """Action if a loss or gradient is not finite: stop, or skip the update and count it."""

    @model_validator(mode="after")
    def _check(self) -> "Train":
        for name in ("steps", "log_every", "eval_every", "checkpoint_every"):
            self._check_multiple(name, "steps_per_dispatch")
        self._check_multiple("checkpoint_every", "log_every")
        return self

    def _check_multiple(self, name: str, divisor: str) -> None:
        if getattr(self, name) % getattr(self, divisor):
            raise ConfigError(
                f"train.{name} must be a multiple of train.{divisor} ({getattr(self, divisor)}), got "
                f"{getattr(self, name)}."
            )


@group
class Sample:
    """Text generation, after each evaluation and with the command ``generate``."""

    prompt: Annotated[str, Field(min_length=1)] = "The "
    """Text to continue."""
    length: PositiveInt = 400
    """Number of tokens to generate."""
    temperature: PositiveFloat = 0.7
    """Divisor of the logits. Values below 1 make likely tokens more likely."""
    top_k: PositiveInt | None = None
    """Sample from the k most likely tokens only. None samples from all tokens."""
    seed: Int = 0
    """Random seed of the samples."""


@group
class Log:
    """Logging in addition to metrics.jsonl."""

    tensorboard: bool = False
    """Write the metrics for TensorBoard into the run directory (needs tensorboardX)."""
    wandb: str | None = None
    """Project of Weights & Biases to which the metrics are sent (needs wandb)."""
    norms: bool = False
    """Log the norm of each parameter and of its gradient."""
    profile: tuple[PositiveInt, PositiveInt] | None = None
    """First and last step to profile. The profile is written into the run directory. Open it with
    xprof."""

    @model_validator(mode="after")
    def _check(self) -> "Log":
        if self.profile is not None and self.profile[0] > self.profile[1]:
            raise ConfigError(
                f"log.profile must be a first and a last step in this order, got {self.profile}."
            )
        return self


@group
class Mesh:
    """Devices and processes. They may change when a run is resumed."""

    data: PositiveInt | None = None
    """Number of devices over which the sequences of a batch are sharded. None is the largest number of
    available devices that divides batch_size."""
    model: PositiveInt = 1
    """Number of devices over which the hidden units are sharded (tensor parallelism)."""
    parameters: Literal["replicated", "sharded"] = "replicated"
    """replicated: every device holds all parameters. sharded: parameters and optimizer state are sharded
    over the data axis (FSDP) and gathered one layer at a time."""
    axis_types: Literal["auto", "explicit"] = "auto"
    """Axis types of jax.sharding.Mesh."""
    coordinator_address: str | None = None
    """HOST:PORT of the first process, or auto to let jax.distributed.initialize() detect it. None is auto
    under srun, mpirun or on a TPU pod, and a single process otherwise."""
    num_processes: PositiveInt | None = None
    """Number of processes. Only with coordinator_address HOST:PORT."""
    process_id: NonNegativeInt | None = None
    """Index of this process, from 0. Only with coordinator_address HOST:PORT."""

    @model_validator(mode="after")
    def _check(self) -> "Mesh":
        has_address = self.coordinator_address not in (None, "auto")
        for name in ("num_processes", "process_id"):
            value = getattr(self, name)
            if (value is not None) != has_address:
                expected = "a number" if has_address else "None"
                raise ConfigError(
                    f"mesh.{name} must be {expected} with mesh.coordinator_address "
                    f"{self.coordinator_address}, got {value}."
                )
        if self.process_id is not None and self.process_id >= (self.num_processes or 0):
            raise ConfigError(
                f"mesh.process_id must be less than mesh.num_processes ({self.num_processes}), got "
                f"{self.process_id}."
            )
        return self


@group
class Experiment:
    """Settings of a model, its data and its training. See configs/ for examples."""

    name: str = "char_lm"
    """Name of the experiment."""
    seed: Annotated[NonNegativeInt, Field(lt=2**31)] = 0
    """Random seed for initialization, data order and dropout."""
    workdir: LocalPath | None = None
    """Run directory. None is runs/NAME. The same command resumes an interrupted run."""
    model: Model = dataclasses.field(default_factory=Model)
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    sample: Sample = dataclasses.field(default_factory=Sample)
    log: Log = dataclasses.field(default_factory=Log)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        task, model = self.data.task, self.model
        if model.bidirectional and TASKS[task].predicts_next is True:
            raise ConfigError(
                f"model.bidirectional must be False for the task {task!r}, got True: a model that "
                "reads backward sees the next step, which it has to predict."
            )
        if model.tied_embeddings and task != "text":
            raise ConfigError(
                f"model.tied_embeddings must be False for the task {task!r}, got True: only in text "
                "are inputs and outputs the same tokens."
            )
        if model.hidden_size % self.mesh.model:
            raise ConfigError(
                f"mesh.model must be a divisor of model.hidden_size ({model.hidden_size}), got "
                f"{self.mesh.model}."
            )
        return self

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return self.workdir or Path("runs") / self.name
