import pytest


@pytest.fixture(autouse=True)
def columns_on_small_problems(monkeypatch):
    """Makes ``auto`` select ``cpu`` from 8 rows on, for any number of steps, as the tests run few steps."""
    from lstm_jax.backends import (
        cpu,
    )  # imported here, because jaxtyping's hook must be installed before

    monkeypatch.setattr(cpu, "ROWS", 8)
    monkeypatch.setattr(cpu, "STEPS", 1)
    monkeypatch.setattr(cpu, "STEPS_AND_ROWS", 8)
