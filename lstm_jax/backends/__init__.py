"""The same recurrence, several ways. A backend is a module of two functions, and a row below.

``why_not(problem) -> str | None``
    None if the backend can run the problem, else the reason, for the error or the log.
``unroll(*problem) -> (final_state, hs)``
    Runs the recurrence; :class:`~lstm_jax.backends.problem.Problem` says what each argument means.
"""

from types import ModuleType

from lstm_jax.backends import scan
from lstm_jax.backends.problem import Problem

BACKENDS: dict[str, ModuleType] = {"scan": scan}
"""Every backend by name; ``auto`` takes the first that can run the problem."""


def choose(name: str, problem: Problem) -> ModuleType:
    """The backend called ``name``, or for ``auto`` the first that can run the problem.

    Raises:
      ValueError: if there is no such backend, or it cannot run the problem.
    """
    if name == "auto":
        return next(backend for backend in BACKENDS.values() if backend.why_not(problem) is None)
    if name not in BACKENDS:
        raise ValueError(
            f"expected backend to be one of {['auto', *BACKENDS]}, got {name!r}; "
            '"auto" takes the fastest that can run.'
        )
    reason = BACKENDS[name].why_not(problem)
    if reason is not None:
        raise ValueError(f'backend {name!r} cannot run this: {reason}. Use backend="auto".')
    return BACKENDS[name]
