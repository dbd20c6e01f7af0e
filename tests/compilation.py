"""Compiler options of the tests: fast compilation by default, default optimizations by :func:`optimized`.

Compilation takes most of the time of the tests. Expensive passes of XLA are disabled, and on jax 0.10 also
the fusion emitters for CPU and parallel code generation, which halves the time. The workers of a session and
their child processes share a compilation cache.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

CONFIG = {
    "jax_disable_most_optimizations": True,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
FLAGS = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}
HAS_FLAGS = jax.__version_info__ < (0, 11)  # XLA aborts on unknown flags
DEFAULT_OPTIONS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if HAS_FLAGS:
    DEFAULT_OPTIONS |= {
        "xla_cpu_use_fusion_emitters": True,
        "xla_cpu_parallel_codegen_split_count": 32,
    }


RACE = "ignore:Error reading persistent compilation cache"
"""JAX does not write cache entries atomically. A process that reads an incomplete entry warns and compiles.

``pyproject.toml`` ignores the same warning."""


def compile_fast() -> None:
    """Sets the options for this process and its child processes. Call it before the first compilation."""
    os.environ["PYTHONWARNINGS"] = RACE
    for name, value in CONFIG.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    if HAS_FLAGS:
        ours = " ".join(f"--{name}={value}" for name, value in FLAGS.items())
        os.environ["XLA_FLAGS"] = f"{ours} {os.environ.get('XLA_FLAGS', '')}"


def share_compiled(folder: Path) -> None:
    """Stores compiled programs in ``JAX_COMPILATION_CACHE_DIR`` if it is set, or else in ``folder``."""
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    jax.config.update("jax_compilation_cache_dir", cache)


def optimized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns ``jax.jit(function)``, compiled with JAX's default optimizations."""
    return jax.jit(function, compiler_options=DEFAULT_OPTIONS)
