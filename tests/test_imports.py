"""The packages that are imported. ``[tool.importlinter]`` in pyproject.toml has the layers of modules."""

import subprocess
import sys

import pytest

import lstm_jax


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_core_imports_only_jax_jaxtyping_chex_and_the_standard_library():
    loaded = run("""
import sys
import chex, jax, jaxtyping
before = set(sys.modules)
import lstm_jax
print(*set(sys.modules) - before)
""")
    packages = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    assert packages == {"lstm_jax", "jax"}  # parts of jax that `import jax` does not import
    assert not {name for name in loaded if name.startswith("jax.experimental.pallas")}


def test_importing_the_package_does_not_import_flax_or_initialize_devices():
    run("""
import sys, lstm_jax
assert "flax" not in sys.modules and "optax" not in sys.modules
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was initialized"
assert lstm_jax.nnx.LSTM and lstm_jax.linen.LSTM     # on demand
assert "flax" in sys.modules
assert {"nnx", "linen"} <= set(dir(lstm_jax))
""")


def test_help_and_mistyped_commands_import_no_heavy_package():
    """``--help`` and the errors for mistyped commands are printed before other packages are imported."""
    loaded = run("import sys; from lstm_jax.training import cli; print(*sys.modules)")
    packages = {name.split(".")[0] for name in loaded}
    assert not packages & {"flax", "orbax", "optax", "matplotlib", "scipy", "optuna", "tqdm"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="gru"):
        _ = lstm_jax.gru


def test_every_public_name_exists():
    for name in lstm_jax.__all__:
        assert getattr(lstm_jax, name) is not None
