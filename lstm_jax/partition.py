"""A layer over the devices of a mesh: its batch, its hidden units, its stored weights.

The layer runs inside :func:`jax.shard_map`, where each device sees its own part and no compiler has
to guess: with the batch split, the time loop needs no communication, and on TPU each chip runs the
persistent kernel; weights arrive once before the loop, their gradients are summed once after it.
With the hidden units split, h is gathered in every step: it is what every unit reads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
from jax.extend.core import primitives
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from lstm_jax.backends import elementwise
from lstm_jax.backends.primitives import kernel_p
from lstm_jax.backends.problem import Outputs, Settings
from lstm_jax.cell import LSTMSpec, cast, own_weights
from lstm_jax.notation import LSTMParams, LSTMState

Axes = str | tuple[str, ...]


@dataclass(frozen=True)
class Partition:
    """The mesh axes that a layer is sharded over: names, or tuples of names.

    The mesh is that of ``jax.set_mesh``.

    Attributes:
      batch: The axes of the first batch axis: data parallelism. If ``xs`` has no batch axis, only ``hidden``
        applies.
      hidden: The axes of the hidden units, with all gates of a unit on one device: tensor parallelism. They
        must differ from those of ``batch``.
      weights: The axes over which the rows of ``w_x`` and ``w_h`` are stored in shards (FSDP), which must be
        among those of ``batch``. The weights are gathered before the loop, and again before the backward
        loop. Their gradients are sharded as they are.

    Raises:
      ValueError: If the fields contradict each other.

    >>> import jax, jax.numpy as jnp
    >>> from lstm_jax import Partition, init_lstm, lstm
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> with jax.set_mesh(jax.make_mesh((1,), ("data",))):
    ...     _, hs = lstm(params, jnp.ones((7, 2, 3)), partition=Partition(batch="data"))
    >>> hs.shape
    (7, 2, 5)
    """

    batch: Axes | None = None
    hidden: Axes | None = None
    weights: Axes | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            axes = getattr(self, field.name)
            if isinstance(axes, list):  # as a config or a JSON file has it
                object.__setattr__(self, field.name, tuple(axes))
            if axes is not None and not all(isinstance(axis, str) for axis in _names(axes)):
                raise ValueError(
                    f"expected Partition.{field.name} to be the name of a mesh axis, a tuple of names or "
                    f"None, got {axes!r}."
                )
        both = set(_names(self.batch)) & set(_names(self.hidden))
        if both:
            raise ValueError(
                f"expected Partition.batch and Partition.hidden to have different axes, got {sorted(both)} "
                "in both; along an axis, either the batch or the hidden units are sharded."
            )
        elsewhere = set(_names(self.weights)) - set(_names(self.batch))
        if elsewhere:
            batch = (*_names(self.batch), *sorted(elsewhere))
            raise ValueError(
                f"expected the axes of Partition.weights among those of Partition.batch, got "
                f"weights={self.weights!r} and batch={self.batch!r}; write "
                f"batch={batch if len(batch) > 1 else batch[0]!r}."
            )


Run = Callable[..., Outputs]
"""``(params, xs, state, lengths, resets, reset_state, *, settings) -> (state, hs)``."""


def over_mesh(
    run: Run,
    partition: Partition,
    settings: Settings,
    dtype: DTypeLike,
    params: LSTMParams,
    xs: jax.Array,
    *rest: Any,
) -> Outputs:
    """``run`` on each device's part of its arguments, where ``rest`` has those after ``xs``.

    Raises:
      ValueError: If there is no such mesh axis, or it does not divide the batch or the hidden units.
    """
    if xs.ndim == 2:
        partition = Partition(hidden=partition.hidden)
    spec = settings.spec
    _check(partition, spec, params, xs)
    H = spec.hidden_size(params)
    types = spec.state_types(H, xs.shape[1:-1], dtype)
    # Gates apart, so that a device can hold some units' columns of all of them.
    params = _map_products(lambda a: a.reshape(*a.shape[:-1], spec.gates, H), params)
    weights = _weights(partition, params)
    of_device = replace(settings, hidden_axis=partition.hidden)

    def local(params: LSTMParams, xs: jax.Array, *rest: Any) -> Outputs:
        params = cast(params, dtype)  # before they are sent: half the bytes in half precision
        params = _map_products(_whole_and_packed, params, weights)
        return run(params, xs, *rest, settings=of_device)

    if partition.weights is not None:
        local = jax.checkpoint(local, policy=_is_loop)
    args = (params, xs, *rest)
    in_specs = (weights, _sequence(partition, xs.ndim), *_specs(partition, *rest))
    hs = P(None, *_rows(partition, xs.ndim - 1))
    out_specs = settings.outputs(_states(partition, types), hs)
    return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs)(
        *jax.tree.map(_reshard, args, in_specs)
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

    def own(a: jax.Array) -> P:
        return P() if partition.hidden is None else P(*(None,) * (a.ndim - 1), partition.hidden)

    def product(a: jax.Array) -> P:
        if a.ndim < 3:
            return P(None, partition.hidden)
        divides = partition.weights is not None and a.shape[0] % _size(partition.weights) == 0
        return P(partition.weights if divides else None, None, partition.hidden)

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
    return (
        _states(partition, state),
        None if lengths is None else P(*(partition.batch,) * min(lengths.ndim, 1)),
        None if resets is None else _sequence(partition, resets.ndim + 1),
        _states(partition, reset_state),
    )


def _sequence(partition: Partition, ndim: int) -> P:
    """The spec of an array ``[T, B, ..., I]`` or ``[T, I]``."""
    return P(None, partition.batch) if ndim > 2 else P()


def _states(partition: Partition, state: LSTMState | None) -> Any:
    return jax.tree.map(lambda a: _rows(partition, len(jax.numpy.shape(a))), state)


def _rows(partition: Partition, ndim: int) -> P:
    """The spec of an array ``[B, ..., H]`` or ``[H]``."""
    if ndim == 1:
        return P(partition.hidden)
    return P(partition.batch, *(None,) * (ndim - 2), partition.hidden)


def _reshard(a: Any, spec: P) -> jax.Array:
    """The array, sharded as ``spec`` says, which ``shard_map`` expects of arguments under Explicit axes."""
    explicit = jax.sharding.get_abstract_mesh().are_all_axes_explicit
    return jax.reshard(a, spec) if explicit else a


def _is_loop(primitive: Any, *_: Any, **__: Any) -> bool:
    """The residuals of the backward pass: results of loops, but not the gathered weights."""
    return primitive in (kernel_p, primitives.scan_p)


def _names(axes: Any) -> tuple[Any, ...]:
    if axes is None:
        return ()
    return tuple(axes) if isinstance(axes, tuple | list) else (axes,)


def _size(axes: Axes) -> int:
    """The number of devices along the axes."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in _names(axes))


def _check(partition: Partition, spec: LSTMSpec, params: LSTMParams, xs: jax.Array) -> None:
    mesh = jax.sharding.get_abstract_mesh()
    for field in fields(partition):
        unknown = set(_names(getattr(partition, field.name))) - set(mesh.axis_names)
        if unknown:
            raise ValueError(
                f"expected Partition.{field.name} to be an axis of the mesh, one of {mesh.axis_names}, got "
                f"{min(unknown)!r}; run under jax.set_mesh(mesh)."
            )
    H = spec.hidden_size(params)
    for field_name, name, size in (
        ("batch", "the first batch axis", xs.shape[1]),
        ("hidden", "H", H),
    ):
        axes = getattr(partition, field_name)
        if axes is not None and size % _size(axes):
            raise ValueError(
                f"expected {name}, {size}, to be a multiple of the {_size(axes)} devices along Partition."
                f"{field_name}={axes!r}; pad it, or take a smaller mesh."
            )
    if partition.hidden is None:
        return
    reason = _not_shardable(spec, H)
    if reason is not None:
        raise ValueError(
            f"expected a cell whose units can be on different devices for Partition.hidden, got "
            f"{type(spec).__name__}: {reason}; leave Partition.hidden out."
        )


def _not_shardable(spec: LSTMSpec, H: int) -> str | None:
    """Returns why the hidden units of the cell cannot be on different devices, or None."""
    kind = type(spec)
    for name in ("project", "recur", "emit"):
        if getattr(kind, name) is not getattr(LSTMSpec, name):
            return f"it has a method {name} of its own"
    C, h = spec.state_types(H, (), jax.numpy.float32)
    if C is not None and C.shape != h.shape:
        return "its C has another shape than its h"
    return elementwise.unsupported_reason(spec)
