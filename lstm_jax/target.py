"""The devices that a program is for, as far as the rules of a primitive can know them.

JAX has no public interface for this. All private names are read here, and the file fails closed: where one
is gone, the answer is the one that leads to the XLA form, and a warning says so once.
"""

import logging
from functools import lru_cache
from typing import Any, NamedTuple

import jax

log = logging.getLogger("lstm_jax")


class Target(NamedTuple):
    """The devices of a program.

    Attributes:
      device_kind: Their ``device_kind``; None if it is not known.
      partitioned: Why no kernel can run: XLA's partitioner would have to split it. None if one can.
    """

    device_kind: str | None
    partitioned: str | None


def target_of(ctx: Any, platform: str, kind_in_context: str | None) -> Target:
    """The target of the program that ``ctx``, the context of a lowering rule, belongs to.

    Args:
      ctx: The first argument of a lowering rule.
      platform: The platform that the rule is registered for.
      kind_in_context: The device of the mesh that was in context at trace time, or None.
    """
    try:
        return Target(_device_kind(ctx, platform, kind_in_context), _partitioned(ctx))
    except AttributeError as error:
        reason = f"this version of JAX does not say which devices the program is for: {error}"
        _warn_once(reason)
        return Target(None, reason)


def partitioned_reason(ctx: Any) -> str | None:
    """Returns why XLA's partitioner splits the program that ``ctx`` belongs to, or None if it does not."""
    try:
        return _partitioned(ctx)
    except AttributeError as error:
        reason = f"this version of JAX does not say which devices the program is for: {error}"
        _warn_once(reason)
        return reason


def platforms_of(ctx: Any) -> list[str]:
    """The platforms that a program is lowered for; for a message, so without a warning."""
    try:
        return list(ctx.module_context.platforms)
    except AttributeError:
        return ["this platform"]


def sharded_axis(axis_data: Any) -> str | None:
    """Returns why the axis that ``vmap`` maps is no axis of one array: it is sharded over an Explicit axis.

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
        alone = not auto or context.mesh.size == 1
        return None if alone else f"the mesh axes {auto} are not manual"
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
    """The device of a ``Mesh`` or an ``AbstractMesh``, if it says."""
    described = mesh.abstract_mesh.abstract_device
    return None if described is None else described.device_kind
