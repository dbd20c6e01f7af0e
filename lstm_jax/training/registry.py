"""The tables of tasks and optimizers that a config can name.

A row has the name ``module:function`` instead of the function, so that reading a config imports neither
JAX nor Optax.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A row of :data:`TASKS`.

    Attributes:
      make: Name of a function ``(data, seed) -> Dataset``, as ``module:function``.
      needs_path: Whether ``data.path`` is required.
      predicts_next: Whether targets are later inputs, so that a bidirectional model would see them. None
        if this depends on the data.
    """

    make: str
    needs_path: bool = False
    predicts_next: bool | None = False


class OptimizerFactory(NamedTuple):
    """A row of :data:`OPTIMIZERS`.

    Attributes:
      make: Name of a function from a learning rate to an Optax optimizer, as ``module:function``.
      arguments: The fields of ``config.optimizer`` that are passed to it. For other optimizers, these
        fields must keep their defaults.
    """

    make: str
    arguments: tuple[str, ...]


DATA = "lstm_jax.training.data"
TASKS = {
    "text": Task(f"{DATA}.text:text_dataset", predicts_next=True),
    "adding": Task(f"{DATA}.generated:generated_dataset"),
    "copy": Task(f"{DATA}.generated:generated_dataset", predicts_next=True),
    "temporal_order": Task(f"{DATA}.generated:generated_dataset"),
    "reber": Task(f"{DATA}.generated:generated_dataset", predicts_next=True),
    "images": Task(f"{DATA}.images:images_dataset", needs_path=True),
    "piano_roll": Task(
        f"{DATA}.piano_roll:piano_roll_dataset", needs_path=True, predicts_next=True
    ),
    "arrays": Task(f"{DATA}.arrays:arrays_dataset", needs_path=True, predicts_next=None),
    "custom": Task(f"{DATA}.make:custom_dataset", predicts_next=None),
}

OPTIMIZERS = {
    "adamw": OptimizerFactory("optax:adamw", ("b1", "b2", "eps", "weight_decay")),
    "adam": OptimizerFactory("optax:adam", ("b1", "b2", "eps")),
    "sgd": OptimizerFactory("optax:sgd", ("momentum",)),
    "rmsprop": OptimizerFactory("optax:rmsprop", ("momentum", "eps")),
    "lion": OptimizerFactory("optax:lion", ("b1", "b2", "weight_decay")),
}


def find(name: str) -> Callable[..., Any]:
    """Imports and returns a function from its name ``module:function``.

    >>> find("math:sqrt")(9.0)
    3.0
    """
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
