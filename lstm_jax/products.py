"""The product of a sequence with a weight matrix, with a gradient that is fast on CPU.

For ``xs @ w`` with xs ``[T, *B, N]``, the gradient with respect to w contracts the axes T and B. For two
contracted axes XLA:CPU makes transposed copies of the operands. For one merged axis ``[T·B, N]`` it does not,
which takes half the time and gives the same bits. If XLA partitions the program, though, merging a sharded B
makes every device gather the whole array. The decision is therefore made when the program is lowered, where
it is known whether XLA partitions it.
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
    """Returns ``xs @ w`` for xs ``[*N, I]`` and w ``[I, M]``, with a custom derivative with respect to w."""
    if not _can_merge(xs, w):
        return jnp.dot(xs, w, precision=precision)
    return _differentiable(xs, w, precision)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _differentiable(xs: jax.Array, w: jax.Array, precision: Any) -> jax.Array:
    return jnp.dot(xs, w, precision=precision)  # a dot_general, which checkpoint policies recognize


def _jvp(precision: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (xs, w), (dxs, dw) = primals, tangents
    ys = jnp.dot(xs, w, precision=precision)
    if isinstance(dw, SymbolicZero):
        return ys, jnp.dot(dxs, w, precision=precision)
    dys_of_w = product(xs, dw, precision)
    if isinstance(dxs, SymbolicZero):
        return ys, dys_of_w
    return ys, jnp.dot(dxs, w, precision=precision) + dys_of_w


_differentiable.defjvp(_jvp, symbolic_zeros=True)


def product(xs: jax.Array, w: jax.Array, precision: Any = None) -> jax.Array:
    """Returns ``xs @ w`` like :func:`project`, as an operation that :func:`jax.linear_transpose` accepts."""
    if not _can_merge(xs, w):
        return jnp.dot(xs, w, precision=precision)
    if precision is None:  # the default at trace time, which may differ when the program is lowered
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return product_p.bind(xs, w, precision=precision)


def _can_merge(xs: Any, w: Any) -> bool:
    """Returns whether the leading axes of xs can be merged.

    They cannot under Explicit axes, or if only one of xs and w varies over the devices of a ``shard_map``.
    """
    if jnp.ndim(xs) < 3 or jnp.ndim(w) != 2:
        return False
    a, b = jax.typeof(xs), jax.typeof(w)
    explicit = a.sharding.mesh.explicit_axes or b.sharding.mesh.explicit_axes
    return not explicit and a.manual_axis_type == b.manual_axis_type and a.dtype == b.dtype


def _dot(a: jax.Array, b: jax.Array, contract: Any, precision: Any) -> jax.Array:
    return jax.lax.dot_general(a, b, (contract, ((), ())), precision=precision)


def _product(xs: jax.Array, w: jax.Array, *, precision: Any) -> jax.Array:
    return _dot(xs, w, _contract_last_with(0, xs), precision)


def _outer(xs: jax.Array, zs: jax.Array, *, precision: Any) -> jax.Array:
    """Returns the sum over all rows of the outer products of xs ``[*N, I]`` and zs ``[*N, M]``."""
    return _dot(xs, zs, _contract_rows(xs), precision)


def _product_merged(xs: jax.Array, w: jax.Array, *, precision: Any) -> jax.Array:
    return _product(_merge_rows(xs), w, precision=precision).reshape(*xs.shape[:-1], w.shape[-1])


def _outer_merged(xs: jax.Array, zs: jax.Array, *, precision: Any) -> jax.Array:
    return _outer(_merge_rows(xs), _merge_rows(zs), precision=precision)


def _merge_rows(a: jax.Array) -> jax.Array:
    """Merges all axes but the last."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _contract_last_with(axis: int, xs: Any) -> Any:
    return (xs.ndim - 1,), (axis,)


def _contract_rows(xs: Any) -> Any:
    axes = tuple(range(xs.ndim - 1))
    return axes, axes


def _primitive(name: str, contract: Callable[[Any], Any], plain: Any, merged: Any) -> Primitive:
    """Creates the primitive of a product.

    It is lowered to ``merged`` on CPU if XLA does not partition the program, and otherwise to ``plain``.
    """
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


product_p = _primitive("lstm_product", partial(_contract_last_with, 0), _product, _product_merged)
outer_p = _primitive("lstm_outer", _contract_rows, _outer, _outer_merged)


def _batch_product(operands: Any, dims: Any, **params: Any) -> Any:
    """Implements the batching rule. A mapped axis of xs becomes a leading axis of xs."""
    (xs, w), (dim, w_dim) = operands, dims
    if w_dim is None:
        return product_p.bind(jnp.moveaxis(xs, dim, 0), w, **params), 0
    batched: Any = partial(_product, **params)
    return jax.vmap(batched, in_axes=dims)(xs, w), 0


batching.primitive_batchers[product_p] = _batch_product
ad.defbilinear(
    product_p,
    lambda ct, xs, w, precision: _dot(ct, w, _contract_last_with(1, ct), precision),
    lambda ct, xs, w, precision: outer_p.bind(xs, ct, precision=precision),
)
ad.defbilinear(
    outer_p,
    lambda ct, xs, zs, precision: _dot(zs, ct, _contract_last_with(1, zs), precision),
    lambda ct, xs, zs, precision: _dot(xs, ct, _contract_last_with(0, xs), precision),
)
