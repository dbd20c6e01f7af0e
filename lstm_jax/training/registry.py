"""The tasks and optimizers that a config can name, one row each.

Rows name functions as ``module:function``, so that a config imports neither JAX nor Optax.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A row of :data:`TASKS`.

    Attributes:
      make: ``(data, seed) -> Dataset``, as ``module:function``.
      needs_path: Whether ``data.path`` must be given.
      predicts_next: Whether targets are later inputs, so that a model must not read backward. None
        if this depends on the data.
    """

    make: str
    needs_path: bool = False
    predicts_next: bool | None = False


class Rule(NamedTuple):
    """A row of :data:`OPTIMIZERS`.

    Attributes:
      make: A function of the learning rate that returns an Optax transformation.
      arguments: The fields of ``optimizer`` that it takes; all others must keep their defaults.
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
    "adamw": Rule("optax:adamw", ("b1", "b2", "eps", "weight_decay")),
    "adam": Rule("optax:adam", ("b1", "b2", "eps")),
    "sgd": Rule("optax:sgd", ("momentum",)),
    "rmsprop": Rule("optax:rmsprop", ("momentum", "eps")),
    "lion": Rule("optax:lion", ("b1", "b2", "weight_decay")),
}


def find(name: str) -> Callable[..., Any]:
    """Returns the function that ``module:function`` names.

    >>> find("math:sqrt")(9.0)
    3.0
    """
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
