"""Sharding of a layer over a mesh: by batch, by hidden unit, and of the stored weights.

The layer runs inside :func:`jax.shard_map`, so its communication does not depend on XLA's partitioner. If
the batch is sharded, the time loop does not communicate, and each TPU chip runs the persistent kernel. The
weights are gathered once before the loop, and their gradients are summed once after it. If the hidden units
are sharded, every step gathers h, because each unit reads all of h.
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
from lstm_jax.cell import LSTMSpec, cast, extra_weights
from lstm_jax.notation import LSTMParams, LSTMState

Axes = str | tuple[str, ...]


@dataclass(frozen=True)
class Partition:
    """The mesh axes over which a layer is sharded. Each field is an axis name, a tuple of names, or None.

    The mesh is the one set by ``jax.set_mesh``.

    Attributes:
      batch: The mesh axes that shard the first batch axis (data parallelism). They are ignored if ``xs`` has
        no batch axis.
      hidden: The mesh axes that shard the hidden units (tensor parallelism). All gates of a unit are on the
        same device. The axes must differ from the axes of ``batch``.
      weights: The mesh axes that shard the stored rows of ``w_x`` and ``w_h`` (FSDP). They must be among the
        axes of ``batch``. The weights are gathered before the loop, and again before the backward loop.
        Their gradients have the same sharding as the weights.

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
            if isinstance(axes, list):  # from a config or a JSON file
                object.__setattr__(self, field.name, tuple(axes))
            if axes is not None and not all(isinstance(axis, str) for axis in _axis_names(axes)):
                raise ValueError(
                    f"expected Partition.{field.name} to be the name of a mesh axis, a tuple of names or "
                    f"None, got {axes!r}."
                )
        both = set(_axis_names(self.batch)) & set(_axis_names(self.hidden))
        if both:
            raise ValueError(
                f"expected Partition.batch and Partition.hidden to have different axes, got {sorted(both)} "
                "in both; along an axis, either the batch or the hidden units are sharded."
            )
        missing = set(_axis_names(self.weights)) - set(_axis_names(self.batch))
        if missing:
            batch = (*_axis_names(self.batch), *sorted(missing))
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
    """Runs ``run`` in a ``shard_map`` over the mesh, each device on its shards of the arguments.

    Args:
      run: The function that computes the layer.
      partition: The mesh axes.
      settings: The static settings of the layer.
      dtype: The compute dtype.
      params: The weights.
      xs: The inputs ``[T, *B, I]``.
      *rest: The arguments of ``run`` after ``xs``.

    Raises:
      ValueError: If a mesh axis does not exist, or does not divide the batch or the hidden units.
    """
    if xs.ndim == 2:
        partition = Partition(hidden=partition.hidden)
    spec = settings.spec
    _check_partition(partition, spec, params, xs)
    H = spec.hidden_size(params)
    types = spec.state_types(H, xs.shape[1:-1], dtype)
    # Unpacks the gates to an axis, so that the axis of hidden units can be sharded.
    params = _map_products(lambda a: a.reshape(*a.shape[:-1], spec.gates, H), params)
    weights = _weight_specs(partition, params)
    device_settings = replace(settings, hidden_axis=partition.hidden)

    def local(params: LSTMParams, xs: jax.Array, *rest: Any) -> Outputs:
        params = cast(params, dtype)  # before the gather: half the bytes in 16-bit dtypes
        params = _map_products(_gather_and_pack, params, weights)
        return run(params, xs, *rest, settings=device_settings)

    if partition.weights is not None:
        local = jax.checkpoint(local, policy=_is_loop_output)
    args = (params, xs, *rest)
    in_specs = (weights, _sequence_spec(partition, xs.ndim), *_argument_specs(partition, *rest))
    hs = P(None, *_state_spec(partition, xs.ndim - 1))
    out_specs = settings.outputs(_state_specs(partition, types), hs)
    return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs)(
        *jax.tree.map(_reshard, args, in_specs)
    )


def _map_products(
    function: Callable[..., Any], params: LSTMParams, *others: LSTMParams
) -> LSTMParams:
    """Applies ``function`` to ``w_x``, ``w_h`` and ``bias``, but not to extra weights of the cell."""
    trees = [(p.w_x, p.w_h, p.bias) for p in (params, *others)]
    w_x, w_h, bias = jax.tree.map(function, *trees)
    return params.replace(w_x=w_x, w_h=w_h, bias=bias)


def _weight_specs(partition: Partition, params: LSTMParams) -> LSTMParams:
    """Returns the specs of matrices ``[I, 4, H]``, the bias ``[4, H]`` and extra weights ``[..., H]``."""

    def extra(a: jax.Array) -> P:
        return P() if partition.hidden is None else P(*(None,) * (a.ndim - 1), partition.hidden)

    def product(a: jax.Array) -> P:
        if a.ndim < 3:
            return P(None, partition.hidden)
        divides = (
            partition.weights is not None and a.shape[0] % _num_devices(partition.weights) == 0
        )
        return P(partition.weights if divides else None, None, partition.hidden)

    w_x, w_h, bias = jax.tree.map(product, (params.w_x, params.w_h, params.bias))
    return jax.tree.map(extra, extra_weights(params)).replace(w_x=w_x, w_h=w_h, bias=bias)


def _gather_and_pack(a: jax.Array, spec: P) -> jax.Array:
    """Returns the packed ``[I, 4H]``, gathered if a device has only some rows of ``[I, 4, H]``."""
    if a.ndim == 3 and spec[0] is not None:
        a = jax.lax.all_gather(a, spec[0], axis=0, tiled=True)
    return a.reshape(*a.shape[:-2], -1)


def _argument_specs(
    partition: Partition,
    state: LSTMState | None,
    lengths: jax.Array | None,
    resets: jax.Array | None,
    reset_state: LSTMState | None,
) -> tuple[Any, ...]:
    return (
        _state_specs(partition, state),
        None if lengths is None else P(*(partition.batch,) * min(lengths.ndim, 1)),
        None if resets is None else _sequence_spec(partition, resets.ndim + 1),
        _state_specs(partition, reset_state),
    )


def _sequence_spec(partition: Partition, ndim: int) -> P:
    """Returns the spec of an array ``[T, B, ..., I]`` or ``[T, I]``."""
    return P(None, partition.batch) if ndim > 2 else P()


def _state_specs(partition: Partition, state: LSTMState | None) -> Any:
    return jax.tree.map(lambda a: _state_spec(partition, len(jax.numpy.shape(a))), state)


def _state_spec(partition: Partition, ndim: int) -> P:
    """Returns the spec of an array ``[B, ..., H]`` or ``[H]``."""
    if ndim == 1:
        return P(partition.hidden)
    return P(partition.batch, *(None,) * (ndim - 2), partition.hidden)


def _reshard(a: Any, spec: P) -> jax.Array:
    """Reshards an array to ``spec``, which ``shard_map`` requires of its arguments under Explicit axes."""
    explicit = jax.sharding.get_abstract_mesh().are_all_axes_explicit
    return jax.reshard(a, spec) if explicit else a


def _is_loop_output(primitive: Any, *_: Any, **__: Any) -> bool:
    """Checkpoint policy that saves the results of loops, but not the gathered weights."""
    return primitive in (kernel_p, primitives.scan_p)


def _axis_names(axes: Any) -> tuple[Any, ...]:
    if axes is None:
        return ()
    return tuple(axes) if isinstance(axes, tuple | list) else (axes,)


def _num_devices(axes: Axes) -> int:
    """Returns the number of devices along the axes."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[axis] for axis in _axis_names(axes))


def _check_partition(
    partition: Partition, spec: LSTMSpec, params: LSTMParams, xs: jax.Array
) -> None:
    mesh = jax.sharding.get_abstract_mesh()
    for field in fields(partition):
        unknown = set(_axis_names(getattr(partition, field.name))) - set(mesh.axis_names)
        if unknown:
            raise ValueError(
                f"expected Partition.{field.name} to be an axis of the current mesh, one of "
                f"{mesh.axis_names}, got {min(unknown)!r}; run under jax.set_mesh(mesh)."
            )
    H = spec.hidden_size(params)
    for field_name, name, size in (
        ("batch", "the first batch axis", xs.shape[1]),
        ("hidden", "H", H),
    ):
        axes = getattr(partition, field_name)
        if axes is not None and size % _num_devices(axes):
            raise ValueError(
                f"expected {name}, {size}, to be a multiple of the {_num_devices(axes)} devices along "
                f"Partition.{field_name}={axes!r}; pad it, or use a smaller mesh."
            )
    if partition.hidden is None:
        return
    reason = _hidden_unsupported_reason(spec, H)
    if reason is not None:
        raise ValueError(
            f"expected a cell whose hidden units can be sharded for Partition.hidden, got "
            f"{type(spec).__name__}: {reason}; omit Partition.hidden."
        )


def _hidden_unsupported_reason(spec: LSTMSpec, H: int) -> str | None:
    """Returns why the hidden units of the cell cannot be sharded, or None if they can."""
    kind = type(spec)
    for name in ("project", "recur", "emit"):
        if getattr(kind, name) is not getattr(LSTMSpec, name):
            return f"it overrides {name}"
    C, h = spec.state_types(H, (), jax.numpy.float32)
    if C is not None and C.shape != h.shape:
        return "the shapes of its C and h differ"
    return elementwise.unsupported_reason(spec)
