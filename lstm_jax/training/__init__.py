"""Everything behind ``train.py``: configuration, data, model, optimizer, loop."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imports Flax and Orbax, which takes seconds
        from lstm_jax.training.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
