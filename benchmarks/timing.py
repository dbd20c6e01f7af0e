"""Timing several functions side by side, and what the figures were measured on."""

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
"""Seconds before each sample: OpenMP's threads spin on for a while after their work is done."""


class Compiled(NamedTuple):
    """A function compiled ahead of time.

    Attributes:
      run: the function, of the arguments it was compiled for.
      seconds: tracing, lowering and compiling.
      temp_bytes: memory it needs beside arguments and results; None where XLA does not say.
    """

    run: Callable[..., Any]
    seconds: float
    temp_bytes: int | None


def compile_(
    function: Callable[..., Any],
    *arguments: Any,
    compiler_options: Mapping[str, Any] | None = None,
) -> Compiled:
    """``jax.jit`` of a function, compiled for these arguments."""
    begin = time.perf_counter()
    options = None if compiler_options is None else dict(compiler_options)
    compiled = jax.jit(function).lower(*arguments).compile(options)
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    return Compiled(compiled, seconds, None if memory is None else memory.temp_size_in_bytes)


def interleaved(functions: Mapping[Key, Callable[[], Any]], rounds: int) -> dict[Key, list[float]]:
    """Milliseconds, one sample of every function a round, in an order drawn anew each round.

    Whatever slows the machine for a while slows all of them: samples of one round are a pair. A
    function must return only when its work is done.
    """
    samples: dict[Key, list[float]] = {key: [] for key in functions}
    order, rng = list(functions), random.Random(0)
    for function in functions.values():
        function()  # the first call pays for pages and caches
    for _ in range(rounds):
        rng.shuffle(order)
        for key in order:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            functions[key]()
            samples[key].append(1e3 * (time.perf_counter() - begin))
    return samples


def median_ratio(samples: list[float], base: list[float]) -> float:
    """The median over rounds of a sample over the base's sample of the same round."""
    return statistics.median(a / b for a, b in zip(samples, base, strict=True))


def gemm_rate(size: int, dtype: str, rounds: int = 5) -> float:
    """FLOP a second of a square matrix product, the best of some: what the hardware can do."""
    a = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = compile_(jnp.dot, a, a).run
    samples = interleaved({0: lambda: jax.block_until_ready(product(a, a))}, rounds)[0]
    return 2e3 * size**3 / min(samples)


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
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
    """None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """As Linux names it, else what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def heading(record: Mapping[str, Any]) -> str:
    """The environment in two lines."""
    machine, versions = record["machine"], record["versions"]
    on = "" if machine["platform"] == "cpu" else f"; {machine['device']}"
    installed = [f"{name} {number}" for name, number in versions.items() if number]
    return f"{machine['cpu']}, {machine['cores']} cores{on}\n{', '.join(installed)}"
