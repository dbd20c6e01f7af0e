"""The backend "auto": the recurrence of :mod:`~lstm_jax.backends.xla`, with kernels of the platform.

The kernel is selected when the program is lowered, because platform and devices are known only then. The
steps that a kernel may replace are the primitives in :mod:`~lstm_jax.backends.primitives`.
"""

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import mlir

from lstm_jax.backends import (
    batching,  # noqa: F401  (the import registers batching rules)
    primitives,
    xla,
)
from lstm_jax.backends.primitives import Step, kernel_p, run_xla, tangent_p
from lstm_jax.backends.problem import Members, Operands, Outputs, Settings, refusal
from lstm_jax.backends.unrolled import unrolled
from lstm_jax.carry import match_varying_axes
from lstm_jax.target import platforms_of, target_of

unsupported_reason = xla.unsupported_reason
KERNELS: dict[str, tuple[str, ModuleType]] = {}
"""The name and the module of the backend that has kernels for a platform, by platform."""
log = logging.getLogger("lstm_jax")


def unroll(settings: Settings, operands: Operands, required: str | None = None) -> Outputs:
    """Runs the recurrence over all time steps, see :mod:`lstm_jax.backends`.

    Args:
      settings: The static settings.
      operands: The arrays.
      required: The backend that was selected by name and must run, or None for "auto".
    """
    ignored = ignored_option(settings)
    if required and ignored:
        raise refusal(required, ignored)
    # All operands, and so all cotangents, vary over the same axes, because kernels do not sum over devices.
    operands = match_varying_axes(operands)
    return xla.differentiable(
        settings,
        operands,
        partial(primitives.bind_step, "infer", required),
        partial(primitives.bind_step, "forward", required),
        partial(primitives.bind_step, "tangent", required),
    )


def ignored_option(settings: Settings) -> str | None:
    """Returns a message about an option that the kernels ignore, or None."""
    if settings.unroll in (None, 1):
        return None
    return f"unroll={settings.unroll} has no effect on its loops; omit it"


def register(platform: str, name: str, kernels: ModuleType) -> None:
    """Registers the kernels of a platform.

    Args:
      platform: The platform, such as "cpu".
      name: The name of the backend.
      kernels: A module with the kernels ``infer``, ``forward`` and ``backward``. Its
        ``unsupported_reason(settings, operands, device_kind)`` returns why the XLA form must run, or None.
        Its ``is_profitable(step, operands, members)`` returns whether a kernel is faster than the XLA form.
    """
    KERNELS[platform] = name, kernels
    mlir.register_lowering(kernel_p, partial(_lower_to_kernel, platform), platform=platform)


def backend_of(
    platform: str, device_kind: str | None, step: Step, arrays: Any
) -> tuple[str, str | None]:
    """Returns the backend that runs a step on a single device, or inside ``shard_map``.

    Args:
      platform: The platform, such as "cpu" or "tpu".
      device_kind: The ``device_kind`` of the device, or None if it is not known.
      step: The step.
      arrays: Shapes and dtypes of the step's arguments.

    Returns:
      The name of the backend, and the reason that no kernel runs (None if a kernel runs).
    """
    if platform not in KERNELS:
        return "xla", f"no kernel is available for {platform}"
    name, kernels = KERNELS[platform]
    operands, *_ = step.arguments(_of_one_member(step, arrays))
    reason = kernels.unsupported_reason(step.settings, operands, device_kind)
    if (
        reason is None
        and not step.required
        and not kernels.is_profitable(step.name, operands, _members(step))
    ):
        reason = f"{name} would be slower"
    return (name, None) if reason is None else ("xla", reason)


def _members(step: Step) -> Members:
    """Returns whether the members of the step have separate or shared weights, or None without members."""
    if step.members is None:
        return None
    operands, *_ = step.arguments(step.members)
    return "separate weights" if operands.params.w_h else "shared weights"


def _of_one_member(step: Step, arrays: Any) -> list[Any]:
    members = step.members or (False,) * len(arrays)
    return [
        jax.ShapeDtypeStruct(a.shape[1:], a.dtype) if member else a
        for a, member in zip(arrays, members, strict=True)
    ]


def _lower_to_kernel(platform: str, ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
    """Implements the lowering rule for a platform with kernels."""
    name, kernels = KERNELS[platform]
    if step.required not in (None, name):
        raise step.refusal(f"it has no kernel for {platform}")
    kind, reason = target_of(ctx, platform, step.device_kind)
    if reason is None:
        _, reason = backend_of(platform, kind, step, ctx.avals_in)
    function = jaxpr_as_fun(jaxpr)
    if reason is None:
        if platform == "tpu" and "TPU" not in (
            kind or ""
        ):  # the kind may also be "cpu", in an export for TPU with a CPU mesh
            _log_unknown_chip()
        ignored = ignored_option(step.settings)
        if ignored:
            _log_ignored(name, ignored)
        function = _with_kernel(step, partial(getattr(kernels, step.name), device_kind=kind))
    elif step.required:
        raise step.refusal(reason)
    else:
        _log_once(logging.WARNING if platform == "tpu" else logging.INFO, name, reason)
    return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves)


def _with_kernel(step: Step, kernel: Callable[..., Any]) -> Callable[..., list[jax.Array]]:
    """Returns the step as a function of arrays, which calls ``kernel`` once, or once per member."""

    def run(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(kernel(step.settings, *step.arguments(leaves)))

    def run_members(*leaves: jax.Array) -> list[jax.Array]:
        assert step.members is not None
        pairs = list(zip(leaves, step.members, strict=True))

        def run_member(member_leaves: list[jax.Array]) -> list[jax.Array]:
            remaining = iter(member_leaves)
            return run(*(next(remaining) if member else leaf for leaf, member in pairs))

        return jax.lax.map(run_member, [leaf for leaf, member in pairs if member])

    return run if step.members is None else run_members


def _lower_to_xla(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
    """Implements the lowering rule for platforms without kernels, and for the tangent in forward mode."""
    if step.required and step.name != "tangent":
        raise step.refusal(f"it has no kernel for {' and '.join(platforms_of(ctx))}")
    return mlir.lower_fun(run_xla, multiple_results=True)(ctx, *leaves, step=step, jaxpr=jaxpr)


def _lower_unrolled(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
    """Implements the lowering rule for GPUs, which unrolls time loops by default."""
    if step.settings.unroll is None:
        jaxpr = unrolled(jaxpr)
    return _lower_to_xla(ctx, *leaves, step=step, jaxpr=jaxpr)


@lru_cache
def _log_once(level: int, name: str, reason: str) -> None:
    log.log(level, "%s does not run: %s. The backend 'xla' runs instead.", name, reason)


@lru_cache
def _log_ignored(name: str, reason: str) -> None:
    log.warning("%s runs, but %s.", name, reason)


@lru_cache
def _log_unknown_chip() -> None:
    log.warning(
        "The type of TPU is not known when this program is compiled: the kernel uses 16 MiB of VMEM, which "
        "is slower. To specify the TPU, pass arguments with a NamedSharding, or use jax.set_mesh."
    )


for _primitive in (kernel_p, tangent_p):
    mlir.register_lowering(_primitive, _lower_to_xla)
    for _gpu in ("cuda", "rocm"):
        mlir.register_lowering(_primitive, _lower_unrolled, platform=_gpu)
