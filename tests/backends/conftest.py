import pytest


@pytest.fixture(autouse=True)
def columns_on_small_problems(monkeypatch):
    """On CPU ``auto`` is ``columns`` from 8 rows on, however few steps there are: tests run few."""
    from lstm_jax.backends import columns  # here, as jaxtyping must come first

    monkeypatch.setattr(columns, "ROWS", 8)
    monkeypatch.setattr(columns, "STEPS", 1)
    monkeypatch.setattr(columns, "STEPS_AND_ROWS", 8)
