"""The same recurrence, several ways. A backend is a module of two functions, and a row below.

``unsupported_reason(settings, operands) -> str | None``
    Returns why the backend cannot run the problem, for the error or the log, or None if it can.
``unroll(settings, operands) -> (final_state, hs)``
    Runs the recurrence. :mod:`lstm_jax.backends.problem` documents the fields of both arguments.
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
"""Every backend that can be asked for by name."""


def choose(name: str, settings: Settings, operands: Operands) -> ModuleType:
    """Returns the backend called ``name``. ``auto`` is the fastest of each platform that can run.

    Raises:
      ValueError: If the backend cannot run the problem.
    """
    if name == "auto":
        return lowering if lowering.unsupported_reason(settings, operands) is None else scan
    reason = BACKENDS[name].unsupported_reason(settings, operands)
    if reason is not None:
        raise refusal(name, reason)
    return BACKENDS[name]
