"""The command line: train, evaluate, generate. Heavy imports come after the arguments are understood."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from lstm_jax.training.config import ConfigError, Experiment, Sample, read_config


def main(argv: Sequence[str], default_config: Path) -> int:
    """Runs ``[CONFIG.py] [--field.name VALUE ...]``, ``evaluate RUN`` or ``generate RUN``.

    Returns:
      The exit code: 0; 1 if training diverged; 2 if what was asked for cannot be run, with the reason
      on stderr.
    """
    try:
        command, args = (argv[0], argv[1:]) if argv and argv[0] in COMMANDS else ("train", argv)
        if command == "train":
            return train(parse(args, default_config))
        return COMMANDS[command](args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str], default_config: Path) -> Experiment:
    """The experiment that the arguments describe. ``--help`` and misspelt flags exit here."""
    args = list(argv)
    config = Path(args.pop(0)) if args and not args[0].startswith("-") else default_config
    experiment = tyro.cli(
        Experiment,
        prog="python train.py [CONFIG.py]",
        description=f"{Experiment.__doc__} Defaults are those of {config}. Also: "
        "train.py evaluate RUN, train.py generate RUN.",
        args=args,
        default=read_config(config),
    )
    path = experiment.data.path
    if path is None:
        return experiment
    if not path.exists():
        raise ConfigError(f"data.path: cannot read {path}: no such file or folder.")
    data = dataclasses.replace(experiment.data, path=path.resolve())  # evaluate runs from anywhere
    return dataclasses.replace(experiment, data=data)


def train(experiment: Experiment) -> int:
    """Trains; diverging is exit code 1."""
    from lstm_jax.training.checkpoint import NotFiniteError
    from lstm_jax.training.loop import train

    try:
        train(experiment)
    except NotFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def evaluate(args: Sequence[str]) -> int:
    """``evaluate RUN``: the best model's figures once more."""

    def command(run: Annotated[Path, tyro.conf.Positional]) -> Path:
        """Evaluates the best model of a run on its held-out data (and test part).

        Args:
          run: the run folder.
        """
        return run

    run = tyro.cli(command, prog="python train.py evaluate", args=list(args))
    from lstm_jax.training.saved import evaluate_saved

    for line in evaluate_saved(run):
        print(line)
    return 0


def generate(args: Sequence[str]) -> int:
    """``generate RUN``: text from the best model."""

    def command(
        run: Annotated[Path, tyro.conf.Positional], sample: tyro.conf.OmitArgPrefixes[Sample]
    ) -> tuple[Path, Sample]:
        """Writes text with the best model of a run.

        Args:
          run: the run folder.
          sample: how.
        """
        return run, sample

    run, sample = tyro.cli(command, prog="python train.py generate", args=list(args))
    from lstm_jax.training.generate import generate
    from lstm_jax.training.saved import load

    saved = load(run)
    if saved.vocabulary is None:
        raise ConfigError(
            f"{run} is a run of the task {saved.config.data.task!r}, which has no text to write."
        )
    print(generate(saved.graphdef, saved.params, saved.vocabulary, sample))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"evaluate": evaluate, "generate": generate}
