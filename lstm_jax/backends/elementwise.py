"""A runtime test of whether a cell is element-wise, which kernels require.

``LSTMSpec.elementwise`` is True by default, also for a cell whose ``combine`` mixes hidden units. In a kernel
such a cell would silently give wrong results. Therefore a step is computed in two layouts and compared, once
per cell.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cell import LSTMSpec, extra_weights
from lstm_jax.notation import LSTMParams

H, ROWS = 11, 2
"""Sizes of the test. A cell is unlikely to have another size of 11, which could be mistaken for H."""


def unsupported_reason(spec: LSTMSpec) -> str | None:
    """Returns why the cell cannot run in kernels that transpose or tile the hidden units, or None."""
    cell = type(spec)
    if not spec.elementwise:
        return f"{cell.__name__}.elementwise is False"
    step = (cell.pointwise, cell.combine, spec.activations)
    if step == (LSTMSpec.pointwise, LSTMSpec.combine, LSTMSpec.activations):
        return None
    if any(w.shape[-1:] != (H,) for w in jax.tree.leaves(extra_weights(_params(spec)))):
        return f"{cell.__name__} has weights whose last axis is not H"
    try:
        same = _is_elementwise(spec)
    except Exception as error:  # from the user's activations or combine
        kind = type(error).__name__
        return f"{cell.__name__} cannot compute a step on vectors [H]: {kind}: {error}"
    return None if same else f"{cell.__name__}: units or rows depend on each other"


@lru_cache(maxsize=256)
def _is_elementwise(spec: LSTMSpec) -> bool:
    """Returns whether the results in both layouts are equal.

    The test runs in a new thread, which has neither the trace nor the mesh of the caller. Inside
    ``shard_map`` it could not compute concrete arrays.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_same_in_both_layouts, spec, _params(spec)).result()


def _params(spec: LSTMSpec) -> LSTMParams:
    """Returns the shapes and dtypes of the parameters for H units."""
    shapes = spec.parameters(1, H)
    return spec.Params(**{n: jax.ShapeDtypeStruct(s, jnp.float32) for n, (s, _) in shapes.items()})


def _same_in_both_layouts(spec: LSTMSpec, shapes: LSTMParams) -> bool:
    """Returns whether a step on ``[ROWS, H]`` equals a step on ``[H·ROWS]``, the layout of the CPU kernel."""

    def make_array(shape: Any) -> jax.Array:
        count = 1
        for n in shape:
            count *= n
        return jnp.cos(jnp.arange(1.0, 1.0 + count, dtype=jnp.float32)).reshape(shape)

    def columns(a: jax.Array) -> jax.Array:
        return a.T.reshape(-1)

    weights = jax.tree.map(lambda w: make_array(w.shape), extra_weights(shapes))
    repeated = jax.tree.map(lambda w: jnp.repeat(w, ROWS, axis=-1), weights)
    has_C = spec.state_types(H, (ROWS,), jnp.float32).C is not None
    C = make_array((ROWS, H)) if has_C else None
    z = 2 * make_array((ROWS, spec.gates * H))
    in_rows = [spec.pointwise(weights, None if C is None else C[n], z[n]) for n in range(ROWS)]
    in_columns = spec.pointwise(repeated, None if C is None else columns(C), columns(z))

    def same(a: jax.Array, b: jax.Array) -> bool:
        return a.shape == b.shape and bool(jnp.allclose(a, b, 1e-5, 1e-6, equal_nan=True))

    return all(
        same(row, column.reshape(H, ROWS)[:, n])
        for n in range(ROWS)
        for row, column in zip(in_rows[n], in_columns, strict=True)
        if row is not None
    )
