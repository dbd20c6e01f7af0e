"""Imports point downward, the core stays light, and importing the package costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lstm_jax"

ROOMS = [  # from the ground up: each may import only from those before it
    "notation",
    "checks",
    "initializers",
    "cell",
    "carry",
    "baselines",
    "backends.problem",
    "backends.scan",
    "backends.fused",
    "backends.lowering",
    "backends.columns",
    "backends.pallas_tpu",
    "backends.cudnn",
    "backends",
    "remat",
    "partition",
    "sequence",
    "stack",
    "modules",
    "nnx",
    "linen",
    "training.config",
    "training.errors",
    "training.slices",
    "training.hlo",
    "training.traced",
    "training.overrides",
    "training.config_json",
    "training.environment",
    "training.child",
    "training.metrics",
    "training.data.batch",
    "training.data.vocabulary",
    "training.data.task",
    "training.data.sequences",
    "training.ngram",
    "training.data.cache",
    "training.data.corpus",
    "training.data.named",
    "training.data.hub",
    "training.data.tokens",
    "training.data.stream",
    "training.data.generated",
    "training.data.images",
    "training.data.piano_roll",
    "training.data.arrays",
    "training.data.tasks",
    "training.data.outline",
    "training.model",
    "training.optimizer",
    "training.state",
    "training.distributed",
    "training.sharding",
    "training.accumulate",
    "training.step",
    "training.program",
    "training.rehearsal",
    "training.report",
    "training.generate",
    "training.evaluation",
    "training.run",
    "training.sums",
    "training.checkpoint",
    "training.kept",
    "training.plots",
    "training.progress",
    "training.stopping",
    "training.profile",
    "training.writers",
    "training.saved",
    "training",
    "training.loop",
    "training.dry_run",
    "training.compile_for",
    "training.sweep",
    "training.search",
    "training.cli",
]
CORE = ROOMS[: ROOMS.index("modules") + 1]
EMPTY = {"training.data"}  # a package that holds a docstring alone
LIGHT = {"jax", "jaxtyping", "chex"}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}
MODULES = sorted(set(FILES) - {"", *EMPTY})


def imported(name):
    """Full names of everything a module imports, wherever in the file."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                is_module = full.removeprefix("lstm_jax.") in FILES
                yield full if is_module else node.module


def test_every_module_has_its_place():
    assert sorted(ROOMS) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downward(name):
    below = ROOMS[: ROOMS.index(name)]
    ours = {n.removeprefix("lstm_jax.") for n in imported(name) if n.startswith("lstm_jax")}
    assert ours <= set(below), f"{name} imports {sorted(ours - set(below))} from above"


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_jax_and_little_else(name):
    outside = {n.split(".")[0] for n in imported(name)} - {"lstm_jax"}
    assert outside <= LIGHT | sys.stdlib_module_names


def test_the_config_needs_the_standard_library_only():
    assert {n.split(".")[0] for n in imported("training.config")} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", MODULES)
def test_orbax_is_known_in_one_file(name):
    knows = any(n.split(".")[0] == "orbax" for n in imported(name))
    assert knows == (name == "training.checkpoint")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_importing_the_package_loads_no_flax_and_touches_no_device():
    code = """
import sys, lstm_jax
assert "flax" not in sys.modules and "optax" not in sys.modules
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was initialized"
assert lstm_jax.nnx.LSTM and lstm_jax.linen.LSTM     # on demand
assert "flax" in sys.modules
assert {"nnx", "linen"} <= set(dir(lstm_jax))
"""
    run(code)


def test_an_unknown_name_is_an_attribute_error():
    import lstm_jax

    with pytest.raises(AttributeError, match="no attribute 'gru'"):
        _ = lstm_jax.gru


def test_the_public_surface_is_what_it_says():
    import lstm_jax

    for name in lstm_jax.__all__:
        assert getattr(lstm_jax, name) is not None
