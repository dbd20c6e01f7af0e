"""The command line: train, sweep, search, compile for others, evaluate, generate.

Heavy imports come after the arguments are understood.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

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
from lstm_jax.training.errors import RunError
from lstm_jax.training.monitoring.console import complain, has_failed, say


@dataclasses.dataclass(frozen=True)
class HowToRun:
    """What to do with the experiment; no part of it."""

    sweep: tyro.conf.FlagCreatePairsOff[bool] = False
    """Runs it once for each of the config file's `sweep`, into folders of WORKDIR; skips those that are
    complete."""
    search: int | None = None
    """Searches the config file's `search` with Optuna until there are so many runs, likewise."""
    compile_for: str | None = None
    """Compiles a training step for a TPU slice, such as v5e:4x4, and says whether it fits; trains nothing,
    needs libtpu and no TPU."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Prints the experiment, its parameters and the memory of a training step; trains and writes nothing."""

    def __post_init__(self) -> None:
        if self.search is not None and self.search < 1:
            raise ConfigError(f"--search: expected a positive number, got {self.search}.")
        chosen = {
            "--sweep": self.sweep,
            "--search": self.search is not None,
            "--compile-for": self.compile_for is not None,
            "--dry-run": self.dry_run,
        }
        given = [flag for flag, is_given in chosen.items() if is_given]
        if len(given) > 1:
            raise ConfigError(f"expected one of {', '.join(chosen)}, got {' and '.join(given)}.")


@dataclasses.dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    file: ConfigFile
    experiment: Experiment
    """That of the file, with the command line over it."""
    how: HowToRun


def main(argv: Sequence[str], default_config: Path) -> int:
    """Runs ``[CONFIG.py] [--field.name VALUE ...]``, ``evaluate RUN`` or ``generate RUN``.

    Returns:
      The exit code: 0, also if a signal stopped training; 1 if a command fails, a run of several
      failed, or a program does not fit; 2 if a command cannot be run; 130 after a second Ctrl-C. The
      reason is on stderr.
    """
    try:
        return _run(argv, default_config)
    except ConfigError as error:
        complain(f"error: {error}")
        return 2
    except RunError as error:
        complain(f"error: {error}")
        return 1
    except OSError as error:  # permissions, names that are too long, disks that fail
        complain(f"error: {_in_words(error)}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def _run(argv: Sequence[str], default_config: Path) -> int:
    command, args = (argv[0], argv[1:]) if argv and argv[0] in COMMANDS else ("train", argv)
    if command != "train":
        return COMMANDS[command](args)
    request = parse(args, default_config)
    if request.how.sweep:
        return sweep(request)
    if request.how.search is not None:
        return search(request, request.how.search)
    experiment = locate(request.experiment)
    if request.how.compile_for is not None:
        return compile_for(experiment, request.how.compile_for)
    return dry_run(experiment) if request.how.dry_run else train(experiment)


def parse(argv: Sequence[str], default_config: Path) -> Request:
    """What the arguments ask for. ``--help`` and misspelt flags exit here."""
    args = list(argv)
    path = Path(args.pop(0)) if args and not args[0].startswith("-") else default_config
    file = read_config(path)

    def command(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = file.config,
        how: Annotated[HowToRun, tyro.conf.arg(name="")] = HowToRun(),
    ) -> Request:
        return Request(file, experiment, how)

    return tyro.cli(
        command,
        prog="python train.py [CONFIG.py]",
        description=f"{Experiment.__doc__} Defaults are those of {path}. Also: "
        "train.py evaluate RUN, train.py generate RUN.",
        args=args,
    )


def train(experiment: Experiment) -> int:
    """Trains. Returns the exit code: 1 if training failed."""
    from lstm_jax.training.loop import fit

    try:
        fit(experiment)
    except RunError as error:
        complain(f"error: {error}")
        return 1
    except OSError as error:
        complain(f"error: {_in_words(error)}")
        return 1
    return 0


def _in_words(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def compile_for(experiment: Experiment, name: str) -> int:
    """``--compile-for SLICE``: 1 if it does not fit."""
    from lstm_jax.training.aot.compile_for import compile_for
    from lstm_jax.training.aot.slices import Slice

    return compile_for(experiment, Slice(name))


def dry_run(experiment: Experiment) -> int:
    """``--dry-run``: what would be trained."""
    from lstm_jax.training.aot.dry_run import dry_run

    dry_run(experiment)
    return int(has_failed())


def sweep(request: Request) -> int:
    """``--sweep``: every run of the config file's ``sweep``; a run that failed is exit code 1."""
    if request.file.sweep is None:
        raise ConfigError(
            f"--sweep: {request.file.path} defines none; add sweep = {{'optimizer.learning_rate': "
            "[1e-3, 3e-3]} to it."
        )
    base = request.experiment
    runs = grid(request.file.sweep)
    for overrides in runs:  # all of them, before the first begins
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
        sweep.go_through(children)
        return sweep.report(children.stopped)


def search(request: Request, trials: int) -> int:
    """``--search N``: so many runs of the config file's ``search``, as Optuna chooses them."""
    if request.file.search is None:
        raise ConfigError(
            f"--search: {request.file.path} defines none; add search = {{'optimizer.learning_rate': "
            "Range(1e-4, 1e-2, log=True)} to it."
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


def evaluate(args: Sequence[str]) -> int:
    """``evaluate RUN``: evaluates the best model."""

    def command(
        run: Annotated[Path, tyro.conf.Positional],
        data_path: Annotated[Path | None, tyro.conf.arg(name="data.path")] = None,
    ) -> tuple[Path, Path | None]:
        """Evaluates the best model of a run on its validation set, and its test set if there is one.

        Args:
          run: The run directory.
          data_path: Where the data of the run is now; by default where it was in training.
        """
        return run, data_path

    run, data_path = tyro.cli(command, prog="python train.py evaluate", args=list(args))
    local_path("RUN", run)  # an error here needs no slow imports
    from lstm_jax.training import inference

    for line in inference.evaluate(run, data_path):
        say(line)
    return int(has_failed())


def generate(args: Sequence[str]) -> int:
    """``generate RUN``: text from the best model."""

    def command(
        run: Annotated[Path, tyro.conf.Positional], sample: tyro.conf.OmitArgPrefixes[Sample]
    ) -> tuple[Path, Sample]:
        """Writes text with the best model of a run.

        Args:
          run: The run directory.
          sample: Prompt, length and how to draw.
        """
        return run, sample

    run, sample = tyro.cli(command, prog="python train.py generate", args=list(args))
    local_path("RUN", run)
    from lstm_jax.training.inference import generate, load

    saved = load(run)
    if saved.vocabulary is None:
        raise ConfigError(
            f"{run} is a run of the task {saved.config.data.task!r}, which has no text to write."
        )
    say(generate(saved.graphdef, saved.params, saved.vocabulary, sample))
    return int(has_failed())


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"evaluate": evaluate, "generate": generate}
