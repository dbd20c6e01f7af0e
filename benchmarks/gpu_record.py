"""Shared parts of the GPU benchmarks: environment and file of a result, status of a row, time limit."""

import argparse
import importlib.util
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.extend

from benchmarks.peers import set_tf32
from benchmarks.timing import environment, version

ROOT = Path(__file__).parents[1]
PLUGINS = (
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "jax-rocm7-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)
DTYPES = ("bfloat16", "tf32", "float32")
"""``tf32`` is float32 whose products are in TF32, the default of JAX on NVIDIA GPUs."""
NOT_INSTALLED = "not installed"
NO_TIME = "not run: the time limit was reached"


class Deadline:
    """A limit on the seconds since it was created."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is used up."""
        return time.monotonic() >= self.end


def record(command: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns a result without rows: command, time, commit, card, driver, versions and settings."""
    result: dict[str, Any] = environment()
    result["versions"] |= {name: version(name) for name in PLUGINS}
    result["machine"] |= {
        "driver": driver(),
        "runtime": jax.extend.backend.get_backend().platform_version,
        "torch_cuda": torch_cuda(),
    }
    head = {
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }
    return head | result | {"settings": settings, "rows": []}


def default_directory() -> Path:
    """The directory of this card's results, such as ``benchmarks/results/nvidia-h100-80gb-hbm3``."""
    name = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / name


def save(result: dict[str, Any], directory: Path) -> None:
    """Writes the result to ``directory/COMMAND.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{result['command']}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def commit() -> str | None:
    """The commit of this checkout, with ``-dirty`` after it if files have changed. None without git."""
    return output_of("git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")


def driver() -> str | None:
    """The version of the NVIDIA driver, or None if ``nvidia-smi`` does not print it."""
    printed = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return None if printed is None else printed.splitlines()[0]


def output_of(*command: str) -> str | None:
    """Returns the output of a command, or None if it fails or prints nothing."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def torch_cuda() -> str | None:
    """The CUDA version of torch, or None if torch is not installed or has no CUDA."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.version.cuda


def add_choices(parser: argparse.ArgumentParser, name: str, choices: Iterable[str]) -> None:
    """Adds an option that takes some of the choices, by default all."""
    choices = list(choices)
    parser.add_argument(
        name,
        nargs="+",
        default=choices,
        choices=choices,
        metavar="NAME",
        help=f"of {', '.join(map(repr, choices))} (default: all)",
    )


def status_of(error: Exception) -> str:
    """The status of a row that raised ``error``: not installed, refused by the backend, or failed."""
    if isinstance(error, ImportError):
        return NOT_INSTALLED
    lines = str(error).splitlines() or [""]
    refused = re.match(r"backend '\w+' cannot run this: (.*?)(\. Use backend=.*)?$", lines[0])
    if refused:
        return f"refused: {refused[1]}"
    return f"failed: {type(error).__name__}: {lines[0]}"


def array_dtype(dtype: str) -> str:
    """The dtype of the arrays for one of :data:`DTYPES`."""
    return "float32" if dtype == "tf32" else dtype


@contextmanager
def products_in(dtype: str) -> Iterator[None]:
    """Multiplies float32 arrays in TF32 or in full float32 on GPUs, in JAX and in torch."""
    before = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    set_tf32(dtype == "tf32")
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)
