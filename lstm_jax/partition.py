"""A layer over the devices of a mesh: its batch, its hidden units, its weights at rest.

The layer runs inside :func:`jax.shard_map`, where each device sees its own part and no compiler has
to guess: with the batch split, the time loop needs no communication, and on TPU each chip runs the
persistent kernel; weights arrive once before the loop, their gradients are summed once after it.
With the hidden units split, h is gathered in every step: it is what every unit reads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import primitives
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from lstm_jax.backends import elementwise
from lstm_jax.backends.primitives import kernel_p
from lstm_jax.cell import LSTMSpec, cast, own_weights
from lstm_jax.notation import Hs, LSTMParams, LSTMState


@dataclass(frozen=True)
class Partition:
    """Names of the mesh's axes that a layer is split over; the mesh is that of ``jax.set_mesh``.

    Attributes:
      batch: the axis for the batch: data parallelism. Without a batch axis in ``xs`` nothing is split.
      hidden: the axis for the hidden units, all gates of a unit on one device: tensor parallelism.
      weights: the axis that ``w_x`` and ``w_h`` lie split over at rest, along their rows (FSDP);
        that of the batch. They are gathered before the loop, and again before the backward one, in
        place of being kept; gradients come back split alike.

    >>> import jax, jax.numpy as jnp
    >>> from lstm_jax import Partition, init_lstm, lstm
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> with jax.set_mesh(jax.make_mesh((1,), ("data",))):
    ...     _, hs = lstm(params, jnp.ones((7, 2, 3)), partition=Partition(batch="data"))
    >>> hs.shape
    (7, 2, 5)
    """

    batch: str | None = None
    hidden: str | None = None
    weights: str | None = None


Run = Callable[..., tuple[LSTMState, Hs]]
"""``(params, xs, state, lengths, resets, reset_state, *, spec, hidden_axis) -> (state, hs)``."""


def over_mesh(
    run: Run,
    partition: Partition,
    spec: LSTMSpec,
    dtype: DTypeLike,
    params: LSTMParams,
    xs: jax.Array,
    *rest: Any,
) -> tuple[LSTMState, Hs]:
    """``run`` on each device's part of its arguments, ``rest`` being those after ``xs``.

    Raises:
      ValueError: if there is no such mesh axis, or it does not divide the batch or the hidden units.
    """
    if xs.ndim == 2:
        partition = Partition(hidden=partition.hidden)
    _check(partition, spec, params, xs)
    H = spec.hidden_size(params)
    types = spec.state_types(H, xs.shape[1:-1], dtype)
    # Gates apart, so that a device can hold some units' columns of all of them.
    params = _map_products(lambda a: a.reshape(*a.shape[:-1], spec.gates, H), params)
    weights = _weights(partition, params)

    def local(params: LSTMParams, xs: jax.Array, *rest: Any) -> tuple[LSTMState, Hs]:
        params = cast(params, dtype)  # before they are sent: half the bytes in half precision
        params = _map_products(_whole_and_packed, params, weights)
        return run(params, xs, *rest, spec=spec, hidden_axis=partition.hidden)

    if partition.weights is not None:
        local = jax.checkpoint(local, policy=_what_loops_make)
    args = (params, xs, *rest)
    in_specs = (weights, P(None, partition.batch), *_specs(partition, *rest))
    out_specs = _states(partition, types), P(None, *_rows(partition, xs.ndim - 1))
    return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs)(
        *jax.tree.map(_placed, args, in_specs)
    )


def _map_products(
    function: Callable[..., Any], params: LSTMParams, *others: LSTMParams
) -> LSTMParams:
    """Applies ``function`` to the weights of the matrix products, not to a cell's own weights."""
    trees = [(p.w_x, p.w_h, p.bias) for p in (params, *others)]
    w_x, w_h, bias = jax.tree.map(function, *trees)
    return params.replace(w_x=w_x, w_h=w_h, bias=bias)


def _weights(partition: Partition, params: LSTMParams) -> LSTMParams:
    """Specs of matrices ``[I, 4, H]``, of the bias ``[4, H]``, and of a cell's own weights ``[..., H]``."""
    mesh, at_rest = jax.sharding.get_abstract_mesh(), partition.weights

    def own(a: jax.Array) -> P:
        return P() if partition.hidden is None else P(*(None,) * (a.ndim - 1), partition.hidden)

    def product(a: jax.Array) -> P:
        if a.ndim < 3:
            return P(None, partition.hidden)
        divides = at_rest is not None and a.shape[0] % mesh.shape[at_rest] == 0
        return P(at_rest if divides else None, None, partition.hidden)

    w_x, w_h, bias = jax.tree.map(product, (params.w_x, params.w_h, params.bias))
    return jax.tree.map(own, own_weights(params)).replace(w_x=w_x, w_h=w_h, bias=bias)


def _whole_and_packed(a: jax.Array, spec: P) -> jax.Array:
    """``[I, 4H]`` from a device's rows of ``[I, 4, H]``."""
    if a.ndim == 3 and spec[0] is not None:
        a = jax.lax.all_gather(a, spec[0], axis=0, tiled=True)
    return a.reshape(*a.shape[:-2], -1)


def _specs(
    partition: Partition,
    state: LSTMState | None,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    reset_state: LSTMState | None,
) -> tuple[Any, ...]:
    batch = partition.batch
    return (
        _states(partition, state),
        None if lengths is None else P(batch),
        None if resets is None else P(None, batch),
        _states(partition, reset_state),
    )


def _states(partition: Partition, state: LSTMState | None) -> Any:
    return jax.tree.map(lambda a: _rows(partition, len(jnp.shape(a))), state)


def _rows(partition: Partition, ndim: int) -> P:
    """Of ``[B, ..., H]``, or ``[H]``."""
    if ndim == 1:
        return P(partition.hidden)
    return P(partition.batch, *(None,) * (ndim - 2), partition.hidden)


def _placed(a: Any, spec: P) -> jax.Array:
    """Explicit axes want the arguments of a ``shard_map`` to lie as it takes them."""
    explicit = jax.sharding.get_abstract_mesh().are_all_axes_explicit
    return jax.reshard(a, spec) if explicit else a


def _what_loops_make(primitive: Any, *_: Any, **__: Any) -> bool:
    """Kept for the backward pass: not the gathered weights, nor what follows from them cheaply."""
    return primitive in (kernel_p, primitives.scan_p)


def _check(partition: Partition, spec: LSTMSpec, params: LSTMParams, xs: jax.Array) -> None:
    mesh = jax.sharding.get_abstract_mesh()
    H = spec.hidden_size(params)
    sizes = {"batch": xs.shape[1], "hidden": H, "weights": 0}
    for field, size in sizes.items():
        axis = getattr(partition, field)
        if axis is None:
            continue
        if axis not in mesh.axis_names:
            raise ValueError(
                f"expected Partition.{field} to be an axis of the mesh, one of {mesh.axis_names}, got "
                f"{axis!r}; run under jax.set_mesh(mesh)."
            )
        if size % mesh.shape[axis]:
            what = {"batch": "the first batch axis", "hidden": "H"}[field]
            raise ValueError(
                f"expected {what}, {size}, to be a multiple of the {mesh.shape[axis]} devices along "
                f"the mesh axis {axis!r}; fill it up, or take a smaller mesh."
            )
    if partition.hidden is None:
        return
    reason = elementwise.unsupported_reason(spec)
    C, h = spec.state_types(H, (), jnp.float32)
    if type(spec).emit is not LSTMSpec.emit:
        reason = "it has an emit of its own"
    elif C is not None and C.shape != h.shape:
        reason = "its C has another shape than its h"
    if reason is not None:
        raise ValueError(
            f"expected a cell whose units can be on different devices, got {type(spec).__name__}: {reason}; "
            "leave Partition.hidden out."
        )
