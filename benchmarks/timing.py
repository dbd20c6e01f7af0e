"""Timing of several functions in interleaved rounds, and a description of the environment."""

import importlib.metadata
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Key = TypeVar("Key", bound=Hashable)
PACKAGES = ("lstm-jax", "jax", "jaxlib", "flax", "dm-haiku", "equinox", "torch", "numpy")
PAUSE = 0.01
"""Pause before each sample, in seconds, because OpenMP's threads spin for a while after their work."""


class Compiled(NamedTuple):
    """A function compiled ahead of time.

    Attributes:
      run: The compiled function.
      seconds: Time to trace, lower and compile, in seconds.
      temp_bytes: Temporary memory, without arguments and results. None if XLA does not report it.
    """

    run: Callable[..., Any]
    seconds: float
    temp_bytes: int | None


def compile_(
    function: Callable[..., Any],
    *arguments: Any,
    compiler_options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compiles a function for the given arguments."""
    start = time.perf_counter()
    options = None if compiler_options is None else dict(compiler_options)
    compiled = jax.jit(function).lower(*arguments).compile(options)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return Compiled(compiled, seconds, None if memory is None else memory.temp_size_in_bytes)


def interleaved(functions: Mapping[Key, Callable[[], Any]], rounds: int) -> dict[Key, list[float]]:
    """Returns samples in milliseconds: one per function and round, in a random order in each round.

    The samples of a round are taken under similar load, so they can be compared in pairs. A function must
    return only when its work is done.
    """
    samples: dict[Key, list[float]] = {key: [] for key in functions}
    order, rng = list(functions), random.Random(0)
    for function in functions.values():
        function()  # warms up memory and caches
    for _ in range(rounds):
        rng.shuffle(order)
        for key in order:
            time.sleep(PAUSE)
            start = time.perf_counter()
            functions[key]()
            samples[key].append(1e3 * (time.perf_counter() - start))
    return samples


def median_ratio(samples: list[float], base: list[float]) -> float:
    """Returns the median over the rounds of the ratio of a sample to the base's sample."""
    return statistics.median(a / b for a, b in zip(samples, base, strict=True))


def gemm_rate(size: int, dtype: str, rounds: int = 5) -> float:
    """Returns the maximum FLOP/s of a square matrix product, as an estimate of the hardware's peak."""
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = compile_(jnp.dot, a, a).run
    samples = interleaved({0: lambda: jax.block_until_ready(product(a, a))}, rounds)[0]
    return 2e3 * size**3 / min(samples)


def environment() -> dict[str, Any]:
    """Returns the versions of packages and a description of the machine."""
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "machine": {
            "cpu": cpu_model(),
            "cores": cores(),
            "device": device.device_kind,
            "platform": device.platform,
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def version(package: str) -> str | None:
    """Returns the version of a package, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """Returns the name of the CPU from ``/proc/cpuinfo``, or else from Python's ``platform``."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def heading(record: Mapping[str, Any]) -> str:
    """Formats the environment in two lines."""
    machine, versions = record["machine"], record["versions"]
    device = "" if machine["platform"] == "cpu" else f"; {machine['device']}"
    installed = [f"{name} {number}" for name, number in versions.items() if number]
    return f"{machine['cpu']}, {machine['cores']} cores{device}\n{', '.join(installed)}"
