"""The sharding of each array of a run.

The mesh has two axes: ``data`` for the sequences of a batch, and ``model`` for the hidden units of a layer.
No function here depends on the available devices.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lstm_jax.partition import Partition
from lstm_jax.training.config import Experiment
from lstm_jax.training.data.batch import Batch
from lstm_jax.training.parallel.mesh import DATA, MODEL, one_device
from lstm_jax.training.train_state import TrainState

Tree = TypeVar("Tree")


class ShardingRule(NamedTuple):
    """The array axes along which matching parameters may be sharded.

    Attributes:
      pattern: A regular expression that is searched for in the name of a parameter, such as
        ``lstm.l0f.w_h``.
      axes: The array axes that may be sharded. None allows all axes, longest first.
      gathered_by_layer: Whether the layer gathers the parameter, inside its ``Partition``. If False, the
        training step gathers it before the forward pass.
    """

    pattern: str
    axes: tuple[int, ...] | None = None
    gathered_by_layer: bool = False


RULES = (
    ShardingRule(
        r"(^|\.)w_[xh]$", axes=(0,), gathered_by_layer=True
    ),  # columns are the gates of units
    ShardingRule(""),
)
"""The first rule that matches a parameter applies. Vectors are replicated."""


@dataclass(frozen=True)
class Layout:
    """Shardings of the arrays of a run.

    Call the methods ``constrain_*`` and ``gather_*`` inside compiled functions, under
    ``jax.set_mesh(layout.mesh)``. On one device they return their argument unchanged.

    Attributes:
      mesh: The mesh.
      fsdp: Whether parameters and the optimizer state are also sharded over the ``data`` axis.
      partitioned_layers: Whether the LSTM layers of the model use :attr:`partition`.
    """

    mesh: Mesh
    fsdp: bool = False
    partitioned_layers: bool = True

    @classmethod
    def single(cls) -> "Layout":
        """Returns the layout for one device."""
        return cls(one_device())

    @property
    def partition(self) -> Partition | None:
        """The ``Partition`` of the LSTM layers. None on one device."""
        if self.mesh.size == 1:
            return None
        hidden = MODEL if self.mesh.shape[MODEL] > 1 else None
        return Partition(batch=DATA, hidden=hidden, weights=DATA if self.fsdp else None)

    def state(self, optimizer: Any, shapes: TrainState) -> TrainState:
        """Returns the sharding of each array of a training state.

        The optimizer state is sharded like its parameters, the carry like the batch.

        Args:
          optimizer: An Optax optimizer.
          shapes: The state, as arrays or ``ShapeDtypeStruct``.
        """
        axes = (DATA, MODEL) if self.fsdp else (MODEL,)
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._param_spec(path, leaf.shape, axes), shapes.params
        )
        opt_state = optax.tree_utils.tree_map_params(
            optimizer,
            lambda leaf, spec: leaf if isinstance(leaf, optax.MaskedNode) else spec,
            shapes.opt_state,
            params,
            transform_non_params=lambda _: P(),
            is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
        )
        carry = self._carry_specs(shapes.carry)
        specs = TrainState(P(), params, opt_state, carry)  # type: ignore[arg-type]
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def batches(self, batches: Batch) -> Batch:
        """Returns the sharding of each array of batches ``[n, ...]``."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), batch_specs(batches, 1))

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Returns the indices in the batch of the sequences that this process reads."""
        sharding = NamedSharding(self.mesh, P(DATA))
        places = sharding.addressable_devices_indices_map((batch_size,)).values()
        return np.unique([np.arange(batch_size)[at] for at in places])

    def shard_batches(self, batches: Batch, rows: np.ndarray, batch_size: int) -> Batch:
        """Shards batches ``[n, ...]`` over the mesh.

        Args:
          batches: Batches with the sequences of this process.
          rows: Indices of these sequences in the batch, the result of :meth:`local_rows`.
          batch_size: Number of sequences in the batches of all processes.
        """
        if self.mesh.size == 1:
            return batches  # the compiled function transfers them

        def shard(array: Any, spec: P) -> jax.Array:
            array, axis = np.asarray(array), len(spec) - 1

            def part(at: Any) -> np.ndarray:
                first, last, _ = at[axis].indices(batch_size)
                start = int(np.searchsorted(rows, first))
                return array[(*at[:axis], slice(start, start + last - first))]

            shape = (*array.shape[:axis], batch_size, *array.shape[axis + 1 :])
            return jax.make_array_from_callback(shape, NamedSharding(self.mesh, spec), part)

        return jax.tree.map(shard, batches, batch_specs(batches, 1))

    def shard_eval_batches(self, batches: Batch) -> Batch:
        """Shards evaluation batches ``[n, ...]``, padded to a multiple of the ``data`` axis of the mesh."""
        batches = pad_batches(batches, self.mesh.shape[DATA])
        batch_size = np.shape(batches.weights)[2]
        return self.shard_batches(batches, np.arange(batch_size), batch_size)

    def constrain_batch(self, batch: Batch) -> Batch:
        """Constrains the sharding of a batch inside a compiled function."""
        return self._constrain(batch, batch_specs(batch))

    def constrain_carry(self, carry: Tree) -> Tree:
        """Constrains the sharding of an LSTM state ``[B, H]`` to that of the batch."""
        return self._constrain(carry, self._carry_specs(carry))

    def gather_params(self, params: Tree) -> Tree:
        """Gathers parameters from the ``data`` axis for the forward and backward pass.

        Parameters of partitioned layers stay sharded: the layers gather them, one layer at a time.
        """
        if self.mesh.size == 1:
            return params
        axes = () if self._is_explicit else (MODEL,)

        def gather(path: Any, leaf: jax.Array) -> jax.Array:
            if self.partitioned_layers and _rule(path).gathered_by_layer:
                return leaf
            return self._place(leaf, self._param_spec(path, leaf.shape, axes))

        return jax.tree_util.tree_map_with_path(gather, params)

    def to_host(self, tree: Tree) -> Tree:
        """Gathers a tree to NumPy arrays, one array at a time. All processes must call it."""
        gather = jax.jit(lambda a: a, out_shardings=NamedSharding(self.mesh, P()))
        return jax.tree.map(lambda a: np.asarray(gather(a)), tree)

    @property
    def _is_explicit(self) -> bool:
        return self.mesh.are_all_axes_explicit

    def _constrain(self, tree: Tree, specs: Any) -> Tree:
        return tree if self.mesh.size == 1 else jax.tree.map(self._place, tree, specs)

    def _place(self, array: jax.Array, spec: P) -> jax.Array:
        place = jax.reshard if self._is_explicit else jax.lax.with_sharding_constraint
        return place(array, spec)

    def _carry_specs(self, carry: Any) -> Any:
        units = MODEL if self.mesh.shape[MODEL] > 1 else None
        return jax.tree.map(lambda _: P(DATA, units), carry)

    def _param_spec(self, path: Any, shape: tuple[int, ...], mesh_axes: Sequence[str]) -> P:
        """Returns the spec of a parameter. A mesh axis shards the first allowed axis that it divides."""
        if len(shape) < 2:
            return P()
        allowed = _rule(path).axes or sorted(range(len(shape)), key=lambda axis: -shape[axis])
        split: dict[int, tuple[str, ...]] = {}
        for name in mesh_axes:
            for axis in allowed:
                parts = int(np.prod([self.mesh.shape[n] for n in (*split.get(axis, ()), name)]))
                if self.mesh.shape[name] > 1 and shape[axis] % parts == 0:
                    split[axis] = (*split.get(axis, ()), name)
                    break
        return P(*(split.get(axis) for axis in range(len(shape))))


def make_layout(config: Experiment, mesh: Mesh, partitioned_layers: bool = True) -> Layout:
    """Returns the layout of an experiment on its mesh."""
    return Layout(mesh, config.mesh.parameters == "sharded", partitioned_layers)


def batch_specs(batch: Batch, leading: int = 0) -> Batch:
    """Returns the partition specs of a batch, sharded over ``data`` along its sequences.

    Args:
      batch: The batch.
      leading: Number of leading axes before those of a single batch.
    """
    before = (None,) * leading

    def spec(name: str, array: Any) -> P | None:
        if array is None:
            return None
        return P(*before, DATA) if name == "lengths" else P(*before, None, DATA)

    return Batch(**{name: spec(name, array) for name, array in batch._asdict().items()})


def pad_batches(batches: Batch, n: int) -> Batch:
    """Pads batches ``[N, T, B, ...]`` with sequences of weight 0, so that B is a multiple of n.

    >>> batches = Batch(np.ones((1, 4, 3)), np.ones((1, 4, 3)), np.ones((1, 4, 3)), np.ones((1, 3)))
    >>> padded = pad_batches(batches, 2)
    >>> padded.inputs.shape, padded.lengths.shape, padded.weights[0, 0].tolist()
    ((1, 4, 4), (1, 4), [1.0, 1.0, 1.0, 0.0])
    """
    missing = -np.shape(batches.weights)[2] % n

    def pad(name: str, array: Any) -> Any:
        if array is None:
            return None
        array, axis = np.asarray(array), 1 if name == "lengths" else 2
        last = np.repeat(np.take(array, [-1], axis=axis), missing, axis=axis)
        if name in ("weights", "scored"):
            last = np.zeros_like(last)
        return np.concatenate([array, last], axis=axis)

    return Batch(**{n: pad(n, a) for n, a in batches._asdict().items()}) if missing else batches


def with_shardings(shapes: Tree, shardings: Any) -> Tree:
    """Returns a tree of ``ShapeDtypeStruct`` with shardings."""

    def to_struct(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(to_struct, shapes, shardings)


def _rule(path: Any) -> ShardingRule:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return next(rule for rule in RULES if re.search(rule.pattern, name))
