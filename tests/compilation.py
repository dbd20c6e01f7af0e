"""How the tests compile: fast, and once more as users do where values are compared.

Compiling takes most of the tests' time. XLA's expensive passes are turned off, on jax 0.10 also the newer
emitters for CPU and their parallel compilation: together this halves the time. Each program is compiled once,
as the workers of a session and their child processes share a cache.
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
HAS_FLAGS = jax.__version_info__ < (0, 11)  # an unknown flag ends the process
AS_USERS_COMPILE = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if HAS_FLAGS:
    AS_USERS_COMPILE |= {
        "xla_cpu_use_fusion_emitters": True,
        "xla_cpu_parallel_codegen_split_count": 32,
    }


RACE = "ignore:Error reading persistent compilation cache"
"""JAX does not write an entry at once: who reads half of one warns, and compiles. See also pyproject.toml."""


def compile_fast() -> None:
    """Sets the options of this process and of its child processes. Call it before the first compilation."""
    os.environ["PYTHONWARNINGS"] = RACE
    for name, value in CONFIG.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    if HAS_FLAGS:
        ours = " ".join(f"--{name}={value}" for name, value in FLAGS.items())
        os.environ["XLA_FLAGS"] = f"{ours} {os.environ.get('XLA_FLAGS', '')}"


def share_compiled(folder: Path) -> None:
    """Keeps compiled programs in ``folder``, or where ``JAX_COMPILATION_CACHE_DIR`` says."""
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    jax.config.update("jax_compilation_cache_dir", cache)


def optimized(function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.jit``, compiled with the optimizations that users get."""
    return jax.jit(function, compiler_options=AS_USERS_COMPILE)
