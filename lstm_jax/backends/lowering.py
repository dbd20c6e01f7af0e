"""``auto``: the recurrence of :mod:`~lstm_jax.backends.xla` with each platform's own kernels in it.

Which kernel runs is decided when the program is lowered, where platform and devices are known. See
:mod:`~lstm_jax.backends.primitives` for the steps, of which each may become a kernel.
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
    batching,  # noqa: F401  registers what vmap makes of the primitives
    primitives,
    xla,
)
from lstm_jax.backends.primitives import Step, kernel_p, run_xla, tangent_p
from lstm_jax.backends.problem import Members, Operands, Outputs, Settings, refusal
from lstm_jax.backends.unrolled import unrolled
from lstm_jax.carry import vary_as
from lstm_jax.target import platforms_of, target_of

unsupported_reason = xla.unsupported_reason
KERNELS: dict[str, tuple[str, ModuleType]] = {}
"""The backend whose kernels serve a platform: its name and its module."""
log = logging.getLogger("lstm_jax")


def unroll(settings: Settings, operands: Operands, required: str | None = None) -> Outputs:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""
    ignored = ignored_option(settings)
    if required and ignored:
        raise refusal(required, ignored)
    # So that cotangents vary alike too: a kernel does not sum them over devices.
    operands = vary_as(operands)
    return xla.differentiable(
        settings,
        operands,
        partial(primitives.bind_step, "infer", required),
        partial(primitives.bind_step, "forward", required),
        partial(primitives.bind_step, "tangent", required),
    )


def ignored_option(settings: Settings) -> str | None:
    """Returns which option the kernels do not honour, or None."""
    if settings.unroll in (None, 1):
        return None
    return f"unroll={settings.unroll} has no effect on its loops; leave it out"


def register(platform: str, name: str, kernels: ModuleType) -> None:
    """Lets ``kernels``, a module with infer, forward and backward, serve ``platform``.

    Its ``unsupported_reason(settings, operands, device_kind)`` returns why the XLA form must run, or None.
    Its ``is_profitable(step, operands, members)`` returns whether it is faster than the XLA form.
    """
    KERNELS[platform] = name, kernels
    mlir.register_lowering(kernel_p, partial(_lower_to_kernel, platform), platform=platform)


def backend_of(
    platform: str, device_kind: str | None, step: Step, arrays: Any
) -> tuple[str, str | None]:
    """The backend that runs a step on one device of a platform, or in ``shard_map``.

    Args:
      platform: "cpu", "tpu", ...
      device_kind: The device, None if it is not known.
      step: The step.
      arrays: Shapes and dtypes of its arguments.

    Returns:
      The backend's name, and why it is none with a kernel (None if it is one).
    """
    if platform not in KERNELS:
        return "xla", f"there is no kernel for {platform}"
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
    """How the members of the step have their weights."""
    if step.members is None:
        return None
    operands, *_ = step.arguments(step.members)
    return "own weights" if operands.params.w_h else "shared weights"


def _of_one_member(step: Step, arrays: Any) -> list[Any]:
    members = step.members or (False,) * len(arrays)
    return [
        jax.ShapeDtypeStruct(a.shape[1:], a.dtype) if member else a
        for a, member in zip(arrays, members, strict=True)
    ]


def _lower_to_kernel(platform: str, ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
    """The lowering rule of a platform with kernels."""
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
        ):  # also for an export with a mesh of CPUs
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
    """The step as a function of arrays: by one call of ``kernel``, or one for each member."""

    def run(*leaves: jax.Array) -> list[jax.Array]:
        return jax.tree.leaves(kernel(step.settings, *step.arguments(leaves)))

    def run_members(*leaves: jax.Array) -> list[jax.Array]:
        assert step.members is not None
        pairs = list(zip(leaves, step.members, strict=True))

        def run_member(own: list[jax.Array]) -> list[jax.Array]:
            next_own = iter(own)
            return run(*(next(next_own) if member else leaf for leaf, member in pairs))

        return jax.lax.map(run_member, [leaf for leaf, member in pairs if member])

    return run if step.members is None else run_members


def _lower_to_xla(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
    """The lowering rule of the other platforms, and of the tangent in forward mode."""
    if step.required and step.name != "tangent":
        raise step.refusal(f"it has no kernel for {' and '.join(platforms_of(ctx))}")
    return mlir.lower_fun(run_xla, multiple_results=True)(ctx, *leaves, step=step, jaxpr=jaxpr)


def _lower_unrolled(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
    """The lowering rule of GPUs."""
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
        "The TPU that this program is for is not known: the kernel uses 16 MiB of VMEM, which is slower. "
        "Arguments with a NamedSharding, or jax.set_mesh, say which TPU it is."
    )


for _primitive in (kernel_p, tangent_p):
    mlir.register_lowering(_primitive, _lower_to_xla)
    for _gpu in ("cuda", "rocm"):
        mlir.register_lowering(_primitive, _lower_unrolled, platform=_gpu)
