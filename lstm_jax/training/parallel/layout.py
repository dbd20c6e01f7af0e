"""Many devices: the mesh, and where each array of a training step lies on it.

Two axes: ``data`` has the sequences of a batch, ``model`` the hidden units. Nothing here asks which
devices there are: they are handed in, and may be those of a topology that is only compiled for.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax.partition import Partition
from lstm_jax.training.config import ConfigError, Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.train_state import TrainState

Tree = TypeVar("Tree")
DATA, MODEL = "data", "model"


def make_mesh(experiment: Experiment, devices: Sequence[Any]) -> Mesh:
    """Returns the mesh of an experiment, of the first of these devices.

    Without ``mesh.data`` it has as many devices as divide the batch; in several processes, all devices.

    Raises:
      ConfigError: If there are too few devices, or the batch or the hidden units cannot be split so.
    """
    wanted, there = experiment.mesh, len(devices)
    several = len({device.process_index for device in devices}) > 1
    data = wanted.data
    if data is None:
        most = max(there // wanted.model, 1)
        data = most if several else _largest_divisor(experiment, most)
    used = data * wanted.model
    if used > there or (several and used != there):
        raise ConfigError(
            f"mesh.data: expected data * model to be {'' if several else 'at most '}{there}, the number "
            f"of devices, got {data} * {wanted.model}; without mesh.data all are used."
        )
    parts = data * experiment.train.grad_accum_steps
    if experiment.data.batch_size % parts:
        raise ConfigError(
            f"data.batch_size: expected a multiple of {parts} (mesh.data {data} * train.grad_accum_steps "
            f"{experiment.train.grad_accum_steps}), got {experiment.data.batch_size}; or use fewer devices, "
            "with mesh.data."
        )
    explicit = wanted.axis_types == "explicit" and used > 1  # one device has nothing to say
    kinds = (AxisType.Explicit if explicit else AxisType.Auto,) * 2
    shape = (data, wanted.model)
    if used == there:  # in an order that suits their wires
        return jax.make_mesh(shape, (DATA, MODEL), axis_types=kinds, devices=devices)
    some = np.array(devices[:used], dtype=object).reshape(shape)
    return Mesh(some, (DATA, MODEL), axis_types=kinds)


def partition_of(experiment: Experiment, mesh: Mesh) -> Partition | None:
    """How the LSTM layers are split; None on one device."""
    if mesh.size == 1:
        return None
    sharded = experiment.mesh.parameters == "sharded"
    hidden = MODEL if mesh.shape[MODEL] > 1 else None
    return Partition(batch=DATA, hidden=hidden, weights=DATA if sharded else None)


def _largest_divisor(experiment: Experiment, most: int) -> int:
    """The largest number of devices, up to ``most``, over which a part of the batch can be sharded."""
    rows = experiment.data.batch_size // experiment.train.grad_accum_steps
    return next((n for n in range(most, 1, -1) if rows % n == 0), 1)


def state_shardings(
    experiment: Experiment, mesh: Mesh, optimizer: Any, state: TrainState
) -> TrainState:
    """A sharding for each array of a state, of which shapes are enough.

    The optimizer's arrays lie as their parameters do, the carried state as the batch.
    """
    axes = (DATA, MODEL) if experiment.mesh.parameters == "sharded" else (MODEL,)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _at_rest(mesh, axes, path, leaf.shape), state.params
    )
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, spec: spec,
        state.opt_state,
        params,
        transform_non_params=lambda _: P(),
    )
    carry = carry_specs(mesh, state.carry)
    specs = TrainState(P(), params, opt_state, carry)  # type: ignore[arg-type]
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def abstract(tree: Tree, shardings: Any) -> Tree:
    """Shapes, dtypes and shardings: what a compiler needs of arrays."""

    def described(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(described, tree, shardings)


def batch_shardings(mesh: Mesh, batches: Batch) -> Batch:
    """Of batches ``[n, ...]``."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), by_row(batches, leading=1))


def _at_rest(mesh: Mesh | AbstractMesh, axes: Sequence[str], path: Any, shape: Any) -> P:
    """Each axis along the largest dimension that it divides; vectors are whole everywhere.

    Weights of the LSTM are split along their rows alone: their columns are gates of units.
    """
    if len(shape) < 2:
        return P()
    name = jax.tree_util.keystr(path)
    dimensions = [0] if "'w_" in name else sorted(range(len(shape)), key=lambda d: -shape[d])
    taken: dict[int, tuple[str, ...]] = {}
    for axis in axes:
        n = mesh.shape[axis]
        for d in dimensions:
            split = n * int(np.prod([mesh.shape[a] for a in taken.get(d, ())]))
            if n > 1 and shape[d] % split == 0:
                taken[d] = (*taken.get(d, ()), axis)
                break
    return P(*(taken.get(d) for d in range(len(shape))))


def in_use(params: Any) -> Any:
    """Parameters as a step computes with them: gathered from the devices that share them out.

    Those of the LSTM layers are gathered by the layers themselves, one at a time.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return params
    axes = () if mesh.are_all_axes_explicit else (MODEL,)

    def gathered(path: Any, leaf: jax.Array) -> jax.Array:
        if "'w_" in jax.tree_util.keystr(path):
            return leaf
        return _lie(leaf, _at_rest(mesh, axes, path, leaf.shape))

    return jax.tree_util.tree_map_with_path(gathered, params)


def by_row(batch: Batch, leading: int = 0) -> Batch:
    """Specs of a batch, its sequences over ``data``, with so many axes before its own."""
    before = (None,) * leading

    def spec(name: str, value: Any) -> P | None:
        if value is None:
            return None
        return P(*before, DATA) if name == "lengths" else P(*before, None, DATA)

    return Batch(**{name: spec(name, value) for name, value in batch._asdict().items()})


def over_devices(tree: Tree, specs: Any) -> Tree:
    """Inside a compiled function: arrays laid out so on the mesh that it runs on, if there is one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree.map(_lie, tree, specs)


def _lie(array: jax.Array, spec: P) -> jax.Array:
    explicit = jax.sharding.get_abstract_mesh().are_all_axes_explicit
    return (jax.reshard if explicit else jax.lax.with_sharding_constraint)(array, spec)


def rows_here(mesh: Mesh, batch_size: int) -> np.ndarray | None:
    """The rows of a batch that this process's devices hold; None for all."""
    places = NamedSharding(mesh, P(DATA)).addressable_devices_indices_map((batch_size,))
    rows = np.unique([np.arange(batch_size)[at] for at in places.values()])
    return None if len(rows) == batch_size else rows


def spread(mesh: Mesh, batch: Batch, batch_size: int, rows: np.ndarray | None = None) -> Batch:
    """Batches ``[N, ...]`` as arrays over the mesh; this process has these ``rows`` of them, or all."""
    if mesh.size == 1:
        return batch
    here = np.arange(batch_size) if rows is None else rows

    def whole(leaf: Any, spec: P) -> jax.Array:
        leaf, axis = np.asarray(leaf), len(spec) - 1
        sharding = NamedSharding(mesh, spec)

        def part(at: Any) -> np.ndarray:
            first, last, _ = at[axis].indices(batch_size)
            at_first = int(np.searchsorted(here, first))
            return leaf[(*at[:axis], slice(at_first, at_first + last - first))]

        shape = (*leaf.shape[:axis], batch_size, *leaf.shape[axis + 1 :])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(whole, batch, by_row(batch, leading=1))


def filled_up(chunks: Batch, n: int) -> Batch:
    """Chunks ``[N, T, B, ...]`` with rows of no weight, so that n devices can share them out.

    >>> chunks = Batch(np.ones((1, 4, 3)), np.ones((1, 4, 3)), np.ones((1, 4, 3)), np.ones((1, 3)))
    >>> more = filled_up(chunks, 2)
    >>> more.inputs.shape, more.lengths.shape, more.weights[0, 0].tolist()
    ((1, 4, 4), (1, 4), [1.0, 1.0, 1.0, 0.0])
    """
    missing = -np.shape(chunks.weights)[2] % n

    def fill(name: str, value: Any) -> Any:
        if value is None:
            return None
        value, axis = np.asarray(value), 1 if name == "lengths" else 2
        last = np.repeat(np.take(value, [-1], axis=axis), missing, axis=axis)
        if name in ("weights", "scored"):
            last = np.zeros_like(last)
        return np.concatenate([value, last], axis=axis)

    return Batch(**{n: fill(n, v) for n, v in chunks._asdict().items()}) if missing else chunks


def carry_specs(mesh: Mesh | AbstractMesh, carry: Any) -> Any:
    """Of the LSTM states that a batch carries on, ``[B, H]``."""
    units = MODEL if mesh.shape.get(MODEL, 1) > 1 else None
    return jax.tree.map(lambda _: P(DATA, units), carry)


def on_the_host(mesh: Mesh, tree: Tree) -> Tree:
    """Whole NumPy arrays, gathered one by one, in every process; all must call it."""
    gathered = jax.jit(lambda a: a, out_shardings=NamedSharding(mesh, P()))
    return jax.tree.map(lambda a: np.asarray(gathered(a)), tree)


def alone(experiment: Experiment) -> Mesh:
    """A mesh of one device of this process, for what is not shared out.

    Parameters that are shared out may be too many for one accelerator: the host has them then.
    """
    device = jax.local_devices()[0]
    if experiment.mesh.parameters == "sharded" or experiment.mesh.model > 1:
        with suppress(RuntimeError):  # JAX_PLATFORMS may leave the host out
            device = jax.local_devices(backend="cpu")[0]
    return Mesh(np.array([device]), (DATA,))
