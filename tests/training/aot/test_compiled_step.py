"""Memory of compiled programs."""

from lstm_jax.training.aot.compiled_step import GIB, memory_of_error

STRICT = False


def test_other_errors_of_the_compiler_are_not_about_memory():
    assert memory_of_error("INTERNAL: Mosaic failed", GIB) is None
    assert memory_of_error("RESOURCE_EXHAUSTED: in the sky", GIB) is None
