"""The rules of ``vmap`` for the steps of the recurrence.

If the weights are not mapped, the mapped axis becomes one more axis of the batch, and the step is bound
again: a kernel sees only a larger batch. If they are (an ensemble), or if each member needs a gradient of
its own of shared weights (``vmap(grad(...))``), the step keeps the mapped axis as an axis of members:
a kernel then runs member after member, and the XLA form all members at once.

A cell that could see other rows of the batch (one that is not element-wise, or projects x by itself) has no
kernels. JAX maps its XLA form, because another axis of the batch could change what the cell computes.
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

WEIGHTS = -1
"""The place of a batch axis in an array that has none."""


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
    places = jax.tree.leaves(_batch_axes(step))
    weights_mapped = any(
        dim is not None for dim, place in zip(dims, places, strict=True) if place == WEIGHTS
    )
    if step.members is not None or weights_mapped or step.name == "backward":
        return _add_members(size, leaves, dims, step)
    return _fold(size, leaves, dims, step, places)


def _unsupported_reason(step: Step) -> str | None:
    """Returns why a mapped axis cannot be one of the batch or of members of this cell, or None."""
    cell = type(step.settings.spec)
    if (cell.project, cell.recur) != (LSTMSpec.project, LSTMSpec.recur):
        return f"{cell.__name__} has products of its own"
    return elementwise.unsupported_reason(step.settings.spec)


def _fold(
    size: int, leaves: Any, dims: Any, step: Step, places: list[int]
) -> tuple[list[Any], list[int | None]]:
    """The mapped axis as the first axis of the batch."""
    folded = [
        leaf if place == WEIGHTS else _mapped_at(place, size, leaf, dim)
        for leaf, dim, place in zip(leaves, dims, places, strict=True)
    ]
    out, tree = bind(step, folded)
    first, _ = jax.tree.unflatten(tree, range(len(out)))
    state = first[0] if step.name == "forward" else first  # ((state, hs), saved), else (state, hs)
    return out, [0 if n in jax.tree.leaves(state) else 1 for n in range(len(out))]


def _add_members(
    size: int, leaves: Any, dims: Any, step: Step
) -> tuple[list[Any], list[int | None]]:
    """The mapped axis as the axis of members; with one already there, both as one."""
    before = (False,) * len(leaves) if step.members is None else step.members
    inner = next(
        (leaf.shape[dim == 0] for leaf, dim, was in zip(leaves, dims, before, strict=True) if was),
        1,
    )
    after = [
        was or linear or dim is not None
        for was, linear, dim in zip(before, _linear_arguments(step), dims, strict=True)
    ]

    def merge(leaf: jax.Array, dim: int | None, was: bool) -> jax.Array:
        leaf = _mapped_at(0, size, leaf, dim)
        if not was:
            leaf = _mapped_at(1, inner, leaf, None)
        return leaf.reshape(size * inner, *leaf.shape[2:])

    merged = [
        merge(leaf, dim, was) if member else leaf
        for leaf, dim, was, member in zip(leaves, dims, before, after, strict=True)
    ]
    out, _ = bind(step._replace(members=tuple(after)), merged)
    if step.members is not None:
        out = [a.reshape(size, inner, *a.shape[1:]) for a in out]
    return out, [0] * len(out)


def _mapped_at(place: int, size: int, leaf: jax.Array, dim: int | None) -> jax.Array:
    """The array with the mapped axis at ``place``; repeated along it if it is not mapped."""
    if dim is not None:
        return jnp.moveaxis(leaf, dim, place)
    shape = (*leaf.shape[:place], size, *leaf.shape[place:])
    return jnp.broadcast_to(jnp.expand_dims(leaf, place), shape)


def _batch_axes(step: Step) -> Any:
    """For each array of the arguments, the place of the first batch axis."""

    def everywhere(place: int, tree: Any) -> Any:
        return jax.tree.map(lambda _: place, tree)

    def of_operands(tree: Operands) -> Operands:
        return Operands(
            params=everywhere(WEIGHTS, tree.params),
            xs=1,  # type: ignore[arg-type]
            state=everywhere(0, tree.state),
            reset_state=everywhere(0, tree.reset_state),
            begin=everywhere(1, tree.begin),
            hold=everywhere(1, tree.hold),
        )

    operands, *rest = step.arguments(range(step.tree.num_leaves))
    if step.name == "tangent":
        hs, saved, d = rest
        return of_operands(operands), everywhere(1, (hs, saved)), of_operands(d)
    if step.name == "backward":
        hs, saved, (ct_state, ct_hs) = rest
        return (
            of_operands(operands),
            everywhere(1, (hs, saved)),
            (everywhere(0, ct_state), everywhere(1, ct_hs)),
        )
    return of_operands(operands)


def _linear_arguments(step: Step) -> list[bool]:
    """For each array of the arguments, whether the step is linear in it."""
    *constants, last = step.arguments(range(step.tree.num_leaves))
    count = len(jax.tree.leaves(constants))
    is_linear = step.name in ("tangent", "backward")
    return [False] * count + [is_linear] * len(jax.tree.leaves(last))


for _primitive in (kernel_p, tangent_p):
    batching.fancy_primitive_batchers[_primitive] = partial(_batch, _primitive)
