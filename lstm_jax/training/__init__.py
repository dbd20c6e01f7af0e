"""The trainer: the implementation of ``train.py``, and a library with :func:`fit` and :func:`load`."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Batch": "data.batch",
    "Dataset": "data.dataset",
    "Hook": "run",
    "default_hooks": "hooks",
    "fit": "loop",
    "load": "inference",
}

__all__ = ["Batch", "Dataset", "Hook", "default_hooks", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # imports Flax and Orbax, which takes seconds
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
