"""How every test runs: virtual devices, strict promotion rules in the core, shapes checked."""

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
    deadline=None,  # a new shape compiles
    derandomize=True,
    # Fixtures here are modes of jax, the same for every example.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
    print_blob=True,
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The workers of a session share what they compile."""
    folder = tmp_path_factory.getbasetemp()
    share_compiled((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled")


@pytest.fixture(autouse=True)
def strict_jax(request: pytest.FixtureRequest) -> Iterator[None]:
    """No silent promotion of dtypes or ranks. Flax and Optax need ``STRICT = False``."""
    if not getattr(request.module, "STRICT", True):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit arithmetic, to compare with float64 NumPy."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unannotated() -> Iterator[None]:
    """Turns the test-time check of annotations off, so that our own errors are what is seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
