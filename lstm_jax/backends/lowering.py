"""The rule of :mod:`~lstm_jax.backends.fused` with each platform's own kernels in it: ``auto``.

Which kernel runs is decided when the program is lowered, where platform and devices are known: the
steps of the rule are primitives whose XLA form (a jaxpr they carry) is what every transform, every
export and every partitioned program sees, and whose lowering rules put a kernel in its place.
"""

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from lstm_jax.backends import fused
from lstm_jax.backends.fused import Outputs
from lstm_jax.backends.problem import Operands, Saved, Settings
from lstm_jax.carry import vary_alike

why_not = fused.why_not
KERNELS: dict[str, tuple[str, ModuleType]] = {}
"""Of each platform: the backend's name, and its module."""
log = logging.getLogger("lstm_jax")


class Step(NamedTuple):
    """One function of the rule.

    Attributes:
      name: infer, forward, tangent or backward.
      settings: its static argument.
      tree: of its other arguments.
      required: the backend that was asked for by name, which must run it; None is any.
    """

    name: str
    settings: Settings
    tree: Any
    required: str | None

    def bound(self, function: Callable[..., Any]) -> Callable[..., list[jax.Array]]:
        """``function`` as one of flat arrays."""

        def flat(*leaves: jax.Array) -> list[jax.Array]:
            return jax.tree.leaves(function(self.settings, *jax.tree.unflatten(self.tree, leaves)))

        return flat


def unroll(settings: Settings, operands: Operands, required: str | None = None) -> Outputs:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""
    # So that cotangents vary alike too: a kernel does not sum them over devices.
    operands = vary_alike(operands)
    return fused.differentiable(
        settings,
        operands,
        partial(infer, required),
        partial(forward, required),
        partial(tangent, required),
    )


def infer(required: str | None, settings: Settings, operands: Operands) -> Outputs:
    """:func:`lstm_jax.backends.fused.infer`."""
    return _bind(kernel_p, "infer", required, fused.infer, settings, operands)


def forward(required: str | None, settings: Settings, operands: Operands) -> tuple[Outputs, Saved]:
    """:func:`lstm_jax.backends.fused.forward`."""
    return _bind(kernel_p, "forward", required, fused.forward, settings, operands)


def tangent(
    required: str | None,
    settings: Settings,
    operands: Operands,
    hs: jax.Array,
    saved: Saved,
    d: Operands,
) -> Outputs:
    """:func:`lstm_jax.backends.fused.tangent`."""
    d = d._replace(begin=None, hold=None)
    return _bind(tangent_p, "tangent", required, fused.tangent, settings, operands, hs, saved, d)


def backward(
    required: str | None,
    settings: Settings,
    operands: Operands,
    hs: jax.Array,
    saved: Saved,
    cts: Outputs,
) -> Operands:
    """The transpose of :func:`tangent`: from cotangents of the outputs to those of the operands."""
    return _bind(kernel_p, "backward", required, _transposed, settings, operands, hs, saved, cts)


def _transposed(
    settings: Settings, operands: Operands, hs: jax.Array, saved: Saved, cts: Outputs
) -> Operands:
    d = operands._replace(begin=None, hold=None)
    (ct,) = jax.linear_transpose(partial(fused.tangent, settings, operands, hs, saved), d)(cts)
    return ct


def _bind(
    primitive: Primitive,
    name: str,
    required: str | None,
    function: Callable[..., Any],
    settings: Settings,
    *trees: Any,
) -> Any:
    leaves, tree = jax.tree.flatten(trees)
    step = Step(name, settings, tree, required)
    jaxpr, out = jax.make_jaxpr(partial(function, settings), return_shape=True)(*trees)
    return jax.tree.unflatten(
        jax.tree.structure(out), primitive.bind(*leaves, step=step, jaxpr=jaxpr)
    )


def _primitive(name: str) -> Primitive:
    """A primitive that is its jaxpr, but for what ``register`` makes of it when it is lowered."""
    primitive = Primitive(name)
    primitive.multiple_results = True

    def run(*leaves: Any, step: Step, jaxpr: Any) -> list[jax.Array]:
        return jaxpr_as_fun(jaxpr)(*leaves)

    def jvp(primals: Any, tangents: Any, *, step: Step, jaxpr: Any) -> tuple[Any, Any]:
        tangents = [ad.instantiate_zeros(t) for t in tangents]
        return jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), tuple(tangents))

    def batch(leaves: Any, axes: Any, *, step: Step, jaxpr: Any) -> tuple[Any, Any]:
        out = jax.vmap(jaxpr_as_fun(jaxpr), in_axes=tuple(axes))(*leaves)
        return out, [0] * len(out)

    primitive.def_impl(run)
    primitive.def_abstract_eval(lambda *avals, step, jaxpr: jaxpr.out_avals)
    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch

    def lower(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
        if step.required and primitive is kernel_p:
            platforms = ctx.module_context.platforms
            raise ValueError(_refusal(step, f"it has no kernel for {' and '.join(platforms)}"))
        return mlir.lower_fun(run, multiple_results=True)(ctx, *leaves, step=step, jaxpr=jaxpr)

    mlir.register_lowering(primitive, lower)
    return primitive


kernel_p = _primitive("lstm_recurrence")
tangent_p = _primitive("lstm_recurrence_tangent")  # linear in the last of its arguments


def _transpose(cts: Any, *leaves: Any, step: Step, jaxpr: Any) -> list[Any]:
    operands, hs, saved, d = jax.tree.unflatten(step.tree, leaves)
    outputs = jax.tree.structure((operands.state, operands.xs))
    cts = jax.tree.unflatten(outputs, [ad.instantiate_zeros(ct) for ct in cts])
    d_leaves = jax.tree.leaves(d, is_leaf=ad.is_undefined_primal)
    transposed = jax.tree.leaves(backward(step.required, step.settings, operands, hs, saved, cts))
    linear = [
        ct if ad.is_undefined_primal(leaf) else None
        for leaf, ct in zip(d_leaves, transposed, strict=True)
    ]
    return [None] * (len(leaves) - len(linear)) + linear


ad.primitive_transposes[tangent_p] = _transpose


def register(platform: str, name: str, kernels: ModuleType) -> None:
    """Lets ``kernels``, a module with infer, forward and backward, serve ``platform``.

    Its ``why_not(settings, operands, device_kind)`` says None, or why the XLA form must run; its
    ``pays(step, operands)`` whether it is faster than that.
    """

    def lower(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
        operands, *_ = jax.tree.unflatten(step.tree, ctx.avals_in)
        kind = _device_kind(ctx)
        reason = _partitioned(ctx) or kernels.why_not(step.settings, operands, kind)
        function = jaxpr_as_fun(jaxpr)
        asked = step.required in (None, name)
        if asked and reason is None and (step.required or kernels.pays(step.name, operands)):
            function = step.bound(partial(getattr(kernels, step.name), device_kind=kind))
        elif step.required:
            missing = f"it has no kernel for {platform}"
            raise ValueError(
                _refusal(step, reason if reason and step.required == name else missing)
            )
        elif platform == "tpu":  # elsewhere much less is lost
            _log_once(name, reason)
        return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves)

    KERNELS[platform] = name, kernels
    mlir.register_lowering(kernel_p, lower, platform=platform)


def backend_of(
    platform: str, device_kind: str | None, step: Step, operands: Operands
) -> tuple[str, str | None]:
    """What runs a step on one device of a platform, or in ``shard_map``; and why it is no kernel."""
    if platform not in KERNELS:
        return "fused", f"there is no kernel for {platform}"
    name, kernels = KERNELS[platform]
    reason = kernels.why_not(step.settings, operands, device_kind)
    if reason is None and not kernels.pays(step.name, operands):
        reason = f"{name} would be slower"
    return (name, None) if reason is None else ("fused", reason)


def _refusal(step: Step, reason: str) -> str:
    return f'backend {step.required!r} cannot run this: {reason}. Use backend="auto".'


@lru_cache
def _log_once(name: str, reason: str | None) -> None:
    log.warning("%s does not run: %s; the XLA backend 'fused' does.", name, reason)


def _partitioned(ctx: Any) -> str | None:
    """XLA's partitioner would split the operation, and kernels cannot be split."""
    context = ctx.module_context.axis_context
    if hasattr(context, "manual_axes"):
        auto = [a for a in context.mesh.axis_names if a not in context.manual_axes]
        alone = not auto or context.mesh.size == 1
        return None if alone else f"the mesh axes {auto} are not manual"
    devices = getattr(context, "num_devices", 1)
    return None if devices == 1 else f"{devices} devices share it, outside jax.shard_map"


def _device_kind(ctx: Any) -> str | None:
    """What the program is compiled for, if that is known."""
    context = ctx.module_context.axis_context
    devices = getattr(context, "device_assignment", None)
    if devices:
        return devices[0].device_kind
    mesh = getattr(context, "mesh", None) or getattr(context, "abstract_mesh", None)
    described = getattr(mesh, "abstract_device", None)
    if described is not None:
        return described.device_kind
    if mesh is not None and getattr(mesh, "devices", None) is not None and mesh.devices.size:
        return mesh.devices.flat[0].device_kind
    return None
