"""The environment of a run: versions, devices, machine and commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Returns versions, devices, machine and commit, for environment.json."""
    packages = ("lstm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "devices": [str(device) for device in jax.devices()],
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
