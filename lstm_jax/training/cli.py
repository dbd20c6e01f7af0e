"""The command line: config file first, flags over it, heavy imports last."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from lstm_jax.training.config import ConfigError, Experiment, read_config


def main(argv: Sequence[str], default_config: Path) -> int:
    """Runs ``[CONFIG.py] [--field.name VALUE ...]``.

    Returns:
      The exit code: 0, or 2 if what was asked for cannot be run, with the reason on stderr.
    """
    try:
        experiment = parse(argv, default_config)
        from lstm_jax.training.loop import train  # jax and flax: seconds

        train(experiment)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str], default_config: Path) -> Experiment:
    """The experiment that the arguments describe. ``--help`` and misspelt flags exit here."""
    args = list(argv)
    config = Path(args.pop(0)) if args and not args[0].startswith("-") else default_config
    default = read_config(config)
    return tyro.cli(
        Experiment,
        prog="python train.py [CONFIG.py]",
        description=f"Defaults below are those of {config}. {Experiment.__doc__}",
        args=args,
        default=dataclasses.replace(default),
    )
