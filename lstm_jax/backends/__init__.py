"""Implementations of the recurrence, called backends.

A backend is a module with two functions, and an entry of :data:`BACKENDS`:

``unsupported_reason(settings, operands) -> str | None``
    Returns why the backend cannot run the arguments, for an error or a log message, or None if it can.
``unroll(settings, operands) -> (final_state, hs)``
    Runs the recurrence over all time steps.

:mod:`lstm_jax.backends.problem` documents the fields of ``settings`` and ``operands``.
"""

from types import ModuleType

from lstm_jax.backends import cpu, cudnn, lowering, scan, tpu, xla
from lstm_jax.backends.problem import Operands, Settings, refusal

BACKENDS: dict[str, ModuleType] = {
    "scan": scan,
    "xla": xla,
    "cpu": cpu,
    "tpu": tpu,
    "cudnn": cudnn,
}
"""The backends that can be selected by name."""


def choose(name: str, settings: Settings, operands: Operands) -> ModuleType:
    """Returns the backend called ``name``. "auto" selects the fastest backend when a program is lowered.

    Raises:
      ValueError: If the backend cannot run the arguments.
    """
    if name == "auto":
        return lowering if lowering.unsupported_reason(settings, operands) is None else scan
    reason = BACKENDS[name].unsupported_reason(settings, operands)
    if reason is not None:
        raise refusal(name, reason)
    return BACKENDS[name]
