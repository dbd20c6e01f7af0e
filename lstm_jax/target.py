"""The target devices of a program, as far as lowering and batching rules of a primitive can determine them.

JAX has no public interface for this, so this module reads private attributes of JAX. No other module does. If
an attribute does not exist, the functions return what makes the caller use the XLA form, and warn once.
"""

import logging
from functools import lru_cache
from typing import Any, NamedTuple

import jax

log = logging.getLogger("lstm_jax")


class Target(NamedTuple):
    """The target devices of a program.

    Attributes:
      device_kind: The ``device_kind`` of the devices, or None if it is not known.
      partitioned: The reason that kernels cannot run, which is that XLA partitions the program. None if they
        can run.
    """

    device_kind: str | None
    partitioned: str | None


def target_of(ctx: Any, platform: str, kind_in_context: str | None) -> Target:
    """Returns the target of the program that is being lowered.

    Args:
      ctx: The context of a lowering rule, its first argument.
      platform: The platform that the rule is registered for.
      kind_in_context: The ``device_kind`` of the current mesh at trace time, or None.
    """
    try:
        return Target(_device_kind(ctx, platform, kind_in_context), _partitioned(ctx))
    except AttributeError as error:
        reason = f"this version of JAX does not say which devices the program is for: {error}"
        _warn_once(reason)
        return Target(None, reason)


def partitioned_reason(ctx: Any) -> str | None:
    """Returns the reason that XLA partitions the program of the lowering context ``ctx``, or None."""
    try:
        return _partitioned(ctx)
    except AttributeError as error:
        reason = f"this version of JAX does not say which devices the program is for: {error}"
        _warn_once(reason)
        return reason


def platforms_of(ctx: Any) -> list[str]:
    """Returns the platforms that a program is lowered for. It is used in messages, so it does not warn."""
    try:
        return list(ctx.module_context.platforms)
    except AttributeError:
        return ["this platform"]


def sharded_axis(axis_data: Any) -> str | None:
    """Returns a message if the axis that ``vmap`` maps is sharded over an Explicit mesh axis, or None.

    Args:
      axis_data: The first argument of a batching rule.
    """
    try:
        axis = axis_data.explicit_mesh_axis
    except AttributeError as error:
        reason = f"this version of JAX does not say whether a mapped axis is sharded: {error}"
        _warn_once(reason)
        return reason
    if axis is None:
        return None
    return f"vmap maps an axis that is sharded over {axis}, an Explicit axis"


@lru_cache
def _warn_once(reason: str) -> None:
    log.warning("%s. The backend 'xla' runs instead.", reason)


def _partitioned(ctx: Any) -> str | None:
    context = ctx.module_context.axis_context
    if hasattr(context, "manual_axes"):  # inside shard_map
        auto = [a for a in context.mesh.axis_names if a not in context.manual_axes]
        is_single_device = not auto or context.mesh.size == 1
        return None if is_single_device else f"the mesh axes {auto} are not manual"
    devices = context.num_devices
    if devices == 1:
        return None
    return (
        f"XLA partitions the program over {devices} devices. To keep the kernel, pass "
        "partition=Partition(batch=AXIS) under jax.set_mesh(mesh), or use jax.shard_map"
    )


def _device_kind(ctx: Any, platform: str, kind_in_context: str | None) -> str | None:
    module = ctx.module_context
    if hasattr(module.axis_context, "manual_axes"):
        kind = _kind_of(module.axis_context.mesh)
        if kind is not None:
            return kind
    for aval in ctx.avals_in:
        kind = _kind_of(aval.sharding.mesh)
        if kind is not None:
            return kind
    if kind_in_context is not None:
        return kind_in_context
    if module.lowering_parameters.for_export or platform != jax.default_backend():
        return None
    kinds = {device.device_kind for device in jax.devices()}
    return kinds.pop() if len(kinds) == 1 else None


def _kind_of(mesh: Any) -> str | None:
    """Returns the ``device_kind`` of a ``Mesh`` or an ``AbstractMesh``, or None if it is not known."""
    device = mesh.abstract_mesh.abstract_device
    return None if device is None else device.device_kind
