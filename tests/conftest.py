"""Configuration of all tests: virtual devices, strict promotion rules, checked shape annotations."""

import os
from collections.abc import Iterator

import hypothesis
import jax
import jaxtyping
import pytest

from tests.compilation import compile_fast, share_compiled

compile_fast()
jax.config.update("jax_num_cpu_devices", 8)  # before the first use of a device

hypothesis.settings.register_profile(
    "project",
    deadline=None,  # compiling a new shape is slow
    derandomize=True,
    # The fixtures set modes of JAX, which are the same for every example.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    print_blob=True,
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Makes the workers of a session share compiled programs."""
    folder = tmp_path_factory.getbasetemp()
    share_compiled((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled")


@pytest.fixture(autouse=True)
def strict_jax(request: pytest.FixtureRequest) -> Iterator[None]:
    """Disallows implicit promotion of dtypes and ranks. Tests of Flax and Optax set ``STRICT = False``."""
    if not getattr(request.module, "STRICT", True):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Enables 64-bit types, for comparisons with float64 NumPy."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unannotated() -> Iterator[None]:
    """Disables the runtime check of annotations, so that tests see the errors of this package."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
