"""The carry of a batch: zeros that are sharded as the inputs are, broadcasting, choosing rows."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lstm_jax.cell import LSTMSpec
from lstm_jax.notation import LSTMState

Tree = TypeVar("Tree")


def zero_state(spec: LSTMSpec, hidden_size: int, xs: jax.Array, dtype: DTypeLike) -> LSTMState:
    """A zero carry that varies over devices as the batch axes of ``xs`` do.

    Derived from xs: a plain ``jnp.zeros`` is no valid carry beside a sharded batch, under
    Explicit axes and in ``shard_map``. XLA drops the sum. (``jnp.zeros_like`` loses the
    sharding on jax 0.12 where no mesh is set.)
    """
    sums = xs.sum(axis=(0, -1))
    batch = jnp.where(False, sums, jnp.zeros((), sums.dtype))

    def zeros(type_: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.broadcast_to(batch[..., None].astype(type_.dtype), type_.shape)

    return jax.tree.map(zeros, spec.state_types(hidden_size, batch.shape, dtype))


def broadcast(state: LSTMState, zero: LSTMState) -> LSTMState:
    """``state`` in the shapes, dtypes and sharding of ``zero``."""
    return jax.tree.map(
        lambda s, z: z + jnp.broadcast_to(jnp.asarray(s, z.dtype), z.shape), state, zero
    )


def vary_as(tree: Tree, *operands: Any) -> Tree:
    """Marks ``tree`` as varying over the devices of a ``shard_map`` wherever one of the operands does.

    A scan's carry must vary from its first step on as it will after it.
    """
    axes = frozenset().union(*(_varying(a) for a in jax.tree.leaves((tree, operands))))

    def vary(a: jax.Array) -> jax.Array:
        missing = axes - _varying(a)
        return jax.lax.pcast(a, tuple(sorted(missing)), to="varying") if missing else a

    return jax.tree.map(vary, tree)


def _varying(a: jax.Array) -> frozenset[Any]:
    return frozenset(jax.typeof(a).manual_axis_type.varying)


def vary_alike(tree: Tree) -> Tree:
    """Marks all arrays of ``tree`` as varying wherever one of them does."""
    return vary_as(tree)


def mask_unread(
    state: LSTMState,
    reset_state: LSTMState,
    begin: jax.Array | None,
    hold: jax.Array | None,
    reverse: bool,
) -> tuple[LSTMState, LSTMState, jax.Array | None]:
    """Zeros the rows of both states that no step reads.

    Such a row may hold NaN or inf, which ``0 * NaN`` in the gradient of ``w_h`` would spread.

    Returns:
      The two states, and ``[*B]``, True for rows in which every step holds the state (None for no such row):
      their final state is the initial one.
    """
    idle = None if hold is None else hold.all(axis=0)
    zeros = jax.tree.map(jnp.zeros_like, state)
    if begin is None:
        return select(idle, zeros, state), reset_state, idle
    unread = idle
    if not reverse:  # in reverse, the first step that runs reads the state
        first = jnp.arange(begin.shape[0]) == 0
        resets_first = (begin & jnp.expand_dims(first, range(1, begin.ndim))).any(axis=0)
        unread = resets_first if idle is None else resets_first | idle
    read = begin if hold is None else begin & ~hold
    return select(unread, zeros, state), select(read.any(axis=0), reset_state, zeros), idle


def select(flag: jax.Array | None, if_true: Tree, if_false: Tree) -> Tree:
    """``where`` over a state: ``flag [*B]`` chooses rows of arrays ``[*B, H]``. None is False."""
    if flag is None:
        return if_false
    return jax.tree.map(lambda a, b: jnp.where(flag[..., None], a, b), if_true, if_false)
