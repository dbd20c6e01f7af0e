"""The same recurrence, several ways. A backend is a module of two functions, and a row below.

``unsupported_reason(settings, operands) -> str | None``
    None if the backend can run the problem, else the reason, for the error or the log.
``unroll(settings, operands) -> (final_state, hs)``
    Runs the recurrence; :mod:`lstm_jax.backends.problem` says what each field means.
"""

from types import ModuleType

from lstm_jax.backends import cpu, cudnn, lowering, scan, tpu, xla
from lstm_jax.backends.problem import Operands, Settings

BACKENDS: dict[str, ModuleType] = {
    "xla": xla,
    "scan": scan,
    "cpu": cpu,
    "tpu": tpu,
    "cudnn": cudnn,
}
"""Every backend that can be asked for by name."""


def choose(name: str, settings: Settings, operands: Operands) -> ModuleType:
    """The backend called ``name``; ``auto`` is the fastest of each platform that can run it.

    Raises:
      ValueError: if there is no such backend, or it cannot run the problem.
    """
    if name == "auto":
        return lowering if lowering.unsupported_reason(settings, operands) is None else scan
    if name not in BACKENDS:
        raise ValueError(
            f"expected backend to be one of {['auto', *BACKENDS]}, got {name!r}; "
            '"auto" takes the fastest that can run.'
        )
    reason = BACKENDS[name].unsupported_reason(settings, operands)
    if reason is not None:
        raise ValueError(f'backend {name!r} cannot run this: {reason}. Use backend="auto".')
    return BACKENDS[name]
