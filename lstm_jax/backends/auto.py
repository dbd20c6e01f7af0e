"""The rule of :mod:`~lstm_jax.backends.fused` with each platform's own kernels in it.

Which kernel runs is decided when the program is lowered, where platform and devices are known: the
steps of the rule are primitives whose XLA form (a jaxpr they carry) is what every transform, every
export and every partitioned program sees, and whose lowering rules put a kernel in its place.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from lstm_jax.backends import fused
from lstm_jax.backends.problem import Operands, Saved, Settings
from lstm_jax.carry import vary_alike
from lstm_jax.notation import Hs, LSTMState

Outputs = tuple[LSTMState, Hs]

why_not = fused.why_not


class Step(NamedTuple):
    """One function of the rule: its name, what static arguments it has, and its arguments' tree."""

    name: str
    settings: Settings
    tree: Any

    def bound(self, function: Callable[..., Any]) -> Callable[..., list[jax.Array]]:
        """``function`` as one of flat arrays."""

        def flat(*leaves: jax.Array) -> list[jax.Array]:
            return jax.tree.leaves(function(self.settings, *jax.tree.unflatten(self.tree, leaves)))

        return flat


def unroll(settings: Settings, operands: Operands) -> Outputs:
    """The recurrence, as :mod:`lstm_jax.backends` defines it."""
    operands = vary_alike(
        operands
    )  # so that cotangents do, which a kernel does not sum over devices
    return fused.differentiable(settings, operands, infer, forward, tangent)


def infer(settings: Settings, operands: Operands) -> Outputs:
    """:func:`lstm_jax.backends.fused.infer`."""
    return _bind(kernel_p, "infer", fused.infer, settings, operands)


def forward(settings: Settings, operands: Operands) -> tuple[Outputs, Saved]:
    """:func:`lstm_jax.backends.fused.forward`."""
    return _bind(kernel_p, "forward", fused.forward, settings, operands)


def tangent(
    settings: Settings, operands: Operands, hs: jax.Array, saved: Saved, d: Operands
) -> Outputs:
    """:func:`lstm_jax.backends.fused.tangent`."""
    d = d._replace(begin=None, hold=None)
    return _bind(tangent_p, "tangent", fused.tangent, settings, operands, hs, saved, d)


def backward(
    settings: Settings, operands: Operands, hs: jax.Array, saved: Saved, cts: Outputs
) -> Operands:
    """The transpose of :func:`tangent`: from cotangents of the outputs to those of the operands."""
    return _bind(kernel_p, "backward", _transposed, settings, operands, hs, saved, cts)


def _transposed(
    settings: Settings, operands: Operands, hs: jax.Array, saved: Saved, cts: Outputs
) -> Operands:
    d = operands._replace(begin=None, hold=None)
    (ct,) = jax.linear_transpose(partial(fused.tangent, settings, operands, hs, saved), d)(cts)
    return ct


def _bind(
    primitive: Primitive, name: str, function: Callable[..., Any], settings: Settings, *trees: Any
) -> Any:
    leaves, tree = jax.tree.flatten(trees)
    step = Step(name, settings, tree)
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
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True))
    return primitive


kernel_p = _primitive("lstm_recurrence")
tangent_p = _primitive("lstm_recurrence_tangent")  # linear in the last of its arguments


def _transpose(cts: Any, *leaves: Any, step: Step, jaxpr: Any) -> list[Any]:
    operands, hs, saved, d = jax.tree.unflatten(step.tree, leaves)
    outputs = jax.tree.structure((operands.state, operands.xs))
    cts = jax.tree.unflatten(outputs, [ad.instantiate_zeros(ct) for ct in cts])
    d_leaves = jax.tree.leaves(d, is_leaf=ad.is_undefined_primal)
    transposed = jax.tree.leaves(backward(step.settings, operands, hs, saved, cts))
    linear = [
        ct if ad.is_undefined_primal(leaf) else None
        for leaf, ct in zip(d_leaves, transposed, strict=True)
    ]
    return [None] * (len(leaves) - len(linear)) + linear


ad.primitive_transposes[tangent_p] = _transpose


def register(platform: str, kernels: Any) -> None:
    """Lets ``kernels``, a module with infer, forward and backward, serve ``platform``.

    Its ``fits(step, avals)`` says None, or why the XLA form must run.
    """

    def lower(ctx: Any, *leaves: Any, step: Step, jaxpr: Any) -> Any:
        reason = _partitioned(ctx) or kernels.unfit(ctx, step, ctx.avals_in)
        function = (
            step.bound(getattr(kernels, step.name)) if reason is None else jaxpr_as_fun(jaxpr)
        )
        return mlir.lower_fun(function, multiple_results=True)(ctx, *leaves)

    mlir.register_lowering(kernel_p, lower, platform=platform)


def _partitioned(ctx: Any) -> str | None:
    """XLA's partitioner would split the operation, and kernels cannot be split."""
    context = ctx.module_context.axis_context
    if hasattr(context, "num_devices"):
        n = context.num_devices
        return None if n == 1 else f"{n} devices share it; run it inside jax.shard_map"
    if hasattr(context, "manual_axes"):
        auto = [a for a in context.mesh.axis_names if a not in context.manual_axes]
        n = context.mesh.size
        return None if not auto or n == 1 else f"the mesh axes {auto} are not manual"
    return None
