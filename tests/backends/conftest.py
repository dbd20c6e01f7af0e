import pytest


@pytest.fixture(autouse=True)
def columns_on_small_problems(monkeypatch):
    """On CPU ``auto`` is ``cpu`` from 8 rows on, however few steps there are: tests run few."""
    from lstm_jax.backends import cpu  # here, as jaxtyping must come first

    monkeypatch.setattr(cpu, "ROWS", 8)
    monkeypatch.setattr(cpu, "STEPS", 1)
    monkeypatch.setattr(cpu, "STEPS_AND_ROWS", 8)
