"""A test of whether a cell is element-wise, as the kernels need it: by computing one step in two layouts.

``elementwise`` is what a cell declares. A cell that mixes units in ``combine`` declares it without knowing,
and would be silently wrong in a kernel. So the declaration is tested, once for each cell.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cell import LSTMSpec, own_weights
from lstm_jax.notation import LSTMParams

H, ROWS = 11, 2
"""Sizes of the test: no other size of a cell is likely to be 11."""


def unsupported_reason(spec: LSTMSpec) -> str | None:
    """Returns why kernels that store units in their own order cannot serve the cell, or None."""
    cell = type(spec)
    if not spec.elementwise:
        return f"{cell.__name__}.elementwise is False"
    step = (cell.pointwise, cell.combine, spec.activations)
    if step == (LSTMSpec.pointwise, LSTMSpec.combine, LSTMSpec.activations):
        return None
    if any(w.shape[-1:] != (H,) for w in jax.tree.leaves(own_weights(_params(spec)))):
        return f"{cell.__name__} has weights whose last axis is not H"
    try:
        same = _is_elementwise(spec)
    except Exception as error:  # of the user's function
        kind = type(error).__name__
        return f"{cell.__name__} cannot compute a step on vectors [H]: {kind}: {error}"
    return None if same else f"{cell.__name__}: units or rows depend on each other"


@lru_cache(maxsize=256)
def _is_elementwise(spec: LSTMSpec) -> bool:
    """Whether the cell computes the same in both layouts.

    In a thread of its own, which has neither the trace nor the mesh of the caller: inside of ``shard_map``
    no array can be computed.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_same_in_columns, spec, _params(spec)).result()


def _params(spec: LSTMSpec) -> LSTMParams:
    """Parameters of H units, as shapes."""
    shapes = spec.parameters(1, H)
    return spec.Params(**{n: jax.ShapeDtypeStruct(s, jnp.float32) for n, (s, _) in shapes.items()})


def _same_in_columns(spec: LSTMSpec, shapes: LSTMParams) -> bool:
    """Whether a step on ``[ROWS, H]`` equals the step on ``[H·ROWS]``, in which a kernel computes it."""

    def numbers(shape: Any) -> jax.Array:
        count = 1
        for n in shape:
            count *= n
        return jnp.cos(jnp.arange(1.0, 1.0 + count, dtype=jnp.float32)).reshape(shape)

    def columns(a: jax.Array) -> jax.Array:
        return a.T.reshape(-1)

    weights = jax.tree.map(lambda w: numbers(w.shape), own_weights(shapes))
    repeated = jax.tree.map(lambda w: jnp.repeat(w, ROWS, axis=-1), weights)
    has_C = spec.state_types(H, (ROWS,), jnp.float32).C is not None
    C = numbers((ROWS, H)) if has_C else None
    z = 2 * numbers((ROWS, spec.gates * H))
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
