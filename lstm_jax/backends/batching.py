"""Batching rules of the primitives in :mod:`~lstm_jax.backends.primitives`, for ``vmap``.

If the weights are not mapped, the mapped axis becomes another batch axis, and a kernel runs on a larger
batch. The mapped axis becomes an axis of members in two cases: if the weights are mapped (an ensemble), and
if each member needs its own gradient of shared weights (``vmap(grad(...))``). A kernel then runs the members
one after another, and the XLA form runs all members at once.

A cell is mapped in its XLA form, without kernels, if its result for a row could depend on other rows of the
batch. These are cells that are not element-wise or that override ``project`` or ``recur``.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching

from lstm_jax.backends import elementwise
from lstm_jax.backends.primitives import Step, bind, kernel_p, log_once, tangent_p
from lstm_jax.backends.problem import Operands
from lstm_jax.cell import LSTMSpec
from lstm_jax.target import sharded_axis

NO_BATCH_AXIS = -1
"""The value that stands for the batch axis of an array without batch axes, which is a weight."""


def _batch(
    primitive: Primitive, axis_data: Any, leaves: Any, dims: Any, *, step: Step, jaxpr: Any
) -> tuple[list[Any], list[int | None]]:
    if all(dim is None for dim in dims):
        out = primitive.bind(*leaves, step=step, jaxpr=jaxpr)
        return out, [None] * len(out)
    reason = sharded_axis(axis_data) or _unsupported_reason(step)
    if reason is not None:
        if step.required:
            raise step.refusal(reason)
        log_once(reason, None)
        out = jax.vmap(jaxpr_as_fun(jaxpr), in_axes=tuple(dims))(*leaves)
        return out, [0] * len(out)
    size = next(a.shape[dim] for a, dim in zip(leaves, dims, strict=True) if dim is not None)
    batch_axes = jax.tree.leaves(_batch_axes(step))
    weights_mapped = any(
        dim is not None for dim, axis in zip(dims, batch_axes, strict=True) if axis == NO_BATCH_AXIS
    )
    if step.members is not None or weights_mapped or step.name == "backward":
        return _add_members(size, leaves, dims, step)
    return _fold_into_batch(size, leaves, dims, step, batch_axes)


def _unsupported_reason(step: Step) -> str | None:
    """Returns why the mapped axis can be neither a batch axis nor an axis of members, or None."""
    cell = type(step.settings.spec)
    if (cell.project, cell.recur) != (LSTMSpec.project, LSTMSpec.recur):
        return f"{cell.__name__} overrides project or recur"
    return elementwise.unsupported_reason(step.settings.spec)


def _fold_into_batch(
    size: int, leaves: Any, dims: Any, step: Step, batch_axes: list[int]
) -> tuple[list[Any], list[int | None]]:
    """Binds the step with the mapped axis as the first batch axis."""
    folded = [
        leaf if axis == NO_BATCH_AXIS else _move_mapped_axis(axis, size, leaf, dim)
        for leaf, dim, axis in zip(leaves, dims, batch_axes, strict=True)
    ]
    out, tree = bind(step, folded)
    first, _ = jax.tree.unflatten(tree, range(len(out)))
    state = (
        first[0] if step.name == "forward" else first
    )  # ((state, hs), residuals), else (state, hs)
    return out, [0 if n in jax.tree.leaves(state) else 1 for n in range(len(out))]


def _add_members(
    size: int, leaves: Any, dims: Any, step: Step
) -> tuple[list[Any], list[int | None]]:
    """Binds the step with the mapped axis as the axis of members.

    If the step has an axis of members already, the two axes are merged.
    """
    before = (False,) * len(leaves) if step.members is None else step.members
    inner = next(
        (
            leaf.shape[dim == 0]
            for leaf, dim, is_member in zip(leaves, dims, before, strict=True)
            if is_member
        ),
        1,
    )
    after = [
        is_member or linear or dim is not None
        for is_member, linear, dim in zip(before, _linear_arguments(step), dims, strict=True)
    ]

    def merge(leaf: jax.Array, dim: int | None, is_member: bool) -> jax.Array:
        leaf = _move_mapped_axis(0, size, leaf, dim)
        if not is_member:
            leaf = _move_mapped_axis(1, inner, leaf, None)
        return leaf.reshape(size * inner, *leaf.shape[2:])

    merged = [
        merge(leaf, dim, is_member) if member else leaf
        for leaf, dim, is_member, member in zip(leaves, dims, before, after, strict=True)
    ]
    out, _ = bind(step._replace(members=tuple(after)), merged)
    if step.members is not None:
        out = [a.reshape(size, inner, *a.shape[1:]) for a in out]
    return out, [0] * len(out)


def _move_mapped_axis(axis: int, size: int, leaf: jax.Array, dim: int | None) -> jax.Array:
    """Moves the mapped axis to ``axis``. An array that is not mapped is broadcast along it."""
    if dim is not None:
        return jnp.moveaxis(leaf, dim, axis)
    shape = (*leaf.shape[:axis], size, *leaf.shape[axis:])
    return jnp.broadcast_to(jnp.expand_dims(leaf, axis), shape)


def _batch_axes(step: Step) -> Any:
    """Returns the position of the first batch axis of each array of the step's arguments."""

    def fill(axis: int, tree: Any) -> Any:
        return jax.tree.map(lambda _: axis, tree)

    def operand_axes(tree: Operands) -> Operands:
        return Operands(
            params=fill(NO_BATCH_AXIS, tree.params),
            xs=1,  # type: ignore[arg-type]
            state=fill(0, tree.state),
            reset_state=fill(0, tree.reset_state),
            begin=fill(1, tree.begin),
            hold=fill(1, tree.hold),
        )

    operands, *rest = step.arguments(range(step.tree.num_leaves))
    if step.name == "tangent":
        hs, residuals, d = rest
        return operand_axes(operands), fill(1, (hs, residuals)), operand_axes(d)
    if step.name == "backward":
        hs, residuals, (ct_state, ct_hs) = rest
        return (
            operand_axes(operands),
            fill(1, (hs, residuals)),
            (fill(0, ct_state), fill(1, ct_hs)),
        )
    return operand_axes(operands)


def _linear_arguments(step: Step) -> list[bool]:
    """Returns whether the step is linear in each array of its arguments."""
    *constants, last = step.arguments(range(step.tree.num_leaves))
    count = len(jax.tree.leaves(constants))
    is_linear = step.name in ("tangent", "backward")
    return [False] * count + [is_linear] * len(jax.tree.leaves(last))


for _primitive in (kernel_p, tangent_p):
    batching.fancy_primitive_batchers[_primitive] = partial(_batch, _primitive)
