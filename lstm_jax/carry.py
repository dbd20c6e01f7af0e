"""Functions on the carry of a batch: zeros sharded like the inputs, broadcasting, selecting rows."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from lstm_jax.cell import LSTMSpec
from lstm_jax.checks import check_floating, check_params, check_spec, check_x
from lstm_jax.notation import LSTMParams, LSTMState

Tree = TypeVar("Tree")


def zero_state(
    params: LSTMParams,
    x: Float[ArrayLike, "*B I"] | jax.ShapeDtypeStruct,
    *,
    spec: LSTMSpec = LSTMSpec(),
    dtype: DTypeLike | None = None,
) -> LSTMState:
    """Returns a state of zeros for a batch, the initial state of :func:`~lstm_jax.lstm_cell`.

    It is sharded like the batch, as ``jax.lax.scan`` requires under Explicit axes and in ``shard_map``.

    Args:
      params: The weights of the layer.
      x: The input of one step ``[*B, I]``, or its shape and dtype as a ``jax.ShapeDtypeStruct``.
      spec: The kind of cell.
      dtype: The compute dtype. None is the dtype of x.

    Returns:
      ``C`` of shape ``[*B, H]`` in at least float32, and ``h`` of shape ``[*B, H]`` in the compute dtype.

    Raises:
      ValueError: If shapes or dtypes do not fit.

    >>> import jax, jax.numpy as jnp
    >>> from lstm_jax import init_lstm
    >>> params = init_lstm(jax.random.key(0), input_size=3, hidden_size=5)
    >>> zero = zero_state(params, jnp.ones((2, 3), jnp.bfloat16))
    >>> zero.C.shape, zero.C.dtype, zero.h.dtype
    ((2, 5), dtype('float32'), dtype(bfloat16))
    """
    check_spec(spec, LSTMSpec)
    if not hasattr(x, "ndim"):
        raise ValueError(
            f"expected x to be the input of one step, such as xs[0], or a jax.ShapeDtypeStruct, got {x!r}."
        )
    x = check_x(jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x)
    params = check_params(spec, params, x.shape[-1])
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    check_floating("dtype", dtype)
    return zeros_sharded_like(x.sum(-1), spec, spec.hidden_size(params), dtype)


def zeros_sharded_like(
    batch: jax.Array, spec: LSTMSpec, hidden_size: int, dtype: DTypeLike
) -> LSTMState:
    """Returns a state of zeros, sharded over devices like ``batch [*B]``.

    The zeros are computed from ``batch``. Under Explicit axes and in ``shard_map`` a plain ``jnp.zeros`` is
    not a valid carry for a scan over sharded inputs. XLA does not read the values of ``batch``.
    (``jnp.zeros_like`` loses the sharding on jax 0.12 if no mesh is set.)
    """
    batch = jnp.where(False, batch, jnp.zeros((), batch.dtype))

    def zeros(type_: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.broadcast_to(batch[..., None].astype(type_.dtype), type_.shape)

    return jax.tree.map(zeros, spec.state_types(hidden_size, batch.shape, dtype))


def broadcast(state: LSTMState, zero: LSTMState) -> LSTMState:
    """Returns ``state`` with the shapes, dtypes and shardings of ``zero``."""
    return jax.tree.map(
        lambda s, z: z + jnp.broadcast_to(jnp.asarray(s, z.dtype), z.shape), state, zero
    )


def match_varying_axes(tree: Tree, *operands: Any) -> Tree:
    """Marks the arrays of ``tree`` as varying over the same axes of a ``shard_map``.

    The axes are all those that any array of ``tree`` or ``operands`` varies over. The initial carry of a scan
    must have the varying axes of the carry that the scan's body returns.
    """
    axes = frozenset().union(*(_varying(a) for a in jax.tree.leaves((tree, operands))))

    def vary(a: jax.Array) -> jax.Array:
        missing = axes - _varying(a)
        return jax.lax.pcast(a, tuple(sorted(missing)), to="varying") if missing else a

    return jax.tree.map(vary, tree)


def _varying(a: jax.Array) -> frozenset[Any]:
    return frozenset(jax.typeof(a).manual_axis_type.varying)


def mask_unread(
    state: LSTMState,
    reset_state: LSTMState,
    begin: jax.Array | None,
    hold: jax.Array | None,
    reverse: bool,
) -> tuple[LSTMState, LSTMState, jax.Array | None]:
    """Replaces the rows of both states that no step reads by zeros.

    A row that no step reads may contain NaN or inf. In the gradient of ``w_h`` it is multiplied by 0, which
    gives NaN.

    Returns:
      The state, the reset state, and a mask ``[*B]`` that is True for sequences of padding alone, whose final
      state is their initial state. The mask is None if ``hold`` is None.
    """
    only_padding = None if hold is None else hold.all(axis=0)
    zeros = jax.tree.map(jnp.zeros_like, state)
    if begin is None:
        return select(only_padding, zeros, state), reset_state, only_padding
    unread = only_padding
    if not reverse:  # in reverse, the first valid step always reads the state
        first = jnp.arange(begin.shape[0]) == 0
        resets_first = (begin & jnp.expand_dims(first, range(1, begin.ndim))).any(axis=0)
        unread = resets_first if only_padding is None else resets_first | only_padding
    resets = begin if hold is None else begin & ~hold
    masked_reset = select(resets.any(axis=0), reset_state, zeros)
    return select(unread, zeros, state), masked_reset, only_padding


def select(flag: jax.Array | None, if_true: Tree, if_false: Tree) -> Tree:
    """Applies ``jnp.where`` to trees of arrays ``[*B, H]``.

    The shape of ``flag`` is ``[*B]``, ``[*B, 1]`` or ``[*B, H]``. None stands for False everywhere.
    """
    if flag is None:
        return if_false

    def choose(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(flag if flag.ndim == a.ndim else flag[..., None], a, b)

    return jax.tree.map(choose, if_true, if_false)
