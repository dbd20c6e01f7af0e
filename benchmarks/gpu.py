"""Measures this package on a GPU.

    python -m benchmarks.gpu check      # every backend against float64 NumPy
    python -m benchmarks.gpu speed      # microseconds per step, beside cuDNN, Flax and torch
    python -m benchmarks.gpu train      # tokens/s of the trainer
    python -m benchmarks.gpu report     # a short version of all three, printed as one line

Each command takes less than ten minutes and writes a JSON file. A library that is not installed is a row
that says so. Options are listed by ``python -m benchmarks.gpu COMMAND --help``.
"""

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from benchmarks import gpu_check, gpu_record, gpu_speed, gpu_train
from benchmarks.gpu_record import Deadline
from benchmarks.subjects import BOTH

COMMANDS: dict[str, ModuleType] = {"check": gpu_check, "speed": gpu_speed, "train": gpu_train}
SHORT = {
    "check": "--shapes 37,5,24,32 --cases plain all --dtypes bfloat16 float32",
    "speed": "--shapes 256,64,1024,1024 --dtypes bfloat16 tf32 --rounds 10 "
    "--rows auto cudnn flax.nnx 'torch nn.LSTM'",
    "train": "--dtypes bfloat16 --steps 1200",
}
"""The options of each command in ``report``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns 0, 1 if a result is wrong or failed, or 2 without a GPU."""
    args = parser().parse_args(argv)
    if args.command == "report" and args.directory:
        print(report(load(args.directory)))
        return 0
    if jax.default_backend() != "gpu" and not args.any_device:
        print(
            f"Expected a GPU, found {jax.devices()[0]}. Install jax[cuda12] or jax[cuda13], or pass "
            "--any-device to try the command.",
            file=sys.stderr,
        )
        return 2
    if args.command == "report":
        return measure_and_report()
    return measure(args, args.out or gpu_record.default_directory())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measures this package on a GPU."
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        description = (module.__doc__ or "").split("\n\n")[0].replace("``", "").strip()
        command = commands.add_parser(name, help=description, description=description)
        module.add_arguments(command)
        command.add_argument(
            "--out",
            type=Path,
            metavar="DIR",
            help=f"directory of {name}.json (default: benchmarks/results/CARD)",
        )
        command.add_argument(
            "--minutes", type=float, default=8, help="start no row after this time (default: 8)"
        )
    description = "Prints one line about this card: correctness, speed and versions."
    command = commands.add_parser("report", help=description, description=description)
    command.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="report the results in DIR; by default measures for about two minutes",
    )
    for command in commands.choices.values():
        command.add_argument("--any-device", action="store_true", help="run without a GPU, too")
    return p


def measure(args: argparse.Namespace, directory: Path) -> int:
    """Runs check, speed or train, prints its rows and writes them to the directory."""
    module = COMMANDS[args.command]
    settings = {k: v for k, v in vars(args).items() if k not in ("command", "out")}
    result = gpu_record.record(args.command, settings)
    print(heading(result))
    print(getattr(module, "HEADING", ""), end="\n" if hasattr(module, "HEADING") else "")
    for row in module.run(args, Deadline(60 * args.minutes)):
        result["rows"].append(row)
        print(module.line(row), flush=True)
        gpu_record.save(result, directory)  # keeps the rows if the next one ends the process
    print(f"Wrote {directory / args.command}.json")
    return int(any(row["status"].startswith(("wrong", "failed")) for row in result["rows"]))


def measure_and_report() -> int:
    """Measures with the options of :data:`SHORT` and prints the line. Everything else goes to stderr."""
    with tempfile.TemporaryDirectory() as name:
        with contextlib.redirect_stdout(sys.stderr):
            codes = [
                measure(parser().parse_args([command, *shlex.split(SHORT[command])]), Path(name))
                for command in COMMANDS
            ]
        print(report(load(Path(name))))
    return max(codes)


def heading(result: dict[str, Any]) -> str:
    """The card, the commit and the versions in two lines."""
    machine = result["machine"]
    versions = [f"{name} {number}" for name, number in result["versions"].items() if number]
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    return f"{machine['device']}{driver}, commit {result['commit']}\n{', '.join(versions)}"


def load(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns the results in a directory by command.

    Raises:
      SystemExit: If the directory has no results.
    """
    files = {name: directory / f"{name}.json" for name in COMMANDS}
    results = {name: json.loads(f.read_text("utf-8")) for name, f in files.items() if f.exists()}
    if not results:
        raise SystemExit(f"Expected check.json, speed.json or train.json in {directory}.")
    return results


def report(results: dict[str, dict[str, Any]]) -> str:
    """One line: card, versions, and what :data:`COMMANDS` found."""
    first = next(iter(results.values()))
    machine, versions = first["machine"], first["versions"]
    jax_and_plugin = [
        f"{name} {versions[name]}" for name in ("jax", *gpu_record.PLUGINS) if versions.get(name)
    ]
    parts = [
        f"{machine['device']}, driver {machine['driver'] or 'unknown'}",
        ", ".join(jax_and_plugin),
        f"commit {first['commit']}",
    ]
    for name, result in results.items():
        parts.append(f"{name}: {SUMMARIES[name](result['rows'])}")
    return " | ".join(parts)


def summary_of_check(rows: list[dict[str, Any]]) -> str:
    """Each backend with its worst status."""
    parts = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        found = {row["status"].split(":")[0] for row in rows if row["backend"] == backend}
        worst = next(s for s in ("wrong", "failed", "ok", "refused", "not run") if s in found)
        parts.append(f"{backend} {worst}")
    return ", ".join(parts)


def summary_of_speed(rows: list[dict[str, Any]]) -> str:
    """The forward and backward time of each row at the largest shape, by dtype."""
    parts = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        of_dtype = [row for row in rows if row["dtype"] == dtype]
        largest = max((row["shape"] for row in of_dtype), key=lambda s: s["B"] * s["H"])
        times = ", ".join(
            f"{row['row']} {row[BOTH]['min_us_per_step']:.1f}"
            if row["status"] == "ok"
            else f"{row['row']} {row['status'].split(':')[0]}"
            for row in of_dtype
            if row["shape"] == largest
        )
        parts.append(f"{dtype} B {largest['B']} H {largest['H']} {BOTH} us per step: {times}")
    return "; ".join(parts)


def summary_of_train(rows: list[dict[str, Any]]) -> str:
    """The tokens/s of each dtype."""
    return ", ".join(
        f"{row['dtype']} {row['tokens_per_second']:,.0f} tokens/s"
        if row["status"] == "ok"
        else f"{row['dtype']} {row['status'].split(':')[0]}"
        for row in rows
    )


SUMMARIES = {"check": summary_of_check, "speed": summary_of_speed, "train": summary_of_train}

if __name__ == "__main__":
    sys.exit(main())
