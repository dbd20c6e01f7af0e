"""The command line: ``train``, ``evaluate`` and ``generate``.

Arguments are validated before Flax, Optax and Orbax are imported, because the import takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lstm_jax import __version__
from lstm_jax.training.config import (
    ConfigError,
    ConfigFile,
    Experiment,
    Sample,
    local_path,
    locate,
    read_config,
)
from lstm_jax.training.config.overrides import apply, check_names, check_space, folder_name, grid
from lstm_jax.training.errors import did_you_mean
from lstm_jax.training.exit_codes import exit_code
from lstm_jax.training.monitoring.console import has_failed, print_error, say

PROG = "python train.py"
COMMANDS = {
    "train": "train [CONFIG.py]  Train a model. The default command.",
    "evaluate": "evaluate RUN       Print the metrics of the best model of a run.",
    "generate": "generate RUN       Print text from the best model of a run.",
}


@dataclass(frozen=True)
class Action:
    """Flags of ``train`` that are not fields of the experiment. Without them, the model is trained once."""

    sweep: Annotated[
        tyro.conf.FlagCreatePairsOff[bool],
        tyro.conf.arg(
            help="Train once for each point of `sweep` in the config file, in subdirectories of "
            "WORKDIR. Complete runs are skipped."
        ),
    ] = False
    search: Annotated[
        int | None,
        tyro.conf.arg(
            help="Search over `search` in the config file with Optuna, until this number of runs has "
            "finished."
        ),
    ] = None
    compile_for: Annotated[
        str | None,
        tyro.conf.arg(
            help="Compile a training step for a TPU slice, such as v5e:4x4, and report whether it "
            "fits. Needs libtpu, but no TPU."
        ),
    ] = None
    dry_run: Annotated[
        tyro.conf.FlagCreatePairsOff[bool],
        tyro.conf.arg(
            help="Print the experiment, its parameters and the memory of a training step, and exit."
        ),
    ] = False
    version: Annotated[
        tyro.conf.FlagCreatePairsOff[bool],
        tyro.conf.arg(help="Print the version of lstm_jax and exit."),
    ] = False

    def __post_init__(self) -> None:
        if self.search is not None and self.search < 1:
            raise ConfigError(f"--search must be greater than 0, got {self.search}.")
        is_given = {
            "--sweep": self.sweep,
            "--search": self.search is not None,
            "--compile-for": self.compile_for is not None,
            "--dry-run": self.dry_run,
        }
        given = [flag for flag, is_set in is_given.items() if is_set]
        if len(given) > 1:
            raise ConfigError(
                f"{', '.join(is_given)} must not be combined, got {' and '.join(given)}."
            )


@dataclass(frozen=True)
class Request:
    """The arguments of ``train``.

    Attributes:
      file: The config file.
      experiment: The experiment of the config file with the command-line flags applied.
      action: The action flags.
    """

    file: ConfigFile
    experiment: Experiment
    action: Action


def main(argv: Sequence[str], default_config: Path) -> int:
    """Runs a command: ``[train] [CONFIG.py] [--field.name VALUE ...]``, ``evaluate RUN``, ``generate RUN``.

    Returns:
      The exit code: 0 for success, or if a signal stopped training; 1 if the command or a run of a sweep
      fails, or a program does not fit into memory; 2 for invalid arguments; 130 after a second Ctrl-C.
      Error messages are written to stderr.
    """
    return exit_code(lambda: _run(argv, default_config))


def _run(argv: Sequence[str], default_config: Path) -> int:
    if "--version" in argv:
        say(f"lstm_jax {__version__}")
        return int(has_failed())
    command, args = (argv[0], argv[1:]) if argv and argv[0] in COMMANDS else ("train", argv)
    if command == "evaluate":
        return evaluate(args)
    if command == "generate":
        return generate(args)
    request = parse(args, default_config)
    if request.action.sweep:
        return sweep(request)
    if request.action.search is not None:
        return search(request, request.action.search)
    experiment = locate(request.experiment)
    if request.action.compile_for is not None:
        return compile_for(experiment, request.action.compile_for)
    return dry_run(experiment) if request.action.dry_run else train(experiment)


def parse(argv: Sequence[str], default_config: Path) -> Request:
    """Parses the arguments of ``train``. Exits after ``--help``, and if a flag is misspelled."""
    args = list(argv)
    path = Path(args.pop(0)) if args and not args[0].startswith("-") else default_config
    if path.suffix != ".py" and not path.is_file():
        raise ConfigError(
            f"{path} is neither a command ({', '.join(COMMANDS)}) nor a config file."
            f"{did_you_mean(str(path), COMMANDS)}"
        )
    file = read_config(path)

    def command(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = file.config,
        action: Annotated[Action, tyro.conf.arg(name="")] = Action(),
    ) -> Request:
        return Request(file, experiment, action)

    return tyro.cli(
        command,
        prog=f"{PROG} [COMMAND] [CONFIG.py]",
        description=_description(path),
        args=args,
        compact_help=True,
    )


def _description(path: Path) -> str:
    """Returns the first paragraphs of the help of ``train``."""
    absolute, here = path.resolve(), Path.cwd()
    config = absolute.relative_to(here) if absolute.is_relative_to(here) else path
    # tyro keeps a line break only at a blank line and before an indented line.
    return "\n".join(
        [
            "Trains a model. Flags override the fields of the config file.",
            "",
            "Commands:",
            *(f"  {line}" for line in COMMANDS.values()),
            "",
            f"Defaults below are those of {config}.",
        ]
    )


def train(experiment: Experiment) -> int:
    """Trains a model."""
    from lstm_jax.training.loop import fit

    fit(experiment)
    return 0


def compile_for(experiment: Experiment, name: str) -> int:
    """Compiles a training step for a TPU slice. Returns 1 if the step does not fit into memory."""
    from lstm_jax.training.aot.compile_for import compile_for
    from lstm_jax.training.aot.slices import Slice

    return compile_for(experiment, Slice(name))


def dry_run(experiment: Experiment) -> int:
    """Prints the experiment, its parameters and the memory of a training step."""
    from lstm_jax.training.aot.dry_run import dry_run

    dry_run(experiment)
    return int(has_failed())


def sweep(request: Request) -> int:
    """Trains every run of the config file's ``sweep``. Returns 1 if a run failed."""
    if request.file.sweep is None:
        raise ConfigError(
            f"--sweep needs a sweep in {request.file.path}, such as sweep = "
            "{'optimizer.learning_rate': [1e-3, 3e-3]}."
        )
    base = request.experiment
    runs = grid(request.file.sweep)
    for overrides in runs:  # all are validated before the first run starts
        check_names("sweep", overrides, base, request.file.config)
        try:
            locate(apply(base, overrides))
        except ConfigError as error:
            raise ConfigError(f"sweep: {folder_name(overrides)}: {error}") from error
    from lstm_jax.training.sweeps.child import Children
    from lstm_jax.training.sweeps.sweep import Sweep

    sweep = Sweep(base, base.workdir or Path(f"{base.run_dir}-sweep"))
    for overrides in runs:
        sweep.add(overrides)
    with Children(train) as children:
        sweep.run_all(children)
        return sweep.report(children.stopped)


def search(request: Request, trials: int) -> int:
    """Trains runs that Optuna samples from the config file's ``search``. Returns 1 if a run failed."""
    if request.file.search is None:
        raise ConfigError(
            f"--search needs a search in {request.file.path}, such as search = "
            "{'optimizer.learning_rate': Range(1e-4, 1e-2, log=True)}."
        )
    base = request.experiment
    space = check_space(request.file.search, base, request.file.config)
    from lstm_jax.training.sweeps.child import Children
    from lstm_jax.training.sweeps.search import search
    from lstm_jax.training.sweeps.sweep import Sweep

    sweep = Sweep(base, base.workdir or Path(f"{base.run_dir}-search"))
    with Children(train) as children:
        search(sweep, space, trials, children)
        return sweep.report(children.stopped)


Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="Run directory.")]


def evaluate(args: Sequence[str]) -> int:
    """Prints the metrics of the best model of a run."""

    def command(
        run: Run,
        data_path: Annotated[
            Path | None,
            tyro.conf.arg(
                name="data.path", help="Path of the data, if it has moved since training."
            ),
        ] = None,
    ) -> tuple[Path, Path | None]:
        """Evaluates the best model of a run on its validation and test sets."""
        return local_path("RUN", run), data_path  # raises before the slow imports

    run, data_path = tyro.cli(command, prog=f"{PROG} evaluate", args=list(args))
    from lstm_jax.training import inference

    for line in inference.evaluate(run, data_path):
        say(line)
    return int(has_failed())


def generate(args: Sequence[str]) -> int:
    """Prints text from the best model of a run."""

    def command(run: Run, sample: tyro.conf.OmitArgPrefixes[Sample]) -> tuple[Path, Sample]:
        """Generates text with the best model of a run."""
        return local_path("RUN", run), sample

    run, sample = tyro.cli(command, prog=f"{PROG} generate", args=list(args))
    from lstm_jax.training.inference import generate, load

    trained = load(run)
    if trained.vocabulary is None:
        raise ConfigError(
            f"RUN must be a run of the task 'text', got {run} of the task {trained.config.data.task!r}."
        )
    if unknown := trained.vocabulary.unknown(sample.prompt):
        names = ", ".join(map(repr, unknown))
        print_error(f"warning: not in the vocabulary, and read as an unknown token: {names}")
    say(generate(trained.graphdef, trained.params, trained.vocabulary, sample))
    return int(has_failed())
