"""The product of a sequence with a weight, such that the weight's gradient is a fast product on CPU.

The gradient of ``xs @ w`` with respect to w, with xs ``[T, *B, N]``, contracts T and B as separate axes. For
that XLA on CPU writes a transposed copy of its operands. Over rows ``[T·B, N]`` it does not: half the time,
the same bits. But if XLA partitions the program, merged rows of a sharded B are gathered on every device.
So the rows are merged when the program is lowered, where it is known whether it is partitioned.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive, primitives
from jax.interpreters import ad, batching, mlir

from lstm_jax.target import partitioned_reason


def project(xs: jax.Array, w: jax.Array, precision: Any = None) -> jax.Array:
    """``xs @ w``, for xs ``[*N, I]`` and w ``[I, M]``: :func:`jnp.dot` with another derivative by w."""
    if not _can_merge(xs, w):
        return jnp.dot(xs, w, precision=precision)
    return _differentiable(xs, w, precision)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _differentiable(xs: jax.Array, w: jax.Array, precision: Any) -> jax.Array:
    return jnp.dot(xs, w, precision=precision)  # as policies of jax.checkpoint know it


def _jvp(precision: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (xs, w), (dxs, dw) = primals, tangents
    ys = jnp.dot(xs, w, precision=precision)
    if isinstance(dw, SymbolicZero):
        return ys, jnp.dot(dxs, w, precision=precision)
    by_w = product(xs, dw, precision)
    if isinstance(dxs, SymbolicZero):
        return ys, by_w
    return ys, jnp.dot(dxs, w, precision=precision) + by_w


_differentiable.defjvp(_jvp, symbolic_zeros=True)


def product(xs: jax.Array, w: jax.Array, precision: Any = None) -> jax.Array:
    """``xs @ w`` as :func:`project`, but linear in each argument also for :func:`jax.linear_transpose`."""
    if not _can_merge(xs, w):
        return jnp.dot(xs, w, precision=precision)
    if precision is None:  # that of this moment, not of the lowering
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return product_p.bind(xs, w, precision=precision)


def _can_merge(xs: Any, w: Any) -> bool:
    """Whether there are rows to merge.

    Not for Explicit axes, nor where only one of the two varies over the devices of a ``shard_map``.
    """
    if jnp.ndim(xs) < 3 or jnp.ndim(w) != 2:
        return False
    a, b = jax.typeof(xs), jax.typeof(w)
    explicit = a.sharding.mesh.explicit_axes or b.sharding.mesh.explicit_axes
    return not explicit and a.manual_axis_type == b.manual_axis_type and a.dtype == b.dtype


def _dot(a: jax.Array, b: jax.Array, contract: Any, precision: Any) -> jax.Array:
    return jax.lax.dot_general(a, b, (contract, ((), ())), precision=precision)


def _product(xs: jax.Array, w: jax.Array, *, precision: Any) -> jax.Array:
    return _dot(xs, w, _last_and(0, xs), precision)


def _outer(xs: jax.Array, zs: jax.Array, *, precision: Any) -> jax.Array:
    """The sum over all rows of the outer products of xs ``[*N, I]`` and zs ``[*N, M]``."""
    return _dot(xs, zs, _rows(xs), precision)


def _product_merged(xs: jax.Array, w: jax.Array, *, precision: Any) -> jax.Array:
    return _product(_merged(xs), w, precision=precision).reshape(*xs.shape[:-1], w.shape[-1])


def _outer_merged(xs: jax.Array, zs: jax.Array, *, precision: Any) -> jax.Array:
    return _outer(_merged(xs), _merged(zs), precision=precision)


def _merged(a: jax.Array) -> jax.Array:
    """All rows along one axis."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _last_and(axis: int, xs: Any) -> Any:
    return (xs.ndim - 1,), (axis,)


def _rows(xs: Any) -> Any:
    axes = tuple(range(xs.ndim - 1))
    return axes, axes


def _primitive(name: str, contract: Callable[[Any], Any], plain: Any, merged: Any) -> Primitive:
    """A product as a primitive: ``merged`` on CPU if the program is not partitioned, else ``plain``."""
    primitive = Primitive(name)
    primitive.def_impl(plain)

    def aval(a: Any, b: Any, *, precision: Any) -> Any:
        numbers = (contract(a), ((), ()))
        types = {"preferred_element_type": None, "out_sharding": None}
        return primitives.dot_general_p.abstract_eval(
            a, b, dimension_numbers=numbers, precision=None, **types
        )[0]

    def lower(function: Any, ctx: Any, *operands: Any, **params: Any) -> Any:
        return mlir.lower_fun(function, multiple_results=False)(ctx, *operands, **params)

    def lower_on_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
        function = merged if partitioned_reason(ctx) is None else plain
        return lower(function, ctx, *operands, **params)

    def batch(operands: Any, dims: Any, **params: Any) -> Any:
        return jax.vmap(partial(plain, **params), in_axes=dims)(*operands), 0

    primitive.def_abstract_eval(aval)
    mlir.register_lowering(primitive, partial(lower, plain))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    batching.primitive_batchers[primitive] = batch
    return primitive


product_p = _primitive("lstm_product", partial(_last_and, 0), _product, _product_merged)
outer_p = _primitive("lstm_outer", _rows, _outer, _outer_merged)


def _batch_product(operands: Any, dims: Any, **params: Any) -> Any:
    """The inputs' mapped axis is one more axis of rows."""
    (xs, w), (dim, w_dim) = operands, dims
    if w_dim is None:
        return product_p.bind(jnp.moveaxis(xs, dim, 0), w, **params), 0
    of_members: Any = partial(_product, **params)
    return jax.vmap(of_members, in_axes=dims)(xs, w), 0


batching.primitive_batchers[product_p] = _batch_product
ad.defbilinear(
    product_p,
    lambda ct, xs, w, precision: _dot(ct, w, _last_and(1, ct), precision),
    lambda ct, xs, w, precision: outer_p.bind(xs, ct, precision=precision),
)
ad.defbilinear(
    outer_p,
    lambda ct, xs, zs, precision: _dot(zs, ct, _last_and(1, zs), precision),
    lambda ct, xs, zs, precision: _dot(xs, ct, _last_and(0, xs), precision),
)
